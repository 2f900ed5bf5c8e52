use std::sync::Arc;

use kith_harness::{Database, Postgres as Server};

use super::PostgresAccounts;
use crate::{
    accounts::conformance,
    postgres::{Options, Postgres, migrate},
};

/// Accounts in a database of their own, which goes when the guard does.
async fn fresh() -> (Arc<PostgresAccounts>, Database) {
    let database = Server::shared().database().await;
    migrate(&database.url(), 1).await.unwrap();
    (open(&database).await, database)
}

/// What another process would have.
async fn open(database: &Database) -> Arc<PostgresAccounts> {
    Arc::new(PostgresAccounts::new(Postgres::open(&Options::new(&database.url())).await.unwrap()))
}

conformance::suite!(fresh());
