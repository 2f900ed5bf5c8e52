use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use kith_harness::{Database, Postgres as Server, PostgresOptions};
use sqlx::PgConnection;
use tokio::sync::{Barrier, Notify};

use super::{Failure, FaultCause, OpenError, Options, Postgres, StoreError, migrate};

type Never = std::convert::Infallible;

/// A migrated database with the table `slot(no, value)`, which holds 0 and 1 with the value 0.
async fn fresh(server: &Server) -> Database {
    let database = server.database().await;
    migrate(&database.url(), 1).await.unwrap();
    let db = Postgres::open(&Options::new(&database.url())).await.unwrap();
    let make = db.statement("make", &(), async |db, ()| {
        sqlx::raw_sql("CREATE TABLE slot (no int PRIMARY KEY, value int NOT NULL); INSERT INTO slot VALUES (0, 0), (1, 0)").execute(db).await?;
        Ok::<_, Failure<Never>>(())
    });
    make.await.unwrap();
    database
}

async fn open(database: &Database, change: impl FnOnce(&mut Options)) -> Arc<Postgres> {
    let mut options = Options::new(&database.url());
    change(&mut options);
    Postgres::open(&options).await.unwrap()
}

async fn add(db: &mut PgConnection, no: i32) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE slot SET value = value + 1 WHERE no = $1").bind(no).execute(db).await.map(|_| ())
}

async fn values(db: &Postgres) -> Vec<i32> {
    let read = db.statement("read", &(), async |db, ()| {
        Ok::<_, Failure<Never>>(sqlx::query_scalar("SELECT value FROM slot ORDER BY no").fetch_all(db).await?)
    });
    read.await.unwrap()
}

async fn add_one(db: &Postgres) -> Result<(), StoreError<Never>> {
    db.transaction("add", &(), async |db, ()| Ok(add(db, 0).await?)).await
}

#[tokio::test]
async fn a_refusal_undoes_what_was_done() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |_| {}).await;
    let refused = db.transaction("refuse", &(), async |db, ()| {
        add(db, 0).await?;
        Err::<(), _>(Failure::Refused("no"))
    });
    assert!(matches!(refused.await, Err(StoreError::Refused("no"))));
    add_one(&db).await.unwrap();
    assert_eq!(values(&db).await, [1, 0]);
}

#[tokio::test]
async fn a_mistake_is_not_tried_again_and_spoils_no_connection() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |options| options.connections = 1).await;
    let runs = AtomicU32::new(0);
    let wrong = db.transaction("wrong", &runs, async |db, runs| {
        runs.fetch_add(1, Ordering::Relaxed);
        sqlx::query("INSERT INTO slot VALUES (0, 0)").execute(db).await?;
        Ok::<_, Failure<Never>>(())
    });
    let Err(StoreError::Unavailable(fault)) = wrong.await else { panic!("a row that is there cannot be inserted") };
    let FaultCause::Sql(error) = fault.cause() else { panic!("{fault:?}") };
    assert_eq!((super::constraint(error), runs.into_inner()), (Some("slot_pkey"), 1));
    add_one(&db).await.unwrap();
}

#[tokio::test]
async fn deadlocked_transactions_are_run_again_until_both_have_won() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |_| {}).await;
    let (meet, runs) = (Barrier::new(2), AtomicU32::new(0));
    let crosswise = |first: i32| {
        let db = &db;
        let given = (first, &meet, &runs);
        async move {
            let moved = db.transaction("crosswise", &given, async |db, (first, meet, runs)| {
                add(db, *first).await?;
                if runs.fetch_add(1, Ordering::Relaxed) < 2 {
                    meet.wait().await;
                }
                add(db, 1 - *first).await?;
                Ok::<_, Failure<Never>>(())
            });
            moved.await.unwrap();
        }
    };
    tokio::join!(crosswise(0), crosswise(1));
    assert!(runs.load(Ordering::Relaxed) > 2, "one had to lose");
    assert_eq!(values(&db).await, [2, 2]);
}

