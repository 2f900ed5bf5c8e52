//! L_n: the hash over a conversation's log as this device saw it (§4, §9.32). It catches reordering between senders.

use crate::bytes::{StateError, StateKind, StateWriter, read_state};
use crate::hash::sha256;
use crate::id::{ClientMsgId, ConversationId, DeviceId};
use thiserror::Error;
use zeroize::Zeroizing;

/// The log is dense: an entry came that is not the next one. Read the missing ones, or re-anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("log entry {offered} does not follow {last}")]
pub struct LogHole {
    /// The last entry seen.
    pub last: u64,
    /// The entry offered.
    pub offered: u64,
}

/// How far a log was seen, and the hash over it. It is what a message's `view` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogView {
    /// The last entry seen; 0 before the first.
    pub seq: u64,
    /// L of that entry.
    pub hash: [u8; 32],
}

impl LogView {
    /// The view of an empty log: `L_0 = SHA-256("kith/v1/log0" ‖ conversation)`.
    #[must_use]
    pub fn empty(conversation: ConversationId) -> Self {
        Self { seq: 0, hash: sha256(&[b"kith/v1/log0", conversation.as_bytes()]) }
    }

    /// The view after the next entry: `L_n = SHA-256("kith/v1/log" ‖ L_{n-1} ‖ seq ‖ device ‖ client_msg_id)`.
    ///
    /// # Errors
    /// [`LogHole`] if `seq` is not the next one.
    pub fn append(&self, seq: u64, device: DeviceId, client_msg_id: ClientMsgId) -> Result<Self, LogHole> {
        if self.seq.checked_add(1) != Some(seq) {
            return Err(LogHole { last: self.seq, offered: seq });
        }
        let parts: [&[u8]; 5] = [b"kith/v1/log", &self.hash, &seq.to_be_bytes(), device.as_bytes(), client_msg_id.as_bytes()];
        Ok(Self { seq, hash: sha256(&parts) })
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = StateWriter::new(StateKind::LogHash, 40);
        writer.put_u64(self.seq).put(&self.hash);
        writer.finish()
    }

    /// Reads a stored view back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::LogHash, bytes)?;
        let view = Self { seq: reader.u64()?, hash: reader.array()? };
        reader.finish()?;
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a28_two_orders_of_the_same_messages_differ() {
        let start = LogView::empty(ConversationId::from_bytes([1; 16]));
        let (alice, bob) = (DeviceId::from_bytes([2; 16]), DeviceId::from_bytes([3; 16]));
        let id = ClientMsgId::from_bytes([4; 16]);
        let one = start.append(1, alice, id).unwrap().append(2, bob, id).unwrap();
        let other = start.append(1, bob, id).unwrap().append(2, alice, id).unwrap();
        assert_ne!(one.hash, other.hash);
        assert_eq!(one.append(4, alice, id), Err(LogHole { last: 2, offered: 4 }));
        assert_eq!(one.append(2, alice, id), Err(LogHole { last: 2, offered: 2 }));
        assert_eq!(LogView::from_bytes(&one.to_bytes()).unwrap(), one);
    }
}
