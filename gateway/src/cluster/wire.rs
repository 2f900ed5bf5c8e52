//! Items from messages, and messages from items.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use kith_chat_core::log::{Admission, Append, Course, Gate, Outcome, Resolved, Ticket};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    peer::v1::{Behind, Cut, Deliver, Item, Presence, Tell, Trace, item::Kind},
    v1,
};

/// A message that was accepted just now, with the slices of those devices of its two accounts for which `is_there`; with the bytes of its payload.
pub(super) fn deliver(
    message: &Resolved,
    accepted_us: u64,
    trace: Option<Trace>,
    is_there: impl Fn(&AccountId, &[u8]) -> bool,
) -> Option<(usize, Item)> {
    let Outcome::Accepted { seq, at_ms, duplicate: false, mutual } = message.outcome else { return None };
    let append = &message.append;
    let of = |account: &AccountId, slices: &[v1::Slice]| -> Vec<v1::Slice> {
        slices.iter().filter(|slice| is_there(account, &slice.device)).cloned().collect()
    };
    let slices = of(&append.recipient, &append.slices);
    let own_slices = of(&append.sender.account, &append.own_slices);
    let bytes = append.body.len() + slices.iter().chain(&own_slices).map(|slice| slice.data.len() + 32).sum::<usize>();
    let deliver = Deliver {
        conversation: append.conversation.to_bytes(),
        seq,
        at_ms,
        sender_account: append.sender.account.to_bytes(),
        sender_device: append.sender.device.to_bytes(),
        recipient: append.recipient.to_bytes(),
        client_msg_id: append.client_msg_id.to_bytes(),
        sender_list_version: append.sender_list_version,
        recipient_list_version: append.recipient_list_version,
        checkpoint: append.checkpoint,
        mutual,
        body: append.body.clone(),
        slices,
        own_slices,
        accepted_us,
        trace,
    };
    Some((bytes, Item { kind: Some(Kind::Deliver(deliver)) }))
}

/// The message again, as the log of the other gateway resolved it, on its `course` here. `None` if ids are missing.
pub(super) fn resolved(deliver: Deliver, course: Course) -> Option<Resolved> {
    /// Nobody sends through the gate of a message from elsewhere.
    static GATE: LazyLock<Arc<Gate>> = LazyLock::new(Arc::default);
    let append = Append {
        ticket: Ticket { connection: 0, request: 0 },
        conversation: ConversationId::try_from(&deliver.conversation[..]).ok()?,
        sender: device(&deliver.sender_account, &deliver.sender_device)?,
        epoch: 0,
        recipient: AccountId::try_from(&deliver.recipient[..]).ok()?,
        client_msg_id: ClientMsgId::try_from(&deliver.client_msg_id[..]).ok()?,
        device_counter: 0,
        checkpoint: deliver.checkpoint,
        restart: false,
        sender_list_version: deliver.sender_list_version,
        recipient_list_version: deliver.recipient_list_version,
        body: deliver.body,
        slices: deliver.slices,
        own_slices: deliver.own_slices,
        gate: Arc::clone(&GATE),
        admission: Admission::Admitted,
        course,
    };
    let outcome = Outcome::Accepted { seq: deliver.seq, at_ms: deliver.at_ms, duplicate: false, mutual: deliver.mutual };
    Some(Resolved { append, outcome })
}

pub(super) fn behind(account: AccountId) -> (usize, Item) {
    (0, Item { kind: Some(Kind::Behind(Behind { account: account.to_bytes() })) })
}

pub(super) fn tell(account: AccountId, to: Option<DeviceId>, push: v1::server_frame::Kind) -> (usize, Item) {
    let frame = v1::ServerFrame { id: 0, kind: Some(push) };
    let bytes = prost::Message::encoded_len(&frame);
    let tell = Tell { account: account.to_bytes(), device: to.map_or_else(Bytes::new, DeviceId::to_bytes), push: Some(frame) };
    (bytes, Item { kind: Some(Kind::Tell(tell)) })
}

