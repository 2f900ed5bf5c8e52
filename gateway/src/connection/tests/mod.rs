//! The machine by itself: what comes out for what goes in, and what holds for any order of inputs.

mod any_order;

use std::sync::Arc;

use kith_chat_core::log::{Connected, LogError, Outcome, Refusal, Resolved};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceId, DeviceRef},
    v1,
    v1::{ErrorCode, client_frame, server_frame::Kind},
};

use super::*;

const NOW: Now = Now { unix_ms: 1_000, running_ms: 0 };
const ME: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([11; 16]) };
const PEER: DeviceRef = DeviceRef { account: AccountId([2; 16]), device: DeviceId([22; 16]) };

fn shared(settings: SessionSettings) -> Arc<Shared> {
    Arc::new(Shared { settings, tokens: TokenKey::new([7; 32]) })
}

fn connection() -> Connection {
    Connection::new(1, shared(SessionSettings::default()), false, NOW)
}

fn handle(connection: &mut Connection, input: Input) -> Vec<Action> {
    let mut actions = Vec::new();
    connection.handle(input, NOW, &mut actions);
    actions
}

fn frame(id: u64, kind: client_frame::Kind) -> Input {
    Input::Frame(v1::ClientFrame { id, kind: Some(kind) })
}

fn hello(connection: &Connection) -> v1::Hello {
    v1::Hello { token: connection.shared.tokens.issue(ME, 10_000), version: 1, features: Vec::new(), epoch: 1 }
}

fn connected() -> Connected {
    Connected { device_counter: 0, previous_epoch: 0, device_list_version: 1, one_time_left: (100, 100) }
}

fn live() -> Connection {
    let mut connection = connection();
    let hello = hello(&connection);
    handle(&mut connection, frame(1, client_frame::Kind::Hello(hello)));
    handle(&mut connection, Input::Done(Done::Connect { request: 1, result: Ok(connected()) }));
    handle(&mut connection, Input::Done(Done::Heads(Ok(Vec::new()))));
    handle(&mut connection, Input::Done(Done::Live { clean: true }));
    assert!(matches!(connection.state, State::Live));
    connection
}

fn send() -> v1::Send {
    v1::Send {
        conversation: ConversationId::direct(ME.account, PEER.account).to_bytes(),
        recipient: PEER.account.to_bytes(),
        client_msg_id: vec![5; 16].into(),
        body: "body".into(),
        slices: vec![v1::Slice { device: PEER.device.to_bytes(), data: "slice".into() }],
        device_counter: 1,
        ..v1::Send::default()
    }
}

fn frames(actions: &[Action]) -> Vec<v1::ServerFrame> {
    actions.iter().filter_map(|action| if let Action::Send(outgoing) = action { outgoing.to_frame() } else { None }).collect()
}

fn code_of(actions: &[Action]) -> Option<ErrorCode> {
    frames(actions).into_iter().find_map(|frame| match frame.kind {
        Some(Kind::Error(error)) => Some(error.code()),
        Some(Kind::Goodbye(goodbye)) => Some(goodbye.reason()),
        _ => None,
    })
}

#[test]
fn a_connection_begins_in_order() {
    let mut connection = connection();
    let hello = hello(&connection);
    let actions = handle(&mut connection, frame(9, client_frame::Kind::Hello(hello)));
    assert!(matches!(&actions[..], [Action::Identify(ME, 10_000), Action::Run(Op::Connect { request: 9, epoch: 1 })]));
    assert!(!connection.wants_frames(), "nothing is read before Welcome");
    let actions = handle(&mut connection, Input::Done(Done::Connect { request: 9, result: Ok(connected()) }));
    assert!(matches!(&actions[..], [Action::Send(Outgoing::Frame(welcome)), Action::Run(Op::Heads)] if welcome.id == 9));
    let actions = handle(&mut connection, Input::Done(Done::Heads(Ok(Vec::new()))));
    assert!(matches!(&actions[..], [Action::Run(Op::GoLive { force: false })]));
    let actions = handle(&mut connection, Input::Done(Done::Live { clean: false }));
    assert!(matches!(&actions[..], [Action::Run(Op::Heads)]), "a dropped delivery means another round");
}

