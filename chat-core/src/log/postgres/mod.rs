//! The message log on PostgreSQL, for any number of processes over one database.
//!
//! Nothing that decides anything is kept in memory: every process reads and writes the same rows under the same locks. What costs little on one connection
//! with much to do is done so: appends, acknowledgements and connecting devices are each gathered by a task with a connection of its own, which sends what
//! is waiting as one statement that is one transaction.
//!
//! How an append stays dense under races is told in the migration, at `log_append`: the conversations' rows are locked in the order of their ids, and all
//! that is looked at afterwards was committed before. Rows carry the versions of both members' sets of devices, so that a message that was written for
//! other devices than those of the moment is noticed under that lock.
//!
//! - `plan`, `roster`, `run`, `counters`, `append`, `writer`, `rest`: appends. - `acknowledge`, `connect`: the other writers. - `read`, `page`: questions.
//! - `keeper`, `chores`: deleting. - `overdue`: what nobody fetches. - `enroll`: what the accounts tell of devices. - `queue`: what waits.
//! - `session`: a connection that comes back, and what becomes of a statement when it is lost.

mod acknowledge;
mod append;
mod chores;
mod connect;
mod counters;
mod enroll;
mod keeper;
mod overdue;
mod page;
mod plan;
mod queue;
mod read;
mod rest;
mod roster;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod writer;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use kith_proto::id::{AccountId, ConversationId, DeviceRef};
use parking_lot::Mutex;
use sqlx::PgConnection;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use self::{
    acknowledge::{Said, Secretary, What},
    chores::Chores,
    connect::{Hello, Porter},
    counters::Counters,
    keeper::{Asked, Keeper},
    queue::{Queue, Refused},
    roster::Rosters,
    session::{Commit, Session},
    writer::Writer,
};
pub use self::{
    enroll::{enroll, retire},
    overdue::PostgresOverdue,
};
use super::{Append, Behind, ConnectError, Connected, LogError, MessageLog, Moved, Page, PageLimit, Purged, Resolved, State, retention::Retention};
use crate::{
    domain::Clock,
    postgres::{Failure, Postgres, StoreError},
};

/// The pack of a run, for the fuzz targets: taken apart as one of so many messages.
#[cfg(fuzzing)]
pub fn fuzzed_pack(data: &[u8], count: usize) {
    run::check(data, count);
}

/// What a queued append costs in memory besides its content.
const APPEND_BYTES: usize = 512;
/// Changes nothing that matters, durably.
const FLUSH: &str = "UPDATE log_flush SET times = times + 1";
/// Those who close the log wait no longer than this for what is under way.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);

/// How to use a database for the log.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the time stamps come from: the database's clock in the stead of the machine's, or a hand.
    pub clock: Clock,
    /// Connections that append, each to conversations of its own.
    pub writers: usize,
    /// Appends that may wait for a writer.
    pub write_queue: usize,
    /// Bytes of appends that may wait for a writer.
    pub write_queue_bytes: usize,
    /// Acknowledgements, and devices that connect, that may wait.
    pub request_queue: usize,
    /// Batches of resolved appends that may wait for their consumer; then the writers wait too.
    pub resolved_queue: usize,
    /// Messages are kept this long for devices that do not fetch them.
    pub retention_ms: u64,
    /// How often one of the processes looks at everything that is kept for what may be deleted; `None` leaves that to
    /// [`MessageLog::purge`]. What was just acknowledged by all is deleted without that.
    pub purge_every: Option<Duration>,
    /// When the server is away, or the fate of a statement is unknown, this long is tried to settle it before what waits is refused.
    pub settle_within: Duration,
}

impl Options {
    /// What production uses.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            writers: 2,
            write_queue: 8192,
            write_queue_bytes: 32 << 20,
            request_queue: 1 << 14,
            resolved_queue: 16,
            retention_ms: 30 * 24 * 60 * 60 * 1000,
            purge_every: Some(Duration::from_secs(60 * 60)),
            settle_within: Duration::from_secs(10),
        }
    }
}

/// The log. Dropping it ends its tasks at once, with what is under way left to the server; [`close`](Self::close) finishes first.
#[derive(Debug)]
pub struct PostgresLog {
    postgres: Arc<Postgres>,
    writers: Vec<Arc<Queue<Box<Append>>>>,
    secretary: Arc<Queue<Said>>,
    porter: Arc<Queue<Hello>>,
    keeper: Arc<Queue<Asked>>,
    chores: Arc<Mutex<Chores>>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// True when a task has panicked.
    fault: Arc<watch::Sender<bool>>,
}

