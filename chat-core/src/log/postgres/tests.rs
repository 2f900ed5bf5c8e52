//! The conformance suite on PostgreSQL, and what only a server of many processes has to stand.

mod away;
mod chains;
mod gateways;
mod plans;
mod replica;
mod runs;

use std::{
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use kith_harness::Database;
use kith_proto::id::DeviceRef;
use sqlx::PgConnection;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Options, PostgresLog, PostgresOverdue, enroll, retire};
use crate::{
    domain::Clock,
    log::{
        MessageLog, Overdue, Resolved,
        conformance::{Fixture, RETENTION_MS, Reopen, START_MS, between, conformance_tests},
        overdue::TermsMs,
    },
    postgres::{self, Failure, Postgres},
};

/// A log with a database of its own on the shared server.
pub(super) struct OnPostgres {
    database: Arc<Database>,
    hand: Arc<AtomicU64>,
    pub(super) postgres: Arc<Postgres>,
    pub(super) log: Arc<PostgresLog>,
    resolved: mpsc::Receiver<Vec<Resolved>>,
}

pub(super) fn options(hand: &Arc<AtomicU64>) -> Options {
    Options { retention_ms: RETENTION_MS, purge_every: None, ..Options::new(Clock::Manual(Arc::clone(hand))) }
}

async fn open(database: Arc<Database>, hand: Arc<AtomicU64>) -> OnPostgres {
    let postgres = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    let (log, resolved) = PostgresLog::start(Arc::clone(&postgres), &options(&hand));
    OnPostgres { database, hand, postgres, log, resolved }
}

/// Registers an account if it is new, and links a device, as the accounts do.
pub(super) async fn link(postgres: &Postgres, device: DeviceRef) {
    let linked = postgres.transaction("link", &device, async |db: &mut PgConnection, device: &DeviceRef| {
        let (account, id) = (Uuid::from_bytes(device.account.0), Uuid::from_bytes(device.device.0));
        let sql = "INSERT INTO account (id, username, aik, recovery, list_version, list_hash, created_ms) VALUES ($1, $2, '', '', 1, '', 0)
            ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(account).bind(account.to_string()).execute(&mut *db).await?;
        let sql = "INSERT INTO device (id, account, ed25519, certificate_hash, linked_ms, list_since) VALUES ($1, $2, '', '', 0, 1)";
        sqlx::query(sql).bind(id).bind(account).execute(&mut *db).await?;
        Ok::<_, Failure<()>>(enroll(db, device.account, &[device.device]).await?)
    });
    linked.await.unwrap();
}

pub(super) async fn revoke(postgres: &Postgres, device: DeviceRef) {
    let revoked = postgres.transaction("revoke", &device, async |db: &mut PgConnection, device: &DeviceRef| {
        sqlx::query("UPDATE device SET revoked_ms = 1 WHERE id = $1").bind(Uuid::from_bytes(device.device.0)).execute(&mut *db).await?;
        Ok::<_, Failure<()>>(retire(db, device.account, &[device.device]).await?)
    });
    revoked.await.unwrap();
}

/// A number from the database.
pub(super) async fn number(postgres: &Postgres, sql: &'static str) -> i64 {
    let sql = sql.to_owned();
    let asked = postgres.statement("number", &sql, async |db: &mut PgConnection, sql: &String| {
        Ok::<i64, Failure<()>>(sqlx::query_scalar(sqlx::AssertSqlSafe(sql.as_str())).fetch_one(db).await?)
    });
    asked.await.unwrap()
}

#[async_trait]
impl Fixture for OnPostgres {
    async fn new() -> Self {
        let database = Arc::new(kith_harness::Postgres::shared().database().await);
        postgres::migrate(&database.url(), 0).await.unwrap();
        open(database, Arc::new(AtomicU64::new(START_MS))).await
    }

    fn log(&self) -> Arc<dyn MessageLog> {
        Arc::clone(&self.log) as Arc<dyn MessageLog>
    }

    fn overdue(&self, after_ms: i64) -> Box<dyn Overdue> {
        Box::new(PostgresOverdue::on(Arc::clone(&self.postgres), TermsMs { after: after_ms, retention: i64::MAX / 4 }))
    }

    async fn resolved(&mut self) -> Vec<Resolved> {
        self.resolved.recv().await.expect("the log has ended")
    }

    async fn link(&mut self, device: DeviceRef) {
        link(&self.postgres, device).await;
    }

    async fn revoke(&mut self, device: DeviceRef) {
        revoke(&self.postgres, device).await;
    }

    fn set_clock(&mut self, now_ms: u64) {
        self.hand.store(now_ms, Ordering::Release);
    }

