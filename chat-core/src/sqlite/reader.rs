//! A few threads that read, each with a connection of its own. Every job sees one snapshot.

use std::{path::Path, sync::Arc, thread::JoinHandle};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::{
    connection,
    queue::{PushError, Queue, Taken},
};

/// What a reader thread runs. It answers by itself.
pub(crate) type ReadJob = Box<dyn FnOnce(&Connection) + Send>;

#[derive(Debug)]
pub(crate) struct Readers {
    queue: Arc<Queue<ReadJob>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    pub(crate) fn start(path: &Path, count: usize, queue: usize) -> Result<Self, rusqlite::Error> {
        let queue = Arc::new(Queue::new(queue, usize::MAX));
        let mut threads = Vec::new();
        for _ in 0..count.max(1) {
            let db = connection::reader(path)?;
            let (queue, path) = (Arc::clone(&queue), path.to_owned());
            threads.extend(std::thread::Builder::new().name("kith-db-read".to_owned()).spawn(move || run(&queue, db, &path)));
        }
        Ok(Self { queue, threads: Mutex::new(threads) })
    }

    pub(crate) fn push(&self, job: ReadJob) -> Result<(), PushError<ReadJob>> {
        self.queue.push(job, 0)
    }

    pub(crate) fn close(&self) {
        self.queue.close();
    }

    pub(crate) fn join(&self) {
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(queue: &Queue<ReadJob>, mut db: Connection, path: &Path) {
    let mut jobs = Vec::with_capacity(1);
    while queue.take(&mut jobs, 1, usize::MAX, None) == Taken::Awake {
        for job in jobs.drain(..) {
            // A job that panics answers nobody: its caller sees its answer channel close. The connection may be inside a statement, so it is replaced.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| in_snapshot(&db, job)));
            if outcome.is_err()
                && let Ok(fresh) = connection::reader(path)
            {
                db = fresh;
            }
        }
    }
}

fn in_snapshot(db: &Connection, job: ReadJob) {
    let begun = db.prepare_cached("BEGIN").and_then(|mut begin| begin.execute([]));
    job(db);
    if begun.is_ok() && !db.is_autocommit() {
        let _ = db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
    }
}
