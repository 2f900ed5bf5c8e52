//! What one process of a fleet does at a time: whoever has the advisory lock, which belongs to a session and ends with it, however that ends. A holder that stands still
//! (a stopped process, a cut link) loses its session to `idle_session_timeout`, so that another one takes over.

use std::{future::Future, sync::Arc, time::Duration};

use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;

use super::{Fault, FaultCause, Postgres};

/// What is done with the session at a time takes no longer.
const WITHIN: Duration = Duration::from_secs(15);
const GOODBYE: Duration = Duration::from_secs(1);

/// A turn that processes take, by the name of its lock.
#[derive(Debug)]
pub(crate) struct Alone {
    db: Arc<Postgres>,
    lock: i64,
    /// PostgreSQL ends a session that asks for nothing in this time.
    idle: Duration,
    /// With whether it has the lock.
    session: Option<(PgConnection, bool)>,
}

/// The session of the one whose turn it is. Give it back with [`Alone::keep`]; dropping it ends the session, and the turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) session: PgConnection,
    /// The lock was taken just now: others may have had it before.
    pub(crate) anew: bool,
}

impl Alone {
    pub(crate) fn new(db: Arc<Postgres>, lock: i64, idle: Duration) -> Self {
        Self { db, lock, idle, session: None }
    }

    /// `None` while it is another process's turn.
    pub(crate) async fn turn(&mut self) -> Result<Option<Turn>, Fault> {
        let mut session = match self.session.take() {
            Some((session, true)) => return Ok(Some(Turn { session, anew: false })),
            Some((session, false)) => session,
            None => self.db.connect().await?,
        };
        let idle = self.idle.as_millis().to_string();
        let locked = self.within(async {
            sqlx::query("SELECT set_config('idle_session_timeout', $1, false)").bind(idle).execute(&mut session).await?;
            sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(self.lock).fetch_one(&mut session).await
        });
        if locked.await? {
            return Ok(Some(Turn { session, anew: true }));
        }
        self.session = Some((session, false));
        Ok(None)
    }

    /// The session is sound, and the turn goes on.
    pub(crate) fn keep(&mut self, turn: Turn) {
        self.session = Some((turn.session, true));
    }

    /// Puts the deadline around some work with the session.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Fault> {
        let done = timeout(WITHIN, work).await.map_err(|_| FaultCause::TooLate);
        done.and_then(|done| done.map_err(FaultCause::from)).map_err(|cause| self.db.fault(cause))
    }

    /// Lets another process have its turn.
    pub(crate) async fn release(&mut self) {
        if let Some((session, _)) = self.session.take() {
            let _ = timeout(GOODBYE, session.close()).await;
        }
    }
}
