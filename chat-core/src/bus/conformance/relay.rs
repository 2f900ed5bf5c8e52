//! The outbox and its relay, on both databases.

use std::sync::atomic::{AtomicBool, Ordering};

use kith_harness::{Database as TestDatabase, Postgres as Server};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::{
    bus::{
        BusError, DeadLetter, Relay,
        outbox::{Batch, Outbox, PostgresOutbox, SqliteOutbox, write_to_postgres, write_to_sqlite},
    },
    domain::Clock,
    log::Resolved,
    postgres::{self, Postgres},
    sqlite::{Database, Options},
};

/// A bus that only notes what is published on it, and may be away.
#[derive(Default)]
pub(super) struct Wall {
    pub(super) published: Mutex<Vec<(u8, u64)>>,
    pub(super) away: AtomicBool,
    /// Nobody would read it.
    pub(super) deaf: AtomicBool,
    /// Ends every session that holds an advisory lock in this database, once, after having taken what was published.
    kills: Mutex<Option<String>>,
}

impl std::fmt::Debug for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a wall")
    }
}

#[async_trait]
impl Bus for Wall {
    async fn publish(&self, records: &[Record]) -> Result<(), BusError> {
        if self.away.load(Ordering::Acquire) {
            return Err(BusError::Full);
        }
        self.published.lock().extend(records.iter().map(|record| place(&Event::from_payload(&record.payload).unwrap())));
        let kills = self.kills.lock().take();
        if let Some(url) = kills {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks JOIN pg_database d ON d.oid = database
                       WHERE locktype = 'advisory' AND datname = current_database()";
            let mut connection = PgConnection::connect(&url).await.unwrap();
            assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap(), 1);
        }
        Ok(())
    }

    fn is_heard(&self, _: Topic) -> bool {
        !self.deaf.load(Ordering::Acquire)
    }

    async fn subscribe(&self, _: Subscription, _: Arc<dyn Handler>) -> Result<Member, BusError> {
        Err(BusError::Closed)
    }

    async fn dead_letters(&self, _: Topic, _: usize) -> Result<Vec<DeadLetter>, BusError> {
        Err(BusError::Closed)
    }

    async fn replay(&self, _: Topic, _: usize) -> Result<usize, BusError> {
        Err(BusError::Closed)
    }

    async fn close(&self) {}
}

/// The embedded database.
pub(super) struct Embedded {
    db: Arc<Database>,
    _resolved: mpsc::Receiver<Vec<Resolved>>,
    _folder: TempDir,
}

impl Embedded {
    pub(super) async fn write(&self, events: &[Event]) {
        let records = records(events.iter().copied());
        self.db.write("test.outbox", move |write| write_to_sqlite(write.tx(), &records, 0)).await.unwrap();
    }

    async fn left(&self) -> i64 {
        self.db.read("test.outbox", |db| db.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0))).await.unwrap()
    }
}

pub(super) fn embedded() -> (Box<dyn Outbox>, Embedded) {
    let folder = tempfile::tempdir().unwrap();
    let (db, resolved) = Database::open(&folder.path().join("kith.db"), Options::new(Clock::System)).unwrap();
    (Box::new(SqliteOutbox::new(Arc::clone(&db))), Embedded { db, _resolved: resolved, _folder: folder })
}

/// PostgreSQL.
struct Shared {
    database: TestDatabase,
}

impl Shared {
    async fn new() -> Self {
        let database = Server::shared().database().await;
        postgres::migrate(&database.url(), 0).await.unwrap();
        Self { database }
    }

    async fn outbox(&self) -> Box<dyn Outbox> {
        Box::new(PostgresOutbox::new(self.postgres().await))
    }

    async fn postgres(&self) -> Arc<Postgres> {
        Postgres::open(&postgres::Options::new(&self.database.url())).await.unwrap()
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database.url()).await.unwrap()
    }

    async fn write(&self, events: &[Event]) {
        write_to_postgres(&mut self.connect().await, &records(events.iter().copied())).await.unwrap();
    }

    async fn left(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&mut self.connect().await).await.unwrap()
    }
}

