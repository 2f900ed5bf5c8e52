//! The one thread that writes. It takes what is waiting and commits it as one transaction.
//!
//! A panic in a job undoes the job. A panic in the log's own code ends the thread: what is in memory may by then be half of something, and what is on the disk
//! never is, so the whole process has to begin anew ([`Database::ended`](super::Database::ended)), as after a power cut.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use kith_proto::id::{AccountId, DeviceRef};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    StorageFault,
    checkpoint::{self, Pace},
    is_fatal,
    queue::{Queue, Taken, within},
};
use crate::{
    domain::Clock,
    log::{Append, CommitTimes, ConnectError, Connected, LogError, LogWriter, Purged, Resolved},
};

/// Commands of one transaction at most.
const BATCH_ITEMS: usize = 512;
/// Bytes of one transaction at most (a single larger command passes alone).
const BATCH_BYTES: usize = 1 << 20;
/// How long the writer sleeps when the consumer of resolved appends is behind.
const HAND_OVER_PAUSE: Duration = Duration::from_micros(200);

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

/// Runs in the transaction (`None`: it is lost already) and says whether its changes are to stay, and what to do once they are durable (or lost).
pub(crate) type WriteJob = Box<dyn FnOnce(Option<&mut Write<'_>>) -> (bool, Finish) + Send>;
/// Answers the caller after the commit.
pub(crate) type Finish = Box<dyn FnOnce(Result<(), StorageFault>) + Send>;

/// What the writer is asked for. Nearly all are appends, so that boxing them would cost an allocation for each and save nothing.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Command {
    /// A message.
    Append(Append),
    /// A device connects.
    Connect { device: DeviceRef, epoch: u64, answer: oneshot::Sender<Result<Connected, ConnectError>> },
    /// Answered when everything acknowledged before is durable.
    Flush { answer: oneshot::Sender<Result<(), StorageFault>> },
    /// Deletes what may be deleted.
    Purge { now_ms: u64, answer: oneshot::Sender<Purged> },
    /// Somebody else's part of the transaction.
    Job(WriteJob),
}

pub(crate) struct Writer {
    db: Connection,
    log: LogWriter,
    queue: Arc<Queue<Command>>,
    pace: Arc<Pace>,
    resolved: mpsc::Sender<Vec<Resolved>>,
    clock: Clock,
    purge_every: Option<Duration>,
    purge_at: Option<Instant>,
    finishes: Vec<Finish>,
    changed: Vec<AccountId>,
    /// Dropped with the writer, which is how others learn of its end.
    _alive: watch::Sender<()>,
}

impl Writer {
    #[allow(clippy::too_many_arguments, reason = "called once, by the one who opens the database")]
    pub(crate) fn new(
        db: Connection,
        log: LogWriter,
        queue: Arc<Queue<Command>>,
        pace: Arc<Pace>,
        resolved: mpsc::Sender<Vec<Resolved>>,
        clock: Clock,
        purge_every: Option<Duration>,
        alive: watch::Sender<()>,
    ) -> Self {
        let purge_at = purge_every.and_then(within);
        checkpoint::watch(&db);
        Self { db, log, queue, pace, resolved, clock, purge_every, purge_at, finishes: Vec::new(), changed: Vec::new(), _alive: alive }
    }

    pub(crate) fn run(mut self) {
        let mut commands = Vec::with_capacity(BATCH_ITEMS);
        loop {
            let due = self.log.due().into_iter().chain(self.purge_at).min();
            if self.queue.take(&mut commands, BATCH_ITEMS, BATCH_BYTES, due) == Taken::Closed {
                break;
            }
            self.start_purge();
            let step = self.log.has_step();
            if step || !commands.is_empty() {
                self.batch(&mut commands, step);
            }
        }
        self.finish();
    }

    fn start_purge(&mut self) {
        if self.purge_at.is_some_and(|at| at <= Instant::now()) {
            self.purge_at = self.purge_every.and_then(within);
            self.log.purge(self.clock.now_ms(), None);
        }
    }

