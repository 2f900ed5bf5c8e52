//! Random histories of sending, acknowledging, purging, linking, revoking and dying, against a model that fits on a page.

use std::collections::HashMap;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use super::*;
use crate::log::Payload;

#[derive(Debug, Clone)]
enum Op {
    /// From an account's nth device to another account, this many.
    Send {
        from: u8,
        to: u8,
        device: usize,
        count: usize,
    },
    /// The nth entry back from the head, by its own sender.
    Retry {
        from: u8,
        to: u8,
        back: usize,
    },
    Ack {
        account: u8,
        peer: u8,
        device: usize,
        back: usize,
    },
    Flush,
    Purge,
    Reopen(bool),
    Link(u8),
    Revoke(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let pair = || prop_oneof![Just((1, 2)), Just((2, 1)), Just((1, 3)), Just((3, 1)), Just((2, 3))];
    let small = || 0..4_usize;
    let op = prop_oneof![
        6 => (pair(), small(), 1..6_usize).prop_map(|((from, to), device, count)| Op::Send { from, to, device, count }),
        2 => (pair(), 0..8_usize).prop_map(|((from, to), back)| Op::Retry { from, to, back }),
        8 => (pair(), small(), small()).prop_map(|((account, peer), device, back)| Op::Ack { account, peer, device, back }),
        2 => Just(Op::Flush),
        2 => Just(Op::Purge),
        2 => any::<bool>().prop_map(Op::Reopen),
        1 => (1..4_u8).prop_map(Op::Link),
        1 => (1..4_u8).prop_map(Op::Revoke),
    ];
    proptest::collection::vec(op, 1..60)
}

/// An accepted message.
struct Sent {
    append: u32,
    sender: DeviceRef,
    to: Vec<DeviceRef>,
}

/// A device's cursor: what it has acknowledged, and how much of that is certainly durable.
#[derive(Clone, Copy, Default)]
struct Position {
    acked: u64,
    durable: u64,
}

#[derive(Default)]
struct Model {
    logs: HashMap<ConversationId, Vec<Sent>>,
    current: HashMap<u8, Vec<DeviceRef>>,
    linked: HashMap<u8, u8>,
    positions: HashMap<(ConversationId, DeviceRef), Position>,
    next: u32,
}

impl Model {
    fn devices(&self, account: u8) -> Vec<DeviceRef> {
        self.current[&account].clone()
    }

    fn members(&self, from: u8, to: u8) -> Vec<DeviceRef> {
        [self.devices(from), self.devices(to)].concat()
    }

    fn head(&self, conversation: ConversationId) -> u64 {
        self.logs.get(&conversation).map_or(0, |log| log.len() as u64)
    }

    fn position(&self, conversation: ConversationId, device: DeviceRef) -> Position {
        self.positions.get(&(conversation, device)).copied().unwrap_or_default()
    }

    /// What everybody has, at most.
    fn common(&self, from: u8, to: u8) -> u64 {
        self.members(from, to).iter().map(|d| self.position(between(from, to), *d).acked).min().unwrap_or(0)
    }

    fn settle(&mut self) {
        self.positions.values_mut().for_each(|p| p.durable = p.acked);
    }
}

const PAIRS: [(u8, u8); 3] = [(1, 2), (1, 3), (2, 3)];

struct Run<F> {
    bed: Bed<F>,
    model: Model,
}

impl<F: Fixture> Run<F> {
    async fn new() -> Self {
        let mut model = Model::default();
        for n in 1..=3 {
            model.current.insert(n, vec![device(n, 1)]);
            model.linked.insert(n, 1);
        }
        Self { bed: Bed::new().await, model }
    }

    async fn step(mut self, op: Op) -> Self {
        match op {
            Op::Send { from, to, device, count } => self.send(from, to, device, count).await,
            Op::Retry { from, to, back } => self.retry(from, to, back).await,
            Op::Ack { account, peer, device, back } => self.ack(account, peer, device, back).await,
            Op::Flush => {
                self.bed.log().flush().await.unwrap();
                self.model.settle();
            }
            Op::Purge => drop(self.bed.log().purge(self.bed.now_ms).await.unwrap()),
            Op::Reopen(died) => return self.reopen(died).await,
            Op::Link(account) => self.link(account).await,
            Op::Revoke(account) => self.revoke(account).await,
        }
        self
    }

    async fn send(&mut self, from: u8, to: u8, device: usize, count: usize) {
        let devices = self.model.devices(from);
        let sender = devices[device % devices.len()];
        let others: Vec<_> = self.model.members(from, to).into_iter().filter(|d| *d != sender).collect();
        let ids: Vec<u32> = (self.model.next..).take(count).collect();
        self.model.next += u32::try_from(count).unwrap();
        let head = self.model.head(between(from, to));
        let outcomes = self.bed.submit(ids.iter().map(|id| append_from(sender, to, *id, &others)).collect()).await;
        for (n, outcome) in (1..).zip(&outcomes) {
            assert_eq!(accepted(outcome), (head + n, false));
        }
        let log = self.model.logs.entry(between(from, to)).or_default();
        log.extend(ids.into_iter().map(|append| Sent { append, sender, to: others.clone() }));
    }

