//! What is looked up by keys is looked up by keys, also where PostgreSQL has no statistics yet.

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{super::read::MARKED, postgres, postgres::Failure};

const CONVERSATIONS: &str = "INSERT INTO conversation (id, low, high, low_version, high_version, head)
    SELECT md5('c' || n)::uuid, md5('l' || n)::uuid, md5('h' || n)::uuid, 1, 1, 1 FROM generate_series(1, 20000) n";
const CURSORS: &str = "INSERT INTO cursor (conversation, device, side, start, seq, behind)
    SELECT md5('c' || n)::uuid, md5('d' || n)::uuid, 0, 0, 0, true FROM generate_series(1, 20000) n";

/// A never-analyzed table of 20,000 rows was read as a whole for 256 devices, which a gateway asks for together.
#[tokio::test]
async fn where_devices_are_behind_is_found_by_keys_without_statistics() {
    let database = kith_harness::Postgres::shared().database().await;
    postgres::migrate(&database.url(), 0).await.unwrap();
    let postgres = postgres::Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    let explained = postgres.statement("explain", &(), async |db: &mut PgConnection, ()| {
        for sql in [CONVERSATIONS, CURSORS] {
            sqlx::query(sql).execute(&mut *db).await?;
        }
        let ids = |what: &str| format!("SELECT array_agg(md5('{what}' || n)::uuid) FROM generate_series(1, 256) n");
        let devices: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(ids("d"))).fetch_one(&mut *db).await?;
        let accounts: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(ids("l"))).fetch_one(&mut *db).await?;
        let explain = format!("EXPLAIN (ANALYZE, COSTS off, TIMING off) {MARKED}");
        let rows = sqlx::query(sqlx::AssertSqlSafe(explain)).bind(devices).bind(accounts).fetch_all(db).await?;
        Ok::<Vec<String>, Failure<()>>(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    });
    let plan = explained.await.unwrap().join("\n");
    assert!(plan.contains("rows=256"), "{plan}");
    assert!(!plan.contains("Seq Scan") && !plan.contains("rows=20000"), "{plan}");
}
