//! A message is one body, sealed under a key of its own, and one slice per device that carries the key (§4, §9.27 to §9.30).

use crate::aead;
use crate::bytes::FormatError;
use crate::content::{CONTENT_HEAD_LEN, Content, ContentHead, content_hash};
use crate::id::{ClientMsgId, ConversationId, DeviceId};
use crate::padding::{BadPadding, MAX_BUCKET, TooLong, bucket, pad, unpadded_len};
use crate::ratchet::header::PLAINTEXT_LEN;
use crate::secret::{Secret, constant_time_eq, opaque_debug};
use thiserror::Error;
use zeroize::Zeroizing;

/// The content key is used once, so its nonce is zero.
const BODY_NONCE: [u8; 12] = [0; 12];

/// Why a body was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BodyError {
    /// The body does not authenticate under the content key, or belongs to another envelope.
    #[error("the body does not authenticate")]
    NotAuthentic,
    /// The padding is not the smallest that fits.
    #[error("the body is badly padded")]
    Padding,
    /// The slice promises another content than the body holds: the sender said different things to different devices.
    #[error("the body is not the one the slice promises")]
    OtherContent,
    /// The content names another conversation or message than its envelope.
    #[error("the content does not fit its envelope")]
    OtherEnvelope,
    /// The content is malformed.
    #[error("the content is malformed: {0}")]
    Malformed(#[from] FormatError),
}

/// Where a body belongs: the associated data of its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyAddress {
    /// The conversation.
    pub conversation: ConversationId,
    /// The sending device.
    pub device: DeviceId,
    /// The sender's name for the message.
    pub client_msg_id: ClientMsgId,
}

impl BodyAddress {
    /// conversation ‖ sender device ‖ client_msg_id.
    pub(crate) fn to_bytes(self) -> [u8; 48] {
        let mut out = [0; 48];
        out[..16].copy_from_slice(self.conversation.as_bytes());
        out[16..32].copy_from_slice(self.device.as_bytes());
        out[32..].copy_from_slice(self.client_msg_id.as_bytes());
        out
    }
}

/// What a slice tells a device about the body.
#[derive(Clone, PartialEq, Eq)]
pub struct SlicePlaintext {
    /// The key the body is sealed under.
    pub content_key: Secret<32>,
    /// The hash of the content.
    pub c_k: [u8; 32],
    /// The first k of the sender's incarnation that was addressed to this device.
    pub since: u64,
    /// Hash of the recipient account's device list that the sender used.
    pub list_hash: [u8; 32],
}

opaque_debug!(SlicePlaintext);

impl SlicePlaintext {
    pub(crate) fn to_bytes(&self) -> Zeroizing<[u8; PLAINTEXT_LEN]> {
        let mut out = Zeroizing::new([0; PLAINTEXT_LEN]);
        out[..32].copy_from_slice(self.content_key.expose());
        out[32..64].copy_from_slice(&self.c_k);
        out[64..72].copy_from_slice(&self.since.to_be_bytes());
        out[72..].copy_from_slice(&self.list_hash);
        out
    }

    pub(crate) fn from_bytes(bytes: &[u8; PLAINTEXT_LEN]) -> Result<Self, FormatError> {
        let mut reader = crate::bytes::Reader::new(bytes);
        let content_key = Secret::from_bytes(reader.array()?);
        Ok(Self { content_key, c_k: reader.array()?, since: reader.u64()?, list_hash: reader.array()? })
    }
}

/// Hashes, pads and seals a content; gives the body and c_k.
///
/// # Errors
/// [`TooLong`] if the content does not fit the largest bucket.
pub(crate) fn seal_body(key: &Secret<32>, address: BodyAddress, head: &ContentHead, body: &[u8]) -> Result<(Vec<u8>, [u8; 32]), TooLong> {
    let bucket = bucket(CONTENT_HEAD_LEN + body.len())?;
    // The plaintext is written once, into the buffer that becomes the ciphertext.
    let mut out = Vec::with_capacity(bucket + aead::TAG_LEN);
    head.write(&mut out);
    out.extend_from_slice(body);
    let c_k = content_hash(&out);
    pad(&mut out)?;
    aead::seal(key, &BODY_NONCE, &address.to_bytes(), &mut out, 0);
    Ok((out, c_k))
}

/// Opens a body and checks that it is what slice and envelope say.
///
/// # Errors
/// [`BodyError`] naming what is wrong.
pub(crate) fn open_body(slice: &SlicePlaintext, address: BodyAddress, body: &[u8]) -> Result<Content, BodyError> {
    if body.len() > MAX_BUCKET + aead::TAG_LEN {
        return Err(BodyError::Padding);
    }
    let mut buffer = Zeroizing::new(body.to_vec());
    let len = aead::open(&slice.content_key, &BODY_NONCE, &address.to_bytes(), &mut buffer).map_err(|_| BodyError::NotAuthentic)?;
    let bytes = &buffer[..unpadded_len(&buffer[..len]).map_err(|BadPadding| BodyError::Padding)?];
    if !constant_time_eq(&content_hash(bytes), &slice.c_k) {
        return Err(BodyError::OtherContent);
    }
    let content = Content::from_bytes(bytes)?;
    if content.head.conversation != address.conversation || content.head.client_msg_id != address.client_msg_id {
        return Err(BodyError::OtherEnvelope);
    }
    Ok(content)
}
