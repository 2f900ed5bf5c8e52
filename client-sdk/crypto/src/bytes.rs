//! Fixed-width binary: the reader and writer under every codec of this crate, and the frame around what a store keeps.
//!
//! Every length is checked before anything is allocated. Nothing here panics on any input.

use crate::hash::sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// Why bytes could not be read as the fixed-width value they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FormatError {
    /// The input ended before the value did.
    #[error("input is truncated")]
    Truncated,
    /// The input goes on after the value.
    #[error("input has trailing bytes")]
    Trailing,
    /// A field holds a value outside its range; the text names the field.
    #[error("field {0} is out of range")]
    OutOfRange(&'static str),
}

/// Why a stored state could not be read back. It is always an error, never a fresh start (§5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateError {
    /// The bytes are those of another kind of state.
    #[error("stored state is of another kind")]
    WrongKind,
    /// The bytes were written by a version this build does not know.
    #[error("stored state has the unknown version {0}")]
    UnknownVersion(u8),
    /// The bytes were changed since they were written.
    #[error("stored state is damaged")]
    Damaged,
    /// Two stored halves of one state were not written together.
    #[error("stored halves do not belong together")]
    Mismatched,
    /// The bytes are intact but make no valid state.
    #[error("stored state is malformed: {0}")]
    Malformed(#[from] FormatError),
}

/// Reads fixed-width big-endian fields from the front of a slice.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn slice(&mut self, len: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(FormatError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A byte that is 0 or 1 and nothing else.
    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, FormatError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(FormatError::OutOfRange(field)),
        }
    }

    /// A count that the rest of the input really holds, `width` bytes each, so that it may be allocated.
    pub(crate) fn count(&mut self, max: usize, width: usize, field: &'static str) -> Result<usize, FormatError> {
        let count = usize::from(self.u16()?);
        if count > max {
            return Err(FormatError::OutOfRange(field));
        }
        if count.saturating_mul(width) > self.0.len() {
            return Err(FormatError::Truncated);
        }
        Ok(count)
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn finish(self) -> Result<(), FormatError> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::Trailing) }
    }
}

/// Which state a stored value is; a value read as another kind is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StateKind {
    Sessions = 1,
    Skipped = 2,
    Replay = 3,
    SenderChain = 4,
    ReceiverChain = 5,
    LogHash = 6,
    PrekeySecret = 7,
    Account = 8,
    Device = 9,
    TrustedList = 10,
}

const STATE_VERSION: u8 = 1;
const CHECK_LEN: usize = 8;
const STATE_OVERHEAD: usize = 2 + CHECK_LEN;

/// Builds `kind ‖ version ‖ payload ‖ check`, wiped on drop unless it is taken out.
pub(crate) struct StateWriter(Zeroizing<Vec<u8>>);

impl StateWriter {
    /// `payload` must be the exact payload length: a buffer that grew would leave secrets behind in the old one.
    pub(crate) fn new(kind: StateKind, payload: usize) -> Self {
        let mut bytes = Zeroizing::new(Vec::with_capacity(payload + STATE_OVERHEAD));
        bytes.extend_from_slice(&[kind as u8, STATE_VERSION]);
        Self(bytes)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        debug_assert!(self.0.len() + bytes.len() + CHECK_LEN <= self.0.capacity(), "payload length was too small");
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn put_u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    pub(crate) fn put_bool(&mut self, value: bool) -> &mut Self {
        self.put_u8(u8::from(value))
    }

    pub(crate) fn put_u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    pub(crate) fn put_u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    /// Every collection stored by this crate is capped far below 65,536.
    pub(crate) fn put_count(&mut self, value: usize) -> &mut Self {
        self.put(&u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes())
    }

    pub(crate) fn finish(mut self) -> Zeroizing<Vec<u8>> {
        let check = state_check(&self.0);
        self.0.extend_from_slice(&check);
        self.0
    }
}

/// Checks kind, version and damage, and gives a reader over the payload.
pub(crate) fn read_state(kind: StateKind, bytes: &[u8]) -> Result<Reader<'_>, StateError> {
    let (framed, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(FormatError::Truncated)?;
    let mut reader = Reader::new(framed);
    let (stored_kind, version) = (reader.u8()?, reader.u8()?);
    if state_check(framed) != *check {
        return Err(StateError::Damaged);
    }
    if stored_kind != kind as u8 {
        return Err(StateError::WrongKind);
    }
    if version != STATE_VERSION {
        return Err(StateError::UnknownVersion(version));
    }
    Ok(reader)
}

/// Catches damage by accident only: against tampering the store seals what it keeps ([`crate::seal`]).
fn state_check(framed: &[u8]) -> [u8; CHECK_LEN] {
    let digest = sha256(&[b"kith/v1/state", framed]);
    let mut check = [0; CHECK_LEN];
    check.copy_from_slice(&digest[..CHECK_LEN]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_are_checked_against_what_is_there() {
        let mut reader = Reader::new(&[0xff, 0xff, 1, 2, 3]);
        assert_eq!(reader.count(100, 1, "n"), Err(FormatError::OutOfRange("n")));
        let mut reader = Reader::new(&[0, 4, 1, 2, 3]);
        assert_eq!(reader.count(100, 1, "n"), Err(FormatError::Truncated));
    }

    proptest! {
        #[test]
        fn any_changed_byte_of_a_state_is_noticed(payload: Vec<u8>, at: usize, flip in 1u8..) {
            let mut writer = StateWriter::new(StateKind::LogHash, payload.len());
            writer.put(&payload);
            let mut bytes = writer.finish().to_vec();
            prop_assert_eq!(read_state(StateKind::LogHash, &bytes)?.rest(), payload.as_slice());
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(read_state(StateKind::LogHash, &bytes).is_err());
        }
    }
}