impl PostgresLog {
    /// Starts the tasks, on the runtime that this is called in. What becomes of appends comes on the receiver in batches, those of one conversation in
    /// commit order; when nobody reads it the writers wait.
    #[must_use]
    pub fn start(postgres: Arc<Postgres>, options: &Options) -> (Arc<Self>, mpsc::Receiver<Vec<Resolved>>) {
        let (resolved, receiver) = mpsc::channel(options.resolved_queue);
        let server = Arc::clone(&postgres);
        let session = |role, commit| Session::new(Arc::clone(&server), role, commit, options.settle_within);
        let requests = options.request_queue;
        let chores = Arc::default();
        let fault = Arc::new(watch::Sender::new(false));
        let queue = |_| Arc::new(Queue::new(options.write_queue, options.write_queue_bytes));
        let log = Self {
            writers: (0..options.writers.max(1)).map(queue).collect(),
            secretary: Arc::new(Queue::new(requests, 16 * requests)),
            porter: Arc::new(Queue::new(requests, usize::MAX)),
            keeper: Arc::new(Queue::new(requests, usize::MAX)),
            tasks: Mutex::default(),
            fault: Arc::clone(&fault),
            chores: Arc::clone(&chores),
            postgres,
        };
        let mut tasks = Vec::new();
        for queue in &log.writers {
            let writer = Writer {
                queue: Arc::clone(queue),
                resolved: resolved.clone(),
                clock: options.clock.clone(),
                session: session("writer", Commit::Durable),
                rosters: Rosters::default(),
                held: VecDeque::new(),
                amiss: Vec::new(),
                counters: Counters::default(),
            };
            tasks.push(tokio::spawn(guarded(Arc::clone(&fault), writer.run())));
        }
        let secretary = Secretary { queue: Arc::clone(&log.secretary), session: session("cursors", Commit::Behind), chores: Arc::clone(&chores) };
        tasks.push(tokio::spawn(guarded(Arc::clone(&fault), secretary.run())));
        let porter = Porter { queue: Arc::clone(&log.porter), session: session("connects", Commit::Durable) };
        tasks.push(tokio::spawn(guarded(Arc::clone(&fault), porter.run())));
        let keeper = Keeper {
            queue: Arc::clone(&log.keeper),
            session: session("keeper", Commit::Behind),
            chores,
            clock: options.clock.clone(),
            retention_ms: options.retention_ms,
            retention: options.clock.given_ms().map(|now_ms| Retention::new(options.retention_ms, now_ms)),
            every: options.purge_every,
            purged: Purged::default(),
        };
        tasks.push(tokio::spawn(guarded(Arc::clone(&fault), keeper.run())));
        *log.tasks.lock() = tasks;
        (Arc::new(log), receiver)
    }

    /// Returns when a task of the log has panicked: a fault of the program. What that task did is done no more, so that the whole process has to begin
    /// anew, from what was committed.
    pub async fn ended(&self) {
        // The sender lives as long as this.
        let _ = self.fault.subscribe().wait_for(|fault| *fault).await;
    }

    /// Takes nothing more, and returns when what was waiting is done, or has taken too long.
    pub async fn close(&self) {
        self.end();
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let aborts: Vec<_> = tasks.iter().map(JoinHandle::abort_handle).collect();
        let all = async {
            for task in tasks {
                let _ = task.await;
            }
        };
        if timeout(CLOSED_WITHIN, all).await.is_err() {
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
    }

    fn end(&self) {
        self.writers.iter().for_each(|queue| queue.close());
        self.secretary.close();
        self.porter.close();
        self.keeper.close();
    }

    fn writer(&self, conversation: ConversationId) -> &Queue<Box<Append>> {
        // The id is a hash.
        &self.writers[usize::from(conversation.0[15]) % self.writers.len()]
    }

    async fn said(&self, device: DeviceRef, what: What) -> Result<Vec<Moved>, LogError> {
        let (answer, answered) = oneshot::channel();
        let weight = what.weight();
        push(&self.secretary, Said { device, what, answer }, weight)?;
        answered.await.map_err(|_| stopped())?
    }

    /// A question: one statement.
    async fn ask<A: Sync, T>(
        &self,
        name: &'static str,
        about: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<LogError>>,
    ) -> Result<T, LogError> {
        self.postgres.statement(name, about, work).await.map_err(outward)
    }

    /// A question whose answer may be old if it is `enough`: one statement, on the replica if there is one.
    async fn ask_anywhere<A: Sync, T>(
        &self,
        name: &'static str,
        about: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<LogError>>,
        enough: fn(&A, &T) -> bool,
    ) -> Result<T, LogError> {
        self.postgres.read_anywhere(name, about, work, enough).await.map_err(outward)
    }
}

impl Drop for PostgresLog {
    fn drop(&mut self) {
        self.end();
        self.tasks.lock().iter().for_each(JoinHandle::abort);
    }
}

#[async_trait]
impl MessageLog for PostgresLog {
    fn submit(&self, append: Append) -> Result<(), Box<Append>> {
        let slices = append.slices.iter().chain(&append.own_slices).map(|s| s.data.len() + 64);
        let weight = APPEND_BYTES + append.body.len() + slices.sum::<usize>();
        // It goes from hand to hand: in a box that costs a pointer each time.
        self.writer(append.conversation).push(Box::new(append), weight).map_err(|refused| match refused {
            Refused::Full(append) | Refused::Closed(append) => append,
        })
    }

