//! Several gateways together, over a log and a directory in memory and real links.

mod fleet;
mod links;

use kith_chat_core::{
    bus::What,
    sessions::{GatewayId, SessionDirectory as _},
};
use kith_proto::{
    v1,
    v1::{ErrorCode, client_frame, server_frame::Kind},
};

use self::fleet::{Fleet, Member};
use crate::sessions::tests::{Client, DEADLINE, accepted, device, direct, sleepers, text_to, until};

/// Until this one comes. Others may come before or again: whoever has just connected looks into the log once more.
async fn delivery(client: &mut Client, seq: u64) {
    while client.deliveries(1).await != [seq] {}
}

/// Both have sent, so that ticks, typing and presence flow.
async fn befriend(a: &mut Client, b: &mut Client, alice: kith_proto::id::DeviceRef, bob: kith_proto::id::DeviceRef) {
    let id = a.send(text_to(alice, bob, 1));
    accepted(a, id).await;
    delivery(b, 1).await;
    let id = b.send(text_to(bob, alice, 1));
    accepted(b, id).await;
    delivery(a, 2).await;
}

async fn find<T>(client: &mut Client, mut wanted: impl FnMut(&Kind) -> Option<T>) -> T {
    loop {
        let kind = client.next().await.expect("open");
        if let Some(found) = wanted(&kind) {
            return found;
        }
    }
}

