//! The clear part of a slice and its exact lengths (§3, §9.15, §9.17, §9.27).

use crate::bytes::{FormatError, Reader};
use crate::kem::{CT_LEN, EK_LEN};
use crate::prekey::PrekeyId;
use crate::x25519::DhPublic;

/// Length of the header in bytes.
pub(crate) const HEADER_LEN: usize = 70;
/// What a first message adds to the header.
pub(crate) const FIRST_LEN: usize = 32 + 12 + CT_LEN;
/// Length of a slice's plaintext without a post-quantum field.
pub(crate) const PLAINTEXT_LEN: usize = 32 + 32 + 8 + 32;
/// Length of a slice's plaintext with a post-quantum field of either type.
pub(crate) const PQ_PLAINTEXT_LEN: usize = PLAINTEXT_LEN + PQ_FIELD_LEN;
pub(crate) const PQ_FIELD_LEN: usize = 1 + 4 + EK_LEN;
/// Length of the slice of a first message.
pub const FIRST_SLICE_LEN: usize = HEADER_LEN + FIRST_LEN + PLAINTEXT_LEN + 16;
/// Length of an ordinary slice.
pub const ORDINARY_SLICE_LEN: usize = HEADER_LEN + PLAINTEXT_LEN + 16;
/// Length of a slice with a post-quantum field.
pub const PQ_SLICE_LEN: usize = HEADER_LEN + PQ_PLAINTEXT_LEN + 16;

const _: () = assert!(FIRST_SLICE_LEN == 1322 && ORDINARY_SLICE_LEN == 190 && PQ_SLICE_LEN == 1379);

const HEADER_VERSION: u8 = 1;

/// The three types of slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SliceType {
    /// Carries everything a responder needs to begin the session; sent until the first reply.
    First = 1,
    /// An ordinary message.
    Ordinary = 2,
    /// An ordinary message with a post-quantum field inside.
    PostQuantum = 3,
}

impl SliceType {
    const fn from_u8(byte: u8) -> Result<Self, FormatError> {
        match byte {
            1 => Ok(Self::First),
            2 => Ok(Self::Ordinary),
            3 => Ok(Self::PostQuantum),
            _ => Err(FormatError::OutOfRange("slice type")),
        }
    }

    pub(crate) const fn len(self) -> usize {
        match self {
            Self::First => FIRST_SLICE_LEN,
            Self::Ordinary => ORDINARY_SLICE_LEN,
            Self::PostQuantum => PQ_SLICE_LEN,
        }
    }
}

/// The start of a session's transcript hash: how a slice names its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId([u8; 8]);

impl SessionId {
    pub(crate) fn of(th: &[u8; 32]) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&th[..8]);
        Self(id)
    }

    pub(crate) const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The 8 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

/// The 70 bytes at the front of every slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub slice_type: SliceType,
    /// The session.
    pub session_id: SessionId,
    /// The sender's ratchet key.
    pub dh: DhPublic,
    /// Length of the sender's previous sending chain.
    pub pn: u32,
    /// Place in the sending chain, from 0.
    pub n: u32,
    /// The post-quantum epoch mixed into this chain's root, or 0.
    pub mix_epoch: u32,
    /// Fresh randomness, so that a (key, nonce) pair is never used twice even after a rollback.
    pub r: [u8; 16],
}

impl Header {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[HEADER_VERSION, self.slice_type as u8]);
        out.extend_from_slice(self.session_id.as_bytes());
        out.extend_from_slice(self.dh.as_bytes());
        out.extend_from_slice(&self.pn.to_be_bytes());
        out.extend_from_slice(&self.n.to_be_bytes());
        out.extend_from_slice(&self.mix_epoch.to_be_bytes());
        out.extend_from_slice(&self.r);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        if reader.u8()? != HEADER_VERSION {
            return Err(FormatError::OutOfRange("header version"));
        }
        Ok(Self {
            slice_type: SliceType::from_u8(reader.u8()?)?,
            session_id: SessionId::from_bytes(reader.array()?),
            dh: DhPublic::from_bytes(reader.array()?),
            pn: reader.u32()?,
            n: reader.u32()?,
            mix_epoch: reader.u32()?,
            r: reader.array()?,
        })
    }
}

