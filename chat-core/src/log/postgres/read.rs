//! What is asked about conversations: one statement for each question, however many conversations it is about.

use kith_proto::id::{AccountId, ConversationId, DeviceId, DeviceRef};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::session::unsigned;
use crate::log::{Behind, State};

/// Marked cursors of the devices, whether they are level by now or not.
pub(super) const MARKED: &str = "SELECT i.n, k.conversation, k.seq, c.head
    FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY i(device, account, n)
    JOIN cursor k ON k.device = i.device AND k.behind AND NOT k.retired
    JOIN conversation c ON c.id = k.conversation AND i.account = CASE k.side WHEN 0 THEN c.low ELSE c.high END
    ORDER BY i.n";

const STATES: &str = "SELECT c.id, c.head, c.first, c.sent, k.seq, CASE k.side WHEN 0 THEN c.high ELSE c.low END,
        w.own_read, w.peer_delivered, w.peer_read
    FROM unnest($3::uuid[]) WITH ORDINALITY i(id, n)
    JOIN conversation c ON c.id = i.id AND c.head > 0
    JOIN cursor k ON k.conversation = c.id AND k.device = $1 AND NOT k.retired AND $2 = CASE k.side WHEN 0 THEN c.low ELSE c.high END
    CROSS JOIN LATERAL (
        SELECT coalesce(max(read) FILTER (WHERE side = k.side), 0) AS own_read, coalesce(max(read) FILTER (WHERE side <> k.side), 0) AS peer_read,
            coalesce(max(delivered) FILTER (WHERE side <> k.side), 0) AS peer_delivered
        FROM cursor WHERE conversation = c.id
    ) w ORDER BY i.n";

const MUTUAL: &str = "SELECT i.n FROM unnest($1::uuid[]) WITH ORDINALITY i(id, n) JOIN conversation c ON c.id = i.id WHERE c.sent = 3 ORDER BY i.n";

/// Goes to all shards.
const MUTUAL_OF: &str = "SELECT peer FROM (
        SELECT high AS peer, at_ms FROM conversation WHERE low = $1 AND sent = 3
        UNION ALL SELECT low, at_ms FROM conversation WHERE high = $1 AND sent = 3
    ) c ORDER BY at_ms DESC LIMIT $2";

/// Where devices are behind, and conversations in which they are marked so and are not.
pub(super) async fn behind(connection: &mut PgConnection, devices: &[DeviceRef]) -> Result<(Vec<Behind>, Vec<ConversationId>), sqlx::Error> {
    let (mut behind, mut level) = (Vec::new(), Vec::new());
    let query = sqlx::query(MARKED)
        .bind(devices.iter().map(|d| Uuid::from_bytes(d.device.0)).collect::<Vec<_>>())
        .bind(devices.iter().map(|d| Uuid::from_bytes(d.account.0)).collect::<Vec<_>>());
    for row in query.fetch_all(connection).await? {
        let n: i64 = row.try_get(0)?;
        let Some(device) = usize::try_from(n - 1).ok().and_then(|n| devices.get(n)) else { continue };
        let (conversation, cursor, head) = (ConversationId(id(&row, 1)?), unsigned(row.try_get(2)?), unsigned(row.try_get(3)?));
        if cursor < head {
            behind.push(Behind { device: *device, conversation, cursor, head });
        } else {
            level.push(conversation);
        }
    }
    Ok((behind, level))
}

pub(super) async fn states(connection: &mut PgConnection, device: DeviceRef, conversations: &[ConversationId]) -> Result<Vec<State>, sqlx::Error> {
    let query = sqlx::query(STATES)
        .bind(Uuid::from_bytes(device.device.0))
        .bind(Uuid::from_bytes(device.account.0))
        .bind(conversations.iter().map(|c| Uuid::from_bytes(c.0)).collect::<Vec<_>>());
    query.fetch_all(connection).await?.iter().map(state).collect()
}

fn state(row: &PgRow) -> Result<State, sqlx::Error> {
    Ok(State {
        conversation: ConversationId(id(row, 0)?),
        head: unsigned(row.try_get(1)?),
        first: unsigned(row.try_get(2)?),
        mutual: row.try_get::<i16, _>(3)? == 0b11,
        cursor: unsigned(row.try_get(4)?),
        peer: AccountId(id(row, 5)?),
        own_read: unsigned(row.try_get(6)?),
        peer_delivered: unsigned(row.try_get(7)?),
        peer_read: unsigned(row.try_get(8)?),
    })
}

pub(super) async fn mutual(connection: &mut PgConnection, account: AccountId, others: &[AccountId]) -> Result<Vec<AccountId>, sqlx::Error> {
    let ids: Vec<Uuid> = others.iter().map(|other| Uuid::from_bytes(ConversationId::direct(account, *other).0)).collect();
    let numbers: Vec<i64> = sqlx::query_scalar(MUTUAL).bind(ids).fetch_all(connection).await?;
    Ok(numbers.into_iter().filter_map(|n| others.get(usize::try_from(n - 1).ok()?).copied()).collect())
}

pub(super) async fn mutual_of(connection: &mut PgConnection, account: AccountId, limit: usize) -> Result<Vec<AccountId>, sqlx::Error> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let peers: Vec<Uuid> = sqlx::query_scalar(MUTUAL_OF).bind(Uuid::from_bytes(account.0)).bind(limit).fetch_all(connection).await?;
    Ok(peers.into_iter().map(|peer| AccountId(peer.into_bytes())).collect())
}

fn id(row: &PgRow, n: usize) -> Result<[u8; 16], sqlx::Error> {
    Ok(row.try_get::<Uuid, _>(n)?.into_bytes())
}

/// The device of a stored sender.
pub(super) fn device_id(row: &PgRow, n: usize) -> Result<DeviceId, sqlx::Error> {
    Ok(DeviceId(id(row, n)?))
}

/// An account column.
pub(super) fn account_id(row: &PgRow, n: usize) -> Result<AccountId, sqlx::Error> {
    Ok(AccountId(id(row, n)?))
}
