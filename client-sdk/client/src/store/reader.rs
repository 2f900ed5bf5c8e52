//! The read side: a thread with a connection of its own, so that scrolling through history never waits for a commit.

use super::entries::{self, StoredEntry};
use super::records::NoticeRecord;
use super::{StoreError, Vault};
use prost::Message as _;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce(&Connection, &Vault) + Send>;
const QUEUE: usize = 64;

/// The way to the reader's thread, which ends with the last clone.
#[derive(Clone, Debug)]
pub(crate) struct Reader(mpsc::Sender<Job>);

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the client has shut down")]
    Ended,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Reader {
    pub(crate) fn start(conn: Connection, vault: Vault) -> std::io::Result<Self> {
        let (sender, mut jobs) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new().name("kith-read".to_owned()).spawn(move || {
            while let Some(job) = jobs.blocking_recv() {
                job(&conn, &vault);
            }
        })?;
        Ok(Self(sender))
    }

    async fn run<T: Send + 'static>(&self, job: impl FnOnce(&Connection, &Vault) -> Result<T, StoreError> + Send + 'static) -> Result<T, ReadError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |conn, vault| {
            let _ = reply.send(job(conn, vault));
        });
        self.0.send(job).await.map_err(|_| ReadError::Ended)?;
        Ok(answer.await.map_err(|_| ReadError::Ended)??)
    }

    /// The newest entries before (pos, no), oldest first, and the number of the newest change at that moment.
    pub(crate) async fn before(&self, conversation: i64, at: (i64, i64), limit: i64) -> Result<(i64, Vec<StoredEntry>), ReadError> {
        self.run(move |conn, vault| {
            let snapshot = conn.unchecked_transaction()?;
            let change = entries::newest_change(&snapshot, conversation)?;
            Ok((change, entries::before(&snapshot, vault, conversation, at, limit)?))
        })
        .await
    }

    pub(crate) async fn changed(&self, conversation: i64, change: i64, limit: i64) -> Result<Vec<StoredEntry>, ReadError> {
        self.run(move |conn, vault| entries::changed(conn, vault, conversation, change, limit)).await
    }

    pub(crate) async fn own_between(&self, conversation: i64, from: i64, to: i64) -> Result<Vec<StoredEntry>, ReadError> {
        self.run(move |conn, vault| entries::own_between(conn, vault, conversation, from, to)).await
    }

    pub(crate) async fn arrived(&self, arrival: i64, limit: i64) -> Result<Vec<StoredEntry>, ReadError> {
        self.run(move |conn, vault| entries::arrived(conn, vault, arrival, limit)).await
    }

    pub(crate) async fn notices(&self, after: i64, limit: i64) -> Result<Vec<(i64, NoticeRecord)>, ReadError> {
        self.run(move |conn, vault| {
            let mut statement = conn.prepare_cached("SELECT no, value FROM notice WHERE no > ? ORDER BY no LIMIT ?")?;
            let mut rows = statement.query([after, limit])?;
            let mut out = Vec::new();
            while let Some(row) = rows.next()? {
                let (no, sealed): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
                let bytes = vault.open_at("notice", no, "value", &sealed)?;
                out.push((no, NoticeRecord::decode(bytes.as_slice()).map_err(|_| StoreError::Malformed("notice"))?));
            }
            Ok(out)
        })
        .await
    }
}
