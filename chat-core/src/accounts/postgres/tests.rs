use std::{sync::Arc, time::Duration};

use kith_harness::{Database, Postgres as Server};
use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use super::PostgresAccounts;
use crate::{
    accounts::{
        Accounts, AccountsError,
        conformance::{self, CAPS, NOW, account, bundles, exchange, login, more_keys, prekey, publish, races, revocations},
    },
    bus::Event,
    domain::prekeys::Kind,
    postgres::{Options, Postgres, migrate},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Accounts in a database of their own, which goes when the guard does.
async fn fresh() -> (Arc<dyn Accounts>, Database) {
    let (accounts, _, database) = two_processes().await;
    (accounts, database)
}

/// What two processes have of one database.
async fn two_processes() -> (Arc<dyn Accounts>, Arc<dyn Accounts>, Database) {
    let database = Server::shared().database().await;
    migrate(&database.url(), 1).await.unwrap();
    (open(&database).await, open(&database).await, database)
}

async fn open(database: &Database) -> Arc<dyn Accounts> {
    Arc::new(PostgresAccounts::new(Postgres::open(&Options::new(&database.url())).await.unwrap()))
}

/// Nothing is left of revoked devices, and what is counted is there.
async fn consistent(database: &Database) {
    let sql = "SELECT
        (SELECT count(*) FROM refresh_token t JOIN device d ON d.id = t.device WHERE d.revoked_ms IS NOT NULL)
        + (SELECT count(*) FROM prekey k JOIN device d ON d.id = k.device WHERE d.revoked_ms IS NOT NULL)
        + (SELECT count(*) FROM device d WHERE d.one_time <> (SELECT count(*) FROM prekey k WHERE k.device = d.id AND k.kind = 0)
             OR d.one_time_kem <> (SELECT count(*) FROM prekey k WHERE k.device = d.id AND k.kind = 2))
        + (SELECT count(*) FROM account a WHERE list_version <> (SELECT max(version) FROM device_list l WHERE l.account = a.id))";
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await.unwrap(), 0);
}

/// A revocation that has begun and not ended: whatever it deletes must not be made anew by somebody who looked before it was committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_meets_a_revocation_waits_and_then_finds_it() {
    let (one, _, database) = two_processes().await;
    let patient = Options { lock_within: PATIENCE, statement_within: PATIENCE, transaction_within: PATIENCE, ..Options::new(&database.url()) };
    let other: Arc<dyn Accounts> = Arc::new(PostgresAccounts::new(Postgres::open(&patient).await.unwrap()));
    let (mut alice, phone) = account(&one, "alice", 0).await;
    let (_, bob) = account(&one, "bob", 0).await;
    let laptop = alice.device("laptop");
    publish(&one, &mut alice, &phone, &[&phone, &laptop], &[&laptop]).await.unwrap();
    one.login(laptop.at, login("l"), NOW).await.unwrap();

    let mut revoking = PgConnection::connect(&database.url()).await.unwrap();
    let device = Uuid::from_bytes(laptop.at.device.0);
    sqlx::query("BEGIN").execute(&mut revoking).await.unwrap();
    for sql in [
        "UPDATE device SET revoked_ms = 1, one_time = 0, one_time_kem = 0 WHERE id = $1",
        "DELETE FROM refresh_token WHERE device = $1",
        "DELETE FROM prekey WHERE device = $1",
        "DELETE FROM prekey_fetch WHERE device = $1",
    ] {
        sqlx::query(sql).bind(device).execute(&mut revoking).await.unwrap();
    }
    let commit = async {
        let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event_type = 'Lock'", database.name());
        while Server::shared().admin(&waiting).await.unwrap().trim() != "4" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sqlx::query("COMMIT").execute(&mut revoking).await.unwrap();
    };
    let more = more_keys(&laptop, vec![prekey(&laptop, Kind::OneTime, 99)]);
    let all = async {
        tokio::join!(
            commit,
            other.login(laptop.at, login("late"), NOW),
            other.refresh(exchange("l", "l/token", "next"), NOW),
            other.add_prekeys(more, CAPS),
            other.take_bundles(bundles(&bob, &alice), NOW)
        )
    };
    let ((), opened, refreshed, added, taken) = timeout(PATIENCE, all).await.expect("all four wait for the revocation");
    assert!(matches!(opened, Err(AccountsError::Revoked)), "{opened:?}");
    assert!(matches!(refreshed, Err(AccountsError::Revoked | AccountsError::RefreshInvalid)), "{refreshed:?}");
    assert!(matches!(added, Err(AccountsError::Revoked)), "{added:?}");
    assert_eq!(taken.unwrap().bundles.iter().map(|b| b.device).collect::<Vec<_>>(), [phone.at.device]);
    consistent(&database).await;
}

#[tokio::test]
async fn a_revocation_and_its_event_are_one_change() {
    let (accounts, database) = fresh().await;
    let outbox = async || {
        let mut connection = PgConnection::connect(&database.url()).await.unwrap();
        let sql = "SELECT payload FROM outbox WHERE topic = 'accounts' ORDER BY no";
        let payloads: Vec<Vec<u8>> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        payloads.iter().map(|payload| Event::from_payload(payload).unwrap()).collect()
    };
    revocations::a_revocation_and_its_event_are_one_change(accounts, outbox).await;
}

conformance::suite!(fresh());
races::race_suite!(two_processes(), consistent);