    async fn connect(&self, device: DeviceRef, epoch: u64) -> Result<Connected, ConnectError> {
        let (answer, answered) = oneshot::channel();
        push(&self.porter, Hello { device, epoch, answer }, 0)?;
        answered.await.map_err(|_| stopped())?
    }

    async fn behind(&self, devices: &[DeviceRef]) -> Result<Vec<Behind>, LogError> {
        let (behind, level) = self.ask("log.behind", &devices.to_vec(), async |db, devices| Ok(read::behind(db, devices).await?)).await?;
        if !level.is_empty() {
            let now = std::time::Instant::now();
            let mut chores = self.chores.lock();
            level.into_iter().for_each(|conversation| chores.acknowledged(conversation, true, now));
        }
        Ok(behind)
    }

    async fn page(&self, device: DeviceRef, conversation: ConversationId, after: u64, limit: PageLimit) -> Result<Page, LogError> {
        let wanted = page::Wanted { device, conversation, after, limit };
        let page = self.ask("log.page", &wanted, async |db, wanted| Ok(page::page(db, wanted).await?)).await?;
        page.ok_or(LogError::NotAMember)
    }

    async fn catch_up(&self, device: DeviceRef, conversation: ConversationId, after: u64, head: u64, limit: PageLimit) -> Result<Page, LogError> {
        let wanted = (page::Wanted { device, conversation, after, limit }, head);
        let work = async |db: &mut PgConnection, (wanted, _): &(page::Wanted, u64)| Ok(page::page(db, wanted).await?);
        // May be old: messages never change, and a page that could lack one is not enough.
        let page = self.ask_anywhere("log.catch_up", &wanted, work, |(wanted, head), page| page::brings_on(wanted, *head, page.as_ref())).await?;
        page.ok_or(LogError::NotAMember)
    }

    async fn acknowledge(&self, device: DeviceRef, cursors: &[(ConversationId, u64)]) -> Result<Vec<Moved>, LogError> {
        if cursors.is_empty() {
            return Ok(Vec::new());
        }
        self.said(device, What::Acknowledged(cursors.to_vec())).await
    }

    async fn mark_read(&self, device: DeviceRef, conversation: ConversationId, seq: u64) -> Result<Option<Moved>, LogError> {
        Ok(self.said(device, What::Read(conversation, seq)).await?.pop())
    }

    async fn states(&self, device: DeviceRef, conversations: &[ConversationId]) -> Result<Vec<State>, LogError> {
        self.ask("log.states", &(device, conversations.to_vec()), async |db, (device, of)| Ok(read::states(db, *device, of).await?)).await
    }

    async fn mutual(&self, account: AccountId, others: &[AccountId]) -> Result<Vec<AccountId>, LogError> {
        let work = async |db: &mut PgConnection, (account, others): &(AccountId, Vec<AccountId>)| Ok(read::mutual(db, *account, others).await?);
        // May be old: who have both written have done so for ever. That somebody has not may have changed just now.
        self.ask_anywhere("log.mutual", &(account, others.to_vec()), work, |(_, others), found| found.len() == others.len()).await
    }

    async fn mutual_of(&self, account: AccountId, limit: usize) -> Result<Vec<AccountId>, LogError> {
        let work = async |db: &mut PgConnection, (account, limit): &(AccountId, usize)| Ok(read::mutual_of(db, *account, *limit).await?);
        // May be old: it says who is told that a list of devices has changed, which is a hint; who is left out learns of it when they write.
        self.ask_anywhere("log.mutual_of", &(account, limit), work, |_, _| true).await
    }

    async fn purge(&self, now_ms: u64) -> Result<Purged, LogError> {
        let (answer, answered) = oneshot::channel();
        push(&self.keeper, Asked { now_ms, answer }, 0)?;
        answered.await.map_err(|_| stopped())?
    }

    async fn flush(&self) -> Result<(), LogError> {
        // The server's log is written in order: once this is on disk, so is all that was committed before it.
        self.ask("log.flush", &(), async |db, ()| Ok(sqlx::query(FLUSH).execute(db).await.map(|_| ())?)).await
    }
}

/// Runs a task, and tells if it panics.
async fn guarded(fault: Arc<watch::Sender<bool>>, task: impl Future<Output = ()>) {
    struct Guard(Arc<watch::Sender<bool>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.send_replace(true);
            }
        }
    }
    let _guard = Guard(fault);
    task.await;
}

fn push<T>(queue: &Queue<T>, item: T, weight: usize) -> Result<(), LogError> {
    queue.push(item, weight).map_err(|refused| match refused {
        Refused::Full(_) => LogError::Overloaded,
        Refused::Closed(_) => stopped(),
    })
}

fn outward(error: StoreError<LogError>) -> LogError {
    match error {
        StoreError::Refused(error) => error,
        StoreError::Overloaded => LogError::Overloaded,
        StoreError::Unavailable(fault) => unavailable(fault),
    }
}

fn stopped() -> LogError {
    unavailable("the log has stopped")
}

fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LogError {
    LogError::Unavailable(error.into())
}

/// PostgreSQL's integers are signed.
fn bounded(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
