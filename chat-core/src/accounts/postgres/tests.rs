use std::sync::Arc;

use kith_harness::{Database, Postgres as Server};
use sqlx::{Connection as _, PgConnection};

use super::PostgresAccounts;
use crate::{
    accounts::{
        Accounts,
        conformance::{self, races},
    },
    postgres::{Options, Postgres, migrate},
};

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

conformance::suite!(fresh());
races::race_suite!(two_processes(), consistent);
