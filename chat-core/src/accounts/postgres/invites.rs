//! Invite codes, of which only hashes are kept.

use sqlx::PgConnection;

use super::{Work, stored};
use crate::domain::statement::Bytes32;

pub(super) async fn add(db: &mut PgConnection, hashes: &[Bytes32], expires_ms: u64, now_ms: u64) -> Work<()> {
    let sql = "INSERT INTO invite (hash, created_ms, expires_ms) SELECT hash, $2, $3 FROM unnest($1::bytea[]) AS n (hash)";
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 32]>::as_slice).collect();
    sqlx::query(sql).bind(hashes).bind(stored(now_ms)).bind(stored(expires_ms)).execute(db).await?;
    Ok(())
}
