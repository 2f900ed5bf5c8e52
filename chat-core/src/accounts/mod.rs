//! Accounts, their devices, keys and logins.
//!
//! What is signed has been verified before it gets here: the types that carry it ([`VerifiedList`], [`VerifiedPrekeys`]) can only be made by verifying.
//! What depends on the newest state is checked again where it is stored, in the same transaction.
//!
//! The races, and who wins them. Two registrations of one name: the first to commit, the other is [`AccountsError::UsernameTaken`]. Two lists on one
//! version: publication is a compare-and-set on (version, hash) of the newest statement, the loser is [`AccountsError::ListConflict`]. Two requests for
//! bundles of one device: every one-time key is deleted in the transaction that hands it out, and the answer is given after its commit, so a key may be
//! lost with an answer but never handed out twice. A revocation and a login or refresh of the same device: after the revocation has committed nothing of
//! the device succeeds; whoever revokes then cuts what is connected. Implementations with several writers need a row lock on the account (publication,
//! login) and on the device (bundles) for this; a single writer has it for nothing.

#[cfg(test)]
mod conformance;
mod postgres;
mod sqlite;

use std::fmt;

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceId, DeviceRef};

pub use self::{
    postgres::PostgresAccounts,
    sqlite::{SqliteAccounts, add_invites_to_file},
};
use crate::domain::{
    Rate, Username,
    device_list::{AccountState, VerifiedList},
    prekeys::{Prekey, PrekeyError, VerifiedPrekeys},
    statement::{Bytes32, Signed, SignedCertificate},
};

/// A new account.
#[derive(Debug)]
pub struct Registration {
    /// Its name.
    pub username: Username,
    /// Its first list.
    pub list: VerifiedList,
    /// Of its first device.
    pub first: NewDevice,
    /// Hash of the invite code, where registration is by invitation.
    pub invite: Option<Bytes32>,
    /// The first login.
    pub login: NewLogin,
}

/// What comes with a device that is new on a list.
#[derive(Debug)]
pub struct NewDevice {
    /// Its keys.
    pub prekeys: VerifiedPrekeys,
    /// How the account's own devices see it.
    pub name: Option<String>,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The account is new.
    New,
    /// This very account and device were registered before; only the login is new.
    Again,
}

/// A login: a family of refresh tokens, of which only hashes are kept.
#[derive(Debug, Clone, Copy)]
pub struct NewLogin {
    /// Random name of the family.
    pub family: [u8; 16],
    /// Hash of its first token.
    pub token: Bytes32,
    /// When that ends; Unix milliseconds.
    pub expires_ms: u64,
    /// What it was proved with.
    pub challenge: SpentChallenge,
}

/// A challenge that a login uses up. The same one opens no second login of the device, at whatever process it is presented.
#[derive(Debug, Clone, Copy)]
pub struct SpentChallenge {
    /// What tells it from all others.
    pub id: [u8; 16],
    /// Until when it is remembered: after it has ended by the clocks of all processes that take it; Unix milliseconds.
    pub until_ms: u64,
}

/// An exchange of a refresh token for the next one.
#[derive(Debug, Clone, Copy)]
pub struct Refresh {
    /// The family.
    pub family: [u8; 16],
    /// Hash of the token presented.
    pub presented: Bytes32,
    /// Hash of the next one.
    pub next: Bytes32,
    /// When that ends.
    pub expires_ms: u64,
    /// For how long after an exchange the token before the newest may be exchanged again, since the answer may have been lost.
    pub grace_ms: u64,
}

/// The next version of a device list, or a rotation and the list after it.
#[derive(Debug)]
pub struct Publication {
    base: AccountState,
    rotation: Option<Signed>,
    list: VerifiedList,
    new_devices: Vec<NewDevice>,
    login: Option<(DeviceRef, NewLogin)>,
}

impl Publication {
    /// Puts together what was verified against `base`. Every new device must bring its prekeys, and nobody else.
    ///
    /// # Errors
    /// If prekeys are missing or are of another device.
    pub fn new(base: AccountState, rotation: Option<Signed>, list: VerifiedList, new_devices: Vec<NewDevice>) -> Result<Self, PrekeyError> {
        let has = |device| new_devices.iter().any(|n| n.prekeys.device() == device);
        if list.new_devices().count() != new_devices.len() || !list.new_devices().all(|(device, _)| has(device)) {
            return Err(PrekeyError::Invalid("every new device brings its prekeys, and no other"));
        }
        Ok(Self { base, rotation, list, new_devices, login: None })
    }

