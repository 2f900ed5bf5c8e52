//! Signed statements between their form on the wire and the types that verify them. What was signed is never built anew: the bytes received are the
//! bytes verified and hashed.

use kith_crypto::device::SignedCertificate;
use kith_crypto::device_list::{SignedDeviceList, SignedLeave, SignedRotation};
use kith_crypto::prekey::{OneTimePrekey, PrekeyBundle, PrekeyId, PrekeyKind, SignedPrekey};
use kith_crypto::sign::{Label, Signature, signed_string};
use kith_crypto::x25519::DhPublic;
use kith_proto::rest;

const SIGNATURE_LEN: usize = 64;

/// The server's answer does not have the form of what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signed statement is malformed: {0}")]
pub(crate) struct BadStatement(pub(crate) &'static str);

/// One version of an account.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    List(SignedDeviceList, Vec<SignedCertificate>),
    Rotation(SignedRotation),
}

/// An account's statements from some version on.
#[derive(Debug, Clone)]
pub(crate) struct AccountHistory {
    pub(crate) newest_version: u64,
    pub(crate) steps: Vec<Step>,
    pub(crate) leaves: Vec<SignedLeave>,
    /// The name that the server gives the account; its word only, as every user name is.
    pub(crate) username: Option<String>,
}

fn fields(signed: &[u8], label: Label) -> Result<&[u8], BadStatement> {
    let prefix = signed_string(label, &[]);
    signed.strip_prefix(prefix.as_slice()).ok_or(BadStatement("label"))
}

fn joined(statement: &rest::SignedStatement, label: Label) -> Result<Vec<u8>, BadStatement> {
    Ok([fields(&statement.signed.0, label)?, &statement.signature.0].concat())
}

fn certificate(from: &rest::Certificate) -> Result<SignedCertificate, BadStatement> {
    let bytes = [fields(&from.signed.0, Label::Device)?, &from.aik_signature.0, &from.accept_signature.0].concat();
    SignedCertificate::from_bytes(&bytes).map_err(|_| BadStatement("certificate"))
}

fn step(from: &rest::Statement) -> Result<Step, BadStatement> {
    match from {
        rest::Statement::Devices { list, certificates, .. } => {
            let list = SignedDeviceList::from_bytes(&joined(list, Label::Devices)?).map_err(|_| BadStatement("device list"))?;
            Ok(Step::List(list, certificates.iter().map(certificate).collect::<Result<_, _>>()?))
        }
        rest::Statement::Rotate { rotate, .. } => {
            let rotation = SignedRotation::from_bytes(&joined(rotate, Label::Rotate)?);
            rotation.map(Step::Rotation).map_err(|_| BadStatement("rotation"))
        }
    }
}

impl AccountHistory {
    /// Puts the pages of an answer together.
    pub(crate) fn from_pages(pages: &[rest::History]) -> Result<Self, BadStatement> {
        let last = pages.last().ok_or(BadStatement("history"))?;
        let steps = pages.iter().flat_map(|page| &page.statements).map(step).collect::<Result<_, _>>()?;
        let leave = |leave| SignedLeave::from_bytes(&joined(leave, Label::Leave)?).map_err(|_| BadStatement("leave"));
        let leaves = last.leaves.iter().map(leave).collect::<Result<_, _>>()?;
        Ok(Self { newest_version: last.newest_version, steps, leaves, username: Some(last.username.0.clone()) })
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], [u8; SIGNATURE_LEN])> {
    let (fields, signature) = bytes.split_last_chunk::<SIGNATURE_LEN>()?;
    Some((fields, *signature))
}

/// A list as it is published.
pub(crate) fn list_to_wire(list: &SignedDeviceList) -> rest::SignedStatement {
    let bytes = list.to_bytes();
    // `to_bytes` ends in a signature by definition.
    let (fields, signature) = split(&bytes).unwrap_or((&[], [0; SIGNATURE_LEN]));
    rest::SignedStatement { signed: signed_string(Label::Devices, &[fields]).into(), signature: signature.into() }
}

/// A certificate as it is published.
pub(crate) fn certificate_to_wire(certificate: &SignedCertificate) -> rest::Certificate {
    let bytes = certificate.to_bytes();
    let (head, accept) = split(&bytes).unwrap_or((&[], [0; SIGNATURE_LEN]));
    let (fields, aik) = split(head).unwrap_or((&[], [0; SIGNATURE_LEN]));
    rest::Certificate { signed: signed_string(Label::Device, &[fields]).into(), aik_signature: aik.into(), accept_signature: accept.into() }
}

fn prekey_from_wire(kind: PrekeyKind, from: &rest::SignedPrekey) -> Result<SignedPrekey, BadStatement> {
    let id = PrekeyId::from_wire(from.id).ok_or(BadStatement("prekey id"))?;
    let signature = Signature::from_bytes(from.signature.0);
    SignedPrekey::from_parts(kind, id, from.created_ms, from.key.0.clone(), signature).map_err(|_| BadStatement("prekey"))
}

/// A bundle as received; nothing of it is verified yet.
pub(crate) fn bundle_from_wire(from: &rest::Bundle) -> Result<PrekeyBundle, BadStatement> {
    let kind = PrekeyKind::from_u8(from.kem_kind).map_err(|_| BadStatement("prekey kind"))?;
    let one_time = from.one_time.as_ref().map(|key| {
        let id = PrekeyId::from_wire(key.id).ok_or(BadStatement("prekey id"))?;
        Ok(OneTimePrekey { id, key: DhPublic::from_bytes(key.key.0) })
    });
    Ok(PrekeyBundle {
        signed: prekey_from_wire(PrekeyKind::Signed, &from.signed)?,
        one_time: one_time.transpose()?,
        kem: prekey_from_wire(kind, &from.kem)?,
    })
}

/// A signed prekey as it is published.
pub(crate) fn prekey_to_wire(prekey: &SignedPrekey) -> rest::SignedPrekey {
    rest::SignedPrekey {
        id: prekey.id().get(),
        created_ms: prekey.created_ms(),
        key: prekey.key().into(),
        signature: (*prekey.signature().as_bytes()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_crypto::device::DeviceKeys;
    use kith_crypto::identity::AccountIdentity;
    use kith_crypto::{DeviceId, sign::SigningKey};
    use rand::SeedableRng as _;

    #[test]
    fn statements_keep_their_bytes_across_the_wire() {
        let rng = &mut rand::rngs::StdRng::seed_from_u64(1);
        let identity = AccountIdentity::from_first_key(SigningKey::random(rng), None);
        let keys = DeviceKeys::random(rng, DeviceId::from_bytes([1; 16]));
        let cert = identity.certify(&keys.request_certificate(identity.account_id(), identity.public(), 1)).unwrap();
        let list = identity.sign_list(None, &[cert], 7);
        assert_eq!(certificate(&certificate_to_wire(&cert)).unwrap(), cert);
        let read = SignedDeviceList::from_bytes(&joined(&list_to_wire(&list), Label::Devices).unwrap()).unwrap();
        assert_eq!(read, list);
        assert_eq!(joined(&list_to_wire(&list), Label::Rotate), Err(BadStatement("label")));
    }
}
