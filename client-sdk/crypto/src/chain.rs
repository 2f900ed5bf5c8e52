//! Each sender's hash chain per conversation (§4, §9.31): gaps, replays and forks show, whoever caused them.
//!
//! It cannot detect a withheld tail before the next checkpoint, nor tell a purge from a drop, and it convinces no third
//! party.

use crate::bytes::{StateError, StateKind, StateWriter, read_state};
use crate::checkpoint::ChainHead;
use crate::content::{ContentHead, KIND_CHECKPOINT};
use crate::hash::sha256;
use crate::id::{AccountId, ConversationId, DeviceId, Incarnation};
use crate::secret::constant_time_eq;
use thiserror::Error;
use zeroize::Zeroizing;

/// Whose chain it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainOwner {
    /// The conversation.
    pub conversation: ConversationId,
    /// The sender's account.
    pub account: AccountId,
    /// The sender's device.
    pub device: DeviceId,
    /// The life of its store.
    pub incarnation: Incarnation,
}

impl ChainOwner {
    /// `h_0 = SHA-256("kith/v1/chain0" ‖ conversation ‖ account_id ‖ device_id ‖ incarnation)`.
    #[must_use]
    pub fn start(&self) -> [u8; 32] {
        let parts: [&[u8]; 5] =
            [b"kith/v1/chain0", self.conversation.as_bytes(), self.account.as_bytes(), self.device.as_bytes(), self.incarnation.as_bytes()];
        sha256(&parts)
    }

    fn write(&self, writer: &mut StateWriter) {
        writer.put(self.conversation.as_bytes()).put(self.account.as_bytes());
        writer.put(self.device.as_bytes()).put(self.incarnation.as_bytes());
    }

    fn read(reader: &mut crate::bytes::Reader<'_>) -> Result<Self, StateError> {
        Ok(Self {
            conversation: ConversationId::from_bytes(reader.array()?),
            account: AccountId::from_bytes(reader.array()?),
            device: DeviceId::from_bytes(reader.array()?),
            incarnation: Incarnation::from_bytes(reader.array()?),
        })
    }
}

/// `h_k = SHA-256("kith/v1/chain" ‖ h_{k-1} ‖ c_k)`.
#[must_use]
pub fn chain_hash(prev: &[u8; 32], c_k: &[u8; 32]) -> [u8; 32] {
    sha256(&[b"kith/v1/chain", prev, c_k])
}

/// The sender has used up its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the message counter is used up")]
pub struct CounterExhausted;

/// This device's own chain in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderChain {
    owner: ChainOwner,
    k: u64,
    h: [u8; 32],
}

impl SenderChain {
    /// The chain before its first message.
    #[must_use]
    pub fn new(owner: ChainOwner) -> Self {
        Self { owner, k: 0, h: owner.start() }
    }

    /// Whose chain it is.
    #[must_use]
    pub const fn owner(&self) -> &ChainOwner {
        &self.owner
    }

    /// The last k sent, 0 before the first.
    #[must_use]
    pub const fn k(&self) -> u64 {
        self.k
    }

    /// h of the last message sent.
    #[must_use]
    pub const fn h(&self) -> &[u8; 32] {
        &self.h
    }

    /// k and prev for the next content: a checkpoint repeats the last ones, everything else moves on (§9.34).
    pub(crate) fn place(&self, kind: u8) -> Result<(u64, [u8; 32]), CounterExhausted> {
        let k = if kind == KIND_CHECKPOINT { Some(self.k) } else { self.k.checked_add(1) };
        k.map(|k| (k, self.h)).ok_or(CounterExhausted)
    }

    /// The chain after a content was composed at [`Self::place`].
    pub(crate) fn moved(&self, kind: u8, c_k: &[u8; 32]) -> Self {
        if kind == KIND_CHECKPOINT {
            return self.clone();
        }
        Self { owner: self.owner, k: self.k + 1, h: chain_hash(&self.h, c_k) }
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = StateWriter::new(StateKind::SenderChain, 64 + 40);
        self.owner.write(&mut writer);
        writer.put_u64(self.k).put(&self.h);
        writer.finish()
    }

    /// Reads a stored chain back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::SenderChain, bytes)?;
        let chain = Self { owner: ChainOwner::read(&mut reader)?, k: reader.u64()?, h: reader.array()? };
        reader.finish()?;
        Ok(chain)
    }
}

/// What a message means for its sender's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It continues the chain.
    InOrder,
    /// The first message this device was addressed with, in the middle of the chain: continued from here, unverified.
    Anchored,
    /// Messages `from..=to` that were addressed to this device never came; the chain is re-anchored, unverified.
    Gap {
        /// The first missing k.
        from: u64,
        /// The last missing k.
        to: u64,
    },
    /// The same message as before.
    Replay,
    /// An earlier k: ask [`judge_earlier`] with what the store holds for it.
    Earlier,
    /// The sender said two different things at the same place: its store was rolled back, or it lies.
    Fork,
    /// A checkpoint that agrees with what has come.
    CheckpointAgrees,
    /// A checkpoint from before messages that have come already.
    CheckpointEarlier,
}

