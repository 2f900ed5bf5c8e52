//! Which gateway holds which device, for gateways that serve the same database.
//!
//! The directory is a hint and never the truth: it may be empty, late, or away. Connection epochs are decided by the message log (a compare-and-set in
//! its database), revocations by the accounts; a device that the directory does not find is not told of a message at once and reads it from the log at its next
//! keep-alive. So everything here may be lost at any instant, and an implementation keeps nothing durable.
//!
//! A gateway lives by a lease. Its sessions vanish for everybody at the instant that the lease ends, however many they are: a place that names a
//! gateway without a lease is no place.
//!
//! [`memory`] is the directory of one process, [`redis`] the one that many share.

pub mod buckets;
#[cfg(test)]
mod conformance;
mod connections;
pub mod memory;
pub mod redis;
mod stale;

use std::fmt;

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use tokio::sync::mpsc;

pub use self::connections::{Connections, Everywhere};

/// Names one run of a gateway process: drawn at random when it starts, so that a gateway that comes back is another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub u64);

impl fmt::Debug for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gateway {:016x}", self.0)
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where one device is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The device.
    pub device: DeviceId,
    /// Who holds its connection.
    pub gateway: GatewayId,
    /// The epoch of that connection; a higher one is newer.
    pub epoch: u64,
}

/// A gateway that has a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Which run of it.
    pub id: GatewayId,
    /// Where other gateways reach it: `host:port`.
    pub address: String,
}

/// What a renewal tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Every gateway that has a lease now, oneself included.
    pub gateways: Vec<Gateway>,
    /// The directory had no lease of this gateway: the first renewal, or it was flushed, or the lease had ended. All sessions are to be entered again.
    pub anew: bool,
}

/// Something learnt from the directory may no longer hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The places of one account.
    Account(AccountId),
    /// Everything that was ever found, for instance because the link to the directory broke: changes may have been missed.
    Everything,
}

/// The directory cannot be asked just now.
#[derive(Debug, thiserror::Error)]
#[error("the session directory is unavailable")]
pub struct DirectoryError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Most sessions or accounts in one call; an implementation may be given more and then splits by itself.
pub const AT_ONCE: usize = 512;

/// The port. One instance belongs to one gateway. Every method has a deadline of its own (at most 1 s) and fails rather than waits.
#[async_trait]
pub trait SessionDirectory: Send + Sync + fmt::Debug {
    /// Which gateway this instance speaks for.
    fn gateway(&self) -> GatewayId;

    /// Notes that these devices are connected here, with the epochs that the log has granted. A place with a higher epoch stays as it is. Returns the places, at other
    /// gateways, that were replaced or that stayed because they are newer: the caller has the older connection of each cut.
    async fn enter(&self, sessions: &[(DeviceRef, u64)]) -> Result<Vec<(DeviceRef, Place)>, DirectoryError>;

    /// Forgets these connections, unless the device has another place by now.
    async fn leave(&self, sessions: &[(DeviceRef, u64)]) -> Result<(), DirectoryError>;

    /// Where the devices of these accounts are, in the order asked; places at gateways without a lease may be among them and the caller drops those that are not in
    /// the last [`Renewal`]. What was returned is good until a [`Stale`] says otherwise.
    ///
    /// Every change that the answer does not show is told after this was called, perhaps before it has returned. So a caller keeps what it found only if nothing
    /// stale that concerns it was told in between.
    async fn find(&self, accounts: &[AccountId]) -> Result<Vec<Vec<Place>>, DirectoryError>;

    /// Renews this gateway's lease, and makes it known the first time. To be called about every third of the lease.
    async fn renew(&self) -> Result<Renewal, DirectoryError>;

    /// Every gateway that has a lease now, for somebody who may be none.
    async fn gateways(&self) -> Result<Vec<GatewayId>, DirectoryError>;

    /// Gives up the lease, at the end of a drain. Sessions need not be left one by one before.
    async fn resign(&self) -> Result<(), DirectoryError>;

    /// What is no longer to be believed. Can be taken once; bounded: when the taker is too slow, [`Stale::Everything`] takes the place of what was dropped.
    fn stale(&self) -> Option<mpsc::Receiver<Stale>>;
}