    async fn retry(&mut self, from: u8, to: u8, back: usize) {
        let conversation = between(from, to);
        let head = self.model.head(conversation);
        let seq = head.saturating_sub(back as u64);
        // What everybody has may be gone, and with it the memory of its id.
        if seq == 0 || seq <= self.model.common(from, to) {
            return;
        }
        let sent = &self.model.logs[&conversation][usize::try_from(seq - 1).unwrap()];
        let peer = if sent.sender.account == account(from) { to } else { from };
        let outcome = self.bed.send(append_from(sent.sender, peer, sent.append, &sent.to)).await;
        assert_eq!(accepted(&outcome), (seq, true));
    }

    async fn ack(&mut self, account: u8, peer: u8, device: usize, back: usize) {
        let conversation = between(account, peer);
        let devices = self.model.devices(account);
        let device = devices[device % devices.len()];
        let seq = self.model.head(conversation).saturating_sub(back as u64);
        if self.model.head(conversation) == 0 {
            return;
        }
        self.bed.log().acknowledge(device, &[(conversation, seq)]).await.unwrap();
        let position = self.model.positions.entry((conversation, device)).or_default();
        position.acked = position.acked.max(seq);
    }

    async fn reopen(mut self, died: bool) -> Self {
        self.bed = self.bed.reopen(if died { Reopen::Died } else { Reopen::Closed }).await;
        if !died {
            self.model.settle();
        }
        for (a, b) in PAIRS {
            let conversation = between(a, b);
            if self.model.head(conversation) == 0 {
                continue;
            }
            for device in self.model.members(a, b) {
                let state = self.bed.log().states(device, &[conversation]).await.unwrap()[0];
                let position = self.model.position(conversation, device);
                assert!((position.durable..=position.acked).contains(&state.cursor), "a cursor fell below what was durable, or rose");
                self.model.positions.insert((conversation, device), Position { acked: state.cursor, durable: state.cursor });
            }
        }
        self
    }

    async fn link(&mut self, account: u8) {
        let number = self.model.linked.get_mut(&account).unwrap();
        if *number == 4 {
            return;
        }
        *number += 1;
        let new = device(account, *number);
        self.bed.fixture.link(new).await;
        self.model.current.get_mut(&account).unwrap().push(new);
        for (a, b) in PAIRS.into_iter().filter(|(a, b)| [*a, *b].contains(&account)) {
            let head = self.model.head(between(a, b));
            self.model.positions.insert((between(a, b), new), Position { acked: head, durable: head });
        }
    }

    async fn revoke(&mut self, account: u8) {
        if self.model.devices(account).len() > 1 {
            let gone = self.model.current.get_mut(&account).unwrap().remove(0);
            self.bed.fixture.revoke(gone).await;
        }
    }

    /// Everything that a device has not acknowledged is there for it, whole; and it is told where.
    async fn check(&self) {
        for (a, b) in PAIRS {
            let conversation = between(a, b);
            let head = self.model.head(conversation);
            for device in self.model.members(a, b) {
                let position = self.model.position(conversation, device);
                let behind = self.bed.behind(device).await.into_iter().find(|b| b.conversation == conversation);
                assert_eq!(behind.map(|b| (b.cursor, b.head)), (position.acked < head).then_some((position.acked, head)));
                if head == 0 {
                    continue;
                }
                let state = self.bed.log().states(device, &[conversation]).await.unwrap()[0];
                assert_eq!((state.head, state.cursor), (head, position.acked));
                assert!(state.first <= self.model.common(a, b) + 1, "something was purged that a device lacks");
                self.check_page(conversation, device, position.acked).await;
            }
        }
    }

    async fn check_page(&self, conversation: ConversationId, device: DeviceRef, after: u64) {
        let page = self.bed.log().page(device, conversation, after, ALL).await.unwrap();
        let expected = &self.model.logs[&conversation][usize::try_from(after).unwrap()..];
        assert!(page.absent.is_empty(), "{:?}", page.absent);
        assert_eq!(page.entries.len(), expected.len());
        for ((seq, entry), sent) in (after + 1..).zip(&page.entries).zip(expected) {
            assert_eq!((entry.seq, entry.sender), (seq, sent.sender));
            let payload = if sent.sender == device {
                Payload::Absent(v1::AbsentReason::Own)
            } else {
                assert!(sent.to.contains(&device));
                Payload::Sealed { body: Bytes::from(format!("body {}", sent.append)), slice: slice(device).data }
            };
            assert_eq!(entry.payload, payload);
        }
    }

    async fn finish(self) {
        self.bed.log().purge(self.bed.now_ms).await.unwrap();
        for (a, b) in PAIRS.into_iter().filter(|(a, b)| self.model.head(between(*a, *b)) > 0) {
            let state = self.bed.log().states(self.model.devices(a)[0], &[between(a, b)]).await.unwrap()[0];
            assert_eq!(state.first, self.model.common(a, b) + 1, "what everybody has is gone, and nothing else");
        }
        self.check().await;
    }
}

/// Runs as many histories as proptest is told to.
pub(crate) fn random_histories<F: Fixture>() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&ops(), |ops| {
        runtime.block_on(async {
            let mut run = Run::<F>::new().await;
            for op in ops {
                run = run.step(op).await;
                run.check().await;
            }
            run.finish().await;
        });
        Ok(())
    });
    outcome.unwrap();
}
