//! Many connections together, over a log in memory and under a paused clock.

mod channel;
mod embedded;
mod fake_log;
mod rig;

use std::{sync::Arc, time::Duration};

use kith_chat_core::{bus::What, log::Refusal};
use kith_proto::{
    id::DeviceRef,
    v1,
    v1::{ErrorCode, client_frame, server_frame::Kind},
};

use self::rig::UNIX_MS;
pub(crate) use self::{
    channel::{DEADLINE, until},
    fake_log::FakeLog,
    rig::{Client, FakePresence, Rig, device, direct, text_to},
};
use super::SessionSettings;
pub(crate) use super::sleepers::Told;
use crate::{
    connection::Outgoing,
    socket::{Inbound, SocketError},
};

const SECOND: Duration = Duration::from_secs(1);

fn rig(settings: SessionSettings) -> (Rig, Arc<FakeLog>) {
    let (log, resolved) = FakeLog::new();
    let log = Arc::new(log);
    (Rig::start(settings, Arc::clone(&log) as _, resolved), log)
}

pub(crate) async fn accepted(client: &mut Client, id: u64) -> v1::Accepted {
    loop {
        let frame = client.next_frame().await.expect("open");
        if frame.id == id {
            match frame.kind {
                Some(Kind::Accepted(accepted)) => return accepted,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn error_of(frame: v1::ServerFrame) -> (u64, ErrorCode) {
    match frame.kind {
        Some(Kind::Error(error)) => (frame.id, error.code()),
        other => panic!("{other:?}"),
    }
}

/// Seq and device of what was told of sleepers, in order.
pub(crate) fn sleepers(told: &mut tokio::sync::mpsc::Receiver<Told>) -> Vec<(u64, DeviceRef)> {
    let mut all = Vec::new();
    while let Ok(told) = told.try_recv() {
        let What::MessageForSleepingDevice { seq, device, .. } = told.what else { panic!("{told:?}") };
        all.push((seq, device));
    }
    all
}

#[tokio::test(start_paused = true)]
async fn devices_that_are_not_connected_are_told_of_and_others_are_not() {
    let (mut rig, _log) = rig(SessionSettings::default());
    let (alice, bob, phone, tablet) = (device(1, 11), device(2, 22), device(2, 23), device(1, 12));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let slice = |device: DeviceRef| v1::Slice { device: device.device.to_bytes(), data: "slice".into() };
    let to_all = |n| {
        let mut send = text_to(alice, bob, n);
        send.slices.push(slice(phone));
        send.own_slices.push(slice(tablet));
        send
    };
    for send in [to_all(1), to_all(1), v1::Send { checkpoint: true, ..to_all(2) }] {
        let id = a.send(send);
        accepted(&mut a, id).await;
    }
    assert_eq!(b.deliveries(1).await, [1]);
    drop(b);
    until(|| !rig.sessions.online(bob.account)).await;
    let id = a.send(to_all(3));
    accepted(&mut a, id).await;
    // Neither of the retry nor of the checkpoint.
    assert_eq!(sleepers(&mut rig.told), [(1, phone), (1, tablet), (3, bob), (3, phone), (3, tablet)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_accepted_delivered_and_acknowledged() {
    let (rig, log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    let answer = accepted(&mut a, id).await;
    assert_eq!((answer.seq, answer.duplicate), (1, false));
    let Some(Kind::Deliver(deliver)) = b.next().await else { panic!() };
    assert_eq!((deliver.seq, &deliver.body[..], &deliver.slice[..]), (1, &b"body 1"[..], &b"slice"[..]));
    assert_eq!(deliver.sender_device[..], alice.device.0);
    b.ack(direct(alice, bob), 1);
    until(|| log.cursor(bob, direct(alice, bob)) > 0).await;
    drop((a, b));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_missed_comes_after_welcome_and_ends_with_caught_up() {
    let (rig, _log) = rig(SessionSettings { catch_up_window: 16, catch_up_page: 8, ..SessionSettings::default() });
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    for n in 1..=100 {
        let id = a.send(text_to(alice, bob, n));
        accepted(&mut a, id).await;
    }
    let mut b = rig.connect(bob, 1).await;
    // Without acknowledgements it pauses at the window.
    assert_eq!(b.deliveries(16).await, (1..=16).collect::<Vec<_>>());
    assert!(b.is_quiet(5 * SECOND).await);
    b.ack(direct(alice, bob), 16);
    let mut expected = 17;
    loop {
        match b.next().await {
            Some(Kind::Deliver(deliver)) => {
                assert_eq!(deliver.seq, expected);
                b.ack(direct(alice, bob), expected);
                expected += 1;
            }
            Some(Kind::CaughtUp(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(expected, 101);
    let id = a.send(text_to(alice, bob, 101));
    accepted(&mut a, id).await;
    assert_eq!(b.deliveries(1).await, [101]);
}

#[tokio::test(start_paused = true)]
async fn a_second_connection_of_a_device_replaces_the_first() {
    let (rig, _log) = rig(SessionSettings::default());
    let alice = device(1, 11);
    let mut first = rig.level(alice, 1).await;
    let _second = rig.level(alice, 2).await;
    assert_eq!(first.goodbye().await, ErrorCode::Replaced);
    let mut stale = rig.open();
    let id = stale.hello(rig.token(alice), 2);
    let refused = stale.next_frame().await.unwrap();
    assert!(matches!(&refused.kind, Some(Kind::Error(error)) if error.known_epoch == 2), "{refused:?}");
    assert_eq!(error_of(refused), (id, ErrorCode::StaleStore));
    assert_eq!(stale.next_frame().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_device_is_cut_at_once() {
    let (rig, _log) = rig(SessionSettings::default());
    let mut a = rig.level(device(1, 11), 1).await;
    let mut other = rig.level(device(1, 12), 1).await;
    rig.sessions.cut(device(1, 11), ErrorCode::DeviceRevoked);
    assert_eq!(a.goodbye().await, ErrorCode::DeviceRevoked);
    assert!(other.is_quiet(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_never_reads_is_cut_and_costs_no_memory() {
    let (rig, _log) = rig(SessionSettings { inbox_messages: 8, ..SessionSettings::default() });
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    b.stall(true);
    for n in 1..=500 {
        let id = a.send(text_to(alice, bob, n));
        accepted(&mut a, id).await;
    }
    assert_eq!(rig.sessions.counters().overflows.value(), 1, "after the inbox ran over, the log holds the rest");
    assert!(rig.sessions.counters().delivered_live.value() <= 9);
    until(|| {
        a.pong();
        rig.sessions.counters().too_slow.value() > 0
    })
    .await;
    b.stall(false);
    assert_eq!(b.goodbye().await, ErrorCode::TooSlow);
}

#[tokio::test(start_paused = true)]
async fn after_an_overflow_nothing_is_missing() {
    let (rig, _log) = rig(SessionSettings { inbox_messages: 8, catch_up_page: 16, ..SessionSettings::default() });
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    b.stall(true);
    for n in 1..=100 {
        let id = a.send(text_to(alice, bob, n));
        accepted(&mut a, id).await;
    }
    b.stall(false);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 100 {
        seen.insert(b.deliveries(1).await[0]);
        let contiguous = (1..).take_while(|seq| seen.contains(seq)).count() as u64;
        b.ack(direct(alice, bob), contiguous);
    }
    let id = a.send(text_to(alice, bob, 101));
    accepted(&mut a, id).await;
    assert_eq!(b.deliveries(1).await, [101], "live again");
}

#[tokio::test(start_paused = true)]
async fn the_last_message_reaches_a_device_that_never_reconnects() {
    let (rig, _log) = rig(SessionSettings { drop_live_deliveries: true, ..SessionSettings::default() });
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    let sent = tokio::time::Instant::now();
    assert_eq!(b.deliveries(1).await, [1]);
    assert!(sent.elapsed() <= Duration::from_secs(35), "took {:?}", sent.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_later_sends_are_refused_until_a_restart_and_answers_keep_their_order() {
    let (rig, log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    log.hold();
    log.refuse_next(Refusal::UnknownRecipient);
    let first = a.send(text_to(alice, bob, 1));
    let second = a.send(text_to(alice, bob, 2));
    // Refused by the edge, while the log has not answered the ones before.
    let invalid = a.send(v1::Send { body: bytes::Bytes::new(), ..text_to(alice, bob, 3) });
    let after = a.send(text_to(alice, bob, 4));
    let restart = a.send(v1::Send { restart: true, ..text_to(alice, bob, 5) });
    until(|| log.waiting() >= 4).await;
    log.release();
    assert_eq!(error_of(a.next_frame().await.unwrap()), (first, ErrorCode::UnknownAccount));
    assert_eq!(error_of(a.next_frame().await.unwrap()), (second, ErrorCode::EarlierRefused));
    assert_eq!(error_of(a.next_frame().await.unwrap()), (invalid, ErrorCode::InvalidFrame));
    assert_eq!(error_of(a.next_frame().await.unwrap()), (after, ErrorCode::EarlierRefused));
    assert_eq!(accepted(&mut a, restart).await.seq, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_log_refuses_with_a_hint_and_shuts_the_conversation() {
    let (rig, log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    log.set_full(true);
    let id = a.send(text_to(alice, bob, 1));
    let Some(v1::ServerFrame { kind: Some(Kind::Error(error)), .. }) = a.next_frame().await else { panic!() };
    assert_eq!((error.code(), error.retry(), error.after_ms > 0), (ErrorCode::Overloaded, v1::Retry::After, true));
    assert_eq!(id, 2);
    log.set_full(false);
    let id = a.send(text_to(alice, bob, 2));
    assert_eq!(error_of(a.next_frame().await.unwrap()), (id, ErrorCode::EarlierRefused));
    let id = a.send(v1::Send { restart: true, ..text_to(alice, bob, 1) });
    assert_eq!(accepted(&mut a, id).await.seq, 1);
}

#[tokio::test(start_paused = true)]
async fn more_sends_than_allowed_are_refused_and_none_is_left_unanswered() {
    let (rig, log) = rig(SessionSettings { max_sends_in_flight: 4, ..SessionSettings::default() });
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    log.hold();
    let ids: Vec<_> = (1..=30).map(|n| a.send(text_to(alice, bob, n))).collect();
    until(|| log.waiting() >= 4).await;
    assert!(a.is_quiet(SECOND).await);
    log.release();
    let mut answered = Vec::new();
    for _ in 0..30 {
        answered.push(a.next_frame().await.unwrap().id);
    }
    assert_eq!(answered, ids);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_answered_with_the_original_and_delivered_again_from_the_log() {
    let (rig, _log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    assert_eq!(b.deliveries(1).await, [1]);
    let forged = v1::Send { body: "something else".into(), ..text_to(alice, bob, 1) };
    let id = a.send(forged);
    let again = accepted(&mut a, id).await;
    assert_eq!((again.seq, again.duplicate), (1, true));
    let Some(Kind::Deliver(deliver)) = b.next().await else { panic!() };
    assert_eq!(&deliver.body[..], b"body 1");
}

#[tokio::test(start_paused = true)]
async fn receipts_and_typing_flow_only_after_both_have_sent() {
    let (rig, _log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let conversation = direct(alice, bob);
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    b.deliveries(1).await;
    b.ack(conversation, 1);
    let typing = |peer: DeviceRef| v1::Typing { conversation: conversation.to_bytes(), peer: peer.account.to_bytes(), active: true };
    b.notice(client_frame::Kind::Typing(typing(alice)));
    assert!(a.is_quiet(SECOND).await, "neither a receipt nor typing");
    let id = b.send(text_to(bob, alice, 1));
    accepted(&mut b, id).await;
    assert_eq!(a.deliveries(1).await, [2]);
    let Some(Kind::Watermarks(watermarks)) = a.next().await else { panic!() };
    assert_eq!((watermarks.items[0].delivered, &watermarks.items[0].account[..]), (1, &bob.account.0[..]), "what moved before is told now");
    b.notice(client_frame::Kind::Typing(typing(alice)));
    assert!(matches!(a.next().await, Some(Kind::PeerTyping(t)) if t.active && t.account[..] == bob.account.0));
    a.ack(conversation, 2);
    let Some(Kind::Watermarks(watermarks)) = b.next().await else { panic!() };
    assert_eq!(watermarks.items[0].delivered, 2);
}

#[tokio::test(start_paused = true)]
async fn presence_is_told_to_those_who_may_know_and_hidden_both_ways() {
    let (rig, _log) = rig(SessionSettings::default());
    let (alice, bob, carol) = (device(1, 11), device(2, 22), device(3, 33));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    let id = b.send(text_to(bob, alice, 1));
    accepted(&mut b, id).await;
    a.deliveries(1).await;
    let watch = client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: vec![bob.account.to_bytes(), carol.account.to_bytes()] });
    let id = a.request(watch.clone());
    assert!(matches!(a.next_frame().await, Some(v1::ServerFrame { id: done, kind: Some(Kind::Done(_)) }) if done == id));
    assert!(matches!(a.next().await, Some(Kind::Presence(p)) if p.online && p.account[..] == bob.account.0), "carol is left out");
    drop(b);
    assert!(matches!(a.next().await, Some(Kind::Presence(p)) if !p.online && p.last_seen_ms == UNIX_MS));
    let mut b = rig.connect(bob, 2).await;
    assert!(matches!(a.next().await, Some(Kind::Presence(p)) if p.online));
    b.request(client_frame::Kind::SetPresence(v1::SetPresence { hidden: true }));
    assert!(matches!(a.next().await, Some(Kind::Presence(p)) if !p.online && p.last_seen_ms == 0));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ends_cuts_the_connection_unless_renewed() {
    let (rig, _log) = rig(SessionSettings::default());
    let mut renewing = rig.level(device(1, 11), 1).await;
    let mut ending = rig.level(device(2, 22), 1).await;
    let token = rig.token_until(device(1, 11), UNIX_MS + 900_000);
    renewing.request(client_frame::Kind::Renew(v1::Renew { token }));
    assert!(matches!(renewing.next().await, Some(Kind::Done(_))));
    let id = renewing.request(client_frame::Kind::Renew(v1::Renew { token: rig.token(device(2, 22)) }));
    assert_eq!(error_of(renewing.next_frame().await.unwrap()), (id, ErrorCode::Unauthenticated));
    rig.clock.store(UNIX_MS + 600_000, std::sync::atomic::Ordering::Release);
    assert_eq!(ending.goodbye().await, ErrorCode::TokenExpired);
    assert!(renewing.is_quiet(5 * SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn bad_beginnings_are_refused() {
    let (rig, _log) = rig(SessionSettings::default());
    let mut silent = rig.open();
    assert_eq!(silent.goodbye().await, ErrorCode::HelloRequired);
    let mut early = rig.open();
    early.send(text_to(device(1, 11), device(2, 22), 1));
    assert_eq!(early.goodbye().await, ErrorCode::HelloRequired);
    let mut garbage = rig.open();
    garbage.garbage(SocketError::Malformed);
    assert_eq!(garbage.goodbye().await, ErrorCode::InvalidFrame);
    let mut large = rig.level(device(1, 11), 1).await;
    large.garbage(SocketError::TooLarge);
    assert_eq!(large.goodbye().await, ErrorCode::TooLarge);
    for (token, code) in [("forged".to_owned(), ErrorCode::Unauthenticated), (rig.token_until(device(1, 11), UNIX_MS), ErrorCode::TokenExpired)] {
        let mut client = rig.open();
        let id = client.hello(token, 7);
        assert_eq!(error_of(client.next_frame().await.unwrap()), (id, code));
        assert_eq!(client.next_frame().await, None);
    }
    assert_eq!(rig.sessions.counters().connections.value(), 0, "nothing is left of them");
}

#[tokio::test(start_paused = true)]
async fn draining_answers_what_was_taken_and_says_when_to_come_back() {
    let (rig, log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut quiet = rig.level(bob, 1).await;
    log.hold();
    let id = a.send(text_to(alice, bob, 1));
    until(|| log.waiting() > 0).await;
    let draining = tokio::spawn({
        let sessions = Arc::clone(&rig.sessions);
        async move { sessions.drain(10 * SECOND).await }
    });
    assert_eq!(quiet.goodbye().await, ErrorCode::Draining);
    assert!(rig.sessions.admit(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)).is_none());
    log.release();
    accepted(&mut a, id).await;
    let Some(Kind::Goodbye(goodbye)) = a.next().await else { panic!() };
    assert_eq!((goodbye.reason(), goodbye.reconnect_within_ms > 0), (ErrorCode::Draining, true));
    draining.await.unwrap();
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_sockets_that_have_said_nothing() {
    let (rig, _log) = rig(SessionSettings::default());
    let mut silent = rig.open();
    let mut other = rig.level(device(1, 11), 1).await;
    rig.sessions.drain(10 * SECOND).await;
    assert_eq!(other.goodbye().await, ErrorCode::Draining);
    assert_eq!(silent.goodbye().await, ErrorCode::Draining, "not HELLO_REQUIRED after five seconds");
    assert_eq!(rig.sessions.counters().connections.value(), 0);
    rig.stop().await;
}

/// Duplicates pass every limit; what holds them back is that the socket is not read.
#[tokio::test(start_paused = true)]
async fn a_flood_of_duplicates_is_answered_and_slowed_and_nobody_else_is() {
    let (rig, _log) = rig(SessionSettings { old_sends_per_second: 100, ..SessionSettings::default() });
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let mut b = rig.level(bob, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        let ids: Vec<_> = (0..50).map(|_| a.send(text_to(alice, bob, 1))).collect();
        for id in ids {
            let again = accepted(&mut a, id).await;
            assert_eq!((again.seq, again.duplicate), (1, true));
        }
    }
    // The clock is the test's own: it moves only where somebody waits.
    assert!(begun.elapsed() >= 4 * SECOND, "{:?}", begun.elapsed());
    assert!(rig.sessions.counters().slowed.value() >= 4);
    let begun = tokio::time::Instant::now();
    for n in 1..=1_000 {
        let id = b.send(text_to(bob, alice, n));
        accepted(&mut b, id).await;
    }
    assert!(begun.elapsed() < SECOND, "what is new is not slowed");
}

#[tokio::test(start_paused = true)]
async fn sockets_that_say_nothing_are_bounded() {
    let (rig, _log) = rig(SessionSettings { max_unauthenticated: 5, max_unauthenticated_per_address: 3, ..SessionSettings::default() });
    let address = |n| std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, n));
    let held: Vec<_> = (0..4).filter_map(|_| rig.sessions.admit(address(1))).collect();
    assert_eq!(held.len(), 3);
    let more: Vec<_> = (2..9).filter_map(|n| rig.sessions.admit(address(n))).collect();
    assert_eq!(more.len(), 2);
    drop((held, more));
    assert!(rig.sessions.admit(address(1)).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_acknowledges_nothing_is_not_sent_the_same_again_and_again() {
    let (rig, log) = rig(SessionSettings::default());
    let (alice, bob) = (device(1, 11), device(2, 22));
    let mut a = rig.level(alice, 1).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    let mut b = rig.connect(bob, 1).await;
    assert_eq!(b.deliveries(1).await, [1]);
    assert!(matches!(b.next().await, Some(Kind::CaughtUp(_))));
    a.ack(direct(alice, bob), 1);
    let pages = log.pages();
    assert!(b.is_quiet(90 * SECOND).await);
    assert_eq!(log.pages(), pages);
}
