//! Between the JSON bodies and the values of the core.

use kith_chat_core::{
    accounts,
    domain::{
        prekeys::{Kind, Prekey, VerifiedPrekeys},
        statement::{Bytes32, Signed, SignedCertificate},
    },
};
use kith_proto::{
    id::{AccountId, DeviceRef},
    rest::{self, Base64Array, Private},
    v1::ErrorCode,
};

use crate::error::ApiError;

/// Bytes of a device's name.
const MAX_NAME: usize = 64;
/// Signatures that may be verified between two awaits; more would keep other connections waiting for too long.
const INLINE_SIGNATURES: usize = 8;

pub(super) fn signed(statement: rest::SignedStatement) -> Signed {
    Signed { bytes: statement.signed.0, signature: statement.signature.0 }
}

pub(super) fn statement(signed: Signed) -> rest::SignedStatement {
    rest::SignedStatement { signed: signed.bytes.into(), signature: signed.signature.into() }
}

pub(super) fn signed_certificate(certificate: rest::Certificate) -> SignedCertificate {
    SignedCertificate { bytes: certificate.signed.0, aik_signature: certificate.aik_signature.0, accept_signature: certificate.accept_signature.0 }
}

pub(super) fn certificate(signed: SignedCertificate) -> rest::Certificate {
    rest::Certificate { signed: signed.bytes.into(), aik_signature: signed.aik_signature.into(), accept_signature: signed.accept_signature.into() }
}

fn prekeys(upload: rest::PrekeyUpload) -> Vec<Prekey> {
    let signed =
        |kind| move |key: rest::SignedPrekey| Prekey { kind, id: key.id, created_ms: key.created_ms, key: key.key.0, signature: key.signature.0 };
    let one_time = |key: rest::OneTimePrekey| Prekey { kind: Kind::OneTime, id: key.id, created_ms: 0, key: key.key.0.to_vec(), signature: [0; 64] };
    let mut keys = Vec::with_capacity(2 + upload.one_time.len() + upload.one_time_kem.len());
    keys.extend(upload.signed.map(signed(Kind::Signed)));
    keys.extend(upload.last_resort_kem.map(signed(Kind::LastResortKem)));
    keys.extend(upload.one_time.into_iter().map(one_time));
    keys.extend(upload.one_time_kem.into_iter().map(signed(Kind::OneTimeKem)));
    keys
}

/// Verifies an upload, on a thread for such work if it is long. `first` is for a device that is new.
pub(super) async fn verified_prekeys(device: DeviceRef, key: Bytes32, upload: rest::PrekeyUpload, first: bool) -> Result<VerifiedPrekeys, ApiError> {
    let keys = prekeys(upload);
    let signatures = keys.iter().filter(|k| k.kind != Kind::OneTime).count();
    let verify = move || if first { VerifiedPrekeys::verify_first(device, &key, keys) } else { VerifiedPrekeys::verify(device, &key, keys) };
    if signatures <= INLINE_SIGNATURES {
        return Ok(verify()?);
    }
    let verified = tokio::task::spawn_blocking(verify).await;
    Ok(verified.map_err(|_| ApiError::new(ErrorCode::Internal, "a fault of the server"))??)
}

/// The name of a device, if it is short enough.
pub(super) fn device_name(name: Option<Private>) -> Result<Option<String>, ApiError> {
    match name {
        Some(Private(name)) if name.len() > MAX_NAME => {
            Err(ApiError::new(ErrorCode::InvalidFrame, format!("a device name is at most {MAX_NAME} bytes")))
        }
        name => Ok(name.map(|Private(name)| name)),
    }
}

pub(super) fn history(account: AccountId, history: accounts::History) -> rest::History {
    let version = |v: accounts::Version| {
        let (version, signed) = (v.version, statement(v.signed));
        if v.rotation {
            rest::Statement::Rotate { version, rotate: signed }
        } else {
            rest::Statement::Devices { version, list: signed, certificates: v.certificates.into_iter().map(certificate).collect() }
        }
    };
    rest::History {
        account,
        username: history.username.into(),
        newest_version: history.newest_version,
        statements: history.versions.into_iter().map(version).collect(),
        leaves: history.leaves.into_iter().map(statement).collect(),
        more: history.more,
    }
}

pub(super) fn keys_state(state: accounts::PrekeyState) -> rest::KeysState {
    rest::KeysState {
        one_time: state.one_time,
        one_time_kem: state.one_time_kem,
        signed_id: state.signed.0,
        signed_created_ms: state.signed.1,
        last_resort_kem_id: state.last_resort.0,
        last_resort_kem_created_ms: state.last_resort.1,
        highest_id: state.highest_id,
    }
}

pub(super) fn bundle(bundle: accounts::Bundle) -> Result<rest::Bundle, ApiError> {
    let signed_prekey =
        |key: Prekey| rest::SignedPrekey { id: key.id, created_ms: key.created_ms, key: key.key.into(), signature: key.signature.into() };
    let one_time = match bundle.one_time {
        Some(key) => {
            // Its length was checked when it was stored.
            let bytes = key.key.try_into().map_err(|_| ApiError::new(ErrorCode::Internal, "a fault of the server"))?;
            Some(rest::OneTimePrekey { id: key.id, key: Base64Array(bytes) })
        }
        None => None,
    };
    Ok(rest::Bundle {
        device: bundle.device,
        signed: signed_prekey(bundle.signed),
        kem_kind: bundle.kem.kind as u8,
        kem: signed_prekey(bundle.kem),
        one_time,
        limited: bundle.limited,
    })
}
