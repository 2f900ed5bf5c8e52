//! `GET /v1/limits`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The numbers this server uses. Any caller may ask; with a token the caller's own buckets show what is left in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitsResponse {
    /// Largest WebSocket frame, in bytes.
    pub max_frame_bytes: u64,
    /// Largest REST body, in bytes.
    pub max_body_bytes: u64,
    /// Devices on an account's list.
    pub max_devices: u32,
    /// Unused one-time X25519 prekeys a device may have stored.
    pub max_one_time_prekeys: u32,
    /// Unused one-time KEM prekeys a device may have stored.
    pub max_one_time_kem_prekeys: u32,
    /// How long a message is kept for devices that have not acknowledged it.
    pub retention_ms: u64,
    /// How long an access token lasts.
    pub access_token_ms: u64,
    /// How long a refresh token lasts.
    pub refresh_token_ms: u64,
    /// `open`, `invite` or `closed`.
    pub registration: String,
    /// Rates, each a token bucket.
    pub buckets: Vec<BucketState>,
}

/// A token bucket: holds up to `capacity`, refills by `per_minute`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BucketState {
    /// What is counted, and per what: `send_per_device`, `lookup_per_account` …
    pub name: String,
    /// How many at once.
    pub capacity: u32,
    /// How many come back in a minute.
    pub per_minute: u32,
    /// What the caller has left now; absent where it depends on more than who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
}
