//! The embedded database: one file, one writer thread that commits what is waiting as one transaction, a few readers, and a thread that checkpoints so
//! that a commit never has to.
//!
//! Invariants: only one process has the file open (a lock file sees to it), because part of what the message log knows is in memory for up to a second;
//! a job's answer is given after its commit; a job that fails undoes its own changes and nobody else's.

mod checkpoint;
mod connection;
mod migrate;
mod queue;
mod reader;
mod writer;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use self::{
    checkpoint::Pace,
    queue::Queue,
    reader::{ReadJob, Readers},
    writer::{Finish, WriteJob, Writer},
};
pub use self::{migrate::MigrateError, writer::Write};
pub(crate) use self::{queue::PushError, writer::Command};
use crate::{
    domain::Clock,
    log::{Hot, LogWriter, Resolved},
};

/// Whether a commit outlives the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Every commit is synced to the disk before it is answered.
    Full,
    /// Nothing is ever synced. Only for the test that shows that the crash tests notice.
    None,
}

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Always [`Durability::Full`] in production.
    pub durability: Durability,
    /// Where the log's time stamps come from.
    pub clock: Clock,
    /// Reader threads.
    pub readers: usize,
    /// Appends and jobs that may wait for the writer.
    pub write_queue: usize,
    /// Bytes of appends that may wait for the writer.
    pub write_queue_bytes: usize,
    /// Jobs that may wait for a reader.
    pub read_queue: usize,
    /// Batches of resolved appends that may wait for their consumer; then the writer waits too.
    pub resolved_queue: usize,
    /// Messages are kept this long for devices that do not fetch them.
    pub retention_ms: u64,
    /// How often the log looks by itself for what may be deleted; `None` leaves that to [`MessageLog::purge`](crate::log::MessageLog::purge).
    pub purge_every: Option<Duration>,
}

impl Options {
    /// What production uses.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            durability: Durability::Full,
            clock,
            readers: 2,
            write_queue: 8192,
            write_queue_bytes: 32 << 20,
            read_queue: 4096,
            resolved_queue: 16,
            retention_ms: 30 * 24 * 60 * 60 * 1000,
            purge_every: Some(Duration::from_secs(5 * 60)),
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The folder or the lock file cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// What was tried.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The schema cannot be brought up to date.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// SQLite failed.
    #[error("cannot open the database")]
    Sqlite(#[from] rusqlite::Error),
}

/// A commit that did not happen: the disk is full or failing.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the database could not commit")]
pub struct StorageFault(#[source] Arc<rusqlite::Error>);

impl From<rusqlite::Error> for StorageFault {
    fn from(error: rusqlite::Error) -> Self {
        Self(Arc::new(error))
    }
}

/// Why a job gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum StoreError<E> {
    /// The job said so; nothing of it was kept.
    #[error(transparent)]
    Job(E),
    /// Too much is waiting; try again.
    #[error("the database is overloaded")]
    Overloaded,
    /// The commit failed; nothing was kept, it may be tried again.
    #[error(transparent)]
    Fault(StorageFault),
    /// The database is closing, or the job panicked. Whether its changes were kept is unknown.
    #[error("the database has stopped")]
    Stopped,
}

/// The embedded database. Dropping it finishes what is waiting and ends its threads.
#[derive(Debug)]
pub struct Database {
    pub(crate) commands: Arc<Queue<Command>>,
    /// Conversations in memory.
    pub(crate) hot: Arc<Mutex<Hot>>,
    readers: Readers,
    pace: Arc<Pace>,
    /// Nothing is sent on it; closed when the writer has ended.
    writer_alive: watch::Receiver<()>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _lock: File,
}

impl Database {
    /// Opens the file (made if missing, in a folder that exists), brings its schema up to date and starts the threads. What becomes of appends comes on
    /// the receiver in batches, in commit order; when nobody reads it the writer waits.
    ///
    /// # Errors
    /// If another process has the file open, it cannot be read or written, or it was made by a newer version.
    pub fn open(path: &Path, options: Options) -> Result<(Arc<Self>, mpsc::Receiver<Vec<Resolved>>), OpenError> {
        let lock = lock(path)?;
        let mut db = connection::writer(path, options.durability)?;
        migrate::run(&mut db, options.clock.now_ms())?;
        let hot = Arc::new(Mutex::new(Hot::default()));
        let log = LogWriter::open(&db, Arc::clone(&hot), options.retention_ms, options.clock.now_ms())?;
        let (resolved, receiver) = mpsc::channel(options.resolved_queue);
        let commands = Arc::new(Queue::new(options.write_queue, options.write_queue_bytes));
        let pace = Arc::new(Pace::default());
        let readers = Readers::start(path, options.readers, options.read_queue)?;
        let mut threads: Vec<_> = checkpoint::start(path, options.durability, Arc::clone(&pace))?.into_iter().collect();
        let (queue, writer_pace) = (Arc::clone(&commands), Arc::clone(&pace));
        let (alive, writer_alive) = watch::channel(());
        let writer = Writer::new(db, log, queue, writer_pace, resolved, options.clock, options.purge_every, alive);
        let writer = std::thread::Builder::new().name("kith-db-write".to_owned()).spawn(move || writer.run());
        threads.push(writer.map_err(|source| OpenError::Io { path: path.to_owned(), source })?);
        let database = Self { commands, hot, readers, pace, writer_alive, threads: Mutex::new(threads), _lock: lock };
        Ok((Arc::new(database), receiver))
    }

