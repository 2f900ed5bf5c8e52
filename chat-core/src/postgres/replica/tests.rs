use kith_harness::{Database, Postgres as Server, Standby};

use super::*;
use crate::postgres::migrate;

type Never = std::convert::Infallible;

const SOON: Duration = Duration::from_secs(30);

/// One that is looked at often.
fn impatient(url: &str) -> ReplicaOptions {
    let (often, busy) = (Duration::from_millis(50), Duration::from_secs(5));
    // On a machine that is busy with other tests.
    ReplicaOptions { look_every: often, rest: often, connect_within: SOON, acquire_within: busy, answer_within: busy, ..ReplicaOptions::new(url) }
}

async fn open(database: &Database, replica: ReplicaOptions) -> Result<Arc<Postgres>, OpenError> {
    Postgres::open(&Options { replica: Some(replica), ..Options::new(&database.url()) }).await
}

/// A server of one's own with a standby, and a migrated database that holds a number.
async fn pair() -> (Server, Standby, Database) {
    let server = Server::start().await.unwrap();
    let standby = server.standby().await.unwrap();
    let database = server.database().await;
    migrate(&database.url(), 1).await.unwrap();
    let db = Postgres::open(&Options::new(&database.url())).await.unwrap();
    write(&db, "CREATE TABLE number (n bigint); INSERT INTO number VALUES (1)").await;
    standby.caught_up().await.unwrap();
    (server, standby, database)
}

async fn write(db: &Postgres, sql: &'static str) {
    let written = db.statement("write", &sql, async |db: &mut PgConnection, sql: &&'static str| {
        sqlx::raw_sql(*sql).execute(db).await?;
        Ok::<_, Failure<Never>>(())
    });
    written.await.unwrap();
}

/// The number, for somebody who knows that it is at least so large.
async fn read(db: &Postgres, at_least: i64) -> i64 {
    let number = async |db: &mut PgConnection, _: &i64| Ok::<i64, Failure<Never>>(sqlx::query_scalar("SELECT n FROM number").fetch_one(db).await?);
    db.read_anywhere("number", &at_least, number, |at_least, n| n >= at_least).await.unwrap()
}

async fn until_serves(db: &Postgres, wanted: bool) {
    let mut serves = db.replica_serves().expect("it has a replica");
    timeout(SOON, serves.wait_for(|serves| *serves == wanted)).await.expect("it changes").unwrap();
}

#[tokio::test]
async fn what_is_old_comes_from_the_replica_and_what_it_lacks_from_the_primary() {
    let (_server, standby, database) = pair().await;
    let db = open(&database, impatient(&database.url_through(standby.address()))).await.unwrap();
    until_serves(&db, true).await;
    standby.pause_replay().await.unwrap();
    write(&db, "UPDATE number SET n = 2").await;
    assert_eq!(read(&db, 1).await, 1, "good enough");
    assert_eq!(read(&db, 2).await, 2, "a user reads his own writes");
    let count = |by| db.answered(by);
    assert_eq!((count(Answered::Replica), count(Answered::AfterReplica), count(Answered::ReplicaAway)), (1, 1, 0));
    let refused = db.read_anywhere("refused", &(), async |_: &mut PgConnection, ()| Err::<(), _>(Failure::Refused("no")), |(), ()| true);
    assert!(matches!(refused.await, Err(StoreError::Refused("no"))), "which the primary said as well");
    assert_eq!(count(Answered::AfterReplica), 2);
    db.close().await;
}

#[tokio::test]
async fn a_replica_that_goes_away_is_left_alone_and_comes_back() {
    let (_server, standby, database) = pair().await;
    let db = open(&database, impatient(&database.url_through(standby.address()))).await.unwrap();
    until_serves(&db, true).await;
    for how in ["killed", "paused"] {
        assert_eq!(read(&db, 1).await, 1);
        match how {
            "killed" => standby.kill().await.unwrap(),
            _ => standby.pause().await.unwrap(),
        }
        let before = db.answered(Answered::Replica);
        for _ in 0..100 {
            assert_eq!(read(&db, 1).await, 1, "{how}");
        }
        assert_eq!(db.answered(Answered::Replica), before, "{how}");
        until_serves(&db, false).await;
        let back = if how == "killed" { standby.restart().await } else { standby.resume().await };
        back.unwrap();
        until_serves(&db, true).await;
        assert_eq!(read(&db, 1).await, 1);
        assert_eq!(db.answered(Answered::Replica), before + 1, "{how}");
    }
}

#[tokio::test]
async fn a_replica_that_is_far_behind_is_not_asked_until_it_has_come_on() {
    let (_server, standby, database) = pair().await;
    let options = ReplicaOptions { lag_at_most: Duration::from_millis(400), ..impatient(&database.url_through(standby.address())) };
    let db = open(&database, options).await.unwrap();
    until_serves(&db, true).await;
    standby.pause_replay().await.unwrap();
    write(&db, "UPDATE number SET n = 2").await;
    until_serves(&db, false).await;
    assert_eq!(read(&db, 1).await, 2, "from the primary");
    standby.resume_replay().await.unwrap();
    until_serves(&db, true).await;
}

#[tokio::test]
async fn a_standby_that_was_promoted_is_not_asked_any_more() {
    let (_server, standby, database) = pair().await;
    let db = open(&database, impatient(&database.url_through(standby.address()))).await.unwrap();
    until_serves(&db, true).await;
    standby.promote().await.unwrap();
    until_serves(&db, false).await;
    let fault = db.replica.as_ref().unwrap().shared.follows(None).await.unwrap_err();
    assert!(matches!(fault.cause(), FaultCause::Unfit(Unfit::TakesWrites)), "{}", chain(&fault));
}

#[tokio::test]
async fn another_database_is_refused_and_one_that_is_away_is_not_waited_for() {
    let (server, standby, database) = pair().await;
    let other = server.database().await;
    migrate(&other.url(), 1).await.unwrap();
    let stranger = Server::shared().database().await;
    migrate(&stranger.url(), 1).await.unwrap();
    standby.caught_up().await.unwrap();
    for url in [other.url_through(standby.address()), stranger.url()] {
        let Err(error) = open(&database, impatient(&url)).await else { panic!("it is another database") };
        let OpenError::WrongReplica(fault) = &error else { panic!("{error}") };
        let text = chain(&error);
        assert!(matches!(fault.cause(), FaultCause::Unfit(Unfit::Stranger)) && text.contains("another database"), "{text}");
        assert!(!error.is_outage(), "waiting does not mend it");
    }
    let mistaken = open(&database, impatient("standby.example")).await.err().unwrap();
    assert!(matches!(mistaken, OpenError::ReplicaUrl(_)), "{mistaken}");
    // The primary in the place of its replica, and nobody at all, do no harm.
    standby.stop().await.unwrap();
    for url in [database.url(), database.url_through(standby.address())] {
        let db = open(&database, impatient(&url)).await.unwrap();
        assert_eq!(read(&db, 1).await, 1);
        assert_eq!((db.answered(Answered::Replica), db.answered(Answered::ReplicaAway)), (0, 1));
    }
}

#[tokio::test]
async fn a_replica_that_lacks_the_schema_is_asked_when_it_has_it() {
    let (server, standby, _database) = pair().await;
    standby.pause_replay().await.unwrap();
    let database = server.database().await;
    migrate(&database.url(), 1).await.unwrap();
    let db = open(&database, impatient(&database.url_through(standby.address()))).await.unwrap();
    assert_eq!(db.replica_serves().map(|serves| *serves.borrow()), Some(false));
    standby.resume_replay().await.unwrap();
    until_serves(&db, true).await;
}
