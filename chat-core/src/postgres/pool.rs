//! Connections for requests. A connection goes back only after its transaction has ended and the server has said so; one that is dropped before that, by
//! a failure, a deadline or a caller that went away, is closed, and PostgreSQL undoes what it did. So nobody ever gets a connection with something left
//! on it, and none has to be asked how it is before it is used again.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    Address, Options,
    error::{Fault, FaultCause},
    replica::{Identity, vet},
};

/// A connection that nobody has used for this long is closed rather than used: a firewall may have forgotten it.
const IDLE_AT_MOST: Duration = Duration::from_secs(240);
/// A server that is asked to say goodbye gets so long.
const GOODBYE: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    connect: PgConnectOptions,
    pub(super) address: Address,
    pub(super) options: Options,
    /// Only standbys of this database will do.
    standby_of: Option<Identity>,
    permits: Arc<Semaphore>,
    /// Used last, taken first: the rest grows old and is closed.
    idle: Arc<Mutex<Vec<Idle>>>,
}

/// The driver's own options would show the password.
impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    since: Instant,
}

/// A connection taken from the pool; dropping it closes it.
#[derive(Debug)]
pub(super) struct Taken {
    connection: PgConnection,
    idle: Arc<Mutex<Vec<Idle>>>,
    _permit: OwnedSemaphorePermit,
}

/// Why there is no connection.
pub(super) enum TakeError {
    /// All are in use, for longer than is worth waiting.
    Busy,
    /// The server cannot be had.
    Failed(Fault),
}

impl Pool {
    pub(super) fn new(connect: PgConnectOptions, address: Address, options: Options) -> Self {
        let permits = Arc::new(Semaphore::new(options.connections.max(1)));
        Self { connect, address, options, standby_of: None, permits, idle: Arc::default() }
    }

    /// Each connection must lead to a standby of that database.
    pub(super) fn of_standby(self, primary: Identity) -> Self {
        Self { standby_of: Some(primary), ..self }
    }

    pub(super) async fn take(&self) -> Result<Taken, TakeError> {
        let permit = timeout(self.options.acquire_within, Arc::clone(&self.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| TakeError::Busy)?.map_err(|_| TakeError::Failed(self.fault(FaultCause::Closed)))?;
        let connection = match self.youngest() {
            Some(connection) => connection,
            None => self.connect().await.map_err(TakeError::Failed)?,
        };
        Ok(Taken { connection, idle: Arc::clone(&self.idle), _permit: permit })
    }

    fn youngest(&self) -> Option<PgConnection> {
        let mut idle = self.idle.lock();
        let old = idle.iter().take_while(|i| i.since.elapsed() > IDLE_AT_MOST).count();
        idle.drain(..old);
        idle.pop().map(|i| i.connection)
    }

    /// A new connection with the session's limits set, outside the pool.
    pub(super) async fn connect(&self) -> Result<PgConnection, Fault> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.connect).await?;
            sqlx::raw_sql(sqlx::AssertSqlSafe(self.session())).execute(&mut connection).await?;
            if let Some(primary) = self.standby_of {
                // Boxed: every statement carries the room for it otherwise.
                Box::pin(vet(&mut connection, primary)).await?;
            }
            Ok::<_, FaultCause>(connection)
        };
        match timeout(self.options.connect_within, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(cause)) => Err(self.fault(cause)),
            Err(_) => Err(self.fault(FaultCause::TooLate)),
        }
    }

    /// Set after connecting and not in the start-up packet, which not every proxy lets through. Whatever is asked here is found by keys. A table of which there are no statistics yet, or old
    /// ones, would be read as a whole instead, and what that costs grows with everything that is stored.
    fn session(&self) -> String {
        let (statement, lock) = (self.options.statement_within.as_millis(), self.options.lock_within.as_millis());
        format!(
            "SET statement_timeout = {statement}; SET lock_timeout = {lock}; SET idle_in_transaction_session_timeout = {statement};
             SET default_transaction_isolation = 'read committed'; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off"
        )
    }

    /// What is idle may be as dead as the one that was just found so.
    pub(super) fn forget_idle(&self) {
        self.idle.lock().clear();
    }

    pub(super) fn fault(&self, cause: impl Into<FaultCause>) -> Fault {
        Fault::new(&self.address, cause)
    }

    /// Nobody gets a connection any more; what is idle says goodbye.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for Idle { connection, .. } in idle {
            let _ = timeout(GOODBYE, connection.close()).await;
        }
    }
}

impl Taken {
    /// Its transaction has ended.
    pub(super) fn put_back(self) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        self.idle.lock().push(idle);
    }
}

impl Deref for Taken {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
