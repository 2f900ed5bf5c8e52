//! What other gateways bring about here.

use kith_chat_core::sessions::GatewayId;
use kith_proto::{
    id::{AccountId, DeviceId, DeviceRef},
    v1,
    v1::server_frame::Kind,
};

use super::{Sessions, directory::SHARDS};
use crate::connection::Signal;

impl Sessions {
    /// Pushes to live devices of an account that are connected here, or to one of them.
    pub(crate) fn tell_here(&self, account: AccountId, only: Option<DeviceId>, kind: &Kind) {
        let limit = self.inbox_limit();
        self.directory.of(&account, |sessions| {
            for session in sessions.iter().filter(|s| only.is_none_or(|only| s.device().device == only)) {
                if session.push(kind.clone(), limit) {
                    session.wake();
                }
            }
        });
    }

    /// Ends connections of the device that are here and not newer than that. With [`u64::MAX`] also those that are just coming about; otherwise their epoch is
    /// not known yet, and they are told when they enter the session directory.
    pub(crate) fn cut_through(&self, device: DeviceRef, epoch: u64, reason: v1::ErrorCode) {
        self.directory.of(&device.account, |sessions| {
            let not_newer = |s: &super::Session| epoch == u64::MAX || s.is_established() && s.epoch() <= epoch;
            sessions.iter().filter(|s| s.device() == device && not_newer(s)).for_each(|s| s.signal(Signal::Cut(reason)));
        });
    }

    /// The log may hold what devices of the account have not been given.
    pub(crate) fn look_into_log(&self, account: AccountId) {
        self.directory.of(&account, |sessions| {
            for session in sessions.iter().filter(|s| s.note_missed()) {
                session.signal(Signal::Behind);
            }
        });
    }

    /// An account has come, gone or changed its setting at another gateway. Returns whether anybody here watches it.
    pub(crate) fn presence_changed_at(&self, from: GatewayId, account: AccountId, last_seen_ms: Option<u64>, setting: bool) -> bool {
        let watched = self.presence.is_watched(&account);
        if watched {
            self.courier.presence(super::presence::Change { account, last_seen_ms, setting, from: Some(from) });
        }
        watched
    }

    /// Devices that are connected here, with their epochs: a shard at a time, so that nobody waits for all of them.
    pub(crate) fn established(&self) -> impl Iterator<Item = Vec<(DeviceRef, u64)>> + '_ {
        (0..SHARDS).map(|shard| {
            let sessions = self.directory.in_shard(shard);
            sessions.iter().filter(|s| s.is_established()).map(|s| (s.device(), s.epoch())).collect()
        })
    }

    /// Whether no connection waits for the check of its heads that follows its beginning.
    #[cfg(test)]
    pub(crate) fn have_checked(&self) -> bool {
        self.directory.all().iter().all(|s| !s.is_to_be_checked_soon())
    }

    /// Whether this very connection of the device is still here.
    pub(crate) fn holds(&self, device: DeviceRef, epoch: u64) -> bool {
        self.directory.of(&device.account, |sessions| sessions.iter().any(|s| s.device() == device && s.epoch() == epoch))
    }
}
