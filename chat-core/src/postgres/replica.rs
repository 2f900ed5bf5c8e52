//! A standby that answers some reads, so that the primary does not have to.
//!
//! Which reads those are is said where they are made, by [`Postgres::read_anywhere`], together with what makes an old answer good enough: a replica lacks what
//! came last, and it is never trusted to have anything. What its answer leaves open is asked of the primary, within the same call.
//!
//! It is never needed. A replica that is away, slow, or too far behind is left alone, for longer each time, and nobody who reads waits for it but the one who
//! found out: a task of its own looks when it is back. Every new connection is checked to lead to a standby of the very database that the primary has, with
//! the schema of this program, since an address may come to mean another server.

mod back_off;
mod identity;
mod marks;
#[cfg(test)]
mod tests;

#[cfg(test)]
use std::sync::atomic::AtomicU64;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{PgConnection, Row as _};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

pub(super) use self::identity::{Identity, vet};
use self::{back_off::BackOff, marks::Marks};
use super::{
    Address, OpenError, Options, Postgres, address,
    error::{Class, Failure, Fault, FaultCause, StoreError, Unfit, classify},
    pool::{Pool, TakeError, Taken},
    transaction::chain,
};

/// How to use a replica.
#[derive(Clone)]
pub struct ReplicaOptions {
    /// As that of the primary. A secret.
    pub url: String,
    /// Connections for reads.
    pub connections: usize,
    /// The longest wait for a connection to be free; then the primary is asked.
    pub acquire_within: Duration,
    /// The longest wait for a new connection, and at the start for the first look.
    pub connect_within: Duration,
    /// The longest wait for an answer, all in all; then the primary is asked, and the replica rests.
    pub answer_within: Duration,
    /// How often it is looked at while it serves.
    pub look_every: Duration,
    /// How long it rests at first; twice as long each time, if that happens again soon.
    pub rest: Duration,
    /// A replica that lacks what the primary had so long ago is not asked.
    pub lag_at_most: Duration,
}

impl ReplicaOptions {
    /// What production uses.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            connections: 8,
            acquire_within: Duration::from_millis(50),
            connect_within: Duration::from_secs(1),
            answer_within: Duration::from_millis(500),
            look_every: Duration::from_secs(5),
            rest: Duration::from_secs(1),
            lag_at_most: Duration::from_secs(30),
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// If the address is none.
    pub fn address(&self) -> Result<Address, OpenError> {
        Ok(address::parse(&self.url)?.1)
    }

    fn of_pool(&self) -> Options {
        Options {
            connections: self.connections,
            acquire_within: self.acquire_within,
            connect_within: self.connect_within,
            statement_within: self.answer_within,
            lock_within: self.answer_within,
            transaction_within: self.answer_within,
            ..Options::new(&self.url)
        }
    }
}

/// The address is a secret.
impl fmt::Debug for ReplicaOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaOptions").field("url", &"..").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Who has answered a read that might have gone to a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answered {
    /// The replica.
    Replica,
    /// The primary, because what the replica said left something open.
    AfterReplica,
    /// The primary, because all connections to the replica were in use.
    ReplicaBusy,
    /// The primary, because the replica is away, slow, or far behind.
    ReplicaAway,
}

impl Answered {
    fn label(self) -> &'static str {
        match self {
            Self::Replica => "replica",
            Self::AfterReplica => "primary_after_replica",
            Self::ReplicaBusy => "primary_replica_busy",
            Self::ReplicaAway => "primary_replica_away",
        }
    }
}

