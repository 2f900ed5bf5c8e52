//! One connection's state machine between a hostile client, the log and the hub, in any order of events. Every request has exactly one answer of its kind,
//! sends of a conversation in their order; before Hello there is nothing to be had; what is kept is bounded; an end is an end; and whoever stays connected
//! and acknowledges gets every message.
#![no_main]

#[path = "connection/model.rs"]
mod model;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use kith_chat_core::log::{Admission, Append, Behind, Course, Gate, LogError, Outcome, Page, PageLimit, Refusal, Resolved, Ticket};
use kith_fuzz::Plan;
use kith_gateway::{
    connection::{Action, Connection, Done, Input, LiveMessage, Now, Op, Outgoing, Shared, Signal},
    sessions::SessionSettings,
    token::TokenKey,
};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
    v1::{client_frame as asked, server_frame as said},
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

use crate::model::{Conversation, connect, fits};

const ME: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([11; 16]) };
const PEERS: u8 = 3;
const SENDS_IN_FLIGHT: u32 = 3;
const WINDOW: u32 = 8;
const WINDOW_BYTES: usize = 4_096;
/// From the source: `MAX_WAITING`, `MAX_ACKS`, `MAX_LANES`.
const WAITING: usize = 32;
const ACKS: usize = 1_024;
const LANES: usize = 1_024;
/// The smallest cursor takes so many bytes of a frame.
const CURSOR: usize = 20;

static SHARED: LazyLock<Arc<Shared>> = LazyLock::new(|| {
    let settings = SessionSettings {
        max_sends_in_flight: SENDS_IN_FLIGHT,
        catch_up_window: WINDOW,
        catch_up_window_bytes: WINDOW_BYTES,
        catch_up_page: 3,
        catch_up_page_bytes: 1_024,
        keep_alive: Duration::from_secs(30),
        old_sends_per_second: 2,
        ..SessionSettings::default()
    };
    Arc::new(Shared { settings, tokens: TokenKey::new([7; 32]) })
});

fn peer(which: u8) -> DeviceRef {
    let which = 100 + which % PEERS;
    DeviceRef { account: AccountId([which; 16]), device: DeviceId([which; 16]) }
}

fn with(which: u8) -> ConversationId {
    ConversationId::direct(ME.account, peer(which).account)
}

/// Plays client, log and hub.
struct World<'a> {
    plan: Plan<'a>,
    connection: Connection,
    text: bool,
    now: Now,
    next_id: u64,
    /// Requests without an answer yet.
    owed: HashMap<u64, Vec<asked::Kind>>,
    conversations: BTreeMap<ConversationId, Conversation>,
    in_log: VecDeque<Append>,
    running: Option<Op>,
    identified: bool,
    welcomed: bool,
    caught_up: bool,
    closed: bool,
    paused: bool,
    full: bool,
    /// The hub puts live deliveries in; otherwise they are dropped and that is noted.
    live: bool,
    dropped: bool,
    token_until_ms: u64,
    /// Lengths of the bodies in the log, at even and odd places.
    bodies: [usize; 2],
    /// The log has failed at something: what is behind is then found by the hub's rescue, and not before.
    failed: bool,
}

impl<'a> World<'a> {
    fn new(mut plan: Plan<'a>) -> Self {
        let text = plan.flag();
        let now = Now { unix_ms: 1_000_000, running_ms: 0 };
        let mut conversations = BTreeMap::new();
        for which in 0..PEERS {
            // Now and then more than the largest page.
            let head = match plan.u8() {
                large @ 224.. => u64::from(large) + 100,
                small => u64::from(small % 32),
            };
            conversations.insert(with(which), Conversation { head, cursor: head.min(plan.u8().into()), ..Conversation::default() });
        }
        let bodies = [1 + usize::from(plan.u8()) * 16, 1 + usize::from(plan.u8())];
        Self {
            plan,
            connection: Connection::new(1, Arc::clone(&SHARED), text, now),
            text,
            now,
            next_id: 1,
            owed: HashMap::new(),
            conversations,
            in_log: VecDeque::new(),
            running: None,
            identified: false,
            welcomed: false,
            caught_up: false,
            closed: false,
            paused: false,
            full: false,
            live: false,
            dropped: false,
            token_until_ms: u64::MAX,
            bodies,
            failed: false,
        }
    }

