//! What the generator is doing, on stderr, for people who wait.

use std::{
    cell::Cell,
    io::{IsTerminal as _, Write as _, stderr},
    time::{Duration, Instant},
};

/// Tells what goes on; keeps quiet unless stderr is a terminal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    shown: bool,
}

impl Progress {
    /// Shown on a terminal only.
    pub(super) fn new() -> Self {
        Self { shown: stderr().is_terminal() }
    }

    /// Says one thing.
    pub(super) fn say(self, what: &str) {
        if self.shown {
            let _ = write!(stderr(), "\r\x1b[K{what}");
        }
    }

    /// Wipes what was said last.
    pub(super) fn clear(self) {
        self.say("");
    }

    /// Something that happens `total` times.
    pub(super) fn step(self, name: &'static str, total: usize) -> Step {
        Step { progress: self, name, total, done: Cell::new(0), said: Cell::new(Instant::now()) }
    }
}

/// Counts.
#[derive(Debug)]
pub(super) struct Step {
    progress: Progress,
    name: &'static str,
    total: usize,
    done: Cell<usize>,
    said: Cell<Instant>,
}

impl Step {
    /// One more is done.
    pub(super) fn one_more(&self) {
        self.done.set(self.done.get() + 1);
        if self.said.get().elapsed() > Duration::from_millis(200) {
            self.said.set(Instant::now());
            self.progress.say(&format!("{} {}/{}", self.name, self.done.get(), self.total));
        }
    }
}
