//! What links do when they are cut, swallowed, fed nonsense, or dialled by strangers.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kith_chat_core::sessions::GatewayId;
use kith_proto::{
    peer::v1::{Deliver, Frame, Item, Tell, item, peer_client::PeerClient},
    v1::server_frame::Kind,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use super::{
    super::{
        MAX_MESSAGE,
        dial::{PROOF, ascii},
        proof::Proofs,
    },
    accepted, delivery, device,
    fleet::{Fleet, Member, SECRET},
    settled, text_to, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_link_has_dropped_is_read_from_the_log_when_it_is_back() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    settled(&one, &two).await;
    // The one with the lower id dials the other.
    two.proxy.cut();
    one.linked(0).await;
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    until(|| one.cluster.counters().dropped.deliver.value() == 1).await;
    two.proxy.heal();
    assert_eq!(b.deliveries(1).await, [1]);
    assert_eq!(two.delivered_live(), 0);
    one.linked(1).await;
    let id = a.send(text_to(alice, bob, 2));
    accepted(&mut a, id).await;
    delivery(&mut b, 2).await;
    until(|| two.delivered_live() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything_is_noticed_and_mended() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let (alice, bob) = (device(1, 11), device(2, 22));
    let (mut a, mut b) = (one.rig.level(alice, 1).await, two.rig.level(bob, 1).await);
    settled(&one, &two).await;
    two.proxy.blackhole();
    let id = a.send(text_to(alice, bob, 1));
    accepted(&mut a, id).await;
    one.linked(0).await;
    two.linked(0).await;
    two.proxy.cut();
    two.proxy.heal();
    assert_eq!(b.deliveries(1).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_waits_for_a_broken_link() {
    let fleet = Fleet::new();
    let (one, two) = fleet.pair().await;
    let alice = device(1, 11);
    let mut first = one.rig.level(alice, 1).await;
    two.proxy.cut();
    one.linked(0).await;
    two.linked(0).await;
    let _second = two.rig.level(alice, 2).await;
    two.proxy.heal();
    assert_eq!(first.goodbye().await, kith_proto::v1::ErrorCode::Replaced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_with_another_secret_are_refused() {
    let fleet = Fleet::new();
    let one = fleet.start(1).await;
    let two = fleet.start_with_secret(2, [6; 32]).await;
    until(|| two.cluster.counters().refused.value() >= 2).await;
    assert_eq!((one.cluster.sizes().0, two.cluster.sizes().0), (0, 0));
}

/// A gateway made by hand, that says what it likes.
struct Stranger {
    items: mpsc::UnboundedSender<Frame>,
    answers: Streaming<Frame>,
}

async fn call(member: &Member, proof: Option<String>) -> Result<Stranger, Status> {
    let channel = Channel::from_shared(format!("http://{}", member.bound)).unwrap().connect().await.unwrap();
    let (items, receiver) = mpsc::unbounded_channel();
    let frames = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let mut request = Request::new(frames);
    if let Some(proof) = proof {
        request.metadata_mut().insert(PROOF, ascii(&proof).unwrap());
    }
    let answers = PeerClient::new(channel).link(request).await?.into_inner();
    Ok(Stranger { items, answers })
}

async fn linked_by_hand(member: &Member) -> Stranger {
    let now_ms = member.cluster.clock.now_ms();
    let (_, proof) = Proofs::new(SECRET, GatewayId(1)).dial(member.cluster.me(), now_ms);
    let stranger = call(member, Some(proof)).await.unwrap();
    member.linked(1).await;
    stranger
}

fn message(seq: u64, body: Bytes) -> Item {
    let (alice, bob) = (device(1, 11), device(2, 22));
    let deliver = Deliver {
        conversation: super::direct(alice, bob).to_bytes(),
        seq,
        at_ms: 1,
        sender_account: alice.account.to_bytes(),
        sender_device: alice.device.to_bytes(),
        recipient: bob.account.to_bytes(),
        client_msg_id: Bytes::from_static(&[1; 16]),
        body,
        slices: vec![kith_proto::v1::Slice { device: bob.device.to_bytes(), data: "slice".into() }],
        ..Deliver::default()
    };
    Item { kind: Some(item::Kind::Deliver(deliver)) }
}

fn framed(items: &[Item]) -> Frame {
    Frame { items: items.iter().map(|item| item.encode_to_vec().into()).collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_a_proof_or_with_a_used_one_is_refused() {
    let fleet = Fleet::new();
    let two = fleet.start(2).await;
    assert_eq!(call(&two, None).await.map(drop).unwrap_err().code(), Code::Unauthenticated);
    let (_, proof) = Proofs::new(SECRET, GatewayId(1)).dial(GatewayId(2), two.cluster.clock.now_ms());
    let stranger = call(&two, Some(proof.clone())).await.unwrap();
    assert_eq!(call(&two, Some(proof)).await.map(drop).unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(two.cluster.counters().refused.value(), 2);
    drop(stranger);
    two.linked(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_passed_over() {
    let fleet = Fleet::new();
    let two = fleet.start(2).await;
    let stranger = linked_by_hand(&two).await;
    let mut b = two.rig.level(device(2, 22), 1).await;
    let broken = Item { kind: Some(item::Kind::Deliver(Deliver { conversation: Bytes::from_static(b"short"), ..Deliver::default() })) };
    let no_push = Some(kith_proto::v1::ServerFrame { id: 0, kind: None });
    let unknown_push = Item { kind: Some(item::Kind::Tell(Tell { account: device(2, 22).account.to_bytes(), device: Bytes::new(), push: no_push })) };
    let mut frame = framed(&[Item { kind: None }, broken, unknown_push, message(1, "hello".into())]);
    frame.items.insert(0, Bytes::from_static(b"\xff"));
    stranger.items.send(frame).unwrap();
    let Some(Kind::Deliver(deliver)) = b.next().await else { panic!() };
    assert_eq!((deliver.seq, &deliver.body[..]), (1, &b"hello"[..]));
    assert_eq!(two.cluster.counters().received.unknown.value(), 2);
}

/// Whether a device gets nothing, or has only come so lately that others did not know, only the log can say: `absent` would make it ask for a repair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_whose_slice_was_not_sent_along_is_not_told_that_there_is_none() {
    let fleet = Fleet::new();
    let two = fleet.start(2).await;
    let stranger = linked_by_hand(&two).await;
    let mut other = two.rig.level(device(2, 23), 1).await;
    let mut addressed = two.rig.level(device(2, 22), 1).await;
    stranger.items.send(framed(&[message(1, "hello".into())])).unwrap();
    assert_eq!(addressed.deliveries(1).await, [1]);
    assert!(other.is_quiet(std::time::Duration::from_millis(200)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_too_large_ends_the_link() {
    let fleet = Fleet::new();
    let two = fleet.start(2).await;
    let mut stranger = linked_by_hand(&two).await;
    let body = Bytes::from(vec![0; MAX_MESSAGE + 1]);
    stranger.items.send(framed(&[message(1, body)])).unwrap();
    two.linked(0).await;
    assert!(!matches!(stranger.answers.next().await, Some(Ok(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_stream_of_the_same_gateway_takes_over() {
    let fleet = Fleet::new();
    let two = fleet.start(2).await;
    let proofs = Arc::new(Proofs::new(SECRET, GatewayId(1)));
    let dial = || proofs.dial(GatewayId(2), two.cluster.clock.now_ms()).1;
    let mut first = call(&two, Some(dial())).await.unwrap();
    let second = call(&two, Some(dial())).await.unwrap();
    assert!(first.answers.next().await.is_none(), "the first has ended in order");
    two.rig.sessions.cut(device(1, 11), kith_proto::v1::ErrorCode::DeviceRevoked);
    let mut answers = second.answers;
    assert_eq!(answers.next().await.unwrap().unwrap().items.len(), 1);
}
