//! The side that is found by a first message.

use super::transcript::Transcript;
use super::{Agreements, HandshakeError};
use crate::device::{DeviceKeys, Party};
use crate::id::ConversationId;
use crate::prekey::PrekeySecret;
use crate::ratchet::header::{Header, PrekeyIds, SessionId, Slice};
use crate::ratchet::keys::RootKey;
use crate::replay::ReplayMemory;
use crate::x25519::DhSecret;

/// The private prekeys that a first message names, looked up by its ids.
#[derive(Debug, Clone, Copy)]
pub struct ResponderPrekeys<'a> {
    /// The signed prekey.
    pub signed: &'a PrekeySecret,
    /// The one-time X25519 prekey; absent exactly if the message names none.
    pub one_time: Option<&'a PrekeySecret>,
    /// The KEM prekey.
    pub kem: &'a PrekeySecret,
}

/// A handshake whose transcript fits; its first slice has yet to authenticate.
pub(crate) struct Accepted<'a> {
    pub(crate) th: [u8; 32],
    pub(crate) root: RootKey,
    pub(crate) signed_prekey: &'a DhSecret,
    pub(crate) ids: PrekeyIds,
}

/// A session begins with counters of zero; N may be more, for earlier messages may be lost.
pub(crate) const fn check_initial(header: &Header) -> Result<(), HandshakeError> {
    if header.pn == 0 && header.mix_epoch == 0 { Ok(()) } else { Err(HandshakeError::NotInitial) }
}

/// Runs the responder's side. Nothing is remembered or erased here: that comes after the first slice and body are good.
pub(crate) fn accept<'a>(
    keys: &DeviceKeys,
    own: &Party,
    peer: &Party,
    conversation: ConversationId,
    slice: &Slice<'_>,
    prekeys: ResponderPrekeys<'a>,
    replay: &ReplayMemory,
) -> Result<Accepted<'a>, HandshakeError> {
    let first = slice.first.as_deref().ok_or(HandshakeError::NotFirst)?;
    check_initial(&slice.header)?;
    if own.agreement != keys.agreement_key() || own.device_id != keys.device_id() {
        return Err(HandshakeError::OtherDevice);
    }
    let PrekeyIds { signed, one_time, kem } = first.ids;
    if prekeys.signed.id() != signed || prekeys.one_time.map(PrekeySecret::id) != one_time || prekeys.kem.id() != kem {
        return Err(HandshakeError::MissingPrekey);
    }
    let signed_key = prekeys.signed.as_signed().ok_or(HandshakeError::WrongPrekeyKind)?;
    let (kem_kind, kem_key) = prekeys.kem.as_kem().ok_or(HandshakeError::WrongPrekeyKind)?;
    let one_time_key = match prekeys.one_time {
        Some(secret) => Some(secret.as_one_time().ok_or(HandshakeError::WrongPrekeyKind)?),
        None => None,
    };
    let kem_key = kem_key.expand();
    let th = Transcript {
        conversation,
        initiator: peer,
        responder: own,
        ek: first.ek,
        signed: (signed, signed_key.public()),
        one_time: prekeys.one_time.and_then(PrekeySecret::one_time_public),
        kem: (kem_kind, kem, &kem_key.encapsulation_key()),
        ct: &first.ct,
    }
    .hash();
    if SessionId::of(&th) != slice.header.session_id {
        return Err(HandshakeError::TranscriptMismatch);
    }
    replay.check(&th)?;
    let agreements = Agreements {
        dh1: signed_key.agree(&peer.agreement)?,
        dh2: keys.agreement_secret().agree(&first.ek)?,
        dh3: signed_key.agree(&first.ek)?,
        dh4: one_time_key.map(|key| key.agree(&first.ek)).transpose()?,
        ss: kem_key.decapsulate(&first.ct),
    };
    let root = RootKey::initial(&th, &agreements.secret_key());
    Ok(Accepted { th, root, signed_prekey: signed_key, ids: first.ids })
}
