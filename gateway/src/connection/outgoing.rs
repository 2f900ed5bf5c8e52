//! What a connection sends, in the form that costs least until it is encoded.

use std::sync::Arc;

use bytes::Bytes;
use kith_chat_core::log::{Entry, Outcome, Payload, Resolved};
use kith_proto::{
    id::{ClientMsgId, ConversationId, DeviceRef},
    v1,
    v1::server_frame::Kind,
};

/// Something to be put on the socket. The frequent kinds are not built as protobuf types: the socket encodes them straight into its buffer.
#[derive(Debug, Clone)]
pub enum Outgoing {
    /// Any frame.
    Frame(Box<v1::ServerFrame>),
    /// The answer to a send.
    Accepted {
        /// The request.
        id: u64,
        /// As in the request.
        client_msg_id: ClientMsgId,
        /// Its place.
        seq: u64,
        /// When.
        at_ms: u64,
        /// Accepted before.
        duplicate: bool,
    },
    /// A live delivery; all receivers share the message.
    Live(LiveMessage),
    /// A delivery from the log.
    Entry(ConversationId, Box<Entry>),
    /// A WebSocket ping.
    Ping,
    /// A WebSocket close with this code; nothing follows it.
    Close(u16),
}

impl Outgoing {
    /// A push.
    #[must_use]
    pub fn push(kind: Kind) -> Self {
        Self::answer(0, kind)
    }

    /// An answer to the request `id`.
    #[must_use]
    pub fn answer(id: u64, kind: Kind) -> Self {
        Self::Frame(Box::new(v1::ServerFrame { id, kind: Some(kind) }))
    }

    /// The frame as a protobuf value; what the JSON codec and tests use.
    #[must_use]
    pub fn to_frame(&self) -> Option<v1::ServerFrame> {
        Some(match self {
            Self::Frame(frame) => (**frame).clone(),
            Self::Accepted { id, client_msg_id, seq, at_ms, duplicate } => {
                let accepted = v1::Accepted { client_msg_id: client_msg_id.to_bytes(), seq: *seq, at_ms: *at_ms, duplicate: *duplicate };
                v1::ServerFrame { id: *id, kind: Some(Kind::Accepted(accepted)) }
            }
            Self::Live(live) => v1::ServerFrame { id: 0, kind: Some(Kind::Deliver(live.fields()?.to_deliver())) },
            Self::Entry(conversation, entry) => {
                v1::ServerFrame { id: 0, kind: Some(Kind::Deliver(DeliverFields::of_entry(conversation, entry).to_deliver())) }
            }
            Self::Ping | Self::Close(_) => return None,
        })
    }
}

/// A message on its way to one live device.
#[derive(Debug, Clone)]
pub struct LiveMessage {
    message: Arc<Resolved>,
    slice: LiveSlice,
}

#[derive(Debug, Clone, Copy)]
enum LiveSlice {
    Recipient(u32),
    Own(u32),
    None,
}

impl LiveMessage {
    /// The message as `device` is to see it; `None` if it was not accepted just now.
    #[must_use]
    pub fn new(message: &Arc<Resolved>, device: &DeviceRef) -> Option<Self> {
        let Outcome::Accepted { duplicate: false, .. } = message.outcome else { return None };
        let position = |slices: &[v1::Slice]| slices.iter().position(|s| s.device[..] == device.device.0).and_then(|at| u32::try_from(at).ok());
        let slice = if device.account == message.append.recipient {
            position(&message.append.slices).map_or(LiveSlice::None, LiveSlice::Recipient)
        } else {
            position(&message.append.own_slices).map_or(LiveSlice::None, LiveSlice::Own)
        };
        Some(Self { message: Arc::clone(message), slice })
    }

    /// The message that all its receivers share.
    pub(crate) fn message(&self) -> &Resolved {
        &self.message
    }

    /// Whether there is a slice for the device.
    pub(crate) fn is_addressed(&self) -> bool {
        !matches!(self.slice, LiveSlice::None)
    }

