//! TH: the hash over everything public in a handshake (§2, §9.11, §9.12).

use super::HANDSHAKE_VERSION;
use crate::device::Party;
use crate::hash::sha256;
use crate::id::ConversationId;
use crate::kem::{CT_LEN, EK_LEN};
use crate::prekey::{OneTimePrekey, PrekeyId, PrekeyKind};
use crate::x25519::DhPublic;

/// Everything that TH covers.
pub(crate) struct Transcript<'a> {
    pub(crate) conversation: ConversationId,
    pub(crate) initiator: &'a Party,
    pub(crate) responder: &'a Party,
    pub(crate) ek: DhPublic,
    pub(crate) signed: (PrekeyId, DhPublic),
    pub(crate) one_time: Option<OneTimePrekey>,
    pub(crate) kem: (PrekeyKind, PrekeyId, &'a [u8; EK_LEN]),
    pub(crate) ct: &'a [u8; CT_LEN],
}

impl Transcript<'_> {
    pub(crate) fn hash(&self) -> [u8; 32] {
        let (kem_kind, kem_id, kem_key) = self.kem;
        sha256(&[
            b"kith/v1/pqxdh",
            &[HANDSHAKE_VERSION],
            self.conversation.as_bytes(),
            &self.initiator.to_bytes(),
            &self.responder.to_bytes(),
            self.ek.as_bytes(),
            &self.signed.0.get().to_be_bytes(),
            self.signed.1.as_bytes(),
            &[u8::from(self.one_time.is_some())],
            &self.one_time.map_or(0, |key| key.id.get()).to_be_bytes(),
            self.one_time.as_ref().map_or(&[0; 32], |key| key.key.as_bytes()),
            &[kem_kind as u8],
            &kem_id.get().to_be_bytes(),
            kem_key,
            self.ct,
        ])
    }
}
