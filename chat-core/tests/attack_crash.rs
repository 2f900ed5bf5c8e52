//! Attacks on the message log: the machine dies between any two transactions of a summary, and numbers at the edge of what can be stored.
//!
//! A write job runs inside one transaction of the writer, and every transaction takes one step of the summary under way. So jobs that hold the writer,
//! each queued before the one before it is let go, show all states between two steps: the files as they are then are what a dead machine leaves.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use kith_chat_core::{
    domain::Clock,
    log::{Admission, Append, ConnectError, Course, Gate, LogError, MessageLog, Outcome, Page, PageLimit, Payload, Resolved, Ticket},
    sqlite::{Database, Options, Write},
};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

const EVERYTHING: PageLimit = PageLimit { entries: 100_000, bytes: usize::MAX };

fn device(account: u8) -> DeviceRef {
    DeviceRef { account: AccountId([account; 16]), device: DeviceId([account; 16]) }
}

fn between(a: DeviceRef, b: DeviceRef) -> ConversationId {
    ConversationId::direct(a.account, b.account)
}

fn append(from: DeviceRef, to: DeviceRef, n: u64) -> Append {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&n.to_be_bytes());
    Append {
        ticket: Ticket { connection: 1, request: n },
        conversation: between(from, to),
        sender: from,
        recipient: to.account,
        epoch: u64::MAX,
        client_msg_id: ClientMsgId(id),
        device_counter: n,
        checkpoint: false,
        restart: false,
        sender_list_version: 1,
        recipient_list_version: 1,
        body: Bytes::from(format!("body {n}")),
        slices: vec![v1::Slice { device: to.device.to_bytes(), data: Bytes::from_static(b"slice") }],
        own_slices: Vec::new(),
        gate: Arc::new(Gate::default()),
        admission: Admission::Admitted,
        course: Course::default(),
    }
}

struct Log {
    folder: TempDir,
    db: Arc<Database>,
    resolved: mpsc::Receiver<Vec<Resolved>>,
}

impl Log {
    fn open(folder: TempDir) -> Self {
        let options = Options { purge_every: None, ..Options::new(Clock::System) };
        let (db, resolved) = Database::open(&folder.path().join("kith.db"), options).unwrap();
        Self { folder, db, resolved }
    }

    async fn with_accounts(count: u8) -> Self {
        let log = Self::open(tempfile::tempdir().unwrap());
        for n in 1..=count {
            log.register(device(n)).await;
        }
        log
    }

    async fn register(&self, device: DeviceRef) {
        let (account, id) = (device.account.0, device.device.0);
        let registered = self.db.write("register", move |write| {
            let sql =
                "INSERT INTO account(id, username, aik, recovery, list_version, list_hash, created_ms) VALUES (?1, hex(?1), x'', x'', 1, x'', 0)";
            write.tx().execute(sql, (account,))?;
            let sql = "INSERT INTO device(account_no, id, ed25519, certificate_hash, linked_ms, list_since)
                VALUES ((SELECT no FROM account WHERE id = ?), ?, x'', x'', 0, 1)";
            write.tx().execute(sql, (account, id)).map(|_| ())
        });
        registered.await.unwrap();
    }

    async fn submit(&mut self, appends: impl IntoIterator<Item = Append>) -> Vec<Outcome> {
        let mut waiting = 0;
        for append in appends {
            self.db.submit(append).unwrap();
            waiting += 1;
        }
        let mut outcomes = Vec::new();
        while outcomes.len() < waiting {
            outcomes.extend(self.resolved.recv().await.unwrap().into_iter().map(|resolved| resolved.outcome));
        }
        outcomes
    }

    async fn accept(&mut self, appends: impl IntoIterator<Item = Append>) -> Vec<(u64, bool)> {
        let outcomes = self.submit(appends).await;
        outcomes.iter().map(accepted).collect()
    }

    async fn ack(&self, device: DeviceRef, conversation: ConversationId, seq: u64) {
        self.db.acknowledge(device, &[(conversation, seq)]).await.unwrap();
    }

    async fn page(&self, device: DeviceRef, conversation: ConversationId, after: u64) -> Page {
        self.db.page(device, conversation, after, EVERYTHING).await.unwrap()
    }

