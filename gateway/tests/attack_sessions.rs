//! Attacks on the sessions, by name.

mod attack;

use std::{sync::atomic::Ordering, time::Duration};

use kith_gateway::sessions::SessionSettings;
use kith_proto::{
    v1,
    v1::{ErrorCode, client_frame, server_frame::Kind},
};

use self::attack::{Bed, NOW_MS, device, direct, until};

/// So that nothing is healed by the check of the heads.
fn never_rescued() -> SessionSettings {
    SessionSettings { keep_alive: Duration::from_secs(3_600), ..SessionSettings::default() }
}

/// A retry points the device to the log while live delivery goes on; what then overflows is missing from both unless the heads are read once more.
#[tokio::test]
async fn an_inbox_that_overflows_during_a_live_catch_up_leaves_no_hole() {
    let bed = Bed::new(SessionSettings { inbox_messages: 4, ..never_rescued() }).await;
    let (mut alice, mut bob) = (bed.level(device(1), 1).await, bed.level(device(2), 1).await);
    alice.send_accepted(bob.me, 1).await;
    bob.until(|kind| matches!(kind, Kind::Deliver(deliver) if deliver.seq == 1)).await;
    bed.log.page.shut(true);
    alice.send_accepted(bob.me, 1).await;
    bed.log.page.holds_somebody().await;
    bob.stall(true);
    // Four wait for the connection; the fifth, the last of all, finds no room.
    for n in 2..=6 {
        alice.send_accepted(bob.me, n).await;
    }
    until(|| bed.sessions.counters().overflows.value() > 0).await;
    bed.log.page.shut(false);
    bob.stall(false);
    let mut missing: Vec<u64> = (2..=6).collect();
    while !missing.is_empty() {
        if let Kind::Deliver(deliver) = bob.until(|kind| matches!(kind, Kind::Deliver(_))).await {
            missing.retain(|seq| *seq != deliver.seq);
        }
    }
}

/// Whoever hides must not be seen coming and going by the pushes that say nothing.
#[tokio::test]
async fn a_hidden_account_is_not_given_away_by_the_timing_of_pushes() {
    let bed = Bed::new(never_rescued()).await;
    let (mut alice, mut bob, mut carol) = (bed.level(device(1), 1).await, bed.level(device(2), 1).await, bed.level(device(3), 1).await);
    bed.make_mutual(&mut alice, &mut bob).await;
    bed.make_mutual(&mut carol, &mut bob).await;
    carol.leave().await;
    let accounts = [1, 3].map(|n| device(n).account.to_bytes()).to_vec();
    let watching = bob.request(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts }));
    bob.done(watching).await;
    let hidden = alice.request(client_frame::Kind::SetPresence(v1::SetPresence { hidden: true }));
    alice.done(hidden).await;
    let of_alice = |kind: &Kind| matches!(kind, Kind::Presence(presence) if presence.account == device(1).account.to_bytes());
    bob.until(|kind| of_alice(kind) && matches!(kind, Kind::Presence(presence) if !presence.online)).await;
    for epoch in 2..6 {
        alice.leave().await;
        alice = bed.level(device(1), epoch).await;
    }
    // What is told of somebody else, again and again, comes after whatever there was to tell.
    for epoch in 2..5 {
        let mut carol = bed.level(device(3), epoch).await;
        for online in [true, false] {
            bob.until(|kind| {
                assert!(!of_alice(kind), "a push tells that a hidden account has moved");
                matches!(kind, Kind::Presence(presence) if presence.online == online && presence.account == device(3).account.to_bytes())
            })
            .await;
            if online {
                carol.disconnect();
            }
        }
    }
}

/// Who is online may take long to find out; ticks must not wait for it.
#[tokio::test]
async fn a_storm_of_presence_does_not_hold_back_ticks() {
    let bed = Bed::new(never_rescued()).await;
    let (mut alice, mut bob, mut carol) = (bed.level(device(1), 1).await, bed.level(device(2), 1).await, bed.level(device(3), 1).await);
    bed.make_mutual(&mut alice, &mut bob).await;
    bed.make_mutual(&mut carol, &mut bob).await;
    let watching = bob.request(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: vec![device(3).account.to_bytes()] }));
    bob.done(watching).await;
    bed.presence.door.shut(true);
    carol.leave().await;
    bed.presence.door.holds_somebody().await;
    bob.send_accepted(alice.me, 3).await;
    alice.ack(direct(alice.me, bob.me), 3).await;
    bob.until(|kind| matches!(kind, Kind::Watermarks(marks) if marks.items.iter().any(|mark| mark.delivered == 3))).await;
    bed.presence.door.shut(false);
}

