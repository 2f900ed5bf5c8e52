//! A server that follows another one.

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use super::server::{self, Server};
use crate::{process::wait, service::Service};

/// For replaying what a test has written, on a machine that is busy with other tests.
const REPLAYED_WITHIN: Duration = Duration::from_secs(60);
const COMMIT: &str = "select pg_logical_emit_message(true, '', '')";
const PAUSE: &str = "select pg_wal_replay_pause()";
const PAUSED: &str = "select pg_get_wal_replay_pause_state()";
const RESUME: &str = "select pg_wal_replay_resume()";

/// A hot standby by streaming replication, and a [`Service`]: kill it, stop it, restart it, pause it. Reads are answered from what it has replayed. It ends
/// when this is dropped, and when this process ends, however it ends.
///
/// Reach a database of its primary on it with [`Database::url_through`](super::Database::url_through).
#[derive(Debug)]
pub struct Standby {
    service: Service,
    server: Arc<Server>,
    primary: Arc<Server>,
}

impl Standby {
    pub(super) fn start_blocking(primary: Arc<Server>) -> anyhow::Result<Self> {
        let (service, server) = server::start_standby(&primary)?;
        Ok(Self { service, server, primary })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Runs one statement as superuser, as [`Postgres::admin`](super::Postgres::admin) does on a primary.
    ///
    /// # Errors
    /// If it does not answer or refuses.
    pub async fn admin(&self, statement: &str) -> anyhow::Result<String> {
        let statement = statement.to_owned();
        self.aside(move |standby, _| standby.sql(&statement)).await
    }

    /// Returns when it has replayed everything that was committed before the call.
    ///
    /// # Errors
    /// If it does not come so far, as when its replay is paused, or one of the two does not answer.
    pub async fn caught_up(&self) -> anyhow::Result<()> {
        self.aside(|standby, primary| {
            // Commits that do not wait for the disk are written with the next one that does; until then they are not sent.
            primary.sql(COMMIT)?;
            let position = primary.sql("select pg_current_wal_lsn()")?;
            let question = format!("select pg_last_wal_replay_lsn() >= '{position}'");
            wait("the standby has caught up", REPLAYED_WITHIN, || standby.sql(&question).is_ok_and(|answer| answer == "t"))
        })
        .await
    }

    /// It answers from what it has replayed so far, and falls behind from now on; what the primary writes it keeps for later. Returns when nothing is
    /// replayed any more.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn pause_replay(&self) -> anyhow::Result<()> {
        self.aside(|standby, _| {
            standby.sql(PAUSE)?;
            wait("replay is paused", REPLAYED_WITHIN, || standby.sql(PAUSED).is_ok_and(|state| state == "paused"))
        })
        .await
    }

    /// Ends [`pause_replay`](Self::pause_replay).
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn resume_replay(&self) -> anyhow::Result<()> {
        self.aside(|standby, _| standby.sql(RESUME).map(drop)).await
    }

    /// Makes it a server of its own that takes writes and follows nobody.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn promote(&self) -> anyhow::Result<()> {
        self.admin("select pg_promote()").await.map(drop)
    }

    async fn aside<T: Send + 'static>(&self, act: impl FnOnce(&Server, &Server) -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
        let (server, primary) = (Arc::clone(&self.server), Arc::clone(&self.primary));
        tokio::task::spawn_blocking(move || act(&server, &primary)).await?
    }
}

impl Deref for Standby {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}