    fn input(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.connection.handle(input, self.now, &mut actions);
        assert!(!self.closed || actions.is_empty(), "after the end: {actions:?}");
        for action in actions {
            assert!(!self.closed, "after the end: {action:?}");
            self.act(action);
        }
        assert_eq!(self.closed, self.connection.is_closed());
        self.bounded();
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send(outgoing) => self.sent(&outgoing),
            Action::Submit(append) => {
                assert!(self.welcomed && append.sender == ME && append.ticket.connection == 1);
                assert!(append.conversation == ConversationId::direct(ME.account, append.recipient) && append.recipient != ME.account);
                if self.full { self.input(Input::Bounced(Box::new(append))) } else { self.in_log.push_back(append) }
            }
            Action::Run(op) => {
                assert!(self.welcomed || matches!(op, Op::Connect { .. }) && self.identified, "before Welcome: {op:?}");
                assert!(self.running.replace(op).is_none(), "one operation at a time");
            }
            Action::Identify(device, until) => {
                assert_eq!(device, ME);
                assert!(!std::mem::replace(&mut self.identified, true), "identified once");
                assert!(until > self.now.unix_ms);
                self.token_until_ms = until;
            }
            Action::TokenUntil(until) => {
                assert!(self.welcomed && until >= self.token_until_ms);
                self.token_until_ms = until;
            }
            Action::Pause(pause) => {
                assert!(pause > Duration::ZERO && pause <= Duration::from_secs(1));
                assert!(!std::mem::replace(&mut self.paused, true), "one pause at a time");
            }
            Action::Close(code) => {
                assert!((1000..=1011).contains(&code));
                self.closed = true;
            }
        }
    }

    fn bounded(&self) {
        let held = self.connection.held();
        let frame = SHARED.settings.max_frame_bytes;
        assert!(held.acks < ACKS + frame / CURSOR, "{held:?}");
        // Merged cursors that are tried one by one, twice over: while those of one call were under way, another call's may have come.
        assert!(held.waiting <= WAITING + 2 * (ACKS + frame / CURSOR), "{held:?}");
        assert!(held.lanes <= LANES && held.unanswered <= 2 * SENDS_IN_FLIGHT, "{held:?}");
        assert!(held.catch_up_items <= u64::from(WINDOW), "{held:?}");
        // The last entry before the window is full may be as long as a message can be.
        assert!(held.catch_up_bytes < (WINDOW_BYTES + frame) as u64, "{held:?}");
    }

    /// The client gets something.
    fn sent(&mut self, outgoing: &Outgoing) {
        let Some(frame) = outgoing.to_frame() else { return };
        let longest = SHARED.settings.max_frame_bytes;
        assert!(frame.encoded_len() <= longest, "a frame of {} bytes", frame.encoded_len());
        let json = serde_json::to_vec(&frame).expect("a frame has a JSON form").len();
        let kind = frame.kind.expect("the server says something");
        // A message is as long as it is; whatever else is said is cut to what fits.
        let right = !self.text
            || json <= longest
            || matches!(kind, said::Kind::Deliver(_))
            || matches!(&kind, said::Kind::Page(page) if page.entries.len() == 1);
        assert!(right, "a frame of {json} bytes of JSON");
        match &kind {
            said::Kind::Welcome(_) => assert!(self.identified && !std::mem::replace(&mut self.welcomed, true) && frame.id != 0, "one Welcome"),
            said::Kind::CaughtUp(_) => assert!(self.welcomed && !std::mem::replace(&mut self.caught_up, true), "one CaughtUp"),
            said::Kind::Deliver(deliver) => self.delivered(&deliver.conversation, deliver.seq, deliver.seq),
            said::Kind::Absent(absent) => self.delivered(&absent.conversation, absent.from_seq, absent.to_seq),
            said::Kind::Error(_) => assert!(frame.id != 0, "an error answers something"),
            said::Kind::Goodbye(_) => {}
            _ => assert!(self.welcomed, "before Welcome: {kind:?}"),
        }
        if frame.id != 0 {
            self.answered(frame.id, &kind);
        }
    }

    fn delivered(&mut self, conversation: &[u8], from: u64, to: u64) {
        assert!(self.welcomed, "a message before Welcome");
        let id = ConversationId::try_from(conversation).expect("16 bytes");
        self.conversations.get_mut(&id).expect("a conversation of this device").delivered.extend(from..=to);
    }

    fn answered(&mut self, id: u64, kind: &said::Kind) {
        let open = self.owed.get_mut(&id).expect("an answer to a request that was made, and not answered before");
        let at = open.iter().position(|request| fits(request, kind)).unwrap_or_else(|| panic!("{kind:?} answers none of {open:?}"));
        let request = open.remove(at);
        if open.is_empty() {
            self.owed.remove(&id);
        }
        if let asked::Kind::Send(send) = request
            && let Ok(conversation) = ConversationId::try_from(&send.conversation[..])
            && let Some(conversation) = self.conversations.get_mut(&conversation)
        {
            assert_eq!(conversation.sends.pop_front(), Some(id), "answers to sends come in the order of the sends");
        }
    }

    /// The client says something, if the connection would read it.
    fn say(&mut self, frame: v1::ClientFrame) {
        if !self.connection.wants_frames() {
            return;
        }
        // Numbers are the client's own affair; but whoever uses one twice at a time cannot tell answers apart, and neither can this test.
        if frame.id != 0 && self.owed.contains_key(&frame.id) {
            return;
        }
        if let (id @ 1.., Some(kind)) = (frame.id, &frame.kind) {
            if let asked::Kind::Send(send) = kind
                && let Ok(conversation) = ConversationId::try_from(&send.conversation[..])
                && let Some(conversation) = self.conversations.get_mut(&conversation)
            {
                conversation.sends.push_back(id);
            }
            self.owed.entry(id).or_default().push(kind.clone());
        }
        self.input(Input::Frame(frame));
    }

    fn ask(&mut self, kind: asked::Kind) {
        let id = self.next_id;
        self.next_id += 1;
        self.say(v1::ClientFrame { id, kind: Some(kind) });
    }

    fn token(&mut self) -> String {
        match self.plan.u8() {
            0 => self.plan.text().to_owned(),
            // Nobody comes by another's token, but a device may have been somebody else's.
            1 if self.identified => SHARED.tokens.issue(peer(0), u64::MAX),
            2 => SHARED.tokens.issue(ME, self.plan.number()),
            _ => SHARED.tokens.issue(ME, self.now.unix_ms + u64::from(self.plan.u16())),
        }
    }

    fn send(&mut self) -> v1::Send {
        let which = self.plan.u8();
        let flags = self.plan.u8();
        let body = usize::from(self.plan.u8()) * if flags & 2 == 0 { 1 } else { 300 };
        v1::Send {
            conversation: with(which).to_bytes(),
            recipient: peer(if flags & 4 == 0 { which } else { which.wrapping_add(1) }).account.to_bytes(),
            client_msg_id: vec![self.plan.u8(); 16].into(),
            body: vec![7; body].into(),
            slices: vec![v1::Slice { device: peer(which).device.to_bytes(), data: vec![1; 60].into() }],
            device_counter: 1,
            restart: flags & 1 == 1,
            ..v1::Send::default()
        }
    }

    fn request(&mut self) -> asked::Kind {
        let which = self.plan.u8();
        let conversation = with(which).to_bytes();
        match self.plan.u8() % 14 {
            0..=3 => asked::Kind::Send(self.send()),
            4 => asked::Kind::Hello(v1::Hello { token: self.token(), version: 1, features: Vec::new(), epoch: self.plan.number() }),
            5 => asked::Kind::Ack(v1::Ack { cursors: self.cursors() }),
            6 => asked::Kind::Read(v1::Read { conversation, seq: self.plan.number() }),
            7 => asked::Kind::Typing(v1::Typing { conversation, peer: peer(which).account.to_bytes(), active: self.plan.flag() }),
            8 => asked::Kind::Page(v1::Page { conversation, after_seq: self.plan.number(), limit: self.plan.u8().into() }),
            9 => asked::Kind::GetConversations(v1::GetConversations { conversations: vec![conversation; self.plan.u8().into()] }),
            10 => asked::Kind::WatchPresence(v1::WatchPresence { accounts: vec![peer(which).account.to_bytes(); self.plan.u8().into()] }),
            11 => asked::Kind::SetPresence(v1::SetPresence { hidden: self.plan.flag() }),
            12 => asked::Kind::Renew(v1::Renew { token: self.token() }),
            _ => asked::Kind::Ping(v1::Ping {}),
        }
    }

    fn cursors(&mut self) -> Vec<v1::Cursor> {
        // Now and then as many as fit into a frame.
        if self.plan.u8() == 255 {
            let many = SHARED.settings.max_frame_bytes / (CURSOR + 4);
            return (0..many).map(|n| v1::Cursor { conversation: (n as u128).to_be_bytes().to_vec().into(), seq: 1 }).collect();
        }
        (0..self.plan.u8() % 4).map(|_| v1::Cursor { conversation: with(self.plan.u8()).to_bytes(), seq: self.plan.number() }).collect()
    }

    /// The log answers the oldest append of some conversation.
    fn resolve(&mut self, how: u8) {
        let Some(first) = self.in_log.get(usize::from(how) % self.in_log.len().max(1)).map(|append| append.conversation) else { return };
        let oldest = self.in_log.iter().position(|append| append.conversation == first).expect("it is there");
        let append = self.in_log.remove(oldest).expect("it is there");
        if append.restart {
            append.gate.open();
        }
        let refused = match (how, &append.admission) {
            (0..16, _) => None,
            (_, _) if append.gate.is_shut() => Some(Refusal::EarlierRefused),
            (_, Admission::DuplicateOnly(refusal)) => Some(refusal.clone()),
            (16..200, _) => None,
            (200..210, _) => Some(Refusal::RateLimited { after_ms: 5 }),
            (210..220, _) => Some(Refusal::DevicesChanged { missing: vec![peer(how)], extra: Vec::new() }),
            (220..230, _) => Some(Refusal::SenderRevoked),
            (230..240, _) => Some(Refusal::UnknownRecipient),
            _ => Some(Refusal::StorageUnavailable),
        };
        let outcome = if let Some(refusal) = refused {
            append.gate.shut();
            Outcome::Refused(refusal)
        } else {
            let conversation = self.conversations.get_mut(&append.conversation).expect("checked before it was submitted");
            let duplicate = how < 16 && conversation.head > 0;
            if !duplicate {
                conversation.head += 1;
                // A device's own message is not behind for it once it is the one that sent it.
                conversation.delivered.insert(conversation.head);
            }
            Outcome::Accepted { seq: conversation.head, at_ms: 1, duplicate, mutual: false }
        };
        self.input(Input::Answer(Arc::new(Resolved { append, outcome })));
    }

    /// Somebody else sends.
    fn arrive(&mut self, which: u8) {
        let conversation = with(which);
        let Some(standing) = self.conversations.get_mut(&conversation) else { return };
        standing.head += 1;
        let seq = standing.head;
        if !self.live {
            self.dropped = true;
            return;
        }
        let append = Append {
            ticket: Ticket { connection: 2, request: 1 },
            conversation,
            sender: peer(which),
            epoch: 1,
            recipient: ME.account,
            client_msg_id: ClientMsgId([9; 16]),
            device_counter: 1,
            checkpoint: false,
            restart: false,
            sender_list_version: 1,
            recipient_list_version: 1,
            body: Bytes::from_static(b"body"),
            slices: vec![v1::Slice { device: ME.device.to_bytes(), data: Bytes::from_static(b"slice") }],
            own_slices: Vec::new(),
            gate: Arc::new(Gate::default()),
            admission: Admission::Admitted,
            course: Course::default(),
        };
        let message = Arc::new(Resolved { append, outcome: Outcome::Accepted { seq, at_ms: 1, duplicate: false, mutual: false } });
        self.input(Input::Live(LiveMessage::new(&message, &ME).expect("it was accepted just now")));
    }

    fn page(&self, id: ConversationId, after: u64, limit: PageLimit) -> Result<Page, LogError> {
        let standing = self.conversations.get(&id).ok_or(LogError::NotAMember)?;
        Ok(standing.page(peer(0), after, limit, self.bodies))
    }

    fn acknowledge(&mut self, cursors: &[(ConversationId, u64)]) -> Result<(), LogError> {
        for (id, seq) in cursors {
            let standing = self.conversations.get(id).ok_or(LogError::NotAMember)?;
            if *seq > standing.head {
                return Err(LogError::BeyondHead);
            }
        }
        for (id, seq) in cursors {
            let standing = self.conversations.get_mut(id).expect("looked up just now");
            standing.cursor = standing.cursor.max(*seq);
        }
        Ok(())
    }

    /// The operation under way is done: honestly, or it fails.
    fn finish(&mut self, fails: u8) {
        let Some(op) = self.running.take() else { return };
        self.failed |= fails != 0;
        let failure = match fails {
            0 => None,
            1 => Some(LogError::NotAMember),
            2 => Some(LogError::Overloaded),
            _ => Some(LogError::Unavailable("disk".into())),
        };
        let plain = |failure: Option<LogError>| failure.map_or(Ok(()), Err);
        let done = match op {
            Op::Connect { request, .. } => Done::Connect { request, result: connect(fails) },
            Op::Heads => Done::Heads(failure.map_or_else(|| Ok(self.behind()), Err)),
            Op::GoLive { force } => {
                let clean = !self.dropped;
                self.live = clean || force;
                self.dropped = false;
                Done::Live { clean }
            }
            Op::CatchUp { conversation, after, limit, .. } => {
                Done::CatchUp { conversation, result: failure.map_or_else(|| self.page(conversation, after, limit), Err) }
            }
            Op::Acknowledge { request, cursors } => {
                let result = failure.map_or_else(|| self.acknowledge(&cursors), Err);
                Done::Acknowledge { request, cursors, result }
            }
            Op::Read { request, .. } | Op::SetPresence { request, .. } | Op::Typing { request, .. } => {
                Done::Plain { request, result: plain(failure) }
            }
            Op::Page { request, conversation, after, limit } => {
                Done::Page { request, conversation, result: failure.map_or_else(|| self.page(conversation, after, limit), Err) }
            }
            Op::States { request, conversations } => {
                let states = conversations.iter().filter_map(|id| self.conversations.get(id).map(|standing| standing.state(*id, peer(0).account)));
                Done::States { request, result: failure.map_or_else(|| Ok(states.collect()), Err) }
            }
            Op::Watch { request, accounts } => {
                let presences = accounts.iter().map(|account| v1::Presence { account: account.to_bytes(), ..v1::Presence::default() });
                Done::Watch { request, result: failure.map_or_else(|| Ok(presences.collect()), Err) }
            }
        };
        self.input(Input::Done(done));
    }

    fn behind(&self) -> Vec<Behind> {
        let behind = self.conversations.iter().filter(|(_, standing)| standing.cursor < standing.head);
        behind.map(|(id, standing)| Behind { device: ME, conversation: *id, cursor: standing.cursor, head: standing.head }).collect()
    }

    fn signal(&mut self, which: u8) {
        match which % 12 {
            0 => self.input(Input::Signal(Signal::Drain)),
            1 | 2 if self.live => {
                (self.live, self.dropped) = (false, true);
                self.input(Input::Signal(Signal::Overflowed));
            }
            3 | 4 if self.welcomed => self.input(Input::Signal(Signal::Behind)),
            5 | 6 => self.input(Input::Signal(Signal::KeepAlive)),
            7 => self.input(Input::Signal(Signal::Cut(v1::ErrorCode::Replaced))),
            8 => self.input(Input::PeerGone),
            9 => self.input(Input::HelloOverdue),
            10 => self.input(Input::Malformed(v1::ErrorCode::TooLarge)),
            _ => self.input(Input::Heard),
        }
    }

    fn step(&mut self) {
        match self.plan.u8() % 32 {
            0..=9 => {
                let kind = self.request();
                self.ask(kind);
            }
            10 | 11 => {
                let kind = self.request();
                self.say(v1::ClientFrame { id: 0, kind: Some(kind) });
            }
            // Any frame at all, with any number.
            12 | 13 => {
                let length = self.plan.u16().into();
                if let Ok(frame) = v1::ClientFrame::decode(self.plan.bytes(length)) {
                    self.say(frame);
                }
            }
            14..=18 => {
                let how = self.plan.u8();
                self.resolve(how);
            }
            19..=23 => self.finish(0),
            24 => {
                let fails = self.plan.u8() % 4;
                self.finish(fails);
            }
            25 => {
                let which = self.plan.u8();
                self.signal(which);
            }
            26..=28 => {
                let which = self.plan.u8();
                self.arrive(which);
            }
            29 => self.full = !self.full,
            30 if self.welcomed => self.input(Input::Push(Box::new(said::Kind::KeysLow(v1::KeysLow::default())))),
            30 => self.resume(),
            _ => {
                let (running, unix) = (self.plan.u16(), self.plan.u16());
                self.now.running_ms += u64::from(running);
                // This clock may be set, in both directions.
                self.now.unix_ms = (self.now.unix_ms + u64::from(unix)).saturating_sub(20_000);
                self.resume();
            }
        }
    }

    /// Log and hub finish what they have, and the client acknowledges what it has got.
    fn settle(&mut self) {
        self.full = false;
        let mut rescues = 0;
        for _ in 0..200_000 {
            self.resume();
            let idle = self.in_log.is_empty() && self.running.is_none() && !self.acknowledge_all();
            if self.closed || idle && (!self.failed || rescues == 40 || self.behind().is_empty()) {
                return;
            }
            if idle {
                rescues += 1;
                self.input(Input::Heard);
                self.signal(5);
                self.input(Input::Signal(Signal::Behind));
            }
            self.resolve(100);
            self.finish(0);
        }
        panic!("it does not come to rest: {:?}", self.connection);
    }

    fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.input(Input::Resume);
        }
    }

    /// Says what has arrived without a hole; false if the log knows all that already, or if it is not read.
    fn acknowledge_all(&mut self) -> bool {
        let mut cursors = Vec::new();
        for (id, standing) in &self.conversations {
            let mut up_to = standing.cursor;
            while standing.delivered.contains(&(up_to + 1)) {
                up_to += 1;
            }
            if up_to > standing.cursor {
                cursors.push(v1::Cursor { conversation: id.to_bytes(), seq: up_to });
            }
        }
        let says = !cursors.is_empty() && self.welcomed && self.connection.wants_frames() && self.now.unix_ms < self.token_until_ms;
        if says {
            self.say(v1::ClientFrame { id: 0, kind: Some(asked::Kind::Ack(v1::Ack { cursors })) });
        }
        says
    }

    fn check_rest(&mut self) {
        if self.closed {
            self.signal(5);
            self.finish(0);
            return;
        }
        assert!(self.owed.is_empty(), "without an answer: {:?}", self.owed);
        let held = self.connection.held();
        assert!(held.waiting == 0 && held.acks == 0 && held.unanswered == 0, "at rest: {held:?}");
        assert!(!self.paused && self.connection.wants_frames(), "nothing is owed, and it is not read");
        if !self.welcomed || self.now.unix_ms >= self.token_until_ms {
            return;
        }
        assert!(self.caught_up && self.live && !self.dropped, "at rest and not level");
        for (id, standing) in &self.conversations {
            assert_eq!(standing.cursor, standing.head, "{id:?} is not all there");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut world = World::new(Plan(data));
    // Most inputs begin as clients do, so that the fuzzer need not find out about tokens.
    if world.plan.u8() < 240 {
        let token = SHARED.tokens.issue(ME, world.now.unix_ms + 3_600_000);
        world.ask(asked::Kind::Hello(v1::Hello { token, version: 1, features: Vec::new(), epoch: 1 }));
    }
    let mut steps = 0;
    while !world.plan.is_over() && steps < 2_000 {
        world.step();
        steps += 1;
    }
    world.settle();
    world.check_rest();
});
