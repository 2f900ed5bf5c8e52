//! Refusals as they travel in frames.

use kith_chat_core::log::{ConnectError, LogError, Refusal};
use kith_proto::{id::DeviceRef, v1};

use crate::error::retry;

/// How long to stay away from a queue that is full.
pub(crate) const OVERLOADED_AFTER_MS: u64 = 250;
/// How long to stay away from a disk that is full or failing.
const STORAGE_AFTER_MS: u64 = 1_000;

/// An error frame's content, with the retry hint that goes with the code.
pub(crate) fn error(code: v1::ErrorCode, message: impl Into<String>) -> v1::Error {
    v1::Error { code: code.into(), message: message.into(), retry: retry(code).into(), after_ms: 0, devices_changed: None, known_epoch: 0 }
}

/// The same, not to be repeated before some time has passed.
pub(crate) fn error_after(code: v1::ErrorCode, after_ms: u64, message: impl Into<String>) -> v1::Error {
    v1::Error { after_ms, ..error(code, message) }
}

/// A decodable request with a value that cannot be.
pub(crate) fn invalid(message: &'static str) -> v1::Error {
    error(v1::ErrorCode::InvalidFrame, message)
}

/// Full queues.
pub(crate) fn overloaded(message: &'static str) -> v1::Error {
    error_after(v1::ErrorCode::Overloaded, OVERLOADED_AFTER_MS, message)
}

/// Why an append was refused.
pub(crate) fn of_refusal(refusal: &Refusal) -> v1::Error {
    use v1::ErrorCode as Code;
    let message = refusal.to_string();
    match refusal {
        Refusal::EarlierRefused => error(Code::EarlierRefused, message),
        Refusal::RateLimited { after_ms } => error_after(Code::RateLimited, *after_ms, message),
        Refusal::UnknownRecipient => error(Code::UnknownAccount, message),
        Refusal::SenderRevoked => error(Code::DeviceRevoked, message),
        Refusal::DevicesChanged { missing, extra } => {
            let changed = v1::DevicesChanged { missing: device_refs(missing), extra: device_refs(extra) };
            v1::Error { devices_changed: Some(changed), ..error(Code::DevicesChanged, message) }
        }
        Refusal::StorageUnavailable => error_after(Code::StorageUnavailable, STORAGE_AFTER_MS, message),
    }
}

/// Why the log could not do something.
pub(crate) fn of_log(failure: &LogError) -> v1::Error {
    use v1::ErrorCode as Code;
    let message = failure.to_string();
    match failure {
        LogError::NotAMember => error(Code::NotAMember, message),
        LogError::BeyondHead => error(Code::AckBeyondHead, message),
        LogError::Overloaded => error_after(Code::Overloaded, OVERLOADED_AFTER_MS, message),
        LogError::Unavailable(_) => error_after(Code::StorageUnavailable, STORAGE_AFTER_MS, message),
    }
}

/// Why a device may not connect.
pub(crate) fn of_connect(failure: &ConnectError) -> v1::Error {
    use v1::ErrorCode as Code;
    match failure {
        ConnectError::StaleStore { known } => v1::Error { known_epoch: *known, ..error(Code::StaleStore, failure.to_string()) },
        ConnectError::Revoked => error(Code::DeviceRevoked, failure.to_string()),
        ConnectError::Log(failure) => of_log(failure),
    }
}

fn device_refs(devices: &[DeviceRef]) -> Vec<v1::DeviceRef> {
    devices.iter().map(|d| v1::DeviceRef { account: d.account.to_bytes(), device: d.device.to_bytes() }).collect()
}
