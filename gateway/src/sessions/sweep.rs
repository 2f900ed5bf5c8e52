//! Keep-alive for all connections: one task that goes round the directory once a second, a shard at a time. No connection has a timer of its own.

use std::{sync::Arc, time::Duration};

use kith_proto::{id::DeviceRef, v1};
use tokio::time::{MissedTickBehavior, interval};

use super::{Session, Sessions, directory::SHARDS};
use crate::connection::{Now, Signal};

/// Devices whose heads are read together.
const HEADS_AT_ONCE: usize = 256;

/// What the operator has been told of overload.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    log_full: u64,
    turned_away: u64,
}

impl Sessions {
    /// Runs for as long as the process serves.
    pub(super) async fn sweep(self: Arc<Self>) {
        let keep_alive = self.shared.settings.keep_alive;
        let round = Duration::from_secs(1).min(keep_alive / 4).max(Duration::from_millis(1));
        let mut tick = interval((round / u32::try_from(SHARDS).unwrap_or(1)).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::default();
        for shard in (0..SHARDS).cycle() {
            tick.tick().await;
            if shard == 0 {
                self.tell_of_overload(&mut told);
            }
            let sessions = self.directory.in_shard(shard);
            let due = self.see_to(&sessions, self.now());
            for sessions in due.chunks(HEADS_AT_ONCE) {
                self.check_heads(sessions).await;
            }
        }
    }

    /// Once a round at most, whatever clients do.
    fn tell_of_overload(&self, told: &mut Told) {
        let now = Told { log_full: self.counters.log_full.value(), turned_away: self.counters.turned_away.value() };
        if now != *told {
            let (messages, connections) = (now.log_full - told.log_full, now.turned_away - told.turned_away);
            tracing::warn!(messages, connections, "overloaded: messages were refused because the log is full, or connections for lack of room");
            *told = now;
        }
    }

    /// Cuts those whose token has ended, pings those that are due, and returns those whose heads are to be checked.
    fn see_to<'a>(&self, sessions: &'a [Arc<Session>], now: Now) -> Vec<&'a Arc<Session>> {
        let settings = &self.shared.settings;
        let keep_alive_ms = millis(settings.keep_alive);
        let rescue_ms = millis(settings.rescue_after);
        let mut due = Vec::new();
        for session in sessions.iter().filter(|s| s.is_established()) {
            if session.token_until_ms() <= now.unix_ms {
                session.signal(Signal::Cut(v1::ErrorCode::TokenExpired));
                continue;
            }
            if now.running_ms.saturating_sub(session.pinged_ms()) >= keep_alive_ms {
                session.keep_alive(now.running_ms);
            }
            // A quiet moment is preferred, since then nothing that is just on its way looks like missing; but the check is not put off for long.
            let since = now.running_ms.saturating_sub(session.checked_ms());
            let quiet = now.running_ms.saturating_sub(session.delivered_ms()) >= rescue_ms;
            let is_due = since >= keep_alive_ms || quiet && since + 2 * rescue_ms >= keep_alive_ms;
            if (is_due || session.is_to_be_checked_soon()) && session.is_live() {
                session.set_checked(now.running_ms);
                due.push(session);
            }
        }
        due
    }

    /// Checks the heads of all live devices, and has those that catch up read theirs once more: something may have been lost on its way here.
    pub(crate) async fn check_all_heads(&self) {
        for shard in 0..SHARDS {
            let sessions = self.directory.in_shard(shard);
            let live: Vec<_> = sessions.iter().filter(|s| s.note_missed() && s.is_established()).collect();
            for sessions in live.chunks(HEADS_AT_ONCE) {
                self.check_heads(sessions).await;
            }
        }
    }

    /// Rule 1: the last message of a conversation has no successor to expose its loss.
    async fn check_heads(&self, sessions: &[&Arc<Session>]) {
        let devices: Vec<DeviceRef> = sessions.iter().map(|s| s.device()).collect();
        // If the log cannot tell now, the next round asks again.
        let Ok(behind) = self.within(self.log.behind(&devices)).await else { return };
        for session in sessions {
            if behind.iter().any(|b| b.device == session.device()) {
                self.counters.rescues.one();
                session.signal(Signal::Behind);
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
