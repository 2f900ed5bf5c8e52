//! What the log keeps of a device. Called by the transactions that add and revoke devices, so that the log knows exactly what the accounts know.

use kith_proto::id::{AccountId, DeviceId};
use sqlx::PgConnection;
use uuid::Uuid;

/// Part of the transaction that adds devices, of a new account or an old one: in every conversation that exists they start at its head.
///
/// Locks the account's conversations until the transaction ends: call it last.
///
/// # Errors
/// If a statement fails, or a device is known already.
pub async fn enroll(connection: &mut PgConnection, account: AccountId, devices: &[DeviceId]) -> Result<(), sqlx::Error> {
    change(connection, "SELECT log_enroll($1, $2)", account, devices).await
}

/// Part of the transaction that revokes devices: they hold no message back any more, and what they send is refused.
///
/// Locks the account's conversations until the transaction ends: call it last.
///
/// # Errors
/// If a statement fails.
pub async fn retire(connection: &mut PgConnection, account: AccountId, devices: &[DeviceId]) -> Result<(), sqlx::Error> {
    change(connection, "SELECT log_retire($1, $2)", account, devices).await
}

async fn change(connection: &mut PgConnection, sql: &'static str, account: AccountId, devices: &[DeviceId]) -> Result<(), sqlx::Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let devices: Vec<Uuid> = devices.iter().map(|d| Uuid::from_bytes(d.0)).collect();
    sqlx::query(sql).bind(Uuid::from_bytes(account.0)).bind(devices).execute(connection).await.map(|_| ())
}