    /// Lets the writer commit what it is held in, together with one step of a summary, and holds it in the next transaction.
    async fn next_step(&self, held: Option<Held>) -> Held {
        let (inside, entered) = oneshot::channel();
        let (let_go, go) = std::sync::mpsc::channel::<()>();
        let db = Arc::clone(&self.db);
        let mut job = Box::pin(async move {
            let job = move |_: &mut Write<'_>| {
                let _ = inside.send(());
                let _ = go.recv();
                Ok::<_, Infallible>(())
            };
            db.write("hold", job).await.unwrap();
        });
        // Polled once, so that it is in the queue before the writer is let go.
        tokio::select! { biased; () = &mut job => unreachable!("it is held"), () = std::future::ready(()) => {} }
        tokio::spawn(job);
        drop(held);
        entered.await.unwrap();
        Held { _let_go: let_go }
    }

    /// What a machine that dies now leaves. The writer must be held.
    fn die_here(&self, _: &Held) -> TempDir {
        let to = tempfile::tempdir().unwrap();
        copy(self.folder.path(), to.path()).unwrap();
        to
    }

    /// Outcomes that have come meanwhile.
    fn outcomes(&mut self) -> Vec<(u64, bool)> {
        let mut outcomes = Vec::new();
        while let Ok(batch) = self.resolved.try_recv() {
            outcomes.extend(batch.iter().map(|resolved| accepted(&resolved.outcome)));
        }
        outcomes
    }
}

/// Keeps the writer inside a transaction.
struct Held {
    _let_go: std::sync::mpsc::Sender<()>,
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    for name in ["kith.db-wal", "kith.db"] {
        let (from, to): (PathBuf, PathBuf) = (from.join(name), to.join(name));
        std::fs::copy(from, to)?;
    }
    Ok(())
}

fn accepted(outcome: &Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Accepted { seq, duplicate, .. } => (*seq, *duplicate),
        Outcome::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

/// Starts a flush, which begins a round of the summary at once.
fn flush(log: &Log) -> tokio::task::JoinHandle<()> {
    let db = Arc::clone(&log.db);
    tokio::spawn(async move { db.flush().await.unwrap() })
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("the test hangs")
}

/// A client that learns too small a counter takes its own store for newer than the server, and a store copied back from a backup is not noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_counter_never_falls_wherever_the_machine_dies() {
    within(async {
        let (alice, bob) = (device(1), device(2));
        let conversation = between(alice, bob);
        let mut log = Log::with_accounts(2).await;
        let (mut sent, mut known, mut held) = (0, 0, None);
        for pattern in 0_u32..16 {
            sent += 1;
            log.db.submit(append(alice, bob, sent)).unwrap();
            let flushed = flush(&log);
            // Messages that come while the round is under way, and are acknowledged before it is over, are purged by it.
            for step in 0..32 {
                let here = log.next_step(held.take()).await;
                known += log.outcomes().len() as u64;
                if known > 0 {
                    log.ack(alice, conversation, known).await;
                    log.ack(bob, conversation, known).await;
                }
                let after = Log::open(log.die_here(&here));
                let connected = after.db.connect(alice, 1).await.unwrap();
                assert!(connected.device_counter >= known, "{known} were accepted, but the counter is {}", connected.device_counter);
                // Silence in all places, since a later message in the journal would tell the counter.
                if pattern & (1 << step) != 0 {
                    sent += 1;
                    log.db.submit(append(alice, bob, sent)).unwrap();
                }
                held = Some(here);
                if flushed.is_finished() {
                    break;
                }
            }
            drop(held.take());
            flushed.await.unwrap();
        }
    })
    .await;
}

/// What was accepted and acknowledged, conversation by conversation.
#[derive(Default)]
struct Expected {
    heads: HashMap<ConversationId, u64>,
    acked: HashMap<(ConversationId, DeviceRef), u64>,
}

impl Expected {
    fn acked(&self, conversation: ConversationId, device: DeviceRef) -> u64 {
        self.acked.get(&(conversation, device)).copied().unwrap_or(0)
    }
}