#[tokio::test]
async fn a_snapshot_sees_one_state_and_writes_nothing() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |_| {}).await;
    let seen = db.snapshot("look", &db, async |connection, db| {
        let before: i32 = sqlx::query_scalar("SELECT value FROM slot WHERE no = 0").fetch_one(&mut *connection).await?;
        add_one(db).await.unwrap();
        let after: i32 = sqlx::query_scalar("SELECT value FROM slot WHERE no = 0").fetch_one(connection).await?;
        Ok::<_, Failure<Never>>((before, after))
    });
    assert_eq!(seen.await.unwrap(), (0, 0));
    assert_eq!(values(&db).await, [1, 0]);
    assert!(db.snapshot("write", &(), async |db, ()| Ok::<_, Failure<Never>>(add(db, 0).await?)).await.is_err());
}

async fn end_backends(server: &Server, database: &Database) {
    let sql = format!("SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = '{}'", database.name());
    server.admin(&sql).await.unwrap();
}

#[tokio::test]
async fn dead_connections_are_replaced_without_a_failure() {
    let (server, database) = (Server::shared(), fresh(Server::shared()).await);
    let db = open(&database, |_| {}).await;
    // Several are idle, all of them dead.
    tokio::try_join!(add_one(&db), add_one(&db), add_one(&db)).unwrap();
    end_backends(server, &database).await;
    add_one(&db).await.unwrap();
    assert_eq!(values(&db).await, [4, 0]);
}

#[tokio::test]
async fn a_commit_of_unknown_outcome_is_told_and_not_repeated() {
    let (server, database) = (Server::shared(), fresh(Server::shared()).await);
    let db = open(&database, |_| {}).await;
    // The commit itself takes long, so that the connection can be cut in the middle of it.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END';
                CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON slot DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
    let make = db.statement("make", &slow, async |db, slow| {
        sqlx::raw_sql(*slow).execute(db).await?;
        Ok::<_, Failure<Never>>(())
    });
    make.await.unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let committing = tokio::spawn({
        let (db, runs) = (Arc::clone(&db), Arc::clone(&runs));
        async move {
            let work = async |db: &mut PgConnection, runs: &Arc<AtomicU32>| {
                runs.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Failure<Never>>(add(db, 0).await?)
            };
            db.transaction("slow", &runs, work).await
        }
    });
    let in_commit = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query = 'COMMIT' AND state = 'active'", database.name());
    until(async || server.admin(&in_commit).await.unwrap().trim() == "1").await;
    end_backends(server, &database).await;
    let outcome = committing.await.unwrap();
    let Err(StoreError::Unavailable(fault)) = outcome else { panic!("{outcome:?}") };
    assert!(matches!(fault.cause(), FaultCause::CommitUnknown(_)), "{fault:?}");
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

async fn until(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for too long");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whoever_finds_no_free_connection_in_time_is_told_so() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |options| {
        options.connections = 1;
        options.acquire_within = Duration::from_millis(50);
    });
    let db = db.await;
    let (taken, leave) = (Notify::new(), Notify::new());
    let given = (&taken, &leave);
    let holding = db.transaction("hold", &given, async |_, (taken, leave)| {
        taken.notify_one();
        leave.notified().await;
        Ok::<_, Failure<Never>>(())
    });
    let asking = async {
        taken.notified().await;
        let refused = add_one(&db).await;
        leave.notify_one();
        refused
    };
    let (held, refused) = tokio::join!(holding, asking);
    held.unwrap();
    assert!(matches!(refused, Err(StoreError::Overloaded)));
    add_one(&db).await.unwrap();
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_nothing_behind() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |options| options.connections = 1).await;
    let begun = Arc::new(Notify::new());
    let left = tokio::spawn({
        let (db, begun) = (Arc::clone(&db), Arc::clone(&begun));
        async move {
            let work = async |db: &mut PgConnection, begun: &Arc<Notify>| {
                add(db, 0).await?;
                begun.notify_one();
                std::future::pending::<Result<(), Failure<Never>>>().await
            };
            db.transaction("left", &begun, work).await
        }
    });
    begun.notified().await;
    left.abort();
    // The row's lock goes with the connection.
    add_one(&db).await.unwrap();
    assert_eq!(values(&db).await, [1, 0]);
}

