//! Prekeys: stored by their owner, handed out to peers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base64, Base64Array};
use crate::id::{AccountId, DeviceId};

/// A prekey with the statement `prekey` over (account, device, kind, id, created, key). The kind follows from where it stands: 1 signed X25519 (32 bytes),
/// 2 one-time KEM, 3 last-resort KEM (1,184 bytes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedPrekey {
    /// From the device's one increasing id space; never used again; not 0.
    pub id: u32,
    /// When it was made.
    pub created_ms: u64,
    /// X25519 or ML-KEM-768.
    pub key: Base64,
    /// By the device.
    pub signature: Base64Array<64>,
}

/// A one-time X25519 prekey, unsigned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OneTimePrekey {
    /// From the device's one increasing id space; never used again; not 0.
    pub id: u32,
    /// X25519.
    pub key: Base64Array<32>,
}

/// `POST /v1/keys`, answered by [`KeysState`]. All ids must be above every id that the device has ever uploaded, and differ from each other. Unused
/// one-time keys are capped (see `GET /v1/limits`); a new signed or last-resort prekey replaces the old one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrekeyUpload {
    /// Kind 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedPrekey>,
    /// Kind 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_resort_kem: Option<SignedPrekey>,
    /// X25519, each handed out once.
    #[serde(default)]
    pub one_time: Vec<OneTimePrekey>,
    /// Kind 2, each handed out once.
    #[serde(default)]
    pub one_time_kem: Vec<SignedPrekey>,
}

/// Answers `GET /v1/keys` and `POST /v1/keys`: what the server holds for the calling device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeysState {
    /// Unused one-time X25519 prekeys.
    pub one_time: u32,
    /// Unused one-time KEM prekeys.
    pub one_time_kem: u32,
    /// Id of the signed prekey.
    pub signed_id: u32,
    /// When the signed prekey was made.
    pub signed_created_ms: u64,
    /// Id of the last-resort KEM prekey.
    pub last_resort_kem_id: u32,
    /// When the last-resort KEM prekey was made.
    pub last_resort_kem_created_ms: u64,
    /// The largest id ever uploaded; new ones must be above it.
    pub highest_id: u32,
}

/// `POST /v1/accounts/{account}/bundles`. An empty object asks for every device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BundlesRequest {
    /// Only these devices; those that are not on the newest list are left out of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceId>>,
}

/// What starting a session with each device takes. Verify the prekeys with the device keys of the signed list, fetched for `list_version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bundles {
    /// The account.
    pub account: AccountId,
    /// Version of its newest list.
    pub list_version: u64,
    /// One per device, in ascending order of ids.
    pub bundles: Vec<Bundle>,
}

/// Prekeys of one device. Each one-time key is in one bundle only, ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Bundle {
    /// The device.
    pub device: DeviceId,
    /// Kind 1.
    pub signed: SignedPrekey,
    /// 2 if `kem` is a one-time key, 3 if it is the last resort.
    pub kem_kind: u8,
    /// ML-KEM-768.
    pub kem: SignedPrekey,
    /// Absent when none was left or given.
    pub one_time: Option<OneTimePrekey>,
    /// No one-time keys were given although there may be some: the caller, or all callers together, have fetched too many bundles of this device.
    pub limited: bool,
}
