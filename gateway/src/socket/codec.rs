//! Frames to and from bytes: protobuf or protobuf's JSON mapping, as the subprotocol says.
//!
//! The frequent frames are encoded field by field from where their bytes lie, without a protobuf value in between; a test compares with the generated
//! encoding.

use bytes::Bytes;
use kith_proto::{SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON, v1};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};

use crate::connection::{DeliverFields, Outgoing};

/// How frames are written on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Protobuf in binary messages.
    Binary,
    /// The JSON mapping in text messages.
    Json,
}

/// A message that is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a frame")]
pub struct NotAFrame;

const ACCEPTED: u32 = 4;
const DELIVER: u32 = 16;

impl Codec {
    /// The first subprotocol offered that is known.
    #[must_use]
    pub fn negotiate<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Self> {
        offered.into_iter().find_map(|name| match name.trim() {
            SUBPROTOCOL_BINARY => Some(Self::Binary),
            SUBPROTOCOL_JSON => Some(Self::Json),
            _ => None,
        })
    }

    /// The name of the subprotocol.
    #[must_use]
    pub fn subprotocol(self) -> &'static str {
        match self {
            Self::Binary => SUBPROTOCOL_BINARY,
            Self::Json => SUBPROTOCOL_JSON,
        }
    }

    /// Whether messages are text.
    #[must_use]
    pub fn is_text(self) -> bool {
        self == Self::Json
    }

    /// Reads what a client sent. Its length has been checked; the payloads in the frame are slices of `message`.
    ///
    /// # Errors
    /// If it is not a `ClientFrame`.
    pub fn decode(self, message: Bytes) -> Result<v1::ClientFrame, NotAFrame> {
        match self {
            Self::Binary => v1::ClientFrame::decode(message).map_err(|_| NotAFrame),
            Self::Json => {
                // All of it: serde does not look into the strings of fields that it skips.
                let text = std::str::from_utf8(&message).map_err(|_| NotAFrame)?;
                serde_json::from_str(text).or_else(|_| without_nulls(text)).map_err(|_| NotAFrame)
            }
        }
    }

    /// Appends the message to `out`, telling its length to `header` first. Pings and closes are no messages and write nothing.
    pub fn encode(self, outgoing: &Outgoing, out: &mut Vec<u8>, header: impl FnOnce(usize, &mut Vec<u8>)) {
        match self {
            Self::Binary => encode_binary(outgoing, out, header),
            Self::Json => {
                let Some(frame) = outgoing.to_frame() else { return };
                let text = serde_json::to_vec(&frame).expect("generated types have only string keys");
                header(text.len(), out);
                out.extend_from_slice(&text);
            }
        }
    }
}

fn encode_binary(outgoing: &Outgoing, out: &mut Vec<u8>, header: impl FnOnce(usize, &mut Vec<u8>)) {
    match outgoing {
        Outgoing::Frame(frame) => {
            header(frame.encoded_len(), out);
            frame.encode_raw(out);
        }
        Outgoing::Accepted { id, client_msg_id, seq, at_ms, duplicate } => {
            let inner = bytes_len(1, 16) + varint_len(2, *seq) + varint_len(3, *at_ms) + varint_len(4, u64::from(*duplicate));
            header(varint_len(1, *id) + bytes_len(ACCEPTED, inner), out);
            put_varint(1, *id, out);
            put_length(ACCEPTED, inner, out);
            put_bytes(1, &client_msg_id.0, out);
            put_varint(2, *seq, out);
            put_varint(3, *at_ms, out);
            put_varint(4, u64::from(*duplicate), out);
        }
        Outgoing::Live(live) => {
            if let Some(fields) = live.fields() {
                encode_deliver(&fields, out, header);
            }
        }
        Outgoing::Entry(conversation, entry) => encode_deliver(&DeliverFields::of_entry(conversation, entry), out, header),
        Outgoing::Ping | Outgoing::Close(_) => {}
    }
}

fn encode_deliver(fields: &DeliverFields<'_>, out: &mut Vec<u8>, header: impl FnOnce(usize, &mut Vec<u8>)) {
    let absent = u64::try_from(i32::from(fields.absent)).unwrap_or(0);
    let inner = bytes_len(1, 16)
        + varint_len(2, fields.seq)
        + varint_len(3, fields.at_ms)
        + bytes_len(4, 16)
        + bytes_len(5, 16)
        + bytes_len(6, 16)
        + varint_len(7, u64::from(fields.checkpoint))
        + varint_len(8, fields.sender_list_version)
        + varint_len(9, fields.recipient_list_version)
        + optional_len(10, fields.body.len())
        + optional_len(11, fields.slice.len())
        + varint_len(12, absent);
    header(bytes_len(DELIVER, inner), out);
    put_length(DELIVER, inner, out);
    put_bytes(1, &fields.conversation.0, out);
    put_varint(2, fields.seq, out);
    put_varint(3, fields.at_ms, out);
    put_bytes(4, &fields.sender.account.0, out);
    put_bytes(5, &fields.sender.device.0, out);
    put_bytes(6, &fields.client_msg_id.0, out);
    put_varint(7, u64::from(fields.checkpoint), out);
    put_varint(8, fields.sender_list_version, out);
    put_varint(9, fields.recipient_list_version, out);
    put_bytes(10, fields.body, out);
    put_bytes(11, fields.slice, out);
    put_varint(12, absent, out);
}

/// Protobuf's JSON mapping reads `null` as the default, which the generated code does not; writers rarely send it, so it costs only those who do.
fn without_nulls(text: &str) -> serde_json::Result<v1::ClientFrame> {
    let mut value = serde_json::from_str(text)?;
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

/// Recursion is bounded: the parser refuses more than 128 levels.
fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn bytes_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// Of a field that is left out when empty.
fn optional_len(tag: u32, len: usize) -> usize {
    if len == 0 { 0 } else { bytes_len(tag, len) }
}

fn varint_len(tag: u32, value: u64) -> usize {
    if value == 0 { 0 } else { key_len(tag) + encoded_len_varint(value) }
}

fn put_length(tag: u32, len: usize, out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        put_length(tag, bytes.len(), out);
        out.extend_from_slice(bytes);
    }
}

fn put_varint(tag: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}