/// Judges a message of an earlier k by the c_k that the store holds for (owner, k): the same is a replay, another is a
/// fork, none means that a missing message came late.
#[must_use]
pub fn judge_earlier(stored: Option<&[u8; 32]>, c_k: &[u8; 32], k: u64) -> Verdict {
    match stored {
        Some(known) if constant_time_eq(known, c_k) => Verdict::Replay,
        Some(_) => Verdict::Fork,
        None => Verdict::Gap { from: k, to: k },
    }
}

/// A peer device's chain as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverChain {
    owner: ChainOwner,
    k: u64,
    h: [u8; 32],
    /// The first k from which the chain is verified without a break.
    verified_from: u64,
}

impl ReceiverChain {
    /// Judges a message against the chain known so far (`None` if nothing of it came yet), and gives the chain after it:
    /// `None` if it stays as it is. `since` is what the slice says.
    #[must_use]
    pub fn judge(known: Option<&Self>, owner: ChainOwner, head: &ContentHead, c_k: &[u8; 32], since: u64) -> (Verdict, Option<Self>) {
        if head.kind == KIND_CHECKPOINT {
            return Self::judge_checkpoint(known, owner, head, since);
        }
        let Some(known) = known else {
            return Self::begin(owner, head, c_k, since);
        };
        let h = chain_hash(&head.prev, c_k);
        if head.k < known.k {
            return (Verdict::Earlier, None);
        }
        if head.k == known.k {
            let same = constant_time_eq(&h, &known.h);
            return (if same { Verdict::Replay } else { Verdict::Fork }, None);
        }
        let expected = known.k + 1;
        if head.k == expected {
            if !constant_time_eq(&head.prev, &known.h) {
                return (Verdict::Fork, None);
            }
            return (Verdict::InOrder, Some(Self { owner, k: head.k, h, verified_from: known.verified_from }));
        }
        let next = Self { owner, k: head.k, h, verified_from: head.k };
        (missing(expected.max(since), head.k), Some(next))
    }

    /// The first message of a chain.
    fn begin(owner: ChainOwner, head: &ContentHead, c_k: &[u8; 32], since: u64) -> (Verdict, Option<Self>) {
        let from_start = head.k == 1;
        if head.k == 0 || (from_start && !constant_time_eq(&head.prev, &owner.start())) {
            return (Verdict::Fork, None);
        }
        let next = Self { owner, k: head.k, h: chain_hash(&head.prev, c_k), verified_from: head.k };
        let verdict = if from_start { Verdict::InOrder } else { missing(since.max(1), head.k) };
        (verdict, Some(next))
    }

    /// A checkpoint repeats the sender's last k and h: a larger k shows a withheld tail.
    fn judge_checkpoint(known: Option<&Self>, owner: ChainOwner, head: &ContentHead, since: u64) -> (Verdict, Option<Self>) {
        let (k, h) = known.map_or_else(|| (0, owner.start()), |chain| (chain.k, chain.h));
        if head.k < k {
            return (Verdict::CheckpointEarlier, None);
        }
        if head.k == k {
            let same = constant_time_eq(&head.prev, &h);
            return (if same { Verdict::CheckpointAgrees } else { Verdict::Fork }, None);
        }
        let next = Self { owner, k: head.k, h: head.prev, verified_from: head.k + 1 };
        let verdict = match missing((k + 1).max(since), head.k + 1) {
            // `since` is above everything sent so far: nothing was addressed to this device yet.
            Verdict::Anchored => Verdict::CheckpointAgrees,
            other => other,
        };
        (verdict, Some(next))
    }

    /// Whose chain it is.
    #[must_use]
    pub const fn owner(&self) -> &ChainOwner {
        &self.owner
    }

    /// The highest k that came.
    #[must_use]
    pub const fn k(&self) -> u64 {
        self.k
    }

    /// The first k from which the chain is verified without a break.
    #[must_use]
    pub const fn verified_from(&self) -> u64 {
        self.verified_from
    }

    /// The chain's end, for a checkpoint.
    #[must_use]
    pub const fn head(&self) -> ChainHead {
        let ChainOwner { account, device, incarnation, .. } = self.owner;
        ChainHead { account, device, incarnation, k: self.k, h: self.h }
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = StateWriter::new(StateKind::ReceiverChain, 64 + 48);
        self.owner.write(&mut writer);
        writer.put_u64(self.k).put(&self.h).put_u64(self.verified_from);
        writer.finish()
    }

    /// Reads a stored chain back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::ReceiverChain, bytes)?;
        let owner = ChainOwner::read(&mut reader)?;
        let chain = Self { owner, k: reader.u64()?, h: reader.array()?, verified_from: reader.u64()? };
        reader.finish()?;
        Ok(chain)
    }
}

/// The verdict on a message at `k` when everything addressed from `from` on should have come before.
const fn missing(from: u64, k: u64) -> Verdict {
    if from < k { Verdict::Gap { from, to: k - 1 } } else { Verdict::Anchored }
}

#[cfg(test)]
mod tests;
