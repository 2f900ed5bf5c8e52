//! The memory of accepted first messages (§2): without one-time keys nothing else tells a replay from the original.
//!
//! An entry stays until the signed prekey it was made with is erased, because until then a replay would decrypt. When the
//! memory for a peer is full, new sessions of that peer are refused; nothing is forgotten to make room.

use crate::bytes::{StateError, StateKind, StateWriter, read_state};
use crate::handshake::HandshakeError;
use crate::prekey::PrekeyId;
use zeroize::Zeroizing;

/// Most first messages remembered for a peer device.
pub const MAX_REMEMBERED: usize = 4_096;
const ENTRY_LEN: usize = 32 + 4;

/// The transcript hashes accepted from one peer device, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayMemory {
    entries: Vec<([u8; 32], u32)>,
}

impl ReplayMemory {
    /// A memory of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// How many first messages are remembered.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn check(&self, th: &[u8; 32]) -> Result<(), HandshakeError> {
        if self.entries.iter().any(|(known, _)| known == th) {
            return Err(HandshakeError::Replayed);
        }
        if self.entries.len() >= MAX_REMEMBERED { Err(HandshakeError::ReplayMemoryFull) } else { Ok(()) }
    }

    /// The memory with one more entry; [`Self::check`] has passed.
    pub(crate) fn with(&self, th: [u8; 32], signed_prekey: PrekeyId) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len() + 1);
        entries.extend_from_slice(&self.entries);
        entries.push((th, signed_prekey.get()));
        Self { entries }
    }

    /// Forgets what can no longer be replayed because every signed prekey below `lowest_kept` was erased.
    pub fn forget_below(&mut self, lowest_kept: PrekeyId) {
        self.entries.retain(|(_, id)| *id >= lowest_kept.get());
    }

    /// The state to store.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = StateWriter::new(StateKind::Replay, 2 + self.entries.len() * ENTRY_LEN);
        writer.put_count(self.entries.len());
        for (th, id) in &self.entries {
            writer.put(th).put_u32(*id);
        }
        writer.finish()
    }

    /// Reads a stored memory back.
    ///
    /// # Errors
    /// [`StateError`] if the bytes are not exactly what [`Self::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = read_state(StateKind::Replay, bytes)?;
        let count = reader.count(MAX_REMEMBERED, ENTRY_LEN, "remembered handshakes")?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push((reader.array()?, reader.u32()?));
        }
        reader.finish()?;
        Ok(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn th(i: usize) -> [u8; 32] {
        crate::hash::sha256(&[&i.to_be_bytes()])
    }

    #[test]
    fn a01_a_full_memory_refuses_and_never_forgets() {
        let id = PrekeyId::FIRST;
        let mut memory = ReplayMemory { entries: (0..MAX_REMEMBERED - 1).map(|i| (th(i), 1)).collect() };
        assert_eq!(memory.check(&th(9_999)), Ok(()));
        memory = memory.with(th(9_999), id);
        assert_eq!(memory.check(&th(0)), Err(HandshakeError::Replayed));
        assert_eq!(memory.check(&th(10_000)), Err(HandshakeError::ReplayMemoryFull));
        assert_eq!(ReplayMemory::from_bytes(&memory.to_bytes()).unwrap(), memory);
        memory.forget_below(id);
        assert_eq!(memory.len(), MAX_REMEMBERED);
        memory.forget_below(id.next().unwrap());
        assert!(memory.is_empty());
    }
}