    /// Writes down what is in memory, so that the next opening has nothing to work out. It could, so a failing disk is no loss.
    fn finish(&mut self) {
        let (answer, mut answered) = oneshot::channel();
        self.log.flush(answer);
        while matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            self.batch(&mut Vec::new(), true);
        }
    }

    fn batch(&mut self, commands: &mut Vec<Command>, step: bool) {
        let begun = Instant::now();
        let pace = Arc::clone(&self.pace);
        let turn = pace.turn.lock();
        let outcome = self.transaction(commands, step);
        drop(turn);
        pace.committed();
        let committed = outcome.is_ok() || self.log.was_committed(&self.db);
        let mut resolved = if committed { self.log.committed() } else { self.log.rolled_back() };
        let times = CommitTimes { taken: begun, committed: Instant::now() };
        resolved.iter_mut().for_each(|message| message.append.course.commit = Some(times));
        let fault = outcome.err().filter(|_| !committed).map(StorageFault::from);
        if let Some(fault) = &fault {
            tracing::error!(error = %fault.0, "a transaction failed");
            self.log.fail_waiting(fault);
        }
        for finish in self.finishes.drain(..) {
            finish(fault.clone().map_or(Ok(()), Err));
        }
        metrics::histogram!("kith_log_transaction_seconds").record((times.committed - begun).as_secs_f64());
        metrics::histogram!("kith_log_transaction_messages").record(f64::from(u32::try_from(resolved.len()).unwrap_or(u32::MAX)));
        if !resolved.is_empty() {
            self.hand_over(resolved);
        }
    }

    /// Waits while the consumer is behind, which holds back everybody who sends; but not for ever when closing.
    fn hand_over(&self, mut resolved: Vec<Resolved>) {
        loop {
            match self.resolved.try_send(resolved) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(_)) if self.queue.is_closed() => return,
                Err(mpsc::error::TrySendError::Full(back)) => resolved = back,
            }
            std::thread::sleep(HAND_OVER_PAUSE);
        }
    }

    fn transaction(&mut self, commands: &mut Vec<Command>, step: bool) -> Result<(), rusqlite::Error> {
        let now_ms = self.clock.now_ms();
        let mut outcome = self.log.settle(&self.db).and_then(|()| self.sql("BEGIN IMMEDIATE"));
        for command in commands.drain(..) {
            match &outcome {
                Ok(()) => outcome = self.execute(command, now_ms),
                Err(_) => self.skip(command),
            }
        }
        let outcome = outcome.and_then(|()| if step { self.step() } else { Ok(()) }).and_then(|()| self.sql("COMMIT"));
        if outcome.is_err() && !self.db.is_autocommit() {
            let _ = self.db.execute_batch("ROLLBACK");
        }
        outcome
    }

    /// An error means that the transaction is lost.
    fn execute(&mut self, command: Command, now_ms: u64) -> Result<(), rusqlite::Error> {
        match command {
            Command::Append(append) => self.log.append(&self.db, append, now_ms)?,
            Command::Connect { device, epoch, answer } => {
                let connected = self.log.connect(&self.db, device, epoch)?;
                self.finishes.push(Box::new(move |committed| {
                    let unavailable = |fault| ConnectError::Log(LogError::Unavailable(Box::new(fault)));
                    let _ = answer.send(committed.map_err(unavailable).and(connected));
                }));
            }
            Command::Flush { answer } => self.log.flush(answer),
            Command::Purge { now_ms, answer } => self.log.purge(now_ms, Some(answer)),
            Command::Job(job) => {
                let finish = job_in_savepoint(&self.db, job, &mut self.changed)?;
                self.finishes.extend(finish);
                for account in self.changed.drain(..) {
                    self.log.devices_changed(&self.db, account)?;
                }
            }
        }
        Ok(())
    }

    /// The transaction is lost already. Dropping the answer of the others tells those who wait.
    fn skip(&mut self, command: Command) {
        match command {
            Command::Append(append) => self.log.refuse(append),
            Command::Job(job) => self.finishes.extend(catch_unwind(AssertUnwindSafe(|| job(None).1)).ok()),
            Command::Connect { .. } | Command::Flush { .. } | Command::Purge { .. } => {}
        }
    }

    /// Background work. A failure that is not the disk's undoes only the step, so that appends go on.
    fn step(&mut self) -> Result<(), rusqlite::Error> {
        self.sql("SAVEPOINT step")?;
        match self.log.step(&self.db) {
            Err(error) if is_fatal(&error) || self.db.is_autocommit() => Err(error),
            Err(error) => {
                tracing::error!(%error, "a step of the log's summary failed");
                self.log.fail_waiting(&StorageFault::from(error));
                self.sql("ROLLBACK TO step")?;
                self.sql("RELEASE step")
            }
            Ok(()) => self.sql("RELEASE step"),
        }
    }

    fn sql(&self, sql: &str) -> Result<(), rusqlite::Error> {
        self.db.prepare_cached(sql)?.execute([]).map(|_| ())
    }
}

/// However the thread ends, nobody waits for it in vain.
impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.close();
        let mut rest = Vec::new();
        while self.queue.take(&mut rest, BATCH_ITEMS, BATCH_BYTES, None) == Taken::Awake {
            rest.clear();
        }
    }
}

/// Runs a job; its failure or panic undoes only what it did. An error means that the whole transaction is lost.
pub(crate) fn job_in_savepoint(db: &Connection, job: WriteJob, changed: &mut Vec<AccountId>) -> Result<Option<Finish>, rusqlite::Error> {
    db.prepare_cached("SAVEPOINT job")?.execute([])?;
    let before = changed.len();
    let outcome = catch_unwind(AssertUnwindSafe(|| job(Some(&mut Write { tx: db, changed }))));
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