/// Submits as many as asked from `a` to `b`, numbering ids by seq.
fn submit(log: &Log, submitted: &mut HashMap<ConversationId, u64>, a: DeviceRef, b: DeviceRef, count: u64) {
    let head = submitted.entry(between(a, b)).or_default();
    for _ in 0..count {
        *head += 1;
        log.db.submit(append(a, b, *head)).unwrap();
    }
}

async fn acknowledge(log: &Log, expected: &mut Expected, conversation: ConversationId, device: DeviceRef, seq: u64) {
    log.ack(device, conversation, seq).await;
    let acked = expected.acked.entry((conversation, device)).or_default();
    *acked = seq.max(*acked);
}

/// Opens what the dead machine left: every accepted message that a device has not acknowledged is there, in order and whole; retries are recognised; the
/// next number follows.
async fn check(dead: TempDir, expected: &Expected, pairs: &[(DeviceRef, DeviceRef)]) {
    let mut log = Log::open(dead);
    for (a, b) in pairs {
        let conversation = between(*a, *b);
        let Some(head) = expected.heads.get(&conversation).copied() else { continue };
        for device in [*a, *b] {
            let acked = expected.acked(conversation, device);
            let state = log.db.states(device, &[conversation]).await.unwrap()[0];
            assert_eq!(state.head, head, "the head is another");
            assert!(state.cursor <= acked);
            let common = expected.acked(conversation, *a).min(expected.acked(conversation, *b));
            assert!(state.first <= common + 1, "purged what a device lacks");
            let page = log.page(device, conversation, acked).await;
            assert!(page.absent.is_empty(), "absent for a device that has not acknowledged: {:?}", page.absent);
            assert_eq!(page.entries.iter().map(|e| e.seq).collect::<Vec<_>>(), (acked + 1..=head).collect::<Vec<_>>());
            let whole = |payload: &Payload| matches!(payload, Payload::Sealed { .. }) == (device == *b);
            assert!(page.entries.iter().all(|e| whole(&e.payload)));
            let behind = log.db.behind(&[device]).await.unwrap().into_iter().find(|behind| behind.conversation == conversation);
            assert_eq!(behind.map(|behind| behind.head), (state.cursor < head).then_some(head));
        }
        let common = expected.acked(conversation, *a).min(expected.acked(conversation, *b));
        let retries = log.accept([common + 1, head].into_iter().filter(|seq| *seq > common && *seq <= head).map(|n| append(*a, *b, n))).await;
        assert!(retries.iter().all(|(seq, duplicate)| *duplicate && (*seq == common + 1 || *seq == head)), "{retries:?}");
        assert_eq!(log.accept([append(*a, *b, head + 1)]).await, [(head + 1, false)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dying_between_any_two_steps_of_a_summary_loses_nothing() {
    within(async {
        let pairs = [(device(1), device(2)), (device(3), device(2)), (device(1), device(3))];
        let [busy, slow, quick] = pairs.map(|(a, b)| between(a, b));
        let mut log = Log::with_accounts(3).await;
        let mut expected = Expected::default();
        let (mut submitted, mut held, mut steps) = (HashMap::new(), None, 0);
        // More than one go of a summary can take.
        submit(&log, &mut submitted, pairs[0].0, pairs[0].1, 1_400);
        submit(&log, &mut submitted, pairs[1].0, pairs[1].1, 20);
        for round in 1..=4_u64 {
            let flushed = flush(&log);
            for step in 1..=60_u64 {
                let here = log.next_step(held.take()).await;
                steps += u32::from(!flushed.is_finished());
                while let Ok(batch) = log.resolved.try_recv() {
                    for resolved in batch {
                        let (seq, duplicate) = accepted(&resolved.outcome);
                        let head = expected.heads.entry(resolved.append.conversation).or_default();
                        *head += 1;
                        assert_eq!((seq, duplicate), (*head, false));
                    }
                }
                check(log.die_here(&here), &expected, &pairs).await;
                submit(&log, &mut submitted, pairs[2].0, pairs[2].1, 1);
                if step % 3 == 0 {
                    submit(&log, &mut submitted, pairs[0].0, pairs[0].1, 2);
                }
                let head = |conversation| expected.heads.get(&conversation).copied().unwrap_or(0);
                let (quick_head, busy_head, slow_head) = (head(quick), head(busy), head(slow));
                let moves = [
                    (quick, pairs[2].0, quick_head),
                    (quick, pairs[2].1, quick_head),
                    (busy, pairs[0].0, busy_head),
                    (busy, pairs[0].1, (round * 300 + step * 10).min(busy_head)),
                    (slow, pairs[1].1, round.min(slow_head)),
                ];
                for (conversation, device, seq) in moves.into_iter().filter(|(.., seq)| *seq > 0) {
                    acknowledge(&log, &mut expected, conversation, device, seq).await;
                }
                held = Some(here);
                if flushed.is_finished() {
                    break;
                }
            }
            drop(held.take());
            flushed.await.unwrap();
        }
        assert!(steps > 10, "only {steps} states were seen");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_after_numbers_that_cannot_be_is_empty() {
    within(async {
        let (alice, bob) = (device(1), device(2));
        let mut log = Log::with_accounts(2).await;
        log.accept([append(alice, bob, 1), append(alice, bob, 2)]).await;
        for after in [2, 3, i64::MAX.unsigned_abs(), i64::MAX.unsigned_abs() + 1, u64::MAX - 1, u64::MAX] {
            let page = log.page(bob, between(alice, bob), after).await;
            assert_eq!((page.entries.len(), page.absent.len(), page.head), (0, 0, 2), "after {after}");
        }
        assert_eq!(log.page(bob, between(alice, bob), 0).await.entries.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_numbers_neither_overflow_nor_stop_the_writer() {
    within(async {
        let (alice, bob) = (device(1), device(2));
        let conversation = between(alice, bob);
        let mut log = Log::with_accounts(2).await;
        let largest = Append { device_counter: u64::MAX, sender_list_version: u64::MAX, recipient_list_version: u64::MAX, ..append(alice, bob, 1) };
        assert_eq!(log.accept([largest]).await, [(1, false)]);
        assert!(matches!(log.db.acknowledge(bob, &[(conversation, u64::MAX)]).await, Err(LogError::BeyondHead)));
        assert!(matches!(log.db.mark_read(bob, conversation, u64::MAX).await, Err(LogError::BeyondHead)));
        assert!(matches!(log.db.connect(bob, u64::MAX).await, Err(ConnectError::StaleStore { .. })));
        log.db.flush().await.unwrap();
        assert_eq!(log.db.connect(alice, i64::MAX.unsigned_abs()).await.unwrap().device_counter, i64::MAX.unsigned_abs());
        assert_eq!(log.page(bob, conversation, 0).await.entries.len(), 1);
        assert_eq!(log.accept([append(alice, bob, 2)]).await, [(2, false)]);
    })
    .await;
}

/// The other connection's gate and another device's id are no way to a seq that is not one's own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_learns_nothing_of_a_conversation_by_its_id() {
    within(async {
        let (alice, bob, eve) = (device(1), device(2), device(3));
        let conversation = between(alice, bob);
        let mut log = Log::with_accounts(3).await;
        log.accept([append(alice, bob, 1)]).await;
        let nowhere = ConversationId([9; 16]);
        for asked in [conversation, nowhere] {
            assert!(matches!(log.db.page(eve, asked, 0, EVERYTHING).await, Err(LogError::NotAMember)));
            assert!(matches!(log.db.acknowledge(eve, &[(asked, 1)]).await, Err(LogError::NotAMember)));
            assert!(matches!(log.db.mark_read(eve, asked, 1).await, Err(LogError::NotAMember)));
            assert!(log.db.states(eve, &[asked]).await.unwrap().is_empty());
        }
        // A device that claims another account is no device of it.
        let forged = DeviceRef { account: alice.account, device: eve.device };
        assert!(matches!(log.db.page(forged, conversation, 0, EVERYTHING).await, Err(LogError::NotAMember)));
        assert!(log.db.behind(&[forged, eve]).await.unwrap().is_empty());
        assert!(matches!(log.db.connect(forged, 1).await, Err(ConnectError::Revoked)));
    })
    .await;
}