async fn emptied(what: &str, left: impl AsyncFn() -> i64) {
    let begun = Instant::now();
    while left().await > 0 {
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// More than a batch holds; away at first.
async fn waits_and_goes_out_in_order(outbox: Box<dyn Outbox>, write: impl AsyncFn(&[Event]), left: impl AsyncFn() -> i64) {
    let wall = Arc::new(Wall::default());
    wall.away.store(true, Ordering::Release);
    let events: Vec<_> = (0..600).map(|n| event(u8::try_from(n % 7).unwrap(), n)).collect();
    write(&events[..300]).await;
    let relay = Relay::start(outbox, Arc::<Wall>::clone(&wall));
    write(&events[300..]).await;
    assert_eq!(left().await, 600);
    wall.away.store(false, Ordering::Release);
    emptied("all is published", &left).await;
    assert_eq!(*wall.published.lock(), events.iter().map(place).collect::<Vec<_>>());
    relay.stop().await;
    write(&events[..1]).await;
    assert_eq!(left().await, 1, "nobody relays any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_rows_wait_while_the_bus_is_away_and_go_out_in_order() {
    let (outbox, embedded) = embedded();
    waits_and_goes_out_in_order(outbox, async |events| embedded.write(events).await, async || embedded.left().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_rows_wait_while_the_bus_is_away_and_go_out_in_order() {
    let shared = Shared::new().await;
    waits_and_goes_out_in_order(shared.outbox().await, async |events| shared.write(events).await, async || shared.left().await).await;
}

/// The row of a transaction that was begun first and is committed last has the lower number, and everything above it is long gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_committed_late_is_not_passed_over() {
    let shared = Shared::new().await;
    let wall = Arc::new(Wall::default());
    let relay = Relay::start(shared.outbox().await, Arc::<Wall>::clone(&wall));
    let mut open = shared.connect().await;
    sqlx::query("BEGIN").execute(&mut open).await.unwrap();
    write_to_postgres(&mut open, &records([event(1, 0)])).await.unwrap();
    shared.write(&[event(2, 0), event(2, 1)]).await;
    emptied("what is committed goes out without waiting for what is not", async || shared.left().await).await;
    assert_eq!(*wall.published.lock(), [(2, 0), (2, 1)]);
    sqlx::query("COMMIT").execute(&mut open).await.unwrap();
    until("the late one goes out", || wall.published.lock().last() == Some(&(1, 0))).await;
    emptied("it is deleted", async || shared.left().await).await;
    assert_eq!(wall.published.lock().len(), 3);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relays_until_it_stops_dies_or_stands_still() {
    let shared = Shared::new().await;
    shared.write(&[event(1, 0)]).await;
    let rows = |batch: Batch| matches!(batch, Batch::Rows(rows) if rows.len() == 1);
    let [mut first, mut second] = [shared.outbox().await, shared.outbox().await];
    assert!(rows(first.next(10).await.unwrap()));
    assert_eq!(second.next(10).await.unwrap(), Batch::Elsewhere);
    first.release().await;
    takes_over(&mut *second).await;
    assert_eq!(first.next(10).await.unwrap(), Batch::Elsewhere);
    // As when its process is killed: the connection is closed without a word.
    drop(second);
    takes_over(&mut *first).await;
    drop(first);
    let mut still = PostgresOutbox::idle_at_most(Duration::from_millis(300), shared.postgres().await);
    takes_over(&mut still).await;
    let mut heir = shared.outbox().await;
    assert_eq!(heir.next(10).await.unwrap(), Batch::Elsewhere);
    takes_over(&mut *heir).await;
    assert!(still.published(&[1]).await.is_err(), "its session is over");
    assert_eq!(shared.left().await, 1);
}

async fn takes_over(outbox: &mut dyn Outbox) {
    let begun = Instant::now();
    while outbox.next(10).await.unwrap() == Batch::Elsewhere {
        assert!(begun.elapsed() < SOON, "nobody else relays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Published, and then the session dies before the rows are deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_and_not_deleted_is_published_again() {
    let shared = Shared::new().await;
    let wall = Arc::new(Wall::default());
    *wall.kills.lock() = Some(shared.database.admin_url());
    shared.write(&[event(1, 0), event(1, 1)]).await;
    let relay = Relay::start(shared.outbox().await, Arc::<Wall>::clone(&wall));
    emptied("all is published", async || shared.left().await).await;
    relay.stop().await;
    let published = wall.published.lock();
    assert_eq!(published[..2], [(1, 0), (1, 1)]);
    assert_eq!(published.len(), 4, "{published:?}");
    // From the first again, in order; half as many at a time do no harm.
    assert_eq!(published[2..], [(1, 0), (1, 1)]);
}