#[test]
fn constant_traffic_does_not_keep_a_connection_from_going_live() {
    let mut connection = connection();
    let hello = hello(&connection);
    handle(&mut connection, frame(1, client_frame::Kind::Hello(hello)));
    handle(&mut connection, Input::Done(Done::Connect { request: 1, result: Ok(connected()) }));
    for force in [false, false, true] {
        let actions = handle(&mut connection, Input::Done(Done::Heads(Ok(Vec::new()))));
        assert!(matches!(&actions[..], [Action::Run(Op::GoLive { force: forced })] if *forced == force));
        let actions = handle(&mut connection, Input::Done(Done::Live { clean: false }));
        assert!(matches!(&actions[..], [Action::Run(Op::Heads)]));
    }
    let actions = handle(&mut connection, Input::Done(Done::Heads(Ok(Vec::new()))));
    assert!(matches!(frames(&actions)[0].kind, Some(Kind::CaughtUp(_))), "live already, and the heads were read after it");
}

fn slices(count: u8) -> Vec<v1::Slice> {
    (0..count).map(|n| v1::Slice { device: vec![n; 16].into(), data: "slice".into() }).collect()
}

#[test]
fn the_answer_that_tells_of_other_devices_fits_into_the_smallest_frame() {
    use prost::Message as _;
    let mut connection = live();
    let wrong = v1::Send { slices: slices(10), own_slices: slices(10), ..send() };
    let append = submitted(handle(&mut connection, frame(2, client_frame::Kind::Send(wrong))));
    let devices = vec![PEER; 20];
    let refused = Outcome::Refused(Refusal::DevicesChanged { missing: devices.clone(), extra: devices });
    let actions = handle(&mut connection, resolved(append, refused));
    let frame = &frames(&actions)[0];
    assert!(frame.encoded_len() <= 4 * 1024, "the least that may be configured: {}", frame.encoded_len());
}

#[test]
fn a_pause_follows_too_many_sends_that_bring_nothing_new() {
    let mut connection = Connection { shared: shared(SessionSettings { old_sends_per_second: 2, ..SessionSettings::default() }), ..live() };
    let outcomes = [
        Outcome::Accepted { seq: 1, at_ms: 1, duplicate: false, mutual: false },
        Outcome::Accepted { seq: 1, at_ms: 1, duplicate: true, mutual: false },
        Outcome::Accepted { seq: 1, at_ms: 1, duplicate: true, mutual: false },
        Outcome::Refused(Refusal::RateLimited { after_ms: 5 }),
    ];
    let appends: Vec<_> = (2..6).map(|id| submitted(handle(&mut connection, frame(id, client_frame::Kind::Send(send()))))).collect();
    for (at, (append, outcome)) in appends.into_iter().zip(outcomes).enumerate() {
        let actions = handle(&mut connection, resolved(append, outcome));
        let paused = actions.iter().any(|action| matches!(action, Action::Pause(pause) if *pause == Duration::from_secs(1)));
        assert_eq!((paused, connection.wants_frames()), (at == 3, at != 3), "answer {at}");
    }
    assert!(handle(&mut connection, Input::Resume).is_empty());
    assert!(connection.wants_frames());
}

#[test]
fn a_drain_before_hello_ends_the_socket_as_going_away() {
    let mut connection = connection();
    let actions = handle(&mut connection, Input::Signal(Signal::Drain));
    assert_eq!(code_of(&actions), Some(ErrorCode::Draining));
    assert!(matches!(actions.last(), Some(Action::Close(1001))));
}

#[test]
fn sends_with_wrong_values_are_refused() {
    type Change = fn(&mut v1::Send);
    let cases: [(&str, Change, ErrorCode); 12] = [
        ("conversation length", |s| s.conversation = vec![0; 15].into(), ErrorCode::InvalidFrame),
        ("recipient length", |s| s.recipient = vec![0; 17].into(), ErrorCode::InvalidFrame),
        ("client_msg_id length", |s| s.client_msg_id = bytes::Bytes::new(), ErrorCode::InvalidFrame),
        ("conversation of others", |s| s.recipient = vec![9; 16].into(), ErrorCode::NotAMember),
        ("to oneself", |s| s.recipient = ME.account.to_bytes(), ErrorCode::InvalidFrame),
        ("empty body", |s| s.body = bytes::Bytes::new(), ErrorCode::InvalidFrame),
        ("no counter", |s| s.device_counter = 0, ErrorCode::InvalidFrame),
        ("slice device length", |s| s.slices[0].device = vec![0; 3].into(), ErrorCode::InvalidFrame),
        ("two slices for one device", |s| s.slices.push(s.slices[0].clone()), ErrorCode::InvalidFrame),
        ("more slices than a list has devices", |s| s.slices = slices(11), ErrorCode::InvalidFrame),
        ("the same for the own account", |s| s.own_slices = slices(11), ErrorCode::InvalidFrame),
        ("no room for a Deliver", |s| s.body = vec![0; 65_400].into(), ErrorCode::TooLarge),
    ];
    for (name, change, code) in cases {
        let mut connection = live();
        let mut wrong = send();
        change(&mut wrong);
        let actions = handle(&mut connection, frame(2, client_frame::Kind::Send(wrong)));
        assert_eq!(code_of(&actions), Some(code), "{name}");
        assert!(!connection.is_closed(), "{name}");
    }
}

