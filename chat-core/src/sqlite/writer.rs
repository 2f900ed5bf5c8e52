//! The one thread that writes. It takes what is waiting and commits it as one transaction.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use kith_proto::id::AccountId;
use rusqlite::Connection;

use super::{
    StorageFault,
    checkpoint::Pace,
    queue::{Queue, Taken},
};

/// Commands of one transaction at most.
const BATCH_ITEMS: usize = 512;
/// Bytes of one transaction at most (a single larger command passes alone).
const BATCH_BYTES: usize = 1 << 20;
/// What a commit costs in the write-ahead log besides its commands, roughly: the pages at the ends of a few trees.
const COMMIT_BYTES: usize = 16 << 10;

/// The transaction that a write job is part of.
#[derive(Debug)]
pub struct Write<'a> {
    tx: &'a Connection,
    changed: &'a mut Vec<AccountId>,
}

impl<'a> Write<'a> {
    /// The connection, inside a transaction and a savepoint of the job's own. The job must neither commit nor roll back.
    #[must_use]
    pub fn tx(&self) -> &'a Connection {
        self.tx
    }

    /// Devices of this account were added or revoked: the message log looks at them again, in this transaction, before anything that follows.
    pub fn devices_changed(&mut self, account: AccountId) {
        self.changed.push(account);
    }
}

/// Runs in the transaction and says whether its changes are to stay, and what to do once they are durable (or lost).
pub(crate) type WriteJob = Box<dyn FnOnce(&mut Write<'_>) -> (bool, Finish) + Send>;
/// Answers the caller after the commit.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), StorageFault>) + Send>;

/// What the writer is asked for.
pub(crate) enum Command {
    /// Somebody else's transaction.
    Job(WriteJob),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

pub(crate) struct Writer {
    pub(crate) db: Connection,
    pub(crate) queue: Arc<Queue<Command>>,
    pub(crate) pace: Arc<Pace>,
}

impl Writer {
    pub(crate) fn run(mut self) {
        let mut commands = Vec::with_capacity(BATCH_ITEMS);
        while self.queue.take(&mut commands, BATCH_ITEMS, BATCH_BYTES, None) == Taken::Awake {
            if !commands.is_empty() {
                self.batch(&mut commands);
            }
            commands.clear();
        }
    }

    fn batch(&mut self, commands: &mut Vec<Command>) {
        let pace = Arc::clone(&self.pace);
        let _turn = pace.turn.lock();
        let mut finishes = Vec::new();
        let outcome = self.transaction(commands, &mut finishes);
        pace.committed(COMMIT_BYTES);
        let fault = outcome.err().map(StorageFault::from);
        for finish in finishes {
            finish(fault.clone().map_or(Ok(()), Err));
        }
    }

    fn transaction(&mut self, commands: &mut Vec<Command>, finishes: &mut Vec<Finish>) -> Result<(), rusqlite::Error> {
        let mut changed = Vec::new();
        self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let outcome = commands.drain(..).try_for_each(|command| match command {
            Command::Job(job) => job_in_savepoint(&self.db, job, &mut changed).map(|finish| finishes.extend(finish)),
        });
        let outcome = outcome.and_then(|()| self.db.prepare_cached("COMMIT")?.execute([]).map(|_| ()));
        if outcome.is_err() && !self.db.is_autocommit() {
            let _ = self.db.execute_batch("ROLLBACK");
        }
        outcome
    }
}

/// Runs a job; its failure or panic undoes only what it did. An error means that the whole transaction is lost.
pub(crate) fn job_in_savepoint(db: &Connection, job: WriteJob, changed: &mut Vec<AccountId>) -> Result<Option<Finish>, rusqlite::Error> {
    db.prepare_cached("SAVEPOINT job")?.execute([])?;
    let before = changed.len();
    let outcome = catch_unwind(AssertUnwindSafe(|| job(&mut Write { tx: db, changed })));
    // A full disk may have rolled back everything, this savepoint included.
    if db.is_autocommit() {
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None));
    }
    let keep = matches!(outcome, Ok((true, _)));
    if !keep {
        changed.truncate(before);
        db.prepare_cached("ROLLBACK TO job")?.execute([])?;
    }
    db.prepare_cached("RELEASE job")?.execute([])?;
    Ok(outcome.ok().map(|(_, finish)| finish))
}