    /// With a login of a device that is on the list: both or neither.
    #[must_use]
    pub fn with_login(self, device: DeviceRef, login: NewLogin) -> Self {
        Self { login: Some((device, login)), ..self }
    }
}

/// What a look-up by name gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account.
    pub account: AccountId,
    /// The present identity key.
    pub aik: Bytes32,
    /// The newest version.
    pub list_version: u64,
}

/// Versions of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Its name.
    pub username: String,
    /// The newest version.
    pub newest_version: u64,
    /// In order, without a hole.
    pub versions: Vec<Version>,
    /// Devices that have left the newest list.
    pub leaves: Vec<Signed>,
    /// There is more after the last one here.
    pub more: bool,
}

/// One version of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// From 1.
    pub version: u64,
    /// It is a rotation, not a list.
    pub rotation: bool,
    /// The statement.
    pub signed: Signed,
    /// Certificates that appear first in it.
    pub certificates: Vec<SignedCertificate>,
}

/// A device as its own account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnDevice {
    /// The device.
    pub device: DeviceId,
    /// As given when it was added.
    pub name: Option<String>,
    /// When it came onto the list.
    pub linked_ms: u64,
    /// When it last logged in or refreshed its tokens, which a connected device does every few minutes.
    pub last_seen_ms: u64,
}

/// What is stored of a device's prekeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrekeyState {
    /// Unused one-time X25519.
    pub one_time: u32,
    /// Unused one-time KEM.
    pub one_time_kem: u32,
    /// Id and creation of the signed prekey.
    pub signed: (u32, u64),
    /// Id and creation of the last-resort KEM prekey.
    pub last_resort: (u32, u64),
    /// The largest id ever stored.
    pub highest_id: u32,
}

/// How many unused one-time prekeys a device may have stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrekeyCaps {
    /// X25519.
    pub one_time: u32,
    /// KEM.
    pub one_time_kem: u32,
}

/// A request for bundles.
#[derive(Debug, Clone)]
pub struct BundleRequest {
    /// Who asks.
    pub caller: DeviceRef,
    /// Whose bundles.
    pub account: AccountId,
    /// Only these devices; all (but the caller) if absent.
    pub devices: Option<Vec<DeviceId>>,
    /// One-time keys that one account may get of one device.
    pub per_pair: Rate,
    /// One-time keys that all accounts together may get of one device.
    pub per_target: Rate,
}

/// What starting sessions with an account's devices takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundles {
    /// The newest version.
    pub list_version: u64,
    /// In ascending order of devices.
    pub bundles: Vec<Bundle>,
}

/// Prekeys of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The device.
    pub device: DeviceId,
    /// The signed prekey.
    pub signed: Prekey,
    /// One-time or last-resort.
    pub kem: Prekey,
    /// If one was left and allowed.
    pub one_time: Option<Prekey>,
    /// One-time keys were withheld by a limit.
    pub limited: bool,
    /// What is left after it: X25519, KEM.
    pub left: (u32, u32),
}

/// What others may see of an account's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceSetting {
    /// The account.
    pub account: AccountId,
    /// It hides itself.
    pub hidden: bool,
    /// When its last connection ended; Unix milliseconds, 0 for never.
    pub last_seen_ms: u64,
}

/// Why an operation was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The calling device is not, or no longer, on its account's list.
    #[error("the device is revoked")]
    Revoked,
    /// The name belongs to somebody else.
    #[error("the user name is taken")]
    UsernameTaken,
    /// The account exists, and this is not the registration that made it.
    #[error("the account exists")]
    AccountExists,
    /// The invite code is unknown, used or too old.
    #[error("the invite code is not valid")]
    InviteInvalid,
    /// Another statement came first, or a device id was used before.
    #[error("the device list does not follow from the newest one")]
    ListConflict,
    /// A prekey id is not above all earlier ones.
    #[error("a prekey id was used before")]
    PrekeyIdUsed,
    /// More unused one-time prekeys than may be stored.
    #[error("too many unused one-time prekeys")]
    PrekeyLimit,
    /// The challenge has opened a login before.
    #[error("the challenge was used before")]
    ChallengeSpent,
    /// The refresh token is unknown, used or too old.
    #[error("the refresh token is not valid")]
    RefreshInvalid,
    /// There is no such account.
    #[error("no such account")]
    UnknownAccount,
    /// Too much is waiting; try again.
    #[error("the store is overloaded")]
    Overloaded,
    /// The store is full or failing; nothing was changed.
    #[error("storage is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The four ports together, as the edge is given them. They share one store, since a registration or a new list changes accounts, keys and logins in one
/// transaction.
pub trait Accounts: Registry + Keys + Presence + Upkeep {}

