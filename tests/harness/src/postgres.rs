//! PostgreSQL from the system's packages.

mod server;

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use self::server::{ADMIN, ROLE, Server};
use crate::service::{Service, aside};

/// What a server of one's own may have differently.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines of `postgresql.conf`, which win over those of the harness.
    pub settings: Vec<(String, String)>,
    /// Environment of the server, for instance a library to load before others.
    pub environment: Vec<(String, String)>,
}

/// A server with a folder of its own. It ends when this is dropped, and when this process ends, however it ends.
#[derive(Debug)]
pub struct Postgres {
    service: Arc<Service<Server>>,
    databases: AtomicU64,
    /// For the whole life of the process, so that databases have to be removed one by one.
    shared: bool,
}

/// A database of a server. One of the shared server is removed when this is dropped; others go with their server.
#[derive(Debug)]
pub struct Database {
    name: String,
    address: SocketAddr,
    password: String,
    /// Whom to ask for its removal.
    removed_by: Option<Arc<Service<Server>>>,
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
        Ok(Self { service: Arc::new(server::start(options)?), databases: AtomicU64::new(0), shared })
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
        aside(&self.service, move |service| service.program().sql(service.folder(), &statement)).await?;
        let removed_by = self.shared.then(|| Arc::clone(&self.service));
        Ok(Database { name, address: self.address(), password: self.service.program().password().to_owned(), removed_by })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.program().address()
    }

    /// Runs one statement as superuser in the database `postgres`, and returns what it shows: rows as lines, columns with `|` between them.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub async fn admin(&self, statement: &str) -> anyhow::Result<String> {
        let statement = statement.to_owned();
        aside(&self.service, move |service| service.program().sql(service.folder(), &statement)).await
    }

    /// SIGKILL for all its processes; returns when they are gone.
    ///
    /// # Errors
    /// If they do not go.
    pub async fn kill(&self) -> anyhow::Result<()> {
        aside(&self.service, Service::kill).await
    }

    /// Stops it in order (sessions are cut off, transactions rolled back).
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn stop(&self) -> anyhow::Result<()> {
        aside(&self.service, Service::stop).await
    }

    /// Starts it again with the same data on the same port, after [`kill`](Self::kill) or [`stop`](Self::stop); one that runs is stopped in order first.
    /// Returns when it answers.
    ///
    /// # Errors
    /// If it does not.
    pub async fn restart(&self) -> anyhow::Result<()> {
        aside(&self.service, Service::restart).await
    }

    /// SIGSTOP for all its processes: connections stay, and nobody answers. Returns when they stand still.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn pause(&self) -> anyhow::Result<()> {
        aside(&self.service, Service::pause).await
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Errors
    /// If it does not run.
    pub async fn resume(&self) -> anyhow::Result<()> {
        aside(&self.service, Service::resume).await
    }

    /// The postmaster, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.service.pid()
    }

    /// Processor time of the server and all its backends since it was last started, ended backends included. In steps of 10 ms.
    ///
    /// # Errors
    /// If it does not run.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.service.cpu()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        self.service.end_of_log()
    }
}

impl Database {
    /// With a password, for the ordinary role that owns the database.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.address)
    }

    /// The same database reached at another address, such as that of a proxy.
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
        let Some(service) = self.removed_by.take() else { return };
        let statement = format!("drop database {} with (force)", self.name);
        // Nobody needs to wait for it. If this process ends before, the whole server goes.
        thread::spawn(move || service.program().sql(service.folder(), &statement));
    }
}