/// Nothing of the beginning is still under way that could read from the log what a test withholds.
async fn settled(one: &Member, two: &Member) {
    until(|| [one, two].iter().all(|member| member.rechecks() > 0 && member.rig.sessions.have_checked())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_a_device_at_another_gateway_and_its_tick_comes_back() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    let Some(Kind::Deliver(deliver)) = b.next().await else { panic!() };
    assert_eq!((deliver.seq, &deliver.body[..], &deliver.slice[..]), (1, &b"body 1"[..], &b"slice"[..]));
    assert_eq!(deliver.sender_device[..], alice.device.0);
    let id = b.send(text_to(bob, alice, 1));
    accepted(&mut b, id).await;
    delivery(&mut a, 2).await;
    b.ack(direct(alice, bob), 2);
    let delivered = |kind: &Kind| match kind {
        Kind::Watermarks(watermarks) => watermarks.items.iter().find(|item| item.account[..] == bob.account.0 && item.delivered == 2).map(|_| ()),
        _ => None,
    };
    find(&mut a, delivered).await;
    until(|| (one.delivered_live(), two.delivered_live()) == (1, 1)).await;
    assert_eq!(one.cluster.counters().sent.deliver.value(), 1);
    drop((a, b));
    one.rig.stop().await;
    two.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_is_told_of_if_it_is_at_no_gateway_and_that_is_known() {
    let fleet = Fleet::new();
    let (mut one, two) = fleet.pair().await;
    let (alice, bob, carol) = (device(1, 11), device(2, 22), device(3, 33));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    delivery(&mut b, 1).await;
    let id = a.send(text_to(alice, carol, 2));
    accepted(&mut a, id).await;
    let told = one.told.recv().await.expect("it is told");
    assert!(matches!(told.what, What::MessageForSleepingDevice { seq: 1, device, .. } if device == carol), "{told:?}");
    assert_eq!(sleepers(&mut one.told), []);

    drop(b);
    let mut n = 3;
    let gone = async {
        // As soon as the news of it has come.
        loop {
            let id = a.send(text_to(alice, bob, n));
            let seq = accepted(&mut a, id).await.seq;
            n += 1;
            if let Ok(told) = tokio::time::timeout(std::time::Duration::from_millis(50), one.told.recv()).await {
                return (seq, told.expect("it is told").what);
            }
        }
    };
    let (last, what) = tokio::time::timeout(DEADLINE, gone).await.expect("it stays awake");
    assert!(matches!(what, What::MessageForSleepingDevice { seq, device, .. } if device == bob && seq <= last), "{what:?}");

    fleet.hub.set_away(true);
    sleepers(&mut one.told);
    let unrouted = one.cluster.counters().unrouted.value();
    let id = a.send(text_to(alice, device(4, 44), n));
    accepted(&mut a, id).await;
    until(|| one.cluster.counters().unrouted.value() > unrouted).await;
    assert_eq!(sleepers(&mut one.told), [], "who is not known to be asleep is not told of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typing_and_presence_cross() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    befriend(&mut a, &mut b, alice, bob).await;
    b.notice(client_frame::Kind::Typing(v1::Typing { conversation: direct(alice, bob).to_bytes(), peer: alice.account.to_bytes(), active: true }));
    find(&mut a, |kind| matches!(kind, Kind::PeerTyping(typing) if typing.active && typing.account[..] == bob.account.0).then_some(())).await;
    a.request(client_frame::Kind::WatchPresence(v1::WatchPresence { accounts: vec![bob.account.to_bytes()] }));
    let presence = |kind: &Kind| match kind {
        Kind::Presence(presence) => Some((presence.online, presence.last_seen_ms > 0)),
        _ => None,
    };
    assert_eq!(find(&mut a, presence).await, (true, false), "it is known elsewhere");
    drop(b);
    assert_eq!(find(&mut a, presence).await, (false, true));
    let mut b = two.rig.connect(bob, 2).await;
    assert_eq!(find(&mut a, presence).await, (true, false));
    b.request(client_frame::Kind::SetPresence(v1::SetPresence { hidden: true }));
    assert_eq!(find(&mut a, presence).await, (false, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_connects_elsewhere_is_cut_where_it_was() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let alice = device(1, 11);
    let mut first = one.rig.level(alice, 1).await;
    let mut second = two.rig.level(alice, 2).await;
    assert_eq!(first.goodbye().await, ErrorCode::Replaced);
    let bob = device(2, 22);
    let mut b = one.rig.level(bob, 1).await;
    let id = b.send(text_to(bob, alice, 1));
    accepted(&mut b, id).await;
    delivery(&mut second, 1).await;
    until(|| two.delivered_live() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_directory_a_newer_connection_still_cuts_the_older_one() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let alice = device(1, 11);
    let mut first = one.rig.level(alice, 1).await;
    fleet.hub.set_away(true);
    let _second = two.rig.level(alice, 2).await;
    assert_eq!(first.goodbye().await, ErrorCode::Replaced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_place_ends_a_connection_that_comes_back_to_an_older_one() {
    let fleet = Fleet::new();
    let one = fleet.start(1).await;
    let alice = device(1, 11);
    let mut first = one.rig.level(alice, 1).await;
    // A gateway without a link, so that only the directory can tell.
    let other = fleet.hub.join(GatewayId(9), "127.0.0.1:1");
    other.renew().await.unwrap();
    fleet.hub.forget();
    other.renew().await.unwrap();
    other.enter(&[(alice, 2)]).await.unwrap();
    assert_eq!(first.goodbye().await, ErrorCode::Replaced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_cut_wherever_it_is() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let mut a = two.rig.level(device(1, 11), 1).await;
    let mut other = two.rig.level(device(1, 12), 1).await;
    one.rig.sessions.cut(device(1, 11), ErrorCode::DeviceRevoked);
    assert_eq!(a.goodbye().await, ErrorCode::DeviceRevoked);
    one.rig.sessions.tell(device(1, 12).account, &Kind::KeysLow(v1::KeysLow { one_time: 1, one_time_kem: 1 }));
    assert!(matches!(other.next().await, Some(Kind::KeysLow(_))), "the other device is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_has_receivers_elsewhere_look_into_the_log() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    for _ in 0..2 {
        let id = a.send(text_to(alice, bob, 1));
        accepted(&mut a, id).await;
        assert_eq!(b.deliveries(1).await, [1]);
    }
    assert_eq!(two.delivered_live(), 1, "the second came from the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_directory_away_messages_are_accepted_and_come_when_it_is_back() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    settled(&one, &two).await;
    fleet.hub.set_away(true);
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    until(|| one.cluster.counters().unrouted.value() > 0).await;
    fleet.hub.set_away(false);
    assert_eq!(b.deliveries(1).await, [1]);
    // Live again.
    until(|| one.cluster.counters().failed.value() > 0).await;
    let id = a.send(text_to(alice, bob, 2));
    accepted(&mut a, id).await;
    delivery(&mut b, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_has_forgotten_everything_learns_it_again() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    let looking = fleet.hub.join(GatewayId(9), "127.0.0.1:1");
    fleet.hub.forget();
    let entered = async {
        while looking.find(&[bob.account]).await.unwrap() == [vec![]] {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, entered).await.expect("it is not entered anew");
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    assert_eq!(b.deliveries(1).await, [1]);
    until(|| two.delivered_live() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_leaves_the_directory() {
    let fleet = Fleet::new();
    let one = fleet.start(1).await;
    let alice = device(1, 11);
    let a = one.rig.level(alice, 1).await;
    let looking = fleet.hub.join(GatewayId(9), "127.0.0.1:1");
    assert_eq!(looking.find(&[alice.account]).await.unwrap()[0].len(), 1, "it stands there before it is level");
    drop(a);
    let left = async {
        while !looking.find(&[alice.account]).await.unwrap()[0].is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, left).await.expect("it stays in the directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_resigns_is_gone_for_the_others() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let a = two.rig.level(device(1, 11), 1).await;
    drop(a);
    two.cluster.resign().await;
    two.rig.stop().await;
    until(|| one.cluster.links.all().is_empty()).await;
}
