//! The task that tidies up: deletes what every device has and what is too old, and clears the marks of devices that are level.
//!
//! What was acknowledged a moment ago is deleted soon, while its pages are in memory: a conversation at a time, when there is enough of it. Now and then a sweep looks at all conversations that hold something,
//! for what has expired and for what nobody noticed; one process at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kith_proto::id::ConversationId;
use parking_lot::Mutex;
use rand::RngExt as _;
use sqlx::{PgConnection, Row as _};
use tokio::{
    sync::oneshot,
    time::{timeout, timeout_at},
};
use uuid::Uuid;

use super::{
    bounded,
    chores::Chores,
    queue::Queue,
    session::{Call, Failed, Session, Twice, unsigned},
    unavailable,
};
use crate::{
    domain::Clock,
    log::{LogError, Purged, retention::Retention},
};

/// Conversations in one transaction. Its locks hold up appends to them for as long as it takes, and with them everything that waits behind these appends: few,
/// so that it is about a millisecond.
const CONVERSATIONS: usize = 8;
/// Rows of one conversation deleted in one transaction.
const ROWS: i64 = 512;
/// What was acknowledged is looked at so often.
const EVERY: Duration = Duration::from_secs(2);
/// Between transactions of such a look so many times the duration of the last one pass, as long as the look is not drawn out by more than [`EVERY`]: messages do not wait for a processor
/// behind all of it.
const REST: u32 = 4;
/// Conversations of one step of a sweep, between which other work gets its turn.
const STEP: i64 = 256;

const PURGE: &str = "SELECT o_delivered, o_expired, o_more FROM log_purge($1, $2, $3)";
const UNMARK: &str = "SELECT log_unmark($1)";
/// The next conversations that hold something, by going from one to the next in the index.
const NEXT: &str = "WITH RECURSIVE kept(id) AS (
        (SELECT conversation FROM message_run WHERE conversation > $1 ORDER BY conversation LIMIT 1)
        UNION ALL
        SELECT (SELECT conversation FROM message_run WHERE conversation > k.id ORDER BY conversation LIMIT 1) FROM kept k WHERE k.id IS NOT NULL
    )
    SELECT id FROM kept WHERE id IS NOT NULL LIMIT $2";
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
/// Names the advisory lock of the sweep: "kithlog" in ASCII. It ends with the statement's transaction or with the connection.
const SWEEP: i64 = 0x006b_6974_686c_6f67;

/// A purge that was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) now_ms: u64,
    pub(super) answer: oneshot::Sender<Result<Purged, LogError>>,
}

struct Purge {
    conversations: Vec<Uuid>,
    cutoff_ms: Option<i64>,
}

impl Call for Purge {
    /// What was deleted, and whether there is more.
    type Answer = (Purged, bool);

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Answer, sqlx::Error> {
        let rows = sqlx::query(PURGE).bind(&self.conversations).bind(self.cutoff_ms).bind(ROWS).fetch_all(connection).await?;
        let (mut purged, mut more) = (Purged::default(), false);
        for row in rows {
            purged.delivered += unsigned(row.try_get(0)?);
            purged.expired += unsigned(row.try_get(1)?);
            more |= row.try_get::<bool, _>(2)?;
        }
        Ok((purged, more))
    }
}

struct Unmark(Vec<Uuid>);

impl Call for Unmark {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query(UNMARK).bind(&self.0).execute(connection).await.map(|_| ())
    }
}

struct Next(Uuid);

impl Call for Next {
    type Answer = Vec<Uuid>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Uuid>, sqlx::Error> {
        sqlx::query_scalar(NEXT).bind(self.0).bind(STEP).fetch_all(connection).await
    }
}

/// What the database's clock says; Unix milliseconds.
struct Now;

impl Call for Now {
    type Answer = u64;

    async fn run(&self, connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
        sqlx::query_scalar(NOW).fetch_one(connection).await.map(unsigned)
    }
}

/// Taken for the session, so that another process does not sweep as well.
struct TryLock;

impl Call for TryLock {
    type Answer = bool;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(SWEEP).fetch_one(connection).await
    }
}

struct Unlock;

impl Call for Unlock {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_advisory_unlock_all()").execute(connection).await.map(|_| ())
    }
}

pub(super) struct Keeper {
    pub(super) queue: Arc<Queue<Asked>>,
    pub(super) session: Session,
    pub(super) chores: Arc<Mutex<Chores>>,
    pub(super) clock: Clock,
    pub(super) retention_ms: u64,
    /// Once the time is known.
    pub(super) retention: Option<Retention>,
    /// How often to sweep unasked.
    pub(super) every: Option<Duration>,
    pub(super) purged: Purged,
}

