//! PostgreSQL from the system's packages.

mod huge_pages;
mod server;
mod standby;

use std::{
    net::SocketAddr,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use self::server::{ADMIN, ROLE, Server};
pub use self::standby::Standby;
use crate::service::Service;

/// Settings for measuring: those that docs/operations.md asks for. Durability is as PostgreSQL ships it.
const MEASURED: [(&str, &str); 5] =
    [("shared_buffers", "1GB"), ("min_wal_size", "2GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "15min"), ("autovacuum_naptime", "5s")];
/// Two gigabytes of log in one go.
const SEASON: &str = "SELECT count(pg_logical_emit_message(false, '', repeat('x', 1048576))) FROM generate_series(1, 2048)";

/// What a server of one's own may have differently.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines of `postgresql.conf`, which win over those of the harness.
    pub settings: Vec<(String, String)>,
    /// Environment of the server, for instance a library to load before others.
    pub environment: Vec<(String, String)>,
    /// A disk of its own of so many MiB (at least 128), which can be filled: a file system in memory, so that the process must be root.
    pub disk: Option<u32>,
    /// Its memory in huge pages, which the machine is asked to keep for as long as it lives, if this process may and there are enough.
    pub huge_pages: bool,
}

/// A server with a folder of its own, and a [`Service`]: kill it, stop it, restart it, pause it, ask for its processor time. It ends when this is dropped, and when this process ends, however it ends.
#[derive(Debug)]
pub struct Postgres {
    service: Service,
    server: Arc<Server>,
    databases: AtomicU64,
    /// For the whole life of the process, so that databases have to be removed one by one.
    shared: bool,
}

impl Options {
    /// For a server that is measured. See also [`Postgres::season`].
    #[must_use]
    pub fn measured() -> Self {
        Self { settings: MEASURED.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(), huge_pages: true, ..Self::default() }
    }
}

/// A database of a server. One of the shared server is removed when this is dropped; others go with their server.
#[derive(Debug)]
pub struct Database {
    name: String,
    address: SocketAddr,
    password: String,
    /// Whom to ask for its removal.
    removed_by: Option<Arc<Server>>,
}

impl Postgres {
    /// The server that all tests of this process share; started by the first who asks, which takes a second or two.
    ///
    /// Do not kill, pause or reconfigure it: [`start`](Self::start) another for that.
    ///
    /// # Panics
    /// If it cannot be started; the message says what to install. A test without its server cannot go on.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Postgres, String>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start_blocking(&Options::default(), true).map_err(|error| format!("{error:#}"))) {
            Ok(server) => server,
            Err(error) => panic!("no PostgreSQL: {error}"),
        }
    }

    /// A server of your own.
    ///
    /// # Errors
    /// If it cannot be started; the message says what to install, or ends with the server's log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Options::default()).await
    }

    /// A server of your own that is different.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(options: Options) -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(move || Self::start_blocking(&options, false)).await?
    }

    fn start_blocking(options: &Options, shared: bool) -> anyhow::Result<Self> {
        let (service, server) = server::start(options)?;
        Ok(Self { service, server, databases: AtomicU64::new(0), shared })
    }

    /// A fresh, empty database.
    ///
    /// # Panics
    /// If the server does not answer.
    pub async fn database(&self) -> Database {
        self.create_database().await.expect("PostgreSQL makes a database")
    }

    /// A fresh, empty database, for those who want to hear why there is none.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn create_database(&self) -> anyhow::Result<Database> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        // Its pages go through the log, so that no checkpoint is needed and tests at the same time are not held up.
        let statement = format!("create database {name} owner {ROLE} template template0 strategy wal_log");
        self.admin(&statement).await?;
        let removed_by = self.shared.then(|| Arc::clone(&self.server));
        Ok(Database { name, address: self.address(), password: self.server.password().to_owned(), removed_by })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Whether its memory is in huge pages, as far as that was asked for.
    #[must_use]
    pub fn has_huge_pages(&self) -> bool {
        self.server.has_huge_pages()
    }

    /// Copies the server as it is, and starts the copy as a standby that follows it. Takes some seconds; a checkpoint is made for it.
    ///
    /// # Errors
    /// If this server does not run, or the standby does not start.
    pub async fn standby(&self) -> anyhow::Result<Standby> {
        let primary = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || Standby::start_blocking(primary)).await?
    }

    /// A standby of the [shared server](Self::shared) that all tests of this process share. Its replay must not be paused.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn shared_standby() -> &'static Standby {
        static SHARED: OnceLock<Result<Standby, String>> = OnceLock::new();
        let start = || Standby::start_blocking(Arc::clone(&Self::shared().server)).map_err(|error| format!("{error:#}"));
        match SHARED.get_or_init(start) {
            Ok(standby) => standby,
            Err(error) => panic!("no standby of PostgreSQL: {error}"),
        }
    }

    /// Runs one statement as superuser in the database `postgres`, and returns what it shows: rows as lines, columns with `|` between them.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn admin(&self, statement: &str) -> anyhow::Result<String> {
        let statement = statement.to_owned();
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.sql(&statement)).await?
    }
}

impl Postgres {
    /// Brings the log to the state that it has on a server which has run for a while; takes some seconds. A new server makes each file of its log anew, and
    /// whoever commits waits for 16 MB of zeros; later it writes over old ones. So this writes much, and makes it old.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn season(&self) -> anyhow::Result<()> {
        for statement in [SEASON, "CHECKPOINT"] {
            self.admin(statement).await?;
        }
        Ok(())
    }

    /// Fills the server's disk to the last byte; needs [`Options::disk`].
    ///
    /// # Errors
    /// If the server has no disk of its own.
    pub async fn fill_disk(&self) -> anyhow::Result<()> {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.fill_disk()).await?
    }

    /// Ends [`fill_disk`](Self::fill_disk).
    ///
    /// # Errors
    /// If it was not filled.
    pub async fn free_disk(&self) -> anyhow::Result<()> {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.free_disk()).await?
    }
}

impl Deref for Postgres {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl Database {
    /// With a password, for the ordinary role that owns the database.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.address)
    }

    /// The same database reached at another address, such as that of a proxy or of a [`Standby`].
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        self.url_as(ROLE, address)
    }

    /// The same database as superuser.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.url_as(ADMIN, self.address)
    }

    fn url_as(&self, role: &str, address: SocketAddr) -> String {
        format!("postgres://{role}:{}@{address}/{}", self.password, self.name)
    }

    /// Its name on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = self.removed_by.take() else { return };
        let statement = format!("drop database {} with (force)", self.name);
        // Nobody needs to wait for it. If this process ends before, the whole server goes.
        thread::spawn(move || server.sql(&statement));
    }
}
