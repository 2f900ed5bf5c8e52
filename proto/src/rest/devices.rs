//! Signed device lists and what surrounds them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base64, Base64Array, PrekeyUpload, Private};
use crate::id::{AccountId, DeviceId};

/// The bytes that were signed and the signature over them. `POST /v1/devices/leave` takes the statement `leave` of the calling device in this form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedStatement {
    /// u8 length ‖ label ‖ fields.
    pub signed: Base64,
    /// Ed25519.
    pub signature: Base64Array<64>,
}

/// A device certificate. Its hash is SHA-256(signed ‖ aik_signature ‖ accept_signature).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The statement `device`.
    pub signed: Base64,
    /// Over `signed`, by the identity key.
    pub aik_signature: Base64Array<64>,
    /// Over the same fields under the label `device-accept`, by the device.
    pub accept_signature: Base64Array<64>,
}

/// First prekeys of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePrekeys {
    /// The device.
    pub device: DeviceId,
    /// How the account's own devices are to see it; at most 64 bytes; may be ciphertext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub name: Option<Private>,
    /// At least a signed prekey and a last-resort KEM prekey.
    pub prekeys: PrekeyUpload,
}

/// `POST /v1/devices/list`: the next version of the caller's signed device list. A device that is missing from it is revoked: its tokens are dead and its
/// connection is cut before the answer comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishListRequest {
    /// The statement `devices`, one version above the newest, its `prev_hash` the hash of the newest.
    pub list: SignedStatement,
    /// One for every device that the newest list does not name with the same certificate hash.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// For every device that is new.
    #[serde(default)]
    pub prekeys: Vec<DevicePrekeys>,
}

/// Answers a publication.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PublishedList {
    /// The version that is now the newest.
    pub version: u64,
}

/// Answers `GET /v1/accounts/{account}/devices?since_version=N`: every statement above version N in order, so that a client verifies from what it has
/// pinned to the newest. 0 asks for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// The account.
    pub account: AccountId,
    /// Its user name.
    #[schema(value_type = String)]
    pub username: Private,
    /// The newest version, whether or not it is on this page.
    pub newest_version: u64,
    /// Ascending, without a hole.
    pub statements: Vec<Statement>,
    /// Statements `leave` of devices that the newest list names and that have left since.
    pub leaves: Vec<SignedStatement>,
    /// There is more: ask again from the last version here.
    pub more: bool,
}

/// One version of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Statement {
    /// A device list.
    Devices {
        /// Its version.
        version: u64,
        /// The statement `devices`.
        list: SignedStatement,
        /// Certificates that appear first in this version.
        certificates: Vec<Certificate>,
    },
    /// The recovery key has replaced the identity key.
    Rotate {
        /// Its version.
        version: u64,
        /// The statement `rotate`.
        rotate: SignedStatement,
    },
}

/// Answers `GET /v1/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Devices {
    /// Version of the newest list.
    pub version: u64,
    /// The account's current devices.
    pub devices: Vec<OwnDevice>,
}

/// A device as its own account sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnDevice {
    /// The device.
    pub device: DeviceId,
    /// The one that asks.
    pub own: bool,
    /// As given when it was added.
    #[schema(value_type = Option<String>)]
    pub name: Option<Private>,
    /// When it came onto the list.
    pub linked_ms: u64,
    /// When it last connected or logged in; 0 for never.
    pub last_seen_ms: u64,
}