#[tokio::test]
async fn no_transaction_takes_longer_than_it_may() {
    let database = fresh(Server::shared()).await;
    let db = open(&database, |options| {
        options.transaction_within = Duration::from_millis(300);
        options.statement_within = Duration::from_millis(500);
    });
    let db = db.await;
    let late = db.transaction("late", &(), async |db, ()| {
        add(db, 0).await?;
        sqlx::query("SELECT pg_sleep(60)").execute(db).await?;
        Ok::<_, Failure<Never>>(())
    });
    let Err(StoreError::Unavailable(fault)) = late.await else { panic!("it slept for a minute") };
    assert!(matches!(fault.cause(), FaultCause::TooLate));
    // The server ends the statement by itself and lets go of the row.
    until(async || add_one(&db).await.is_ok()).await;
    assert_eq!(values(&db).await, [1, 0]);
}

#[tokio::test]
async fn an_outage_fails_soon_with_the_address_and_is_over_when_the_server_is_back() {
    let server = Server::start().await.unwrap();
    let database = fresh(&server).await;
    let db = open(&database, |options| options.connect_within = Duration::from_secs(1)).await;
    add_one(&db).await.unwrap();
    server.stop().await.unwrap();
    let Err(StoreError::Unavailable(fault)) = add_one(&db).await else { panic!("nobody is there") };
    assert!(fault.to_string().contains(&server.address().to_string()), "{fault}");
    server.restart().await.unwrap();
    add_one(&db).await.unwrap();
    server.pause().await.unwrap();
    let begun = Instant::now();
    let outcome = open_options(&database, Duration::from_secs(1)).await;
    assert!(matches!(outcome, Err(OpenError::Unavailable(_))));
    assert!(begun.elapsed() < Duration::from_secs(10), "a server that does not answer is given up");
    server.resume().await.unwrap();
    until(async || add_one(&db).await.is_ok()).await;
}

async fn open_options(database: &Database, within: Duration) -> Result<Arc<Postgres>, OpenError> {
    Postgres::open(&Options { connect_within: within, transaction_within: within, ..Options::new(&database.url()) }).await
}

#[tokio::test]
async fn a_server_that_forgets_what_it_committed_is_refused() {
    let server = Server::shared();
    let database = fresh(server).await;
    server.admin(&format!("ALTER DATABASE {} SET synchronous_commit = off", database.name())).await.unwrap();
    let refused = Postgres::open(&Options::new(&database.url())).await.unwrap_err();
    assert!(matches!(refused, OpenError::NotDurable { setting: "synchronous_commit", .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("synchronous_commit") && text.contains(&server.address().to_string()), "{text}");
    let settings = vec![("fsync".to_owned(), "off".to_owned())];
    let server = Server::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await.unwrap();
    let database = server.database().await;
    let refused = Postgres::open(&Options::new(&database.url())).await.unwrap_err();
    assert!(matches!(refused, OpenError::NotDurable { setting: "fsync", .. }), "{refused}");
}

#[tokio::test]
async fn a_read_only_server_is_refused() {
    let database = fresh(Server::shared()).await;
    Server::shared().admin(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name())).await.unwrap();
    assert!(matches!(Postgres::open(&Options::new(&database.url())).await, Err(OpenError::ReadOnly(_))));
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let database = fresh(Server::shared()).await;
    let url = database.url();
    let (before, after) = (url.find(':').map(|at| at + 3).unwrap(), url.find('@').unwrap());
    let user = url[before..after].split(':').next().unwrap();
    let wrong = format!("{}{user}:s3cret{}", &url[..before], &url[after..]);
    let error = Postgres::open(&Options::new(&wrong)).await.unwrap_err();
    assert!(matches!(error, OpenError::Unavailable(_)), "{error}");
    for text in [error.to_string(), format!("{error:?}"), format!("{:?}", Options::new(&wrong))] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    let db = Postgres::open(&Options::new(&url)).await.unwrap();
    let secret = &url[before + user.len() + 1..after];
    assert!(!format!("{db:?}").contains(secret));
}

#[tokio::test]
async fn a_database_that_was_not_migrated_is_refused_with_the_command_that_helps() {
    let database = Server::shared().database().await;
    let error = Postgres::open(&Options::new(&database.url())).await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, OpenError::Schema { .. }) && source.contains("kith migrate"), "{error}: {source}");
}
