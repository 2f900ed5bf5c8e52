//! The side that begins.

use super::transcript::Transcript;
use super::{Agreements, HandshakeError};
use crate::device::{DeviceKeys, Party};
use crate::id::ConversationId;
use crate::kem::encapsulate;
use crate::prekey::{PrekeyKind, VerifiedBundle};
use crate::ratchet::header::{FirstContact, PrekeyIds};
use crate::ratchet::keys::RootKey;
use crate::ratchet::session::{FirstFlight, ListVersions, Session};
use crate::x25519::DhSecret;
use rand_core::CryptoRng;

/// What the sender is told about a session it began: forward secrecy of the first message is weaker without fresh keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// The server had no one-time X25519 key left.
    pub one_time_missing: bool,
    /// The server had no one-time KEM key left, so the last-resort one was used.
    pub last_resort_kem: bool,
}

/// Begins a session. Draws 32 bytes for the ephemeral key, then 32 for the encapsulation.
pub(crate) fn initiate<R: CryptoRng + ?Sized>(
    rng: &mut R,
    keys: &DeviceKeys,
    own: &Party,
    conversation: ConversationId,
    bundle: &VerifiedBundle,
    versions: ListVersions,
    now_ms: u64,
) -> Result<(Session, Freshness), HandshakeError> {
    let ephemeral = DhSecret::random(rng);
    let (ct, ss) = encapsulate(rng, &bundle.kem_key).map_err(|_| HandshakeError::BadKemKey)?;
    let agreements = Agreements {
        dh1: keys.agreement_secret().agree(&bundle.signed_key)?,
        dh2: ephemeral.agree(&bundle.device.agreement)?,
        dh3: ephemeral.agree(&bundle.signed_key)?,
        dh4: bundle.one_time.map(|key| ephemeral.agree(&key.key)).transpose()?,
        ss,
    };
    let th = Transcript {
        conversation,
        initiator: own,
        responder: &bundle.device,
        ek: ephemeral.public(),
        signed: (bundle.signed_id, bundle.signed_key),
        one_time: bundle.one_time,
        kem: (bundle.kem_kind, bundle.kem_id, &bundle.kem_key),
        ct: &ct,
    }
    .hash();
    let root = RootKey::initial(&th, &agreements.secret_key());
    let ids = PrekeyIds { signed: bundle.signed_id, one_time: bundle.one_time.map(|key| key.id), kem: bundle.kem_id };
    let contact = FirstContact { ek: ephemeral.public(), ids, ct: *ct };
    let freshness = Freshness { one_time_missing: bundle.one_time.is_none(), last_resort_kem: bundle.kem_kind == PrekeyKind::KemLastResort };
    Ok((Session::initiator(th, root, bundle.signed_key, FirstFlight { contact, versions }, now_ms), freshness))
}
