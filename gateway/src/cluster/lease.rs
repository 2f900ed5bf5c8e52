//! Whether this process has been at work all the time. A process that was stopped, or whose machine was suspended, comes back with open sockets while its
//! devices may long be connected elsewhere: those sockets end before anything that they sent is handled. (DESIGN.md, rule 6)
//!
//! A task beats many times within a lease; whoever handles something looks whether the last beat is recent, by the clock that runs on while the machine is
//! suspended. That the directory is away is no reason to end anything: only a process that did not run itself has lost its lease here.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Beats within a lease.
const BEATS: u32 = 20;
/// The time takes this many bits, which is 8,900 years; the number of the era the rest.
const TIME_BITS: u32 = 48;

/// Counts eras: stretches of time without an interruption.
#[derive(Debug)]
pub(crate) struct Lease {
    /// The era, and when the last beat was; together, so that nobody sees a new beat and an old era.
    state: AtomicU64,
    most_ms: u64,
    lease: Duration,
}

impl Lease {
    /// The directory's lease was renewed up to a third of it, and one call, before the interruption; what is left of it then is the longest interruption that
    /// certainly has not outlasted it.
    pub(crate) fn new(lease: Duration) -> Self {
        let most_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX) / 2;
        Self { state: AtomicU64::new(pack(1, boot_ms())), most_ms, lease }
    }

    /// The present era. What belongs to an earlier one is to be ended unheard.
    pub(crate) fn era(&self) -> u64 {
        self.era_at(boot_ms(), false)
    }

    /// How often to beat.
    pub(super) fn beat_every(&self) -> Duration {
        self.lease / BEATS
    }

    pub(super) fn beat(&self) {
        self.era_at(boot_ms(), true);
    }

    fn era_at(&self, now_ms: u64, beat: bool) -> u64 {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            let (era, last_ms) = unpack(state);
            let interrupted = now_ms.saturating_sub(last_ms) > self.most_ms;
            if !interrupted && !beat {
                return era;
            }
            let next = era + u64::from(interrupted);
            match self.state.compare_exchange_weak(state, pack(next, now_ms.max(last_ms)), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return next,
                Err(now) => state = now,
            }
        }
    }
}

fn pack(era: u64, ms: u64) -> u64 {
    era << TIME_BITS | ms & ((1 << TIME_BITS) - 1)
}

fn unpack(state: u64) -> (u64, u64) {
    (state >> TIME_BITS, state & ((1 << TIME_BITS) - 1))
}

/// Milliseconds since the machine was started, the time for which it was suspended included.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the clock can only be read through libc; the call gets a valid pointer to a live value")]
fn boot_ms() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a live, writable timespec.
    unsafe {
        libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now);
    }
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Elsewhere the monotonic clock, which on macOS and the BSDs may stand still while the machine is suspended.
#[cfg(not(target_os = "linux"))]
fn boot_ms() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_begins_a_new_era_once() {
        let lease = Lease::new(Duration::from_secs(10));
        let start = boot_ms();
        let era = lease.era_at(start, true);
        assert_eq!(lease.era_at(start + 5_000, false), era, "half of the lease is no interruption");
        assert_eq!(lease.era_at(start + 4_000, true), era);
        assert_eq!(lease.era_at(start + 9_001, false), era + 1);
        assert_eq!(lease.era_at(start + 9_001, true), era + 1, "noticed once");
        assert_eq!(lease.era_at(start + 9_000, true), era + 1, "a beat that comes late does not put the clock back");
        assert_eq!(lease.era_at(start + 20_000, true), era + 2, "a beat notices as well");
    }
}
