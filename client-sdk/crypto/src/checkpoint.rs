//! The body of a checkpoint: what the sender has really received (§3, §9.34).

use crate::bytes::{FormatError, Reader};
use crate::content::MAX_BODY_LEN;
use crate::id::{AccountId, DeviceId, Incarnation};
use crate::log_hash::LogView;

const HEAD_LEN: usize = 16 * 3 + 8 + 32;
/// Most heads that fit a checkpoint.
pub const MAX_HEADS: usize = (MAX_BODY_LEN - 42) / HEAD_LEN;
/// A checkpoint is due after this many messages received without having sent.
pub const CHECKPOINT_AFTER_MESSAGES: u32 = 50;
/// Or after this long since the first of them, in milliseconds: 24 hours.
pub const CHECKPOINT_AFTER_MS: u64 = 24 * 60 * 60 * 1000;

/// The end of one sender's chain as the checkpoint's sender knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainHead {
    /// The sender's account.
    pub account: AccountId,
    /// The sender's device.
    pub device: DeviceId,
    /// The life of its store.
    pub incarnation: Incarnation,
    /// Its last k received.
    pub k: u64,
    /// h of that message.
    pub h: [u8; 32],
}

impl ChainHead {
    fn key(&self) -> (AccountId, DeviceId, Incarnation) {
        (self.account, self.device, self.incarnation)
    }
}

/// What the sender of a checkpoint has received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    view: LogView,
    heads: Vec<ChainHead>,
}

impl Checkpoint {
    /// Puts a checkpoint together; the heads are sorted here.
    ///
    /// # Errors
    /// [`FormatError::OutOfRange`] if a chain is named twice or there are too many.
    pub fn new(view: LogView, mut heads: Vec<ChainHead>) -> Result<Self, FormatError> {
        heads.sort_by_key(ChainHead::key);
        if heads.len() > MAX_HEADS || !heads.is_sorted_by(|a, b| a.key() < b.key()) {
            return Err(FormatError::OutOfRange("checkpoint heads"));
        }
        Ok(Self { view, heads })
    }

    /// How far the sender has seen the log.
    #[must_use]
    pub const fn view(&self) -> &LogView {
        &self.view
    }

    /// The chains it knows, ascending.
    #[must_use]
    pub fn heads(&self) -> &[ChainHead] {
        &self.heads
    }

    /// seq ‖ L ‖ count u16 ‖ {account, device, incarnation, k, h} ascending.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(42 + self.heads.len() * HEAD_LEN);
        out.extend_from_slice(&self.view.seq.to_be_bytes());
        out.extend_from_slice(&self.view.hash);
        out.extend_from_slice(&u16::try_from(self.heads.len()).unwrap_or(u16::MAX).to_be_bytes());
        for head in &self.heads {
            out.extend_from_slice(head.account.as_bytes());
            out.extend_from_slice(head.device.as_bytes());
            out.extend_from_slice(head.incarnation.as_bytes());
            out.extend_from_slice(&head.k.to_be_bytes());
            out.extend_from_slice(&head.h);
        }
        out
    }

    /// Reads the body of content of kind 255.
    ///
    /// # Errors
    /// [`FormatError`] if lengths or the count are wrong or the heads do not ascend strictly.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let view = LogView { seq: reader.u64()?, hash: reader.array()? };
        let count = reader.count(MAX_HEADS, HEAD_LEN, "checkpoint heads")?;
        let mut heads = Vec::with_capacity(count);
        for _ in 0..count {
            heads.push(ChainHead {
                account: AccountId::from_bytes(reader.array()?),
                device: DeviceId::from_bytes(reader.array()?),
                incarnation: Incarnation::from_bytes(reader.array()?),
                k: reader.u64()?,
                h: reader.array()?,
            });
        }
        reader.finish()?;
        if !heads.is_sorted_by(|a: &ChainHead, b| a.key() < b.key()) {
            return Err(FormatError::OutOfRange("checkpoint heads"));
        }
        Ok(Self { view, heads })
    }
}

/// Whether a checkpoint is due in a conversation that the user has accepted: after a session's first message, then after
/// 50 messages or 24 hours received without having sent. `jitter_ms` is added to the time so that answers do not betray
/// when a message was decrypted.
#[must_use]
pub const fn checkpoint_due(unanswered: u32, oldest_unanswered_ms: u64, first_of_session: bool, jitter_ms: u64, now_ms: u64) -> bool {
    if unanswered == 0 {
        return false;
    }
    let waited = now_ms.saturating_sub(oldest_unanswered_ms);
    if first_of_session || unanswered >= CHECKPOINT_AFTER_MESSAGES {
        waited >= jitter_ms
    } else {
        waited >= CHECKPOINT_AFTER_MS.saturating_add(jitter_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(account: u8, k: u64) -> ChainHead {
        ChainHead {
            account: AccountId::from_bytes([account; 16]),
            device: DeviceId::from_bytes([2; 16]),
            incarnation: Incarnation::from_bytes([3; 16]),
            k,
            h: [4; 32],
        }
    }

    #[test]
    fn heads_ascend_strictly() {
        let view = LogView { seq: 7, hash: [1; 32] };
        let checkpoint = Checkpoint::new(view, vec![head(2, 1), head(1, 9)]).unwrap();
        let bytes = checkpoint.to_bytes();
        assert_eq!(Checkpoint::from_bytes(&bytes).unwrap(), checkpoint);
        assert_eq!(checkpoint.heads()[0], head(1, 9));
        assert!(Checkpoint::new(view, vec![head(1, 1), head(1, 2)]).is_err());
        let mut swapped = bytes;
        swapped[42] = 3;
        assert!(Checkpoint::from_bytes(&swapped).is_err());
    }

    #[test]
    fn a_checkpoint_is_due_by_count_or_time() {
        assert!(!checkpoint_due(0, 0, true, 0, u64::MAX));
        assert!(checkpoint_due(1, 1_000, true, 500, 1_500));
        assert!(!checkpoint_due(49, 1_000, false, 500, 5_000));
        assert!(checkpoint_due(50, 1_000, false, 500, 5_000));
        assert!(checkpoint_due(1, 0, false, 500, CHECKPOINT_AFTER_MS + 500));
    }

    proptest! {
        #[test]
        fn a49_checkpoint_parser_takes_anything(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(checkpoint) = Checkpoint::from_bytes(&bytes) {
                prop_assert_eq!(checkpoint.to_bytes(), bytes);
            }
        }
    }
}
