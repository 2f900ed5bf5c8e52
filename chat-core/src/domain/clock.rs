//! Where the time comes from.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// A source of Unix time in milliseconds: the system's, or a hand that a test moves.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// Stands still until somebody stores another value.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            Self::Manual(hand) => hand.load(Ordering::Acquire),
        }
    }

    /// What the hand shows. `None` for the machine's clock: those who share a database ask that for the time, since their own clocks differ.
    #[must_use]
    pub fn given_ms(&self) -> Option<u64> {
        match self {
            Self::System => None,
            Self::Manual(hand) => Some(hand.load(Ordering::Acquire)),
        }
    }
}