/// A replica with the task that looks after it. Dropping it ends both.
#[derive(Debug)]
pub(super) struct Replica {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    pool: Pool,
    primary: Arc<Pool>,
    /// Whether it is asked.
    serves: watch::Sender<bool>,
    back_off: BackOff,
    /// Times that it was made to rest in a short while.
    strikes: AtomicU32,
    lag_at_most: Duration,
    #[cfg(test)]
    answered: [AtomicU64; 4],
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replica {
    /// Looks at it once. One that is away is no reason not to start.
    ///
    /// # Errors
    /// If the address is none, or is that of another database: what it would answer would be wrong, and somebody has to mend it.
    pub(super) async fn open(options: &ReplicaOptions, primary: &Arc<Pool>, identity: Identity) -> Result<Self, OpenError> {
        let (connect, address) = address::parse(&options.url).map_err(|error| match error {
            OpenError::Url(why) => OpenError::ReplicaUrl(why),
            other => other,
        })?;
        let shared = Arc::new(Shared {
            pool: Pool::new(connect.application_name("kith replica"), address, options.of_pool()).of_standby(identity),
            primary: Arc::clone(primary),
            serves: watch::Sender::new(false),
            back_off: BackOff::new(options.look_every, options.rest),
            strikes: AtomicU32::new(0),
            lag_at_most: options.lag_at_most,
            #[cfg(test)]
            answered: Default::default(),
        });
        let mut marks = Marks::default();
        let looked = timeout(options.connect_within, shared.look(&mut marks)).await;
        let looked = looked.unwrap_or_else(|_| Err(shared.pool.fault(FaultCause::TooLate)));
        match looked {
            Err(fault) if matches!(fault.cause(), FaultCause::Unfit(Unfit::Stranger)) => return Err(OpenError::WrongReplica(fault)),
            Err(fault) => {
                tracing::warn!(error = %chain(&fault), "the replica is away: the primary answers everything");
                shared.note(Err(fault));
            }
            Ok(()) => shared.note(Ok(())),
        }
        let task = tokio::spawn(Arc::clone(&shared).watch(marks));
        Ok(Self { shared, task })
    }

    pub(super) fn serves(&self) -> watch::Receiver<bool> {
        self.shared.serves.subscribe()
    }

    pub(super) async fn close(&self) {
        self.task.abort();
        self.shared.pool.close().await;
    }
}

impl Shared {
    /// Until it is dropped.
    async fn watch(self: Arc<Self>, mut marks: Marks) {
        let mut serves = self.serves.subscribe();
        loop {
            // Whoever reads and finds it away ends this at once, and it has its rest from then on.
            let _ = timeout(self.back_off.look_every, serves.wait_for(|serves| !serves)).await;
            if !*self.serves.borrow() {
                tokio::time::sleep(self.back_off.pause(self.strikes.load(Ordering::Relaxed))).await;
            }
            let looked = self.look(&mut marks).await;
            self.note(looked);
        }
    }

    fn note(&self, looked: Result<(), Fault>) {
        let Err(fault) = looked else {
            if self.serves.send_if_modified(|serves| !std::mem::replace(serves, true)) {
                tracing::info!(replica = %self.pool.address, "the replica answers reads");
            } else {
                // A look that finds it as well as the last one: what was is forgiven bit by bit.
                let _ = self.strikes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |strikes| strikes.checked_sub(1));
            }
            return;
        };
        if !self.rest(&fault) {
            tracing::debug!(error = %chain(&fault), "the replica is still away");
            self.strike();
        }
    }

    /// Leaves it alone for a while; false if it rests already. The connections that are open may lead to a server that is none of ours any more.
    fn rest(&self, fault: &Fault) -> bool {
        self.pool.forget_idle();
        let served = self.serves.send_if_modified(|serves| std::mem::replace(serves, false));
        // Many readers may find it away at once: that counts once.
        if served {
            tracing::warn!(error = %chain(fault), "the replica is left alone for a while: the primary answers everything");
            self.strike();
        }
        served
    }