/// The check of the heads asks the log; a log that never answers must not keep sessions alive whose token has ended.
#[tokio::test]
async fn a_log_that_hangs_does_not_keep_expired_tokens_alive() {
    let settings = SessionSettings {
        keep_alive: Duration::from_millis(200),
        rescue_after: Duration::ZERO,
        log_deadline: Duration::from_millis(50),
        ..SessionSettings::default()
    };
    let bed = Bed::new(settings).await;
    let mut alice = bed.level(device(1), 1).await;
    bed.log.behind.shut(true);
    bed.log.behind.holds_somebody().await;
    bed.clock.store(NOW_MS + 600_000, Ordering::Release);
    let Kind::Goodbye(goodbye) = alice.until(|kind| matches!(kind, Kind::Goodbye(_))).await else { return };
    assert_eq!(goodbye.reason(), ErrorCode::TokenExpired);
}

/// A sender may not learn by acknowledging, reading, paging, asking or typing whether others talk.
#[tokio::test]
async fn a_conversation_of_others_is_as_unknown_as_one_that_does_not_exist() {
    let bed = Bed::new(never_rescued()).await;
    let (mut alice, mut bob, mut eve) = (bed.level(device(1), 1).await, bed.level(device(2), 1).await, bed.level(device(3), 1).await);
    bed.make_mutual(&mut alice, &mut bob).await;
    let mut answers = Vec::new();
    for conversation in [direct(alice.me, bob.me).to_bytes(), vec![9; 16].into()] {
        let cursor = v1::Cursor { conversation: conversation.clone(), seq: 1 };
        let requests = [
            client_frame::Kind::Ack(v1::Ack { cursors: vec![cursor] }),
            client_frame::Kind::Read(v1::Read { conversation: conversation.clone(), seq: 1 }),
            client_frame::Kind::Page(v1::Page { conversation: conversation.clone(), after_seq: 0, limit: 1 }),
            client_frame::Kind::GetConversations(v1::GetConversations { conversations: vec![conversation.clone()] }),
            client_frame::Kind::Typing(v1::Typing { conversation, peer: bob.me.account.to_bytes(), active: true }),
        ];
        let mut seen = Vec::new();
        for request in requests {
            eve.request(request);
            let kind = eve.next_frame().await.expect("not closed").kind;
            assert!(
                matches!(&kind, Some(Kind::Error(error)) if error.code() == ErrorCode::NotAMember)
                    || matches!(&kind, Some(Kind::Conversations(c)) if c.items.is_empty()),
                "{kind:?}"
            );
            seen.push(kind);
        }
        answers.push(seen);
    }
    assert_eq!(answers[0], answers[1]);
}

/// The most that a client may ask for after, and numbers that are no seq.
#[tokio::test]
async fn numbers_at_the_edge_are_answered() {
    let bed = Bed::new(never_rescued()).await;
    let (mut alice, mut bob) = (bed.level(device(1), 1).await, bed.level(device(2), 1).await);
    bed.make_mutual(&mut alice, &mut bob).await;
    let conversation = direct(alice.me, bob.me).to_bytes();
    for after_seq in [i64::MAX.unsigned_abs() + 1, u64::MAX] {
        bob.request(client_frame::Kind::Page(v1::Page { conversation: conversation.clone(), after_seq, limit: u32::MAX }));
        let page = bob.until(|kind| matches!(kind, Kind::Page(_) | Kind::Error(_))).await;
        assert!(matches!(&page, Kind::Page(page) if page.entries.is_empty() && page.absent.is_empty() && page.head == 2), "{page:?}");
        bob.request(client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: conversation.clone(), seq: after_seq }] }));
        assert!(
            matches!(bob.until(|kind| matches!(kind, Kind::Done(_) | Kind::Error(_))).await, Kind::Error(error) if error.code() == ErrorCode::AckBeyondHead)
        );
    }
}
