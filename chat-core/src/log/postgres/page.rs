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
    run,
    session::unsigned,
};
use crate::log::{AbsentRange, Entry, Page, PageLimit, Payload, row};

/// One snapshot of everything: runs, up to and with the one that goes beyond the limit. `total` tells of runs that were left out.
const READ: &str =
    "SELECT c.head, c.low, c.high, k.start, c.first, m.total, m.seq, m.count, m.at_ms, m.sender, m.client_msg_id, m.sender_list, m.recipient_list, m.flags, m.data
    FROM conversation c
    JOIN cursor k ON k.conversation = c.id AND k.device = $1 AND NOT k.retired AND $2 = CASE k.side WHEN 0 THEN c.low ELSE c.high END
    LEFT JOIN LATERAL (
        SELECT * FROM (
            SELECT s.*, count(*) OVER () AS total, sum(octet_length(data)) OVER (ORDER BY seq) - octet_length(data) AS before
            FROM (SELECT * FROM message_run WHERE conversation = $3 AND seq > greatest($4, k.start) ORDER BY seq LIMIT $5) s
        ) sized WHERE before <= $6
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
    let page = Page { absent: Vec::new(), entries: Vec::new(), head };
    let mut build = Build { device: device.device, members, page, next: after.min(head) + 1, limit, bytes: 0 };
    build.absent_until(unsigned(first.try_get(3)?).min(head), AbsentReason::BeforeLinked);
    // The rest of a run may be gone, though it lies there.
    build.absent_until(unsigned(first.try_get(4)?).saturating_sub(1), AbsentReason::Expired);
    let total: Option<i64> = first.try_get(5)?;
    let all_here = total.is_none_or(|total| usize::try_from(total) == Ok(rows.len()));
    let mut room = true;
    for row in rows.iter().filter(|_| total.is_some()) {
        room = build.push(row)?;
        if !room {
            // What follows is left out as well, and not gone.
            break;
        }
    }
    if room && all_here && build.page.entries.len() < limit.entries.max(1) {
        build.absent_until(head, AbsentReason::Expired);
    }
    Ok(Some(build.page))
}

/// Whether a page that may be old brings the device on towards `head` and can lack nothing on the way.
///
/// What an old page shows was accepted, under these numbers, and a cursor's start never changes. What it does not show may not have come to it yet: a device
/// that was linked just now, messages, a whole conversation. So the page must begin with what comes next and have no hole, not even one that seems to be
/// purged: who is told that a message is gone asks for it no more. And it must reach `head`, or else show that there is more behind it: a page that ends where
/// an old log ends would end the catching up. A device that was revoked just now gets what it could have had a moment before, and nothing later has a slice
/// for it.
pub(super) fn brings_on(wanted: &Wanted, head: u64, page: Option<&Page>) -> bool {
    let Some(page) = page else { return false };
    let absent = page.absent.iter().map(|range| (range.from, range.to, range.reason == AbsentReason::BeforeLinked));
    let entries = page.entries.iter().map(|entry| (entry.seq, entry.seq, true));
    // What was before the device was linked is before everything else.
    let mut last = wanted.after;
    for (from, to, is_certain) in absent.chain(entries) {
        if !is_certain || Some(from) != last.checked_add(1) {
            return false;
        }
        last = to;
    }
    last > wanted.after && (last >= head || last < page.head)
}

/// A page in the making.
struct Build {
    device: DeviceId,
    members: [AccountId; 2],
    page: Page,
    /// The seq that comes next.
    next: u64,
    limit: PageLimit,
    /// Of the messages on the page, with all their slices.
    bytes: usize,
}

impl Build {
    fn absent_until(&mut self, to: u64, reason: AbsentReason) {
        if self.next <= to {
            self.page.absent.push(AbsentRange { from: self.next, to, reason });
            self.next = to + 1;
        }
    }

    /// Takes in the messages of a run that are asked for. Whether there was room for all of them.
    fn push(&mut self, row: &PgRow) -> Result<bool, sqlx::Error> {
        let (last, count) = (unsigned(row.try_get(6)?), row.try_get::<i16, _>(7)?.unsigned_abs());
        let data: &[u8] = row.try_get(14)?;
        let messages = match row.try_get::<Option<Uuid>, _>(10)? {
            Some(name) => vec![(ClientMsgId(name.into_bytes()), data)],
            None => run::unpack(data, usize::from(count)).ok_or_else(damaged)?,
        };
        let before = last.saturating_sub(u64::from(count));
        self.absent_until(before, AbsentReason::Expired);
        // Of a run that begins before what comes next the rest is taken.
        let next = self.next;
        for (seq, (name, data)) in (before + 1..).zip(messages).skip_while(|(seq, _)| *seq < next) {
            // A message counts with all its slices: what does not fit is not sent, the first is sent whatever its size.
            let bytes = self.bytes + data.len();
            if !self.page.entries.is_empty() && (self.page.entries.len() >= self.limit.entries || bytes > self.limit.bytes) {
                return Ok(false);
            }
            self.bytes = bytes;
            self.page.entries.push(self.entry(row, seq, name, data)?);
            self.next = seq + 1;
        }
        Ok(true)
    }

