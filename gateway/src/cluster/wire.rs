//! Items from messages, and messages from items.
//!
//! A message is encoded straight from what the log resolved into a buffer that many share, because this is done for each message that goes to another gateway; whatever else gateways say is
//! rare and takes the way through the generated types. The other side reads all of it with those.

use std::sync::{Arc, LazyLock};

use bytes::{BufMut as _, Bytes, BytesMut};
use kith_chat_core::log::{Admission, Append, Course, Gate, Outcome, Resolved, Ticket};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    peer::v1::{Behind, Cut, Deliver, Item, Presence, Tell, Trace, item::Kind},
    v1,
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

/// Buffers for messages have this size, or that of one message if that is larger.
const BUFFER: usize = 64 * 1024;

/// What an item is; a closed set for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Deliver,
    Behind,
    Tell,
    Cut,
    Presence,
    Unknown,
}

impl From<&Item> for Sort {
    fn from(item: &Item) -> Self {
        match item.kind {
            Some(Kind::Deliver(_)) => Self::Deliver,
            Some(Kind::Behind(_)) => Self::Behind,
            Some(Kind::Tell(_)) => Self::Tell,
            Some(Kind::Cut(_)) => Self::Cut,
            Some(Kind::Presence(_)) => Self::Presence,
            None => Self::Unknown,
        }
    }
}

/// An item as it goes into a frame.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) sort: Sort,
    pub(super) bytes: Bytes,
}

impl From<Item> for Parcel {
    fn from(item: Item) -> Self {
        Self { sort: Sort::from(&item), bytes: item.encode_to_vec().into() }
    }
}

/// What takes the fields of a message in the order of their numbers. Fields that are zero or empty are left out, as protobuf has it.
trait Fields {
    fn number(&mut self, tag: u32, value: u64);
    fn bytes(&mut self, tag: u32, value: &[u8]);
    /// Bytes that stand there though they are empty: a message in a list.
    fn slice(&mut self, tag: u32, slice: &v1::Slice);
}

/// Counts the bytes.
struct Length(usize);

/// Writes them.
struct Writer<'a>(&'a mut BytesMut);

fn framed_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

impl Fields for Length {
    fn number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            self.0 += key_len(tag) + encoded_len_varint(value);
        }
    }

    fn bytes(&mut self, tag: u32, value: &[u8]) {
        if !value.is_empty() {
            self.0 += framed_len(tag, value.len());
        }
    }

    fn slice(&mut self, tag: u32, slice: &v1::Slice) {
        self.0 += framed_len(tag, slice.encoded_len());
    }
}

impl Writer<'_> {
    fn frame(&mut self, tag: u32, len: usize) {
        encode_key(tag, WireType::LengthDelimited, self.0);
        encode_varint(len as u64, self.0);
    }
}

impl Fields for Writer<'_> {
    fn number(&mut self, tag: u32, value: u64) {
        if value != 0 {
            encode_key(tag, WireType::Varint, self.0);
            encode_varint(value, self.0);
        }
    }

    fn bytes(&mut self, tag: u32, value: &[u8]) {
        if !value.is_empty() {
            self.frame(tag, value.len());
            self.0.put_slice(value);
        }
    }

    fn slice(&mut self, tag: u32, slice: &v1::Slice) {
        self.frame(tag, slice.encoded_len());
        slice.encode_raw(self.0);
    }
}

/// A message that was accepted just now, with the slices of those devices of its two accounts for which `is_there`.
struct Message<'a, F> {
    append: &'a Append,
    seq: u64,
    at_ms: u64,
    mutual: bool,
    accepted_us: u64,
    trace: Option<Trace>,
    is_there: F,
}