#[test]
fn frames_that_break_the_rules_end_the_connection() {
    let cases = [
        ("no kind", Input::Frame(v1::ClientFrame { id: 1, kind: None }), ErrorCode::InvalidFrame),
        ("a send as a notice", frame(0, client_frame::Kind::Send(send())), ErrorCode::InvalidFrame),
        ("a ping as a notice", frame(0, client_frame::Kind::Ping(v1::Ping {})), ErrorCode::InvalidFrame),
        ("garbage", Input::Malformed(ErrorCode::InvalidFrame), ErrorCode::InvalidFrame),
        ("too large", Input::Malformed(ErrorCode::TooLarge), ErrorCode::TooLarge),
    ];
    for (name, input, code) in cases {
        let mut connection = live();
        let actions = handle(&mut connection, input);
        assert_eq!(code_of(&actions), Some(code), "{name}");
        assert!(matches!(actions.last(), Some(Action::Close(_))) && connection.is_closed(), "{name}");
    }
}

#[test]
fn notices_that_would_be_refused_are_ignored() {
    let mut connection = live();
    let wrong = v1::Cursor { conversation: vec![1].into(), seq: 1 };
    assert!(handle(&mut connection, frame(0, client_frame::Kind::Ack(v1::Ack { cursors: vec![wrong] }))).is_empty());
    assert!(handle(&mut connection, frame(0, client_frame::Kind::Read(v1::Read { conversation: bytes::Bytes::new(), seq: 1 }))).is_empty());
}

#[test]
fn acknowledgements_merge_while_one_is_under_way_and_do_not_spoil_one_another() {
    let mut connection = live();
    let ack = |conversation: u8, seq| {
        let cursors = vec![v1::Cursor { conversation: vec![conversation; 16].into(), seq }];
        frame(0, client_frame::Kind::Ack(v1::Ack { cursors }))
    };
    let first = handle(&mut connection, ack(1, 1));
    assert!(matches!(&first[..], [Action::Run(Op::Acknowledge { request: 0, cursors })] if cursors.len() == 1));
    for seq in 2..=5 {
        assert!(handle(&mut connection, ack(1, seq)).is_empty());
    }
    assert!(handle(&mut connection, ack(2, 9)).is_empty());
    let cursors = vec![(ConversationId([1; 16]), 1)];
    let merged = handle(&mut connection, Input::Done(Done::Acknowledge { request: 0, cursors, result: Ok(()) }));
    let [Action::Run(Op::Acknowledge { cursors, .. })] = &merged[..] else { panic!("{merged:?}") };
    assert_eq!(cursors[..], [(ConversationId([2; 16]), 9), (ConversationId([1; 16]), 5)]);
    let failed = Done::Acknowledge { request: 0, cursors: cursors.clone(), result: Err(LogError::BeyondHead) };
    let again = handle(&mut connection, Input::Done(failed));
    assert!(matches!(&again[..], [Action::Run(Op::Acknowledge { cursors, .. })] if cursors.len() == 1));
}

