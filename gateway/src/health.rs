//! Whether the server serves.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// Readiness. Once ready it stays so through outages of what it depends on, which are named and mend themselves; only draining, or a failure of its own,
/// takes it out of the balancer.
#[derive(Debug)]
pub struct Health {
    missing: Mutex<Vec<String>>,
    was_ready: AtomicBool,
    draining: AtomicBool,
    failed: AtomicBool,
}

/// What `/readyz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether to send traffic here.
    pub ready: bool,
    /// What is missing, by name, and by address if it is another service.
    pub missing: Vec<String>,
}

impl Health {
    /// Not ready until everything in `missing` has come and serving has begun.
    #[must_use]
    pub fn new(missing: &[&str]) -> Self {
        let flag = || AtomicBool::new(false);
        Self { missing: Mutex::new(missing.iter().map(|m| (*m).to_owned()).collect()), was_ready: flag(), draining: flag(), failed: flag() }
    }

    /// A dependency is there.
    pub fn present(&self, name: &str) {
        self.missing.lock().retain(|m| *m != name);
    }

    /// Everything has been there, and clients are served from now on.
    pub fn begin(&self) {
        self.was_ready.store(true, Ordering::Release);
    }

    /// A dependency does not answer.
    pub fn absent(&self, name: &str) {
        let mut missing = self.missing.lock();
        if missing.iter().all(|m| m != name) {
            missing.push(name.to_owned());
        }
    }

    /// The server is going away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether it is going away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The server cannot go on.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// The state now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let mut missing = self.missing.lock().clone();
        if self.is_draining() {
            missing.push("draining".to_owned());
        }
        let failed = self.failed.load(Ordering::Acquire);
        if failed {
            missing.push("failed".to_owned());
        }
        Readiness { ready: self.was_ready.load(Ordering::Acquire) && !self.is_draining() && !failed, missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_stays_ready_until_it_drains() {
        let health = Health::new(&["database", "redis"]);
        assert_eq!(health.readiness(), Readiness { ready: false, missing: vec!["database".to_owned(), "redis".to_owned()] });
        health.present("database");
        health.present("redis");
        assert!(!health.readiness().ready, "nothing serves yet");
        health.begin();
        assert_eq!(health.readiness(), Readiness { ready: true, missing: vec![] });
        health.absent("database");
        assert_eq!(health.readiness(), Readiness { ready: true, missing: vec!["database".to_owned()] });
        health.drain();
        assert!(!health.readiness().ready);
    }
}