    /// Bytes of body and slice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slice().map_or(0, |slice| self.message.append.body.len() + slice.len())
    }

    /// Whether nothing but the absence is told.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slice(&self) -> Option<&Bytes> {
        let append = &self.message.append;
        match self.slice {
            LiveSlice::Recipient(at) => append.slices.get(at as usize).map(|s| &s.data),
            LiveSlice::Own(at) => append.own_slices.get(at as usize).map(|s| &s.data),
            LiveSlice::None => None,
        }
    }

    /// Borrowed, ready to be encoded.
    #[must_use]
    pub fn fields(&self) -> Option<DeliverFields<'_>> {
        let append = &self.message.append;
        let Outcome::Accepted { seq, at_ms, .. } = self.message.outcome else { return None };
        static EMPTY: Bytes = Bytes::new();
        let (body, slice, absent) = match self.slice() {
            Some(slice) => (&append.body, slice, v1::AbsentReason::Unspecified),
            None => (&EMPTY, &EMPTY, v1::AbsentReason::NotAddressed),
        };
        Some(DeliverFields {
            conversation: &append.conversation,
            seq,
            at_ms,
            sender: &append.sender,
            client_msg_id: &append.client_msg_id,
            checkpoint: append.checkpoint,
            sender_list_version: append.sender_list_version,
            recipient_list_version: append.recipient_list_version,
            body,
            slice,
            absent,
        })
    }
}

/// The fields of a `Deliver`, borrowed from wherever they are.
#[derive(Debug, Clone, Copy)]
pub struct DeliverFields<'a> {
    /// The conversation.
    pub conversation: &'a ConversationId,
    /// Its place.
    pub seq: u64,
    /// When it was accepted.
    pub at_ms: u64,
    /// Who sent it.
    pub sender: &'a DeviceRef,
    /// The sender's name for it.
    pub client_msg_id: &'a ClientMsgId,
    /// Rings nothing.
    pub checkpoint: bool,
    /// The sender's list version.
    pub sender_list_version: u64,
    /// The recipient's list version.
    pub recipient_list_version: u64,
    /// Ciphertext; empty when absent.
    pub body: &'a Bytes,
    /// The device's own slice; empty when absent.
    pub slice: &'a Bytes,
    /// Why there is nothing, or unspecified.
    pub absent: v1::AbsentReason,
}

impl<'a> DeliverFields<'a> {
    /// An entry of the log.
    #[must_use]
    pub fn of_entry(conversation: &'a ConversationId, entry: &'a Entry) -> Self {
        static EMPTY: Bytes = Bytes::new();
        let (body, slice, absent) = match &entry.payload {
            Payload::Sealed { body, slice } => (body, slice, v1::AbsentReason::Unspecified),
            Payload::Absent(reason) => (&EMPTY, &EMPTY, *reason),
        };
        Self {
            conversation,
            seq: entry.seq,
            at_ms: entry.at_ms,
            sender: &entry.sender,
            client_msg_id: &entry.client_msg_id,
            checkpoint: entry.checkpoint,
            sender_list_version: entry.sender_list_version,
            recipient_list_version: entry.recipient_list_version,
            body,
            slice,
            absent,
        }
    }

    /// As a protobuf value.
    #[must_use]
    pub fn to_deliver(&self) -> v1::Deliver {
        v1::Deliver {
            conversation: self.conversation.to_bytes(),
            seq: self.seq,
            at_ms: self.at_ms,
            sender_account: self.sender.account.to_bytes(),
            sender_device: self.sender.device.to_bytes(),
            client_msg_id: self.client_msg_id.to_bytes(),
            checkpoint: self.checkpoint,
            sender_list_version: self.sender_list_version,
            recipient_list_version: self.recipient_list_version,
            body: self.body.clone(),
            slice: self.slice.clone(),
            absent: self.absent.into(),
        }
    }
}