    /// Runs `job` in the writer's transaction, together with whatever else is waiting. Returns after the commit. If the job fails its changes are undone.
    ///
    /// # Errors
    /// The job's own, or those of the database.
    pub async fn write<T, E, F>(&self, name: &'static str, job: F) -> Result<T, StoreError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: WriteJob = Box::new(move |write| {
            let outcome = write.map(job);
            let keep = matches!(outcome, Some(Ok(_)));
            let finish: Finish = Box::new(move |committed| {
                let _ = answer.send(match (outcome, committed) {
                    (Some(Err(error)), _) => Err(StoreError::Job(error)),
                    (Some(Ok(value)), Ok(())) => Ok(value),
                    (_, Err(fault)) => Err(StoreError::Fault(fault)),
                    (None, Ok(())) => Err(StoreError::Stopped),
                });
            });
            (keep, finish)
        });
        self.commands.push(Command::Job(job), 0).map_err(|refused| refusal(&refused))?;
        answered.await.unwrap_or_else(|_| stopped(name))
    }

    /// Runs `job` on a reader, in one snapshot.
    ///
    /// # Errors
    /// The job's own, or those of the database.
    pub async fn read<T, E, F>(&self, name: &'static str, job: F) -> Result<T, StoreError<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: ReadJob = Box::new(move |db| {
            let _ = answer.send(job(db).map_err(StoreError::Job));
        });
        self.readers.push(job).map_err(|refused| refusal(&refused))?;
        answered.await.unwrap_or_else(|_| stopped(name))
    }

    /// Returns when nothing can be written any more: after [`close`](Self::close), or because of a fault of the program in the writer. Everything that was
    /// accepted is on the disk. Only opening the database anew, in a new process, makes it work again.
    pub async fn ended(&self) {
        let mut alive = self.writer_alive.clone();
        // Nothing is ever sent: the only change is the end.
        while alive.changed().await.is_ok() {}
    }

    /// Finishes what is waiting, ends the threads and lets go of the file. Dropping does the same.
    pub fn close(&self) {
        self.commands.close();
        self.readers.close();
        self.pace.close();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
        self.readers.join();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let failed = |source| OpenError::Io { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::InUse(path)),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Whether an error means that the transaction cannot go on: the disk is full or failing, or memory is. Others concern one statement.
pub(crate) fn is_fatal(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode as Code;
    matches!(
        error.sqlite_error_code(),
        Some(
            Code::DiskFull
                | Code::SystemIoFailure
                | Code::OutOfMemory
                | Code::DatabaseCorrupt
                | Code::NotADatabase
                | Code::CannotOpen
                | Code::ReadOnly
                | Code::PermissionDenied
                | Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::OperationInterrupted
        )
    )
}

fn refusal<T, E>(refused: &PushError<T>) -> StoreError<E> {
    match refused {
        PushError::Full(_) => StoreError::Overloaded,
        PushError::Closed(_) => StoreError::Stopped,
    }
}

fn stopped<T, E>(name: &'static str) -> Result<T, StoreError<E>> {
    tracing::error!(name, "a database job ended without an answer");
    Err(StoreError::Stopped)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    fn open(path: &Path) -> Arc<Database> {
        Database::open(path, Options::new(Clock::System)).unwrap().0
    }

    async fn count(db: &Database) -> i64 {
        db.read("count", |db| db.query_row("SELECT count(*) FROM enrolled", [], |row| row.get(0))).await.unwrap()
    }

    async fn insert(db: &Database, n: i64) -> Result<usize, StoreError<rusqlite::Error>> {
        db.write("insert", move |write| write.tx().execute("INSERT INTO enrolled VALUES (?)", [n])).await
    }

    #[tokio::test]
    async fn a_job_is_answered_after_its_commit_and_survives_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kith.db");
        let db = open(&path);
        insert(&db, 1).await.unwrap();
        assert_eq!(count(&db).await, 1);
        drop(db);
        assert_eq!(count(&open(&path)).await, 1);
    }

    #[tokio::test]
    async fn a_failing_job_undoes_only_itself() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(&folder.path().join("kith.db"));
        let fails = db.write("fails", |write| {
            write.tx().execute("INSERT INTO enrolled VALUES (7)", []).map_err(|_| "sql")?;
            Err::<(), _>("no")
        });
        let panics = db.write("panics", |write| {
            write.tx().execute("INSERT INTO enrolled VALUES (8)", [])?;
            panic!("a bug in a job");
            #[allow(unreachable_code)]
            Ok::<(), rusqlite::Error>(())
        });
        let (one, fails, panics, two) = tokio::join!(insert(&db, 1), fails, panics, insert(&db, 2));
        one.unwrap();
        two.unwrap();
        assert!(matches!(fails, Err(StoreError::Job("no"))));
        assert!(matches!(panics, Err(StoreError::Stopped)));
        assert_eq!(count(&db).await, 2);
    }

    /// A value that panics where it is thrown away: in the writer, if nobody waits for it any more.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if std::thread::current().name() == Some("kith-db-write") {
                panic!("a bug in the writer");
            }
        }
    }

    #[tokio::test]
    async fn a_writer_that_has_panicked_is_noticed_and_what_it_committed_is_there_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kith.db");
        let db = open(&path);
        insert(&db, 1).await.unwrap();
        // The writer is held until nobody waits for the bomb any more.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let mut holding = Box::pin(db.write("hold", move |_| {
            let _ = held.recv();
            Ok::<_, std::convert::Infallible>(())
        }));
        let doomed = db.write("doomed", |write| write.tx().execute("INSERT INTO enrolled VALUES (2)", []).map(|_| Bomb));
        assert!(timeout(Duration::ZERO, holding.as_mut()).await.is_err());
        assert!(timeout(Duration::ZERO, doomed).await.is_err());
        drop(release);
        timeout(Duration::from_secs(20), db.ended()).await.expect("the end is told");
        holding.await.expect("what was answered before the panic stays answered");
        assert!(matches!(insert(&db, 3).await, Err(StoreError::Stopped)));
        assert_eq!(count(&db).await, 2, "the commit came before the panic");
        drop(db);
        let db = open(&path);
        insert(&db, 4).await.unwrap();
        assert_eq!(count(&db).await, 3);
    }

    #[tokio::test]
    async fn a_full_disk_fails_the_commit_and_is_recovered_from() {
        let folder = tempfile::tempdir().unwrap();
        let db = open(&folder.path().join("kith.db"));
        let pages =
            |n: i64| db.write("pages", move |write| write.tx().query_row(&format!("PRAGMA max_page_count = {n}"), [], |r| r.get::<_, i64>(0)));
        pages(1).await.unwrap();
        let big = || {
            db.write("big", |write| {
                write.tx().execute_batch("CREATE TABLE IF NOT EXISTS big(b)")?;
                write.tx().execute("INSERT INTO big VALUES (zeroblob(1000000))", [])
            })
        };
        assert!(big().await.is_err());
        pages(1 << 30).await.unwrap();
        big().await.unwrap();
    }

    #[tokio::test]
    async fn the_write_ahead_log_stays_bounded_under_continuous_load() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kith.db");
        let db = open(&path);
        db.write("table", |write| write.tx().execute_batch("CREATE TABLE big(no INTEGER PRIMARY KEY, b)")).await.unwrap();
        let mut longest = 0;
        for n in 0..400 {
            let written = db.write("big", move |write| write.tx().execute("INSERT OR REPLACE INTO big VALUES (?, zeroblob(500000))", [n % 4]));
            written.await.unwrap();
            longest = longest.max(std::fs::metadata(folder.path().join("kith.db-wal")).unwrap().len());
        }
        assert!(longest < 64 << 20, "200 MB went through a write-ahead log of {longest} bytes");
    }

    #[test]
    fn a_second_opening_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kith.db");
        let first = open(&path);
        assert!(matches!(Database::open(&path, Options::new(Clock::System)), Err(OpenError::InUse(_))));
        drop(first);
        open(&path);
    }
}