    async fn reopen(self, how: Reopen) -> Self {
        let Self { database, hand, log, resolved, .. } = self;
        if how == Reopen::Closed {
            log.close().await;
        }
        drop((log, resolved));
        open(database, hand).await
    }

    /// The kernel lets the writers' backends make no file longer than the one that the next messages go to is now, but for some twenty pages: as if the
    /// disk of the data were full, while that of the server's log is not. A server without room for its log stops altogether, which is another test.
    async fn fill_disk(&mut self, full: bool) {
        let limit = if full {
            let bytes = self.grow().await;
            format!("--fsize={}:", bytes + 20 * 8192 + 4096)
        } else {
            "--fsize=unlimited:".to_owned()
        };
        for pid in self.writers().await {
            // Only the process's own user, or one with more rights than root may have in a container, can change its limits.
            let owner = std::fs::metadata(format!("/proc/{pid}")).unwrap();
            let mut command = Command::new("prlimit");
            command.args(["--pid", &pid.to_string(), &limit]).uid(owner.uid()).gid(owner.gid());
            assert!(command.status().unwrap().success(), "prlimit of util-linux");
        }
    }
}

const GROW: &str = "DO $$
    DECLARE part regclass; conv uuid;
    BEGIN
        SELECT tableoid::regclass, conversation INTO part, conv FROM message_run LIMIT 1;
        EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)', part);
        EXECUTE format('INSERT INTO %s SELECT 1000000 + n, 0, 0, 0, 0, $1, gen_random_uuid(), gen_random_uuid(), 0,
            convert_to(repeat(md5(n::text), 2000), ''UTF8'') FROM generate_series(1, 300) n', part) USING conv;
        DELETE FROM message_run WHERE seq > 1000000;
    END $$";
const GROWN: &str = "SELECT max(pg_relation_size(reltoastrelid)) FROM pg_class WHERE oid = (SELECT tableoid FROM message_run LIMIT 1)";

impl OnPostgres {
    /// Makes the file in which the large values of the only conversation are longer than a segment of the server's log, with nothing in it that could be
    /// used again; returns its length.
    async fn grow(&self) -> i64 {
        let grown = self.postgres.statement("grow", &(), async |db: &mut PgConnection, ()| {
            sqlx::raw_sql(GROW).execute(&mut *db).await?;
            Ok::<i64, Failure<()>>(sqlx::query_scalar(GROWN).fetch_one(db).await?)
        });
        grown.await.unwrap()
    }

    /// The backends of the log's writers.
    async fn writers(&self) -> Vec<i32> {
        let asked = self.postgres.statement("writers", &(), async |db: &mut PgConnection, ()| {
            let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'kith log writer%'";
            Ok::<Vec<i32>, Failure<()>>(sqlx::query_scalar(sql).fetch_all(db).await?)
        });
        asked.await.unwrap()
    }
}

conformance_tests!(OnPostgres);

/// Marks are cleared for those who are level only, and set again by the next append.
#[tokio::test]
async fn marks_come_and_go() {
    use crate::log::conformance::{Bed, append, device};
    let mut bed = Bed::<OnPostgres>::new().await;
    let marked = "SELECT count(*) FROM cursor WHERE behind";
    let unmark = "SELECT count(log_unmark(array(SELECT id FROM conversation)))";
    bed.send_many(1, 2).await;
    let postgres = Arc::clone(&bed.fixture.postgres);
    assert_eq!(number(&postgres, marked).await, 2);
    bed.ack(device(2, 1), 2).await;
    number(&postgres, unmark).await;
    assert_eq!(number(&postgres, marked).await, 1);
    assert_eq!(bed.behind(device(1, 1)).await.len(), 1);
    bed.send(append(3)).await;
    assert_eq!(bed.behind(device(2, 1)).await[0].cursor, 2);
    for d in [device(1, 1), device(2, 1)] {
        bed.ack(d, 3).await;
    }
    number(&postgres, unmark).await;
    assert_eq!(number(&postgres, marked).await, 0);
    assert_eq!(bed.state(device(1, 1)).await.conversation, between(1, 2));
}

#[tokio::test]
async fn a_task_that_panics_is_told() {
    let fault = Arc::new(tokio::sync::watch::Sender::new(false));
    let told = fault.subscribe();
    super::guarded(Arc::clone(&fault), async {}).await;
    assert!(!*told.borrow(), "to end is no fault");
    let panicked = tokio::spawn(super::guarded(Arc::clone(&fault), async { panic!("a fault in a task of the log") })).await;
    assert!(panicked.unwrap_err().is_panic());
    assert!(*told.borrow());
}
