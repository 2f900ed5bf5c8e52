//! Moves committed pages from the write-ahead log into the database file, on a thread and a connection of its own, so that a commit never does.
//!
//! Most of the work is a passive checkpoint, which runs beside the writer. Under continuous load that alone never lets the write-ahead log start over,
//! so once it is long the last few pages are copied while the writer is held between two transactions for that moment.

use std::{cell::Cell, path::Path, sync::Arc, thread::JoinHandle, time::Duration};

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use super::{Durability, connection};

/// New frames (of 4 KiB) in the write-ahead log after which a checkpoint is worth its syncs: 8 MiB.
const WORTHWHILE: u32 = 2048;
/// Frames in the write-ahead log from which on it is made to start over: 16 MiB.
const LONG: u32 = 4096;
/// A quiet database is checkpointed this long after its last commit.
const QUIET: Duration = Duration::from_secs(20);

/// Shared by the writer and the checkpoint thread.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
    wake: Condvar,
    /// Held by the writer during a transaction and by the checkpoint while it starts the log over.
    pub(crate) turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Frames in the write-ahead log after the last commit.
    frames: u32,
    /// Of these the last checkpoint has seen so many.
    seen: u32,
    closed: bool,
}

impl State {
    fn fresh(&self) -> u32 {
        self.frames - self.seen
    }
}

thread_local! {
    /// What SQLite told after the last commit on this thread.
    static FRAMES: Cell<u32> = const { Cell::new(0) };
}

/// Makes SQLite tell how long the write-ahead log is, to whoever commits on this connection.
pub(crate) fn watch(db: &Connection) {
    db.wal_hook(Some(|_, frames| {
        FRAMES.set(frames.unsigned_abs());
        Ok(())
    }));
}

impl Pace {
    /// The writer has committed, on this thread.
    pub(crate) fn committed(&self) {
        let mut state = self.state.lock();
        let before = state.fresh();
        state.frames = FRAMES.get();
        // The log has started over.
        if state.frames < state.seen {
            state.seen = 0;
        }
        let after = state.fresh();
        if (before == 0 && after > 0) || (before < WORTHWHILE && after >= WORTHWHILE) {
            self.wake.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits until a checkpoint is due; false when closed.
    fn due(&self) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return false;
            }
            if state.fresh() >= WORTHWHILE {
                break;
            }
            if state.fresh() == 0 {
                self.wake.wait(&mut state);
            } else if self.wake.wait_for(&mut state, QUIET).timed_out() {
                break;
            }
        }
        state.seen = state.frames;
        !state.closed
    }
}

/// Starts the thread.
pub(crate) fn start(path: &Path, durability: Durability, pace: Arc<Pace>) -> Result<Option<JoinHandle<()>>, rusqlite::Error> {
    let db = connection::checkpointer(path, durability)?;
    Ok(std::thread::Builder::new().name("kith-db-check".to_owned()).spawn(move || run(&db, &pace)).ok())
}

fn run(db: &Connection, pace: &Pace) {
    while pace.due() {
        let passive = checkpoint(db, "PASSIVE");
        let outcome = match passive {
            Ok(frames) if frames >= LONG => {
                let _turn = pace.turn.lock();
                checkpoint(db, "RESTART")
            }
            other => other,
        };
        // A full disk fails here as well; nothing is lost by trying again after the next commits.
        if let Err(error) = outcome {
            tracing::warn!(%error, "checkpoint failed");
        }
    }
}

/// Returns the frames in the write-ahead log.
fn checkpoint(db: &Connection, mode: &str) -> Result<u32, rusqlite::Error> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| row.get(1))
}
