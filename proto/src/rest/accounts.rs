//! Registration, login, tokens, look-up, rotation.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Base64Array, Certificate, PrekeyUpload, Private, SignedStatement};
use crate::id::{AccountId, DeviceId};

/// `POST /v1/login/challenge`. Answered alike whether or not the account and device exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChallengeRequest {
    /// The account; before registration the id computed from its keys.
    pub account: AccountId,
    /// The device that will sign.
    pub device: DeviceId,
}

/// A challenge for one device: lasts 60 s and works once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChallengeResponse {
    /// What to sign.
    pub challenge: Base64Array<32>,
    /// When it ends; goes into the signed statement as it is.
    pub expires_ms: u64,
}

/// Shows that the device's key is at hand: the statement `login`, signed over origin, account, device, challenge, client nonce and expiry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginProof {
    /// The challenge as it was given.
    pub challenge: Base64Array<32>,
    /// 32 random bytes of the client.
    pub client_nonce: Base64Array<32>,
    /// The origin that the client dialled: `scheme://host:port`, lower case, the port always written.
    pub origin: String,
    /// By the device's Ed25519 key.
    pub signature: Base64Array<64>,
}

/// `POST /v1/login`. Answered by [`Tokens`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The account.
    pub account: AccountId,
    /// The device.
    pub device: DeviceId,
    /// The signed challenge.
    pub proof: LoginProof,
}

/// `POST /v1/accounts`. First take a challenge for the account id (computed from the keys) and the device: a registration is a login with more, so that
/// nobody can register, or get tokens by repeating, the public statements of somebody else. Repeating it for the same account and device, with a fresh
/// challenge, gives fresh tokens and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// 3 to 32 characters of a-z 0-9 . _ - beginning and ending with a letter or digit. Upper case is folded.
    #[schema(value_type = String)]
    pub username: Private,
    /// The identity key, Ed25519.
    pub aik: Base64Array<32>,
    /// The recovery key, Ed25519; zeros if declined.
    pub recovery: Base64Array<32>,
    /// The first device.
    pub certificate: Certificate,
    /// Version 1 of the signed device list, naming that device alone.
    pub list: SignedStatement,
    /// At least a signed prekey and a last-resort KEM prekey.
    pub prekeys: PrekeyUpload,
    /// Signed by the first device.
    pub proof: LoginProof,
    /// How the account's own devices are to see this one; at most 64 bytes; may be ciphertext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub device_name: Option<Private>,
    /// Where registration is by invitation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub invite_code: Option<Private>,
}

/// Answers a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegisterResponse {
    /// The account.
    pub account: AccountId,
    /// Its first device.
    pub device: DeviceId,
    /// For that device.
    pub tokens: Tokens,
}

/// What a device authenticates with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tokens {
    /// `Authorization: Bearer …`, and `Hello.token`.
    #[schema(value_type = String)]
    pub access_token: Private,
    /// When it ends.
    pub access_expires_ms: u64,
    /// For `POST /v1/token/refresh`; each works once.
    #[schema(value_type = String)]
    pub refresh_token: Private,
    /// When it ends.
    pub refresh_expires_ms: u64,
}

/// `POST /v1/token/refresh`. Answered by [`Tokens`]. The old refresh token ends with the first use of the new one, or 60 s later at the latest, so that an
/// answer that was lost can be asked for again; using it after that ends every refresh token of that
/// login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// The newest one.
    #[schema(value_type = String)]
    pub refresh_token: Private,
}

/// Answers `GET /v1/users/{username}`. What it says is the server's word: verify the device list, compare safety numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UserResponse {
    /// The account.
    pub account: AccountId,
    /// The name in its folded form.
    #[schema(value_type = String)]
    pub username: Private,
    /// The present identity key.
    pub aik: Base64Array<32>,
    /// Version of the newest signed device list (or rotation).
    pub list_version: u64,
}

/// `POST /v1/accounts/{account}/rotate`: the recovery key replaces the identity key, in one step with the first list of the new one. Not authenticated by a
/// token, since every device may be lost. Answered by [`Tokens`] of the device that signed the proof; devices that are not on the list are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// The statement `rotate`, signed by the old recovery key. It takes the next version.
    pub rotate: SignedStatement,
    /// The list of the version after it, signed by the new identity key.
    pub list: SignedStatement,
    /// One for every device on the list.
    pub certificates: Vec<Certificate>,
    /// For every device that is new.
    pub prekeys: Vec<super::DevicePrekeys>,
    /// The device that asks; it must be on the list.
    pub device: DeviceId,
    /// Signed by that device.
    pub proof: LoginProof,
}