    fn entry(&self, row: &PgRow, seq: u64, client_msg_id: ClientMsgId, data: &[u8]) -> Result<Entry, sqlx::Error> {
        let flags: i16 = row.try_get(13)?;
        let sender = DeviceRef { account: self.members[usize::from(flags & FROM_HIGH != 0)], device: device_id(row, 9)? };
        Ok(Entry {
            seq,
            at_ms: unsigned(row.try_get(8)?),
            sender,
            client_msg_id,
            checkpoint: flags & CHECKPOINT != 0,
            sender_list_version: unsigned(row.try_get(11)?),
            recipient_list_version: unsigned(row.try_get(12)?),
            payload: self.payload(data, sender.device)?,
        })
    }

    /// Copies what there is for the device.
    fn payload(&self, data: &[u8], sender: DeviceId) -> Result<Payload, sqlx::Error> {
        if sender == self.device {
            return Ok(Payload::Absent(AbsentReason::Own));
        }
        let view = row::view(data, self.device.0).ok_or_else(damaged)?;
        let Some(slice) = view.slice else { return Ok(Payload::Absent(AbsentReason::NotAddressed)) };
        let mut content = Vec::with_capacity(view.body.len() + slice.len());
        content.extend_from_slice(view.body);
        content.extend_from_slice(slice);
        let content = Bytes::from(content);
        Ok(Payload::Sealed { body: content.slice(..view.body.len()), slice: content.slice(view.body.len()..) })
    }
}

fn damaged() -> sqlx::Error {
    sqlx::Error::Decode("an entry of a conversation is damaged".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance::{between, device};

    const BEFORE: AbsentReason = AbsentReason::BeforeLinked;

    fn entry(seq: u64) -> Entry {
        Entry {
            seq,
            at_ms: 0,
            sender: device(1, 1),
            client_msg_id: ClientMsgId([0; 16]),
            checkpoint: false,
            sender_list_version: 1,
            recipient_list_version: 1,
            payload: Payload::Absent(AbsentReason::NotAddressed),
        }
    }

    /// Of an old log that ends with `old_head`, asked for what comes after `after` by somebody who knows of `head`.
    fn is_enough(after: u64, head: u64, absent: &[(u64, u64, AbsentReason)], entries: impl IntoIterator<Item = u64>, old_head: u64) -> bool {
        let wanted = Wanted { device: device(2, 1), conversation: between(1, 2), after, limit: PageLimit { entries: 3, bytes: 100 } };
        let absent = absent.iter().map(|(from, to, reason)| AbsentRange { from: *from, to: *to, reason: *reason }).collect();
        brings_on(&wanted, head, Some(&Page { absent, entries: entries.into_iter().map(entry).collect(), head: old_head }))
    }

    #[test]
    fn an_old_page_is_enough_if_nothing_can_be_missing() {
        assert!(is_enough(0, 3, &[], 1..=3, 3), "up to the head");
        assert!(is_enough(0, 3, &[], 1..=4, 4), "and what has come since");
        assert!(is_enough(0, 9, &[], 1..=3, 5), "full, and there is more");
        assert!(is_enough(5, 9, &[], 6..=9, 9));
        assert!(is_enough(0, 7, &[(1, 4, BEFORE)], 5..=7, 7), "the start of a device never changes");
        assert!(is_enough(0, 4, &[(1, 4, BEFORE)], [], 4));
    }

    #[test]
    fn what_is_not_yet_there_is_never_taken_for_gone_or_for_the_end() {
        let wanted = Wanted { device: device(2, 1), conversation: between(1, 2), after: 0, limit: PageLimit { entries: 3, bytes: 100 } };
        assert!(!brings_on(&wanted, 3, None), "a device, or a conversation, that has not come to the replica");
        assert!(!is_enough(0, 4, &[], 1..=3, 3), "the end of an old log would be taken for the end");
        assert!(!is_enough(3, 4, &[], [], 3), "nothing new there");
        assert!(!is_enough(7, 9, &[], [], 3), "not even what the device has");
        assert!(!is_enough(0, 3, &[(1, 3, AbsentReason::Expired)], [], 3), "all gone");
        assert!(!is_enough(0, 5, &[(1, 2, AbsentReason::Expired)], 3..=5, 5), "gone in front");
        assert!(!is_enough(0, 5, &[(3, 3, AbsentReason::Expired)], [1, 2, 4, 5], 5), "a hole that is explained");
        assert!(!is_enough(0, 5, &[(4, 5, AbsentReason::Expired)], 1..=3, 5), "gone behind");
        assert!(!is_enough(0, 5, &[], [1, 2, 4, 5], 5), "a hole that is not");
        assert!(!is_enough(0, 5, &[], 2..=5, 5), "a hole in front");
        assert!(!is_enough(u64::MAX, u64::MAX, &[], [], 5));
    }
}
