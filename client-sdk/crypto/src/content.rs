//! The content of a message: the same bytes for every device (§4, §9.29).

use crate::bytes::{FormatError, Reader};
use crate::hash::sha256;
use crate::id::{ClientMsgId, ConversationId, Incarnation};
use crate::log_hash::LogView;
use zeroize::Zeroizing;

/// Length of the fixed-width head in bytes.
pub const CONTENT_HEAD_LEN: usize = 185;
/// The longest body that fits a message, in bytes.
pub const MAX_BODY_LEN: usize = crate::padding::MAX_CONTENT_LEN - CONTENT_HEAD_LEN;
/// The kind of a checkpoint; all others are the application's, and unknown ones are kept and shown as such.
pub const KIND_CHECKPOINT: u8 = 255;

/// What a message says about itself, before its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHead {
    /// The conversation; checked against the envelope.
    pub conversation: ConversationId,
    /// The life of the sender's store.
    pub incarnation: Incarnation,
    /// The sender device's counter in this conversation, from 1 per incarnation.
    pub k: u64,
    /// The sender's chain before this message, `h_{k-1}`.
    pub prev: [u8; 32],
    /// The sender's name for the message; checked against the envelope.
    pub client_msg_id: ClientMsgId,
    /// Random, so that equal bodies have different hashes.
    pub salt: [u8; 16],
    /// The last log entry the sender had seen.
    pub view: LogView,
    /// Version of the sender's own device list.
    pub list_version: u64,
    /// Hash of the sender's own device list.
    pub list_hash: [u8; 32],
    /// What the body is.
    pub kind: u8,
}

impl ContentHead {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.conversation.as_bytes());
        out.extend_from_slice(self.incarnation.as_bytes());
        out.extend_from_slice(&self.k.to_be_bytes());
        out.extend_from_slice(&self.prev);
        out.extend_from_slice(self.client_msg_id.as_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.view.seq.to_be_bytes());
        out.extend_from_slice(&self.view.hash);
        out.extend_from_slice(&self.list_version.to_be_bytes());
        out.extend_from_slice(&self.list_hash);
        out.push(self.kind);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            conversation: ConversationId::from_bytes(reader.array()?),
            incarnation: Incarnation::from_bytes(reader.array()?),
            k: reader.u64()?,
            prev: reader.array()?,
            client_msg_id: ClientMsgId::from_bytes(reader.array()?),
            salt: reader.array()?,
            view: LogView { seq: reader.u64()?, hash: reader.array()? },
            list_version: reader.u64()?,
            list_hash: reader.array()?,
            kind: reader.u8()?,
        })
    }
}

/// A decrypted message: its head, and the body as received (never re-encode it before hashing).
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// The fixed-width head.
    pub head: ContentHead,
    /// The bytes behind it.
    pub body: Zeroizing<Vec<u8>>,
}

impl core::fmt::Debug for Content {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Content").field("k", &self.head.k).field("kind", &self.head.kind).finish_non_exhaustive()
    }
}

impl Content {
    /// head ‖ body.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(CONTENT_HEAD_LEN + self.body.len()));
        self.head.write(&mut out);
        out.extend_from_slice(&self.body);
        out
    }

    /// Reads head ‖ body.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] if there are less than 185 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let head = ContentHead::read(&mut reader)?;
        Ok(Self { head, body: Zeroizing::new(reader.rest().to_vec()) })
    }
}

/// `c_k = SHA-256("kith/v1/content" ‖ head ‖ body)`.
#[must_use]
pub fn content_hash(content: &[u8]) -> [u8; 32] {
    sha256(&[b"kith/v1/content", content])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a49_content_reads_back_or_is_too_short(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            match Content::from_bytes(&bytes) {
                Ok(content) => prop_assert_eq!(content.to_bytes().to_vec(), bytes),
                Err(error) => {
                    prop_assert!(bytes.len() < CONTENT_HEAD_LEN);
                    prop_assert_eq!(error, FormatError::Truncated);
                }
            }
        }
    }

    #[test]
    fn a40_debug_shows_no_plaintext() {
        let mut content = Content::from_bytes(&[0x41; 300]).unwrap();
        content.body = Zeroizing::new(b"canary".to_vec());
        let shown = format!("{content:?}");
        assert!(!shown.contains("canary") && !shown.contains("99, 97, 110"), "{shown}");
    }
}
