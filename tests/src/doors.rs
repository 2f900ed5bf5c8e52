//! The addresses under which one service is reached.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::rest::Rest;

/// Every address leads to a server of the same service, and which one a device takes makes no difference to what it sees.
#[derive(Debug)]
pub struct Doors {
    rests: Vec<Rest>,
    haunted: Vec<AtomicBool>,
}

impl Doors {
    /// All that there are; at least one.
    #[must_use]
    pub fn new(rests: Vec<Rest>) -> Self {
        assert!(!rests.is_empty(), "a service has an address");
        let haunted = rests.iter().map(|_| AtomicBool::new(false)).collect();
        Self { rests, haunted }
    }

    /// The only one.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn one(origin: &str) -> anyhow::Result<Self> {
        Ok(Self::new(vec![Rest::new(origin)?]))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.rests.len()
    }

    /// The n-th, counted round and round.
    #[must_use]
    pub fn rest(&self, n: usize) -> Rest {
        self.rests[n % self.rests.len()].clone()
    }

    /// From now on the server behind this door stands still, for longer than its lease. What is sent to it then must never be handled.
    pub fn haunt(&self, n: usize, haunted: bool) {
        self.haunted[n].store(haunted, Ordering::SeqCst);
    }

    /// Whether it stands still for that long.
    #[must_use]
    pub fn is_haunted(&self, n: usize) -> bool {
        self.haunted[n % self.haunted.len()].load(Ordering::SeqCst)
    }
}