pub(super) fn cut(device: DeviceRef, through_epoch: u64, reason: v1::ErrorCode) -> (usize, Item) {
    let cut = Cut { account: device.account.to_bytes(), device: device.device.to_bytes(), through_epoch, reason: reason.into() };
    (0, Item { kind: Some(Kind::Cut(cut)) })
}

pub(super) fn presence(account: AccountId, last_seen_ms: Option<u64>, setting: bool) -> (usize, Item) {
    let presence = Presence { account: account.to_bytes(), last_seen_ms: last_seen_ms.unwrap_or(0), setting };
    (0, Item { kind: Some(Kind::Presence(presence)) })
}

/// A device from its two ids.
pub(super) fn device(account: &[u8], device: &[u8]) -> Option<DeviceRef> {
    Some(DeviceRef { account: AccountId::try_from(account).ok()?, device: DeviceId::try_from(device).ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slices() -> impl Strategy<Value = Vec<v1::Slice>> {
        let slice = (any::<[u8; 16]>(), proptest::collection::vec(any::<u8>(), 0..40));
        proptest::collection::vec(slice.prop_map(|(device, data)| v1::Slice { device: device.to_vec().into(), data: data.into() }), 0..4)
    }

    proptest! {
        #[test]
        fn a_message_is_the_same_on_the_other_side(
            ids in any::<([u8; 16], [u8; 16], [u8; 16], [u8; 16], [u8; 16])>(),
            numbers in any::<(u64, u64, u64, u64)>(),
            flags in any::<(bool, bool)>(),
            body in proptest::collection::vec(any::<u8>(), 0..80),
            (slices, own_slices) in (slices(), slices()),
        ) {
            let (conversation, account, device, recipient, client_msg_id) = ids;
            let append = Append {
                ticket: Ticket { connection: 9, request: 9 },
                conversation: ConversationId(conversation),
                sender: DeviceRef { account: AccountId(account), device: DeviceId(device) },
                epoch: 3,
                recipient: AccountId(recipient),
                client_msg_id: ClientMsgId(client_msg_id),
                device_counter: 7,
                checkpoint: flags.0,
                restart: true,
                sender_list_version: numbers.0,
                recipient_list_version: numbers.1,
                body: body.into(),
                slices,
                own_slices,
                gate: Arc::default(),
                admission: Admission::Admitted,
                course: Course::default(),
            };
            let there = append.slices.first().map(|slice| slice.device.clone());
            let outcome = Outcome::Accepted { seq: numbers.2, at_ms: numbers.3, duplicate: false, mutual: flags.1 };
            let message = Resolved { append, outcome };
            let only_first = |account: &AccountId, device: &[u8]| account.0 == recipient && there.as_deref() == Some(device);
            let (_, item) = deliver(&message, 1, None, only_first).unwrap();
            let encoded = prost::Message::encode_to_vec(&item);
            let Item { kind: Some(Kind::Deliver(decoded)) } = prost::Message::decode(&encoded[..]).unwrap() else { panic!() };
            let again = resolved(decoded, Course::default()).unwrap();
            let (a, b) = (&message.append, &again.append);
            prop_assert_eq!((a.conversation, a.sender, a.recipient, a.client_msg_id), (b.conversation, b.sender, b.recipient, b.client_msg_id));
            prop_assert_eq!((a.checkpoint, a.sender_list_version, a.recipient_list_version), (b.checkpoint, b.sender_list_version, b.recipient_list_version));
            prop_assert_eq!((&a.body, &message.outcome), (&b.body, &again.outcome));
            let kept: Vec<_> = a.slices.iter().filter(|s| only_first(&a.recipient, &s.device)).cloned().collect();
            prop_assert_eq!(&b.slices, &kept);
        }
    }

    #[test]
    fn a_message_without_its_ids_is_none() {
        assert!(resolved(Deliver::default(), Course::default()).is_none());
    }
}