    fn strike(&self) {
        let more = |strikes: u32| Some(strikes.saturating_add(1).min(BackOff::STRIKES));
        let _ = self.strikes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Whether it is there, follows, and has come to where the primary was a while ago.
    async fn look(&self, marks: &mut Marks) -> Result<(), Fault> {
        let now = Instant::now();
        if let Some(position) = self.position().await {
            marks.add(now, position, self.lag_at_most);
        }
        let within = self.pool.options.connect_within + self.pool.options.transaction_within;
        let looked = timeout(within, self.follows(marks.older_than(now, self.lag_at_most))).await;
        looked.unwrap_or_else(|_| Err(self.pool.fault(FaultCause::TooLate)))
    }

    /// How far the primary has written its log. If it cannot say, nothing is said of the replica for that.
    async fn position(&self) -> Option<String> {
        let asked = async {
            let mut taken = self.primary.take().await.ok()?;
            let position = sqlx::query_scalar("SELECT pg_current_wal_lsn()::text").fetch_one(&mut *taken).await.ok()?;
            taken.put_back();
            Some(position)
        };
        timeout(self.pool.options.connect_within, asked).await.ok()?
    }

    async fn follows(&self, mark: Option<&str>) -> Result<(), Fault> {
        let mut taken = match self.pool.take().await {
            Ok(taken) => taken,
            // It has much to do, and does it.
            Err(TakeError::Busy) => return Ok(()),
            Err(TakeError::Failed(fault)) => return Err(fault),
        };
        // What it has replayed is not told by servers that replicate otherwise.
        let sql = "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)";
        let row = sqlx::query(sql).bind(mark).fetch_one(&mut *taken).await.map_err(|error| self.pool.fault(error))?;
        let read = |n| row.try_get::<bool, _>(n).map_err(|error| self.pool.fault(error));
        if !read(0)? {
            return Err(self.pool.fault(FaultCause::Unfit(Unfit::TakesWrites)));
        }
        if !read(1)? {
            return Err(self.pool.fault(FaultCause::Unfit(Unfit::Late)));
        }
        taken.put_back();
        Ok(())
    }

    /// Its answer, or why there is none.
    async fn ask<A: Sync, T, E>(&self, given: &A, work: &impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>) -> Result<T, Answered> {
        if !*self.serves.borrow() {
            return Err(Answered::ReplicaAway);
        }
        // Dropped at the deadline, the connection is closed.
        let failed = match timeout(self.pool.options.transaction_within, self.attempt(given, work)).await {
            Ok(Ok(answer)) => return answer.ok_or(Answered::AfterReplica),
            Ok(Err(TakeError::Busy)) => return Err(Answered::ReplicaBusy),
            Ok(Err(TakeError::Failed(fault))) => fault,
            Err(_) => self.pool.fault(FaultCause::TooLate),
        };
        self.rest(&failed);
        Err(Answered::ReplicaAway)
    }

    /// `None` if it has refused, or what it replays stood in the way of the statement: that says nothing about the primary, and nothing against the replica.
    async fn attempt<A: Sync, T, E>(
        &self,
        given: &A,
        work: &impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
    ) -> Result<Option<T>, TakeError> {
        let mut taken: Taken = self.pool.take().await?;
        let answer = match work(&mut taken, given).await {
            Ok(answer) => Some(answer),
            Err(Failure::Refused(_)) => None,
            Err(Failure::Sql(error)) if classify(&error) == Class::Contended => None,
            Err(Failure::Sql(error)) => return Err(TakeError::Failed(self.pool.fault(error))),
        };
        taken.put_back();
        Ok(answer)
    }

    fn count(&self, name: &'static str, answered: Answered) {
        metrics::counter!("kith_postgres_replica_reads_total", "transaction" => name, "answered" => answered.label()).increment(1);
        #[cfg(test)]
        self.answered[answered as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Postgres {
    /// As [`statement`](Self::statement), for **a read whose answer may be old**: it is asked of the replica, if there is one, and its answer is taken if it is
    /// `enough`. That has to hold only of answers that can be wrong in nothing that matters, whatever the replica lacks by then: because what it shows never
    /// changes and nothing of what was asked for is missing, or because nothing depends on it. Otherwise, and if the replica refuses or does not answer, the
    /// primary is asked.
    ///
    /// Whoever reads what he wrote himself, or decides by the answer who may do what, asks the primary: [`statement`](Self::statement).
    ///
    /// # Errors
    /// As [`statement`](Self::statement): those of the primary.
    pub async fn read_anywhere<A: Sync, T, E>(
        &self,
        name: &'static str,
        given: &A,
        work: impl AsyncFn(&mut PgConnection, &A) -> Result<T, Failure<E>>,
        enough: fn(&A, &T) -> bool,
    ) -> Result<T, StoreError<E>> {
        let Some(replica) = &self.replica else { return self.statement(name, given, work).await };
        let answered = match replica.shared.ask(given, &work).await {
            Ok(answer) if enough(given, &answer) => {
                replica.shared.count(name, Answered::Replica);
                return Ok(answer);
            }
            Ok(_) => Answered::AfterReplica,
            Err(answered) => answered,
        };
        replica.shared.count(name, answered);
        self.statement(name, given, work).await
    }

    /// Whether the replica answers reads just now, and each change of that; `None` without one.
    #[must_use]
    pub fn replica_serves(&self) -> Option<watch::Receiver<bool>> {
        self.replica.as_ref().map(Replica::serves)
    }

    /// How many reads were answered so.
    #[cfg(test)]
    pub(crate) fn answered(&self, by: Answered) -> u64 {
        self.replica.as_ref().map_or(0, |replica| replica.shared.answered[by as usize].load(Ordering::Relaxed))
    }
}