#[test]
fn a_page_never_leaves_more_than_a_frame() {
    use kith_chat_core::log::{AbsentRange, Entry, Page, Payload};
    use kith_proto::id::ClientMsgId;
    use prost::Message as _;
    let entry = |seq| Entry {
        seq,
        at_ms: 1,
        sender: PEER,
        client_msg_id: ClientMsgId([0; 16]),
        checkpoint: false,
        sender_list_version: 1,
        recipient_list_version: 1,
        payload: Payload::Sealed { body: vec![0; 1_000].into(), slice: vec![0; 60].into() },
    };
    let mut connection = live();
    let conversation = ConversationId([3; 16]);
    let absent = vec![AbsentRange { from: 1, to: 9, reason: v1::AbsentReason::Expired }];
    let page = Page { absent, entries: (10..=209).map(entry).collect(), head: 209 };
    let actions = handle(&mut connection, Input::Done(Done::Page { request: 5, conversation, result: Ok(page) }));
    let frame = &frames(&actions)[0];
    assert!(frame.encoded_len() <= connection.shared.settings.max_frame_bytes);
    let Some(Kind::Page(page)) = &frame.kind else { panic!() };
    assert_eq!((page.absent.len(), page.head, page.entries[0].seq), (1, 209, 10));
    assert!(page.entries.len() > 50 && page.entries.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
}

#[test]
fn a_page_of_many_short_messages_fits_into_a_frame_of_json() {
    use kith_chat_core::log::{Entry, Page, Payload};
    use kith_proto::id::ClientMsgId;
    let entry = |seq| Entry {
        seq,
        at_ms: 1_790_000_000_000,
        sender: PEER,
        client_msg_id: ClientMsgId([7; 16]),
        checkpoint: false,
        sender_list_version: 1,
        recipient_list_version: 1,
        payload: Payload::Sealed { body: "b".into(), slice: vec![0; 60].into() },
    };
    let mut connection = Connection { text: true, ..live() };
    let page = Page { absent: Vec::new(), entries: (1..=256).map(entry).collect(), head: 256 };
    let done = Done::Page { request: 5, conversation: ConversationId([3; 16]), result: Ok(page) };
    let frame = &frames(&handle(&mut connection, Input::Done(done)))[0];
    assert!(serde_json::to_vec(frame).unwrap().len() <= connection.shared.settings.max_frame_bytes);
    assert!(matches!(&frame.kind, Some(Kind::Page(page)) if page.entries.len() > 100));
}

#[test]
fn a_silent_peer_is_pinged_and_then_cut() {
    let mut connection = live();
    let mut actions = Vec::new();
    let at = |running_ms| Now { running_ms, ..NOW };
    connection.handle(Input::Signal(Signal::KeepAlive), at(30_000), &mut actions);
    assert!(matches!(actions[..], [Action::Send(Outgoing::Ping)]));
    connection.handle(Input::Heard, at(31_000), &mut actions);
    connection.handle(Input::Signal(Signal::KeepAlive), at(60_000), &mut actions);
    assert!(!connection.is_closed());
    connection.handle(Input::Signal(Signal::KeepAlive), at(91_000), &mut actions);
    assert_eq!(code_of(&actions), Some(ErrorCode::TooSlow));
}

#[test]
fn an_overflow_before_the_end_of_catch_up_is_made_good() {
    let mut connection = live();
    let actions = handle(&mut connection, Input::Signal(Signal::Behind));
    assert!(matches!(&actions[..], [Action::Run(Op::Heads)]));
    handle(&mut connection, Input::Signal(Signal::Overflowed));
    let actions = handle(&mut connection, Input::Done(Done::Heads(Ok(Vec::new()))));
    assert!(matches!(&actions[..], [Action::Run(Op::GoLive { .. })]), "live delivery had ended, so it must be let in again");
}

fn resolved(append: Append, outcome: Outcome) -> Input {
    if matches!(outcome, Outcome::Refused(_)) {
        append.gate.shut();
    }
    Input::Answer(Arc::new(Resolved { append, outcome }))
}

fn submitted(actions: Vec<Action>) -> Append {
    match actions.into_iter().next() {
        Some(Action::Submit(append)) => append,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_client_said_before_it_left_is_finished() {
    let mut connection = live();
    let cursors = vec![v1::Cursor { conversation: vec![1; 16].into(), seq: 1 }];
    let actions = handle(&mut connection, frame(0, client_frame::Kind::Ack(v1::Ack { cursors })));
    assert!(matches!(&actions[..], [Action::Run(Op::Acknowledge { .. })]));
    assert!(handle(&mut connection, Input::PeerGone).is_empty());
    let done = Done::Acknowledge { request: 0, cursors: Vec::new(), result: Ok(()) };
    assert!(matches!(handle(&mut connection, Input::Done(done))[..], [Action::Close(1000)]));
}

#[test]
fn a_lane_is_gone_when_all_is_answered_and_kept_while_it_is_shut() {
    let mut connection = live();
    let append = submitted(handle(&mut connection, frame(2, client_frame::Kind::Send(send()))));
    handle(&mut connection, resolved(append, Outcome::Accepted { seq: 1, at_ms: 1, duplicate: false, mutual: false }));
    assert_eq!(connection.sends.lanes(), 0);
    let append = submitted(handle(&mut connection, frame(3, client_frame::Kind::Send(send()))));
    handle(&mut connection, resolved(append, Outcome::Refused(Refusal::StorageUnavailable)));
    assert_eq!(connection.sends.lanes(), 1);
    let append = submitted(handle(&mut connection, frame(4, client_frame::Kind::Send(send()))));
    assert!(append.gate.is_shut(), "the same gate");
}
