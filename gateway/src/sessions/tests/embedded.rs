//! The same over the embedded database: real commits, real time.

use std::{path::Path, sync::Arc, time::Duration};

use kith_chat_core::{
    domain::Clock,
    log::MessageLog as _,
    sqlite::{Database, Options},
};
use kith_proto::{
    id::DeviceRef,
    v1,
    v1::{ErrorCode, client_frame, server_frame::Kind},
};
use tempfile::TempDir;

use super::{
    accepted, error_of,
    rig::{Client, Rig, device, direct, text_to},
    until,
};
use crate::sessions::SessionSettings;

struct Stored {
    rig: Rig,
    log: Arc<Database>,
    _folder: TempDir,
}

/// Accounts 1, 2 and 3 with one device each: 11, 22, 33.
async fn stored(settings: SessionSettings) -> Stored {
    let folder = tempfile::tempdir().unwrap();
    let (rig, log) = open(folder.path(), settings);
    for n in [1u8, 2, 3] {
        register(&log, device(n, n * 11)).await;
    }
    Stored { rig, log, _folder: folder }
}

fn open(folder: &Path, settings: SessionSettings) -> (Rig, Arc<Database>) {
    let (log, resolved) = Database::open(&folder.join("kith.db"), Options::new(Clock::System)).unwrap();
    (Rig::start(settings, Arc::clone(&log) as _, resolved), log)
}

async fn register(log: &Database, device: DeviceRef) {
    let job = move |write: &mut kith_chat_core::sqlite::Write<'_>| {
        let (account, id) = (&device.account.0[..], &device.device.0[..]);
        let name = format!("user{}", account[0]);
        let insert =
            "INSERT INTO account (id, username, aik, recovery, list_version, list_hash, created_ms) VALUES (?1, ?2, x'00', x'00', 1, x'00', 0)";
        write.tx().execute(insert, (account, name)).unwrap();
        let insert = "INSERT INTO device (account_no, id, ed25519, certificate_hash, linked_ms, list_since, one_time, one_time_kem)
            VALUES ((SELECT no FROM account WHERE id = ?1), ?2, x'00', x'00', 0, 1, 100, 100)";
        write.tx().execute(insert, (account, id)).unwrap();
        Ok::<_, std::convert::Infallible>(())
    };
    log.write("register", job).await.unwrap();
}

fn pair() -> (DeviceRef, DeviceRef) {
    (device(1, 11), device(2, 22))
}

/// Sends `from..=to`, pipelined, and checks that they are numbered in that order.
async fn send_all(client: &mut Client, from: DeviceRef, to: DeviceRef, numbers: std::ops::RangeInclusive<u64>) {
    let mut waiting = std::collections::VecDeque::new();
    for n in numbers {
        waiting.push_back((client.send(text_to(from, to, n)), n));
        if waiting.len() == 60 {
            let (id, n) = waiting.pop_front().unwrap();
            assert_eq!(accepted(client, id).await.seq, n);
        }
    }
    for (id, n) in waiting {
        assert_eq!(accepted(client, id).await.seq, n);
    }
}

