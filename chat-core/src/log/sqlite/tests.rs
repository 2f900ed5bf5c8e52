//! The conformance suite on the embedded database.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use kith_proto::id::DeviceRef;
use rusqlite::params;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{
    domain::Clock,
    log::{
        MessageLog, Resolved,
        conformance::{Fixture, RETENTION_MS, Reopen, START_MS, conformance_tests},
    },
    sqlite::{Database, Options},
};

pub(super) struct Embedded {
    folder: TempDir,
    hand: Arc<AtomicU64>,
    pub(super) db: Arc<Database>,
    resolved: mpsc::Receiver<Vec<Resolved>>,
}

fn open(folder: TempDir, hand: Arc<AtomicU64>) -> Embedded {
    let options = Options { retention_ms: RETENTION_MS, purge_every: None, ..Options::new(Clock::Manual(Arc::clone(&hand))) };
    let (db, resolved) = Database::open(&folder.path().join("kith.db"), options).unwrap();
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