impl<T: Registry + Keys + Presence + Upkeep> Accounts for T {}

/// The port of accounts, their devices and logins. Every method that takes a caller refuses one that is revoked.
#[async_trait]
pub trait Registry: Send + Sync + fmt::Debug {
    /// Makes an account with its first device, or, when this very account and device were registered before, only a new login. An invite is used up by a
    /// new account only.
    async fn register(&self, registration: Registration, now_ms: u64) -> Result<Registered, AccountsError>;

    /// The signing key of a current device.
    async fn signing_key(&self, device: DeviceRef) -> Result<Option<Bytes32>, AccountsError>;

    /// Opens a login and uses its challenge up, both or neither. A device has a few at most: the one unused for longest ends.
    async fn login(&self, device: DeviceRef, login: NewLogin, now_ms: u64) -> Result<(), AccountsError>;

    /// Exchanges a refresh token. One that was exchanged before, the grace aside, ends its family: somebody has a copy.
    async fn refresh(&self, refresh: Refresh, now_ms: u64) -> Result<DeviceRef, AccountsError>;

    /// The newest state of an account, to verify the next statement against.
    async fn state(&self, account: AccountId) -> Result<Option<AccountState>, AccountsError>;

    /// Publishes what was verified against the newest state, if that is still the newest. Devices that are missing from the list are revoked; returns them.
    /// `caller` is absent for a rotation.
    async fn publish(&self, caller: Option<DeviceRef>, publication: Publication, now_ms: u64) -> Result<Vec<DeviceRef>, AccountsError>;

    /// Takes a device off by its own signature, if `version` is still the newest.
    async fn leave(&self, caller: DeviceRef, version: u64, signed: Signed, now_ms: u64) -> Result<(), AccountsError>;

    /// Finds an account by its exact name.
    async fn user(&self, caller: DeviceRef, username: Username) -> Result<Option<User>, AccountsError>;

    /// At most `limit` versions of an account after `since`.
    async fn history(&self, caller: DeviceRef, account: AccountId, since: u64, limit: usize) -> Result<Option<History>, AccountsError>;

    /// The caller's account's current devices, with the newest version.
    async fn devices(&self, caller: DeviceRef) -> Result<(u64, Vec<OwnDevice>), AccountsError>;
}

/// The port of prekeys. Every method refuses a caller that is revoked.
#[async_trait]
pub trait Keys: Send + Sync + fmt::Debug {
    /// What is stored of the caller's prekeys.
    async fn prekeys(&self, caller: DeviceRef) -> Result<PrekeyState, AccountsError>;

    /// Stores prekeys of the device that they were verified for. All ids must be above all earlier ones.
    async fn add_prekeys(&self, prekeys: VerifiedPrekeys, caps: PrekeyCaps) -> Result<PrekeyState, AccountsError>;

    /// Hands out bundles. Each one-time key is in one answer only, ever. `UnknownAccount` if there is none.
    async fn take_bundles(&self, request: BundleRequest, now_ms: u64) -> Result<Bundles, AccountsError>;
}

/// The port of what others may see of an account's coming and going.
#[async_trait]
pub trait Presence: Send + Sync + fmt::Debug {
    /// Notes when accounts were last seen (by maximum). Unknown ones are left out.
    async fn seen(&self, seen: Vec<(AccountId, u64)>) -> Result<(), AccountsError>;

    /// Hides or shows an account's presence.
    async fn hide_presence(&self, account: AccountId, hidden: bool) -> Result<(), AccountsError>;

    /// What others may see of these accounts; unknown ones are left out.
    async fn presence(&self, accounts: Vec<AccountId>) -> Result<Vec<PresenceSetting>, AccountsError>;
}

/// The port of what the operator and the server itself need.
#[async_trait]
pub trait Upkeep: Send + Sync + fmt::Debug {
    /// Stores hashes of invite codes, each good for one account until `expires_ms`.
    async fn add_invites(&self, hashes: Vec<Bytes32>, expires_ms: u64, now_ms: u64) -> Result<(), AccountsError>;

    /// A random key of this server by name: the one stored, else `candidate`, which is then stored.
    async fn secret(&self, name: &'static str, candidate: Bytes32) -> Result<Bytes32, AccountsError>;

    /// Writes something that changes nothing, durably: whether the storage takes writes just now.
    async fn probe(&self) -> Result<(), AccountsError>;

    /// Deletes what has ended: logins, used challenges, invites, full buckets. Returns how many rows.
    async fn purge(&self, now_ms: u64) -> Result<u64, AccountsError>;
}