/// Receives until `last` is there without a hole, acknowledging as it goes.
async fn receive_up_to(client: &mut Client, conversation: kith_proto::id::ConversationId, last: u64) {
    let mut held = std::collections::BTreeSet::new();
    let mut level = 0;
    while level < last {
        held.insert(client.deliveries(1).await[0]);
        while held.remove(&(level + 1)) {
            level += 1;
        }
        client.ack(conversation, level);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_delivery_keeps_up_with_pipelined_sends() {
    let stored = stored(SessionSettings::default()).await;
    let (alice, bob) = pair();
    let mut a = stored.rig.level(alice, 1).await;
    let mut b = stored.rig.level(bob, 1).await;
    let receiving = tokio::spawn(async move {
        receive_up_to(&mut b, direct(alice, bob), 3_000).await;
        b
    });
    send_all(&mut a, alice, bob, 1..=3_000).await;
    let b = receiving.await.unwrap();
    let counters = stored.rig.sessions.counters();
    let measured = || counters.stages.named().map(|(stage, latency)| (stage, latency.snapshot().0.iter().sum::<u64>()));
    until(|| measured().iter().all(|(_, count)| *count > 0)).await;
    let [(_, receive), _, commit, (_, deliver), _] = measured();
    assert_eq!(commit, ("commit", 3_000), "each batch counts for all its messages");
    assert!((1..=3_000 / 16 + 1).contains(&receive) && deliver <= 3_000 / 16 + 1, "one in sixteen: {:?}", measured());
    drop((a, b));
    assert_eq!(stored.rig.sessions.counters().in_log.value(), 0);
    stored.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_fetched_in_order_and_once() {
    let stored = stored(SessionSettings::default()).await;
    let (alice, bob) = pair();
    let mut a = stored.rig.level(alice, 1).await;
    send_all(&mut a, alice, bob, 1..=5_000).await;
    let mut b = stored.rig.connect(bob, 1).await;
    for expected in 1..=5_000 {
        assert_eq!(b.deliveries(1).await, [expected]);
        if expected % 100 == 0 {
            b.ack(direct(alice, bob), expected);
        }
    }
    assert!(matches!(b.next().await, Some(Kind::CaughtUp(_))));
    drop(b);
    let mut again = stored.rig.connect(bob, 2).await;
    assert!(matches!(again.next().await, Some(Kind::CaughtUp(_))), "what was acknowledged does not come again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_reader_loses_nothing_when_it_reads_again() {
    let stored = stored(SessionSettings { inbox_messages: 16, ..SessionSettings::default() }).await;
    let (alice, bob) = pair();
    let mut a = stored.rig.level(alice, 1).await;
    let mut b = stored.rig.level(bob, 1).await;
    for stall in 0..5 {
        b.stall(true);
        send_all(&mut a, alice, bob, stall * 200 + 1..=stall * 200 + 200).await;
        b.stall(false);
    }
    receive_up_to(&mut b, direct(alice, bob), 1_000).await;
    assert!(stored.rig.sessions.counters().overflows.value() >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_and_go_miss_nothing() {
    let stored = stored(SessionSettings { inbox_messages: 16, ..SessionSettings::default() }).await;
    let (alice, bob) = pair();
    let mut a = stored.rig.level(alice, 1).await;
    let sending = tokio::spawn(async move {
        send_all(&mut a, alice, bob, 1..=2_000).await;
        a
    });
    let mut level = 0;
    let mut epoch = 1;
    while level < 2_000 {
        let mut b = stored.rig.connect(bob, epoch).await;
        epoch += 1;
        let mut held = std::collections::BTreeSet::new();
        let until = (level + 150).min(2_000);
        while level < until {
            held.insert(b.deliveries(1).await[0]);
            while held.remove(&(level + 1)) {
                level += 1;
            }
            held.retain(|seq| *seq > level);
            b.ack(direct(alice, bob), level);
        }
    }
    sending.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_live_deliveries_are_made_good_by_the_keep_alive() {
    let settings = SessionSettings {
        drop_live_deliveries: true,
        keep_alive: Duration::from_millis(200),
        rescue_after: Duration::from_millis(20),
        ..SessionSettings::default()
    };
    let stored = stored(settings).await;
    let (alice, bob) = pair();
    let mut a = stored.rig.level(alice, 1).await;
    let mut b = stored.rig.level(bob, 1).await;
    send_all(&mut a, alice, bob, 1..=10).await;
    receive_up_to(&mut b, direct(alice, bob), 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_of_others_is_closed_to_everybody_else() {
    let stored = stored(SessionSettings::default()).await;
    let (alice, bob) = pair();
    let carol = device(3, 33);
    let mut a = stored.rig.level(alice, 1).await;
    send_all(&mut a, alice, bob, 1..=3).await;
    let mut c = stored.rig.level(carol, 1).await;
    let conversation = direct(alice, bob).to_bytes();
    let page = client_frame::Kind::Page(v1::Page { conversation: conversation.clone(), after_seq: 0, limit: 10 });
    let ack = client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: conversation.clone(), seq: 1 }] });
    let read = client_frame::Kind::Read(v1::Read { conversation: conversation.clone(), seq: 1 });
    let send = client_frame::Kind::Send(v1::Send { conversation: conversation.clone(), ..text_to(carol, bob, 1) });
    for kind in [page, ack, read, send] {
        let id = c.request(kind);
        assert_eq!(error_of(c.next_frame().await.unwrap()), (id, ErrorCode::NotAMember));
    }
    c.request(client_frame::Kind::GetConversations(v1::GetConversations { conversations: vec![conversation] }));
    assert!(matches!(c.next().await, Some(Kind::Conversations(states)) if states.items.is_empty()));
    let id = c.request(client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: direct(alice, carol).to_bytes(), seq: 1 }] }));
    assert_eq!(error_of(c.next_frame().await.unwrap()), (id, ErrorCode::NotAMember));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_and_states_say_where_things_stand() {
    let stored = stored(SessionSettings::default()).await;
    let (alice, bob) = pair();
    let conversation = direct(alice, bob);
    let mut a = stored.rig.level(alice, 1).await;
    let mut b = stored.rig.level(bob, 1).await;
    send_all(&mut a, alice, bob, 1..=20).await;
    b.deliveries(20).await;
    b.request(client_frame::Kind::Page(v1::Page { conversation: conversation.to_bytes(), after_seq: 5, limit: 10 }));
    let Some(Kind::Page(page)) = b.next().await else { panic!() };
    assert_eq!(page.entries.iter().map(|e| e.seq).collect::<Vec<_>>(), (6..=15).collect::<Vec<_>>());
    assert_eq!(page.head, 20);
    let beyond = client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: conversation.to_bytes(), seq: 21 }] });
    let id = b.request(beyond);
    assert_eq!(error_of(b.next_frame().await.unwrap()), (id, ErrorCode::AckBeyondHead));
    let ack = client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: conversation.to_bytes(), seq: 12 }] });
    b.request(ack);
    assert!(matches!(b.next().await, Some(Kind::Done(_))));
    b.request(client_frame::Kind::Read(v1::Read { conversation: conversation.to_bytes(), seq: 7 }));
    assert!(matches!(b.next().await, Some(Kind::Done(_))));
    b.request(client_frame::Kind::GetConversations(v1::GetConversations { conversations: vec![conversation.to_bytes()] }));
    let Some(Kind::Conversations(states)) = b.next().await else { panic!() };
    let state = &states.items[0];
    assert_eq!((state.head, state.cursor, state.own_read, &state.peer), (20, 12, 7, &None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_loses_nothing_that_was_accepted() {
    let stored = stored(SessionSettings::default()).await;
    let (alice, bob) = pair();
    let mut a = stored.rig.level(alice, 1).await;
    send_all(&mut a, alice, bob, 1..=100).await;
    let draining = stored.rig.sessions.drain(Duration::from_secs(10));
    let ((), reason) = tokio::join!(draining, a.goodbye());
    assert_eq!(reason, ErrorCode::Draining);
    let Stored { rig, log, _folder: folder } = stored;
    rig.stop().await;
    log.flush().await.unwrap();
    tokio::task::spawn_blocking(move || log.close()).await.unwrap();
    let (rig, _log) = open(folder.path(), SessionSettings::default());
    let mut b = rig.connect(bob, 1).await;
    assert_eq!(b.deliveries(100).await, (1..=100).collect::<Vec<_>>());
}