impl<F: Fn(&AccountId, &[u8]) -> bool> Message<'_, F> {
    /// The fields of a `Deliver`.
    fn fields(&self, to: &mut impl Fields) {
        let append = self.append;
        to.bytes(1, &append.conversation.0);
        to.number(2, self.seq);
        to.number(3, self.at_ms);
        to.bytes(4, &append.sender.account.0);
        to.bytes(5, &append.sender.device.0);
        to.bytes(6, &append.recipient.0);
        to.bytes(7, &append.client_msg_id.0);
        to.number(8, append.sender_list_version);
        to.number(9, append.recipient_list_version);
        to.number(10, append.checkpoint.into());
        to.number(11, self.mutual.into());
        to.bytes(12, &append.body);
        for (tag, account, slices) in [(13, &append.recipient, &append.slices), (14, &append.sender.account, &append.own_slices)] {
            let there = slices.iter().filter(|slice| (self.is_there)(account, &slice.device));
            there.for_each(|slice| to.slice(tag, slice));
        }
        to.number(15, self.accepted_us);
        if let Some(trace) = &self.trace {
            to.bytes(16, &trace.encode_to_vec());
        }
    }
}

/// A message that was accepted just now, encoded into `buffer`, with the slices of those devices of its two accounts for which `is_there`. `None` if it was not accepted, or before.
pub(super) fn deliver(
    buffer: &mut BytesMut,
    message: &Resolved,
    accepted_us: u64,
    trace: Option<Trace>,
    is_there: impl Fn(&AccountId, &[u8]) -> bool,
) -> Option<Parcel> {
    /// In an `Item`.
    const DELIVER: u32 = 1;
    let Outcome::Accepted { seq, at_ms, duplicate: false, mutual } = message.outcome else { return None };
    let message = Message { append: &message.append, seq, at_ms, mutual, accepted_us, trace, is_there };
    let mut length = Length(0);
    message.fields(&mut length);
    let all = framed_len(DELIVER, length.0);
    if buffer.capacity() < all {
        *buffer = BytesMut::with_capacity(BUFFER.max(all));
    }
    let mut writer = Writer(buffer);
    writer.frame(DELIVER, length.0);
    message.fields(&mut writer);
    Some(Parcel { sort: Sort::Deliver, bytes: buffer.split().freeze() })
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

/// Devices of the account, or of all, may find something in the log.
pub(super) fn behind(account: Option<AccountId>) -> Parcel {
    parcel(Kind::Behind(Behind { account: account.map_or_else(Bytes::new, AccountId::to_bytes) }))
}

pub(super) fn tell(account: AccountId, to: Option<DeviceId>, push: v1::server_frame::Kind) -> Parcel {
    let frame = v1::ServerFrame { id: 0, kind: Some(push) };
    parcel(Kind::Tell(Tell { account: account.to_bytes(), device: to.map_or_else(Bytes::new, DeviceId::to_bytes), push: Some(frame) }))
}

pub(super) fn cut(device: DeviceRef, through_epoch: u64, reason: v1::ErrorCode) -> Parcel {
    parcel(Kind::Cut(Cut { account: device.account.to_bytes(), device: device.device.to_bytes(), through_epoch, reason: reason.into() }))
}

pub(super) fn presence(account: AccountId, last_seen_ms: Option<u64>, setting: bool) -> Parcel {
    parcel(Kind::Presence(Presence { account: account.to_bytes(), last_seen_ms: last_seen_ms.unwrap_or(0), setting }))
}

fn parcel(kind: Kind) -> Parcel {
    Parcel::from(Item { kind: Some(kind) })
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
            let mut buffer = BytesMut::new();
            let trace = flags.0.then_some(Trace { id_high: 1, id_low: numbers.0, span: 3, sent_us: 4 });
            let parcel = deliver(&mut buffer, &message, numbers.1, trace, only_first).unwrap();
            let again = deliver(&mut buffer, &message, numbers.1, trace, only_first).unwrap();
            prop_assert_eq!(&parcel.bytes, &again.bytes);
            let item = Item::decode(parcel.bytes.clone()).unwrap();
            prop_assert_eq!(&item.encode_to_vec()[..], &parcel.bytes[..], "as the generated type encodes it");
            let Some(Kind::Deliver(decoded)) = item.kind else { panic!() };
            prop_assert_eq!((decoded.accepted_us, decoded.trace), (numbers.1, trace));
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
