use super::*;
use crate::id::ClientMsgId;
use crate::log_hash::LogView;

fn owner() -> ChainOwner {
    ChainOwner {
        conversation: ConversationId::from_bytes([1; 16]),
        account: AccountId::from_bytes([2; 16]),
        device: DeviceId::from_bytes([3; 16]),
        incarnation: Incarnation::from_bytes([4; 16]),
    }
}

fn head(k: u64, prev: [u8; 32], kind: u8) -> ContentHead {
    ContentHead {
        conversation: owner().conversation,
        incarnation: owner().incarnation,
        k,
        prev,
        client_msg_id: ClientMsgId::from_bytes([5; 16]),
        salt: [6; 16],
        view: LogView::empty(owner().conversation),
        list_version: 1,
        list_hash: [7; 32],
        kind,
    }
}

/// The first `n` messages of a sender: heads with their c_k.
fn messages(n: u8) -> Vec<(ContentHead, [u8; 32])> {
    let mut chain = SenderChain::new(owner());
    let mut out = Vec::new();
    for i in 0..n {
        let (k, prev) = chain.place(1).unwrap();
        let c_k = [i; 32];
        out.push((head(k, prev, 1), c_k));
        chain = chain.moved(1, &c_k);
    }
    out
}

fn judge(known: Option<&ReceiverChain>, message: &(ContentHead, [u8; 32]), since: u64) -> (Verdict, Option<ReceiverChain>) {
    ReceiverChain::judge(known, owner(), &message.0, &message.1, since)
}

/// A receiver that has seen the first `n` messages.
fn received(n: u8) -> ReceiverChain {
    let mut chain = None;
    for message in messages(n) {
        let (verdict, next) = judge(chain.as_ref(), &message, 1);
        assert_eq!(verdict, Verdict::InOrder);
        chain = next;
    }
    chain.unwrap()
}

#[test]
fn a28_an_unbroken_chain_is_verified_from_its_start() {
    let chain = received(5);
    assert_eq!((chain.k(), chain.verified_from()), (5, 1));
    assert_eq!(ReceiverChain::from_bytes(&chain.to_bytes()).unwrap(), chain);
}

#[test]
fn a28_a_dropped_message_is_a_gap() {
    let sent = messages(6);
    let (verdict, next) = judge(Some(&received(3)), &sent[5], 1);
    assert_eq!(verdict, Verdict::Gap { from: 4, to: 5 });
    let next = next.unwrap();
    assert_eq!((next.k(), next.verified_from()), (6, 6));
    let (verdict, _) = judge(None, &sent[2], 1);
    assert_eq!(verdict, Verdict::Gap { from: 1, to: 2 });
}

#[test]
fn a28_a_repeated_message_is_a_replay_and_another_at_its_place_a_fork() {
    let sent = messages(3);
    let chain = received(3);
    assert_eq!(judge(Some(&chain), &sent[2], 1), (Verdict::Replay, None));
    assert_eq!(judge(Some(&chain), &(sent[2].0, [99; 32]), 1), (Verdict::Fork, None));
    assert_eq!(judge(Some(&chain), &sent[0], 1), (Verdict::Earlier, None));
    assert_eq!(judge_earlier(Some(&sent[0].1), &sent[0].1, 1), Verdict::Replay);
    assert_eq!(judge_earlier(Some(&sent[0].1), &[9; 32], 1), Verdict::Fork);
    assert_eq!(judge_earlier(None, &[9; 32], 1), Verdict::Gap { from: 1, to: 1 });
    // The next place with another past.
    assert_eq!(judge(Some(&chain), &(head(4, [1; 32], 1), [1; 32]), 1), (Verdict::Fork, None));
    // A first message that does not begin at h_0.
    assert_eq!(judge(None, &(head(1, [1; 32], 1), [1; 32]), 1), (Verdict::Fork, None));
    assert_eq!(judge(None, &(head(0, owner().start(), 1), [1; 32]), 1).0, Verdict::Fork);
}

#[test]
fn a28_a_device_addressed_later_anchors_without_a_gap() {
    let sent = messages(6);
    let (verdict, chain) = judge(None, &sent[3], 4);
    assert_eq!((verdict, chain.as_ref().unwrap().verified_from()), (Verdict::Anchored, 4));
    assert_eq!(judge(chain.as_ref(), &sent[4], 4).0, Verdict::InOrder);
    assert_eq!(judge(chain.as_ref(), &sent[5], 6).0, Verdict::Anchored);
    assert_eq!(judge(chain.as_ref(), &sent[5], 4).0, Verdict::Gap { from: 5, to: 5 });
}

#[test]
fn a28_a_checkpoint_shows_a_withheld_tail() {
    let sent = messages(5);
    let chain = received(3);
    let end = |k: usize| head(k as u64, chain_hash(&sent[k - 1].0.prev, &sent[k - 1].1), KIND_CHECKPOINT);
    let judge = |head: ContentHead| judge(Some(&chain), &(head, [0; 32]), 1);
    assert_eq!(judge(end(3)), (Verdict::CheckpointAgrees, None));
    assert_eq!(judge(end(2)), (Verdict::CheckpointEarlier, None));
    assert_eq!(judge(head(3, [9; 32], KIND_CHECKPOINT)), (Verdict::Fork, None));
    let (verdict, next) = judge(end(5));
    assert_eq!(verdict, Verdict::Gap { from: 4, to: 5 });
    assert_eq!(next.unwrap().k(), 5);
    // Before any message: nothing was addressed to this device yet.
    let start = head(0, owner().start(), KIND_CHECKPOINT);
    assert_eq!(ReceiverChain::judge(None, owner(), &start, &[0; 32], 1).0, Verdict::CheckpointAgrees);
    let (verdict, next) = ReceiverChain::judge(None, owner(), &end(5), &[0; 32], 6);
    assert_eq!((verdict, next.unwrap().k()), (Verdict::CheckpointAgrees, 5));
}

#[test]
fn a_checkpoint_takes_no_place_in_the_chain() {
    let mut chain = SenderChain::new(owner());
    assert_eq!(chain.place(KIND_CHECKPOINT).unwrap(), (0, owner().start()));
    chain = chain.moved(1, &[1; 32]);
    assert_eq!(chain.moved(KIND_CHECKPOINT, &[2; 32]), chain);
    assert_eq!(chain.place(KIND_CHECKPOINT).unwrap(), (1, *chain.h()));
    assert_eq!(SenderChain::from_bytes(&chain.to_bytes()).unwrap(), chain);
}