/// Which of the receiver's prekeys a first message was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrekeyIds {
    /// The signed prekey.
    pub signed: PrekeyId,
    /// The one-time X25519 prekey, if there was one.
    pub one_time: Option<PrekeyId>,
    /// The KEM prekey.
    pub kem: PrekeyId,
}

/// What a first message carries beyond the header: EK ‖ the three ids ‖ the KEM ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FirstContact {
    pub(crate) ek: DhPublic,
    pub(crate) ids: PrekeyIds,
    pub(crate) ct: [u8; CT_LEN],
}

impl FirstContact {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.ek.as_bytes());
        out.extend_from_slice(&self.ids.signed.get().to_be_bytes());
        out.extend_from_slice(&self.ids.one_time.map_or(0, PrekeyId::get).to_be_bytes());
        out.extend_from_slice(&self.ids.kem.get().to_be_bytes());
        out.extend_from_slice(&self.ct);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let ek = DhPublic::from_bytes(reader.array()?);
        let (signed, one_time, kem) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let present = |id| PrekeyId::from_wire(id).ok_or(FormatError::OutOfRange("prekey id"));
        let ids = PrekeyIds { signed: present(signed)?, one_time: PrekeyId::from_wire(one_time), kem: present(kem)? };
        Ok(Self { ek, ids, ct: reader.array()? })
    }
}

/// A slice whose clear part was read; nothing in it is authentic yet.
#[derive(Clone)]
pub struct Slice<'a> {
    pub(crate) header: Header,
    pub(crate) first: Option<Box<FirstContact>>,
    pub(crate) clear: &'a [u8],
    pub(crate) sealed: &'a [u8],
}

impl core::fmt::Debug for Slice<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Slice").field("type", &self.header.slice_type).field("n", &self.header.n).finish_non_exhaustive()
    }
}

impl<'a> Slice<'a> {
    /// Reads the clear part of a slice.
    ///
    /// # Errors
    /// [`FormatError`] if version, type or length are not exactly those of a slice.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let header = Header::read(&mut reader)?;
        match bytes.len().cmp(&header.slice_type.len()) {
            core::cmp::Ordering::Less => return Err(FormatError::Truncated),
            core::cmp::Ordering::Greater => return Err(FormatError::Trailing),
            core::cmp::Ordering::Equal => {}
        }
        let first = match header.slice_type {
            SliceType::First => Some(Box::new(FirstContact::read(&mut reader)?)),
            SliceType::Ordinary | SliceType::PostQuantum => None,
        };
        let sealed = reader.rest();
        Ok(Self { header, first, clear: &bytes[..bytes.len() - sealed.len()], sealed })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Which of the receiver's prekeys it was made with, if it is a first message.
    #[must_use]
    pub fn prekey_ids(&self) -> Option<PrekeyIds> {
        self.first.as_ref().map(|first| first.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a49_slice_parser_takes_anything(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let _ = Slice::parse(&bytes);
        }

        #[test]
        fn a10_slices_have_exact_lengths(kind in 1u8..=3, len in 0usize..1500) {
            let mut bytes = vec![1; len];
            if let Some(byte) = bytes.get_mut(1) {
                *byte = kind;
            }
            let exact = [FIRST_SLICE_LEN, ORDINARY_SLICE_LEN, PQ_SLICE_LEN][usize::from(kind) - 1];
            prop_assert_eq!(Slice::parse(&bytes).is_ok(), len == exact);
            bytes.resize(exact, 1);
            bytes[1] = kind;
            bytes[0] = 1;
            let slice = Slice::parse(&bytes).unwrap();
            let mut written = Vec::new();
            slice.header.write(&mut written);
            if let Some(first) = &slice.first {
                first.write(&mut written);
            }
            prop_assert_eq!(written.as_slice(), slice.clear);
        }
    }

    #[test]
    fn a08_another_version_or_type_is_refused() {
        let mut bytes = vec![1; ORDINARY_SLICE_LEN];
        for (version, kind) in [(0, 2), (2, 2), (1, 0), (1, 4)] {
            (bytes[0], bytes[1]) = (version, kind);
            assert!(Slice::parse(&bytes).is_err());
        }
    }
}
