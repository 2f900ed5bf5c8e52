//! The conformance suite on the embedded database.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kith_proto::id::DeviceRef;
use rusqlite::params;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Hot, LogWriter, SqliteOverdue};
use crate::{
    domain::Clock,
    log::{
        MessageLog, Outcome, Overdue, Refusal, Resolved,
        conformance::{Bed, Fixture, RETENTION_MS, Reopen, START_MS, accepted, append, between, conformance_tests, device},
        overdue::TermsMs,
    },
    sqlite::{Database, OpenError, Options},
};

pub(super) struct Embedded {
    folder: TempDir,
    hand: Arc<AtomicU64>,
    pub(super) db: Arc<Database>,
    resolved: mpsc::Receiver<Vec<Resolved>>,
}

fn open(folder: TempDir, hand: Arc<AtomicU64>) -> Embedded {
    let options = Options { retention_ms: RETENTION_MS, purge_every: None, ..Options::new(Clock::Manual(Arc::clone(&hand))) };
    // Other tests start programs: between fork and exec such a child holds whatever this process has open, the lock of a database just closed included.
    let deadline = Instant::now() + Duration::from_secs(30);
    let (db, resolved) = loop {
        match Database::open(&folder.path().join("kith.db"), options.clone()) {
            Err(OpenError::InUse(_)) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            opened => break opened.unwrap(),
        }
    };
    Embedded { folder, hand, db, resolved }
}

/// What a machine that dies leaves: every write until now. The write-ahead log first, so that a checkpoint in between takes nothing away.
fn copy_files(from: &Path, to: &Path) {
    for name in ["kith.db-wal", "kith.db"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

#[async_trait]
impl Fixture for Embedded {
    async fn new() -> Self {
        open(tempfile::tempdir().unwrap(), Arc::new(AtomicU64::new(START_MS)))
    }

    fn log(&self) -> Arc<dyn MessageLog> {
        Arc::clone(&self.db) as Arc<dyn MessageLog>
    }

    fn overdue(&self, after_ms: i64) -> Box<dyn Overdue> {
        let terms = TermsMs { after: after_ms, retention: i64::MAX / 4 };
        Box::new(SqliteOverdue::on(Arc::clone(&self.db), Clock::Manual(Arc::clone(&self.hand)), terms))
    }

    async fn resolved(&mut self) -> Vec<Resolved> {
        self.resolved.recv().await.expect("the log has ended")
    }

    async fn link(&mut self, device: DeviceRef) {
        let linked = self.db.write("link", move |write| {
            let (account, id) = (device.account.0, device.device.0);
            let sql =
                "INSERT OR IGNORE INTO account(id, username, aik, recovery, list_version, list_hash, created_ms) VALUES (?, ?, x'', x'', 1, x'', 0)";
            write.tx().execute(sql, params![account, hex::encode(account)])?;
            let sql = "INSERT INTO device(account_no, id, ed25519, certificate_hash, linked_ms, list_since)
                VALUES ((SELECT no FROM account WHERE id = ?), ?, x'', x'', 0, 1)";
            write.tx().execute(sql, params![account, id])?;
            write.devices_changed(device.account);
            Ok::<_, rusqlite::Error>(())
        });
        linked.await.unwrap();
    }

    async fn revoke(&mut self, device: DeviceRef) {
        let revoked = self.db.write("revoke", move |write| {
            write.devices_changed(device.account);
            write.tx().execute("UPDATE device SET revoked_ms = 1 WHERE id = ?", [device.device.0])
        });
        assert_eq!(revoked.await.unwrap(), 1);
    }

    fn set_clock(&mut self, now_ms: u64) {
        self.hand.store(now_ms, Ordering::Release);
    }

    async fn reopen(self, how: Reopen) -> Self {
        let Self { folder, hand, db, resolved } = self;
        drop(resolved);
        if how == Reopen::Closed {
            db.close();
            drop(db);
            return open(folder, hand);
        }
        let after = tempfile::tempdir().unwrap();
        copy_files(folder.path(), after.path());
        drop(db);
        open(after, hand)
    }

    async fn fill_disk(&mut self, full: bool) {
        let set = self.db.write("pages", move |write| {
            let used: i64 = write.tx().query_row("PRAGMA page_count", [], |row| row.get(0))?;
            let most = if full { used + 20 } else { 1 << 30 };
            write.tx().query_row(&format!("PRAGMA max_page_count = {most}"), [], |row| row.get::<_, i64>(0))
        });
        set.await.unwrap();
    }
}

conformance_tests!(Embedded);

async fn rows(bed: &Bed<Embedded>, table: &'static str) -> i64 {
    bed.fixture.db.read("rows", move |db| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))).await.unwrap()
}

