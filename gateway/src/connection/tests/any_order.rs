//! Any order of inputs: no panic, and exactly one answer per request while the connection lives.

use std::collections::{HashMap, VecDeque};

use kith_chat_core::log::{Behind, ConnectError, Page};
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Request(u8),
    Notice(u8),
    /// The log answers the oldest append.
    Resolve(bool),
    /// The operation under way is done.
    Finish(u8),
    Signal(u8),
    Live,
    Later(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..14).prop_map(Step::Request),
        2 => (0u8..3).prop_map(Step::Notice),
        6 => any::<bool>().prop_map(Step::Resolve),
        6 => (0u8..4).prop_map(Step::Finish),
        1 => (0u8..8).prop_map(Step::Signal),
        1 => Just(Step::Live),
        1 => any::<u16>().prop_map(Step::Later),
    ]
}

/// Plays log and hub for one connection.
struct World {
    connection: Connection,
    now: Now,
    next_id: u64,
    owed: HashMap<u64, u32>,
    in_log: VecDeque<Append>,
    running: Option<Op>,
    seq: u64,
    full: bool,
}

impl World {
    fn new() -> Self {
        let settings = SessionSettings { max_sends_in_flight: 3, catch_up_window: 4, ..SessionSettings::default() };
        let connection = Connection::new(1, shared(settings), false, NOW);
        Self { connection, now: NOW, next_id: 1, owed: HashMap::new(), in_log: VecDeque::new(), running: None, seq: 0, full: false }
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.connection.handle(input, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Send(outgoing) => self.sent(&outgoing),
                Action::Submit(append) if self.full => self.input(Input::Bounced(Box::new(append))),
                Action::Submit(append) => self.in_log.push_back(append),
                Action::Run(op) => {
                    assert!(self.running.replace(op).is_none(), "one operation at a time");
                }
                Action::Identify(..) | Action::TokenUntil(_) | Action::Close(_) | Action::Pause(_) => {}
            }
        }
    }

    fn sent(&mut self, outgoing: &Outgoing) {
        let Some(frame) = outgoing.to_frame() else { return };
        if frame.id != 0 {
            let count = self.owed.get_mut(&frame.id).expect("an answer to a request that was made");
            *count += 1;
            assert_eq!(*count, 1, "one answer");
        }
    }

    fn request(&mut self, which: u8) {
        if !self.connection.wants_frames() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.owed.insert(id, 0);
        let kind = self.kind(which);
        self.input(frame(id, kind));
    }

    fn kind(&self, which: u8) -> client_frame::Kind {
        let conversation = ConversationId::direct(ME.account, PEER.account).to_bytes();
        match which {
            0 => client_frame::Kind::Hello(hello(&self.connection)),
            1..=3 => client_frame::Kind::Send(v1::Send { client_msg_id: vec![u8::try_from(self.next_id % 250).unwrap(); 16].into(), ..send() }),
            4 => client_frame::Kind::Send(v1::Send { restart: true, ..send() }),
            5 => client_frame::Kind::Send(v1::Send { body: bytes::Bytes::new(), ..send() }),
            6 => client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation, seq: self.seq }] }),
            7 => client_frame::Kind::Read(v1::Read { conversation, seq: 1 }),
            8 => client_frame::Kind::Typing(v1::Typing { conversation, peer: PEER.account.to_bytes(), active: true }),
            9 => client_frame::Kind::Page(v1::Page { conversation, after_seq: 0, limit: 10 }),
            10 => client_frame::Kind::GetConversations(v1::GetConversations { conversations: vec![conversation; 300] }),
            11 => client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: vec![PEER.account.to_bytes()] }),
            12 => client_frame::Kind::SetPresence(v1::SetPresence { hidden: true }),
            _ => client_frame::Kind::Renew(v1::Renew { token: "forged".to_owned() }),
        }
    }

    fn resolve(&mut self, accept: bool) {
        let Some(append) = self.in_log.pop_front() else { return };
        if append.restart {
            append.gate.open();
        }
        let outcome = if append.gate.is_shut() || !accept {
            Outcome::Refused(Refusal::EarlierRefused)
        } else {
            self.seq += 1;
            Outcome::Accepted { seq: self.seq, at_ms: 1, duplicate: false, mutual: false }
        };
        self.input(resolved(append, outcome));
    }

    fn finish(&mut self, how: u8) {
        let Some(op) = self.running.take() else { return };
        let plain = |how| if how == 0 { Err(LogError::NotAMember) } else { Ok(()) };
        let conversation = ConversationId::direct(ME.account, PEER.account);
        self.input(Input::Done(match op {
            Op::Connect { request, .. } if how == 0 => {
                Done::Connect { request, result: Err(ConnectFailure::Refused(ConnectError::StaleStore { known: 9 })) }
            }
            Op::Connect { request, .. } => Done::Connect { request, result: Ok(connected()) },
            Op::Heads if how == 0 => Done::Heads(Ok(Vec::new())),
            Op::Heads => Done::Heads(Ok(vec![Behind { device: ME, conversation, cursor: 0, head: 3 }])),
            Op::GoLive { .. } => Done::Live { clean: how > 1 },
            Op::CatchUp { conversation, .. } if how == 0 => Done::CatchUp { conversation, result: Err(LogError::NotAMember) },
            Op::CatchUp { conversation, .. } => Done::CatchUp { conversation, result: Ok(Page { absent: Vec::new(), entries: Vec::new(), head: 3 }) },
            Op::Acknowledge { request, cursors } => Done::Acknowledge { request, cursors, result: plain(how) },
            Op::Read { request, .. } | Op::SetPresence { request, .. } | Op::Typing { request, .. } => Done::Plain { request, result: plain(how) },
            Op::Page { request, conversation, .. } => {
                Done::Page { request, conversation, result: plain(how).map(|()| Page { absent: Vec::new(), entries: Vec::new(), head: 0 }) }
            }
            Op::States { request, .. } => Done::States { request, result: plain(how).map(|()| Vec::new()) },
            Op::Watch { request, .. } => Done::Watch { request, result: plain(how).map(|()| Vec::new()) },
        }));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Request(which) => self.request(*which),
            Step::Notice(which) if self.connection.wants_frames() => {
                let kind = self.kind(which + 6);
                self.input(frame(0, kind));
            }
            Step::Notice(_) => {}
            Step::Resolve(accept) => self.resolve(*accept),
            Step::Finish(how) => self.finish(*how),
            Step::Signal(0) => self.input(Input::Signal(Signal::Drain)),
            Step::Signal(1) => self.input(Input::Signal(Signal::Overflowed)),
            Step::Signal(2) => self.input(Input::Signal(Signal::Behind)),
            Step::Signal(3) => self.input(Input::Signal(Signal::KeepAlive)),
            Step::Signal(4) => self.full = !self.full,
            Step::Signal(5) => self.input(Input::Signal(Signal::Cut(ErrorCode::Replaced))),
            Step::Signal(6) => self.input(Input::PeerGone),
            Step::Signal(_) => self.input(Input::Heard),
            Step::Live => self.input(Input::Push(Box::new(Kind::KeysLow(v1::KeysLow::default())))),
            Step::Later(ms) => self.now.running_ms += u64::from(*ms),
        }
    }

    /// Lets the log answer everything.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.in_log.is_empty() && self.running.is_none() {
                return;
            }
            self.resolve(true);
            // Catch-up ends: heads level, live at once.
            self.finish(if matches!(self.running, Some(Op::Heads)) { 0 } else { 2 });
        }
        panic!("does not settle");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn every_request_has_exactly_one_answer(steps in prop::collection::vec(step(), 0..200)) {
        let mut world = World::new();
        world.request(0);
        for step in &steps {
            world.step(step);
        }
        world.settle();
        if !world.connection.is_closed() {
            prop_assert!(world.owed.values().all(|count| *count == 1), "{:?}", world.owed);
            prop_assert_eq!(world.connection.sends.unanswered(), 0);
        }
    }
}