impl Keeper {
    /// Until the queue is closed.
    pub(super) async fn run(mut self) {
        // Gateways that were started together do not look together.
        let mut next = tokio::time::Instant::now() + EVERY.mul_f64(rand::rng().random());
        let mut sweep = self.every.map(|every| tokio::time::Instant::now() + every);
        loop {
            match timeout_at(next, self.queue.ready()).await {
                Ok(true) => self.asked().await,
                Ok(false) => return,
                Err(_) => {
                    let _ = self.watch_clock().await;
                    let begun = tokio::time::Instant::now();
                    let ripe = self.chores.lock().take_ripe(Instant::now());
                    let _ = self.tidy(&ripe, REST).await;
                    next = begun + EVERY;
                }
            }
            if let (Some(every), Some(at)) = (self.every, sweep)
                && at <= tokio::time::Instant::now()
            {
                let _ = self.sweep_alone().await;
                sweep = Some(tokio::time::Instant::now() + every);
            }
        }
    }

    async fn asked(&mut self) {
        let mut asked = Vec::new();
        self.queue.take_now(&mut asked, usize::MAX, usize::MAX);
        for Asked { now_ms, answer } in asked {
            let touched = self.chores.lock().take_touched();
            let outcome = match self.tidy(&touched, 0).await {
                Ok(()) => self.sweep_by(now_ms).await,
                Err(failed) => Err(failed),
            };
            let _ = answer.send(match outcome {
                Ok(()) => Ok(std::mem::take(&mut self.purged)),
                Err(Failed::Away(fault)) => Err(unavailable(fault)),
                Err(Failed::Sql(error)) => Err(unavailable(error)),
            });
        }
    }

    /// Deletes what was acknowledged in some conversations, with a rest of so many times its duration after each transaction, and clears marks.
    async fn tidy(&mut self, touched: &[ConversationId], rest: u32) -> Result<(), Failed> {
        let level = self.chores.lock().take_level(Instant::now());
        let touched = ascending(touched);
        let longest = EVERY / u32::try_from(touched.len() / CONVERSATIONS + 1).unwrap_or(u32::MAX);
        for conversations in touched.chunks(CONVERSATIONS) {
            let begun = Instant::now();
            self.purge(conversations, None).await?;
            // Nobody who asks for something waits for it, nor does the end.
            let _ = timeout((begun.elapsed() * rest).min(longest), self.queue.ready()).await;
        }
        for conversations in ascending(&level).chunks(CONVERSATIONS) {
            self.session.call(Twice::Harmless, &Unmark(conversations.to_vec())).await?;
        }
        Ok(())
    }

    async fn purge(&mut self, conversations: &[Uuid], cutoff_ms: Option<i64>) -> Result<(), Failed> {
        let call = Purge { conversations: conversations.to_vec(), cutoff_ms };
        loop {
            let (purged, more) = self.session.call(Twice::Harmless, &call).await?;
            self.purged.delivered += purged.delivered;
            self.purged.expired += purged.expired;
            if !more {
                return Ok(());
            }
        }
    }

    async fn sweep_alone(&mut self) -> Result<(), Failed> {
        if !self.session.call(Twice::Harmless, &TryLock).await? {
            return Ok(());
        }
        let swept = self.sweep().await;
        self.session.call(Twice::Harmless, &Unlock).await?;
        swept
    }

    /// The time by which messages are stamped: not this machine's, which may be another than those of the others.
    async fn now_ms(&mut self) -> Result<u64, Failed> {
        match self.clock.given_ms() {
            Some(now_ms) => Ok(now_ms),
            None => self.session.call(Twice::Harmless, &Now).await,
        }
    }

    /// Looks at the clock as early as possible, to notice later that it has jumped.
    async fn watch_clock(&mut self) -> Result<(), Failed> {
        if self.retention.is_none() {
            let now_ms = self.now_ms().await?;
            self.retention = Some(Retention::new(self.retention_ms, now_ms));
        }
        Ok(())
    }

    async fn sweep(&mut self) -> Result<(), Failed> {
        let now_ms = self.now_ms().await?;
        self.sweep_by(now_ms).await
    }

    async fn sweep_by(&mut self, now_ms: u64) -> Result<(), Failed> {
        self.watch_clock().await?;
        let cutoff_ms = self.retention.as_ref().and_then(|retention| retention.cutoff(now_ms)).map(bounded);
        if cutoff_ms.is_none() {
            tracing::warn!("the clock has jumped: nothing expires until it is right or the server is started anew");
        }
        let mut after = Uuid::nil();
        loop {
            let kept = self.session.call(Twice::Harmless, &Next(after)).await?;
            let Some(last) = kept.last() else {
                metrics::counter!("kith_log_sweeps_total").increment(1);
                return Ok(());
            };
            after = *last;
            for conversations in kept.chunks(CONVERSATIONS) {
                self.purge(conversations, cutoff_ms).await?;
            }
        }
    }
}

fn ascending(conversations: &[ConversationId]) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = conversations.iter().map(|id| Uuid::from_bytes(id.0)).collect();
    ids.sort_unstable();
    ids
}
