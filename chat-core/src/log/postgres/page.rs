//! A run of a conversation as one device sees it.

use bytes::Bytes;
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1::AbsentReason,
};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{
    append::{CHECKPOINT, FROM_HIGH},
    bounded,
    read::{account_id, device_id},
    session::unsigned,
};
use crate::log::{AbsentRange, Entry, Page, PageLimit, Payload, row};

/// One snapshot of everything. A message counts with all its slices: what does not fit is not sent, the first is sent whatever its size. `total` tells of
/// rows that were left out for their size.
const READ: &str =
    "SELECT c.head, c.low, c.high, k.start, m.total, m.seq, m.at_ms, m.sender, m.client_msg_id, m.sender_list, m.recipient_list, m.flags, m.data
    FROM conversation c
    JOIN cursor k ON k.conversation = c.id AND k.device = $1 AND NOT k.retired AND $2 = CASE k.side WHEN 0 THEN c.low ELSE c.high END
    LEFT JOIN LATERAL (
        SELECT * FROM (
            SELECT s.*, count(*) OVER () AS total, sum(octet_length(data)) OVER (ORDER BY seq) AS size, row_number() OVER (ORDER BY seq) AS n
            FROM (SELECT * FROM message WHERE conversation = $3 AND seq > greatest($4, k.start) ORDER BY seq LIMIT $5) s
        ) sized WHERE n = 1 OR size <= $6
    ) m ON true
    WHERE c.id = $3 AND c.head > 0 ORDER BY m.seq";

/// What is asked for.
pub(super) struct Wanted {
    pub(super) device: DeviceRef,
    pub(super) conversation: ConversationId,
    pub(super) after: u64,
    pub(super) limit: PageLimit,
}

/// `None` if the device is no member's current device.
pub(super) async fn page(connection: &mut PgConnection, wanted: &Wanted) -> Result<Option<Page>, sqlx::Error> {
    let Wanted { device, conversation, after, limit } = *wanted;
    let query = sqlx::query(READ)
        .bind(Uuid::from_bytes(device.device.0))
        .bind(Uuid::from_bytes(device.account.0))
        .bind(Uuid::from_bytes(conversation.0))
        .bind(bounded(after))
        .bind(i64::try_from(limit.entries.max(1)).unwrap_or(i64::MAX))
        .bind(i64::try_from(limit.bytes).unwrap_or(i64::MAX));
    let rows = query.fetch_all(connection).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let members = [account_id(first, 1)?, account_id(first, 2)?];
    let head = unsigned(first.try_get(0)?);
    let mut build = Build { device: device.device, members, page: Page { absent: Vec::new(), entries: Vec::new(), head }, next: after.min(head) + 1 };
    build.absent_until(unsigned(first.try_get(3)?).min(head), AbsentReason::BeforeLinked);
    let total: Option<i64> = first.try_get(4)?;
    for row in rows.iter().filter(|_| total.is_some()) {
        build.push(row)?;
    }
    let found = u64::try_from(build.page.entries.len()).unwrap_or(u64::MAX);
    if found == unsigned(total.unwrap_or(0)) && build.page.entries.len() < limit.entries.max(1) {
        build.absent_until(head, AbsentReason::Expired);
    }
    Ok(Some(build.page))
}

/// A page in the making.
struct Build {
    device: DeviceId,
    members: [AccountId; 2],
    page: Page,
    /// The seq that comes next.
    next: u64,
}

impl Build {
    fn absent_until(&mut self, to: u64, reason: AbsentReason) {
        if self.next <= to {
            self.page.absent.push(AbsentRange { from: self.next, to, reason });
            self.next = to + 1;
        }
    }

    fn push(&mut self, row: &PgRow) -> Result<(), sqlx::Error> {
        let seq = unsigned(row.try_get(5)?);
        self.absent_until(seq - 1, AbsentReason::Expired);
        let flags: i16 = row.try_get(11)?;
        let sender = DeviceRef { account: self.members[usize::from(flags & FROM_HIGH != 0)], device: device_id(row, 7)? };
        let client_msg_id: Uuid = row.try_get(8)?;
        self.page.entries.push(Entry {
            seq,
            at_ms: unsigned(row.try_get(6)?),
            sender,
            client_msg_id: ClientMsgId(client_msg_id.into_bytes()),
            checkpoint: flags & CHECKPOINT != 0,
            sender_list_version: unsigned(row.try_get(9)?),
            recipient_list_version: unsigned(row.try_get(10)?),
            payload: self.payload(row, sender.device)?,
        });
        self.next = seq + 1;
        Ok(())
    }

    /// Copies what there is for the device.
    fn payload(&self, row: &PgRow, sender: DeviceId) -> Result<Payload, sqlx::Error> {
        if sender == self.device {
            return Ok(Payload::Absent(AbsentReason::Own));
        }
        let data: &[u8] = row.try_get(12)?;
        let view = row::view(data, self.device.0).ok_or_else(|| sqlx::Error::Decode("an entry of a conversation is damaged".into()))?;
        let Some(slice) = view.slice else { return Ok(Payload::Absent(AbsentReason::NotAddressed)) };
        let mut content = Vec::with_capacity(view.body.len() + slice.len());
        content.extend_from_slice(view.body);
        content.extend_from_slice(slice);
        let content = Bytes::from(content);
        Ok(Payload::Sealed { body: content.slice(..view.body.len()), slice: content.slice(view.body.len()..) })
    }
}