async fn eventually_empty(bed: &Bed<Embedded>, table: &'static str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while rows(bed, table).await > 0 {
        assert!(Instant::now() < deadline, "rows stay in {table}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nobody calls purge or flush: what every device has leaves the file by itself, whether it was summarised before or not.
#[tokio::test]
async fn the_journal_empties_itself() {
    let mut bed = Bed::<Embedded>::new().await;
    bed.send_many(1, 2000).await;
    bed.ack(device(1, 1), 2000).await;
    bed.ack(device(2, 1), 2000).await;
    eventually_empty(&bed, "entry").await;
    bed.send_many(2001, 4000).await;
    bed.log().flush().await.unwrap();
    assert_eq!((rows(&bed, "entry").await, rows(&bed, "kept").await), (2000, 2000));
    bed.ack(device(1, 1), 4000).await;
    bed.ack(device(2, 1), 4000).await;
    eventually_empty(&bed, "entry").await;
    eventually_empty(&bed, "kept").await;
    assert_eq!(bed.state(device(1, 1)).await.first, 4001);
}

/// A commit that reported a failure and happened all the same: its message was refused, is there, and its retry is a duplicate.
#[tokio::test]
async fn a_commit_of_unknown_outcome_is_settled_before_anything_later() {
    let bed = Bed::<Embedded>::new().await;
    bed.fixture.db.close();
    let db = rusqlite::Connection::open(bed.fixture.folder.path().join("kith.db")).unwrap();
    let hot = Arc::new(parking_lot::Mutex::new(Hot::default()));
    let mut log = LogWriter::open(&db, Arc::clone(&hot), RETENTION_MS, START_MS).unwrap();
    db.execute_batch("BEGIN").unwrap();
    log.append(&db, append(1), START_MS).unwrap();
    assert!(!log.was_committed(&rusqlite::Connection::open_in_memory().unwrap()), "a database that cannot be asked");
    db.execute_batch("COMMIT").unwrap();
    let refused = log.rolled_back();
    assert_eq!(refused[0].outcome, Outcome::Refused(Refusal::StorageUnavailable));
    assert!(hot.lock().get(between(1, 2)).is_none());
    log.settle(&db).unwrap();
    db.execute_batch("BEGIN").unwrap();
    log.append(&db, append(1), START_MS).unwrap();
    log.append(&db, append(2), START_MS).unwrap();
    assert!(log.was_committed(&db), "asked in time the outcome is known");
    db.execute_batch("COMMIT").unwrap();
    let outcomes: Vec<_> = log.committed().into_iter().map(|resolved| accepted(&resolved.outcome)).collect();
    assert_eq!(outcomes, [(1, true), (2, false)]);
}

/// Idle conversations leave memory, those with something unwritten do not.
#[tokio::test]
async fn idle_conversations_are_forgotten() {
    let mut bed = Bed::<Embedded>::new().await;
    bed.send_many(1, 1).await;
    let known = |bed: &Bed<Embedded>| bed.fixture.db.hot.lock().get(between(1, 2)).is_some();
    bed.fixture.db.hot.lock().forget_idle();
    bed.fixture.db.hot.lock().forget_idle();
    assert!(known(&bed), "its row is not in the summary yet");
    bed.log().flush().await.unwrap();
    bed.fixture.db.hot.lock().forget_idle();
    bed.fixture.db.hot.lock().forget_idle();
    assert!(!known(&bed));
    assert_eq!(bed.behind(device(2, 1)).await[0].head, 1);
    assert_eq!(accepted(&bed.send(append(1)).await), (1, true));
    bed.ack(device(2, 1), 1).await;
    assert_eq!(bed.state(device(2, 1)).await.cursor, 1);
}
