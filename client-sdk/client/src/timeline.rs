//! Streams over the store: nothing is queued for anybody; who falls behind reads on where it was.

use crate::engine::Published;
use crate::error::CallError;
use crate::model::{Arrival, Author, Entry, EntryBody, EntryId, Notice, Position, Tick};
use crate::store::{PENDING, Reader, Role, StoredEntry, codes};
use crate::subscription::Subscription;
use futures_util::stream;
use kith_proto::id::{ClientMsgId, ConversationId, DeviceId};
use kith_proto::v1;
use prost::Message as _;
use std::collections::VecDeque;
use tokio::sync::watch;

/// Entries of the first batch, and of each that follows.
const BATCH: i64 = 100;

/// How far ticks of a conversation have come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    delivered: u64,
    read: u64,
}

impl Marks {
    fn of(published: &Published, id: ConversationId) -> Self {
        published.conversation(id).map_or_else(Self::default, |conv| Self { delivered: conv.peer_delivered, read: conv.peer_read })
    }

    const fn tick(self, pos: i64, failed: bool) -> Tick {
        let seq = pos.cast_unsigned();
        match () {
            () if failed => Tick::Failed,
            () if pos == PENDING => Tick::Pending,
            () if seq <= self.read => Tick::Read,
            () if seq <= self.delivered => Tick::Delivered,
            () => Tick::Sent,
        }
    }
}

fn body(stored: &StoredEntry) -> EntryBody {
    let record = &stored.record;
    if let Some(event) = codes::integrity(record.integrity, record.extent) {
        return EntryBody::Integrity(event);
    }
    if let Some(reason) = codes::undecryptable(record.undecryptable) {
        if record.extent > 0 {
            return EntryBody::Missing { to: record.extent, reason };
        }
        return EntryBody::Undecryptable { reason, repair: codes::repair(record) };
    }
    let kind = u8::try_from(record.kind).unwrap_or(0);
    let content = (kind == 1).then(|| v1::Content::decode(record.body.as_slice()).ok()).flatten();
    match content.and_then(|content| content.kind) {
        Some(v1::content::Kind::Text(text)) => EntryBody::Text(text.text),
        None => EntryBody::Unknown { kind },
    }
}

fn entry(stored: &StoredEntry, conversation: ConversationId, marks: Marks) -> Entry {
    let record = &stored.record;
    let mine = record.mine && stored.role == Role::Mine as i64;
    Entry {
        id: EntryId(stored.no),
        conversation,
        seq: (stored.pos != PENDING).then(|| stored.pos.cast_unsigned()),
        at_ms: record.at_ms,
        author: if mine { Author::Me } else { Author::Peer },
        device: DeviceId(record.device.as_slice().try_into().unwrap_or([0; 16])),
        client_msg_id: ClientMsgId(record.client_msg_id.as_slice().try_into().unwrap_or([0; 16])),
        body: body(stored),
        tick: mine.then(|| marks.tick(stored.pos, record.failed)),
        arrival: Arrival(stored.arrival),
    }
}

/// An entry as it is shown, for the fuzz targets.
#[cfg(fuzzing)]
pub(crate) fn shown(stored: &StoredEntry) -> Entry {
    entry(stored, ConversationId([0; 16]), Marks::default())
}

/// Waits for a change; false at the end.
async fn changed(changes: &mut watch::Receiver<i64>, ended: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        changed = changes.changed() => changed.is_ok(),
        _ = ended.wait_for(|ended| *ended) => false,
    }
}

/// One reader of one conversation.
struct Timeline {
    published: Published,
    reader: Reader,
    conversation: ConversationId,
    changes: watch::Receiver<i64>,
    ended: watch::Receiver<bool>,
    /// The last change that was given; `None` before the first batch.
    seen: Option<i64>,
    marks: Marks,
}

impl Timeline {
    async fn next(&mut self) -> Option<Vec<Entry>> {
        loop {
            self.changes.mark_unchanged();
            let row = self.published.rows.borrow().of.get(&self.conversation).copied();
            match (row, self.seen) {
                (None, None) => {
                    self.seen = Some(0);
                    return Some(Vec::new());
                }
                (Some(row), None) => return self.first(row).await,
                (Some(row), Some(seen)) => {
                    let entries = self.more(row, seen).await?;
                    if !entries.is_empty() {
                        return Some(entries);
                    }
                }
                (None, Some(_)) => {}
            }
            if !changed(&mut self.changes, &mut self.ended).await {
                return None;
            }
        }
    }

    async fn first(&mut self, row: i64) -> Option<Vec<Entry>> {
        self.marks = Marks::of(&self.published, self.conversation);
        let (change, stored) = self.reader.before(row, (i64::MAX, i64::MAX), BATCH).await.ok()?;
        self.seen = Some(change);
        Some(stored.iter().map(|stored| entry(stored, self.conversation, self.marks)).collect())
    }

    async fn more(&mut self, row: i64, seen: i64) -> Option<Vec<Entry>> {
        let (before, now) = (self.marks, Marks::of(&self.published, self.conversation));
        let mut stored = self.reader.changed(row, seen, BATCH).await.ok()?;
        if let Some(last) = stored.last() {
            self.seen = Some(last.change);
        }
        // Ticks are no rows: a watermark that has moved changes the entries it has passed.
        for (from, to) in [(before.delivered, now.delivered), (before.read, now.read)] {
            if to > from {
                let ticked = self.reader.own_between(row, from.cast_signed(), to.cast_signed()).await.ok()?;
                stored.retain(|entry| !ticked.iter().any(|other| other.no == entry.no));
                stored.extend(ticked);
            }
        }
        self.marks = now;
        Some(stored.iter().map(|stored| entry(stored, self.conversation, now)).collect())
    }
}

pub(crate) fn timeline(published: Published, reader: Reader, conversation: ConversationId) -> Subscription<Vec<Entry>> {
    let (changes, ended) = (published.changes.subscribe(), published.ended.subscribe());
    let first = Timeline { published, reader, conversation, changes, ended, seen: None, marks: Marks::default() };
    Subscription::from_stream(stream::unfold(first, |mut timeline| async move { Some((timeline.next().await?, timeline)) }))
}

/// One reader of everything that arrives.
struct Received {
    published: Published,
    reader: Reader,
    changes: watch::Receiver<i64>,
    ended: watch::Receiver<bool>,
    after: i64,
    ready: VecDeque<Entry>,
}

impl Received {
    async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                self.after = entry.arrival.0;
                return Some(entry);
            }
            self.changes.mark_unchanged();
            let stored = self.reader.arrived(self.after, BATCH).await.ok()?;
            let rows = self.published.rows.borrow().clone();
            let known = |stored: &StoredEntry| Some(entry(stored, *rows.id.get(&stored.conversation)?, Marks::default()));
            self.ready.extend(stored.iter().filter_map(known));
            if self.ready.is_empty() && !changed(&mut self.changes, &mut self.ended).await {
                return None;
            }
        }
    }
}

pub(crate) fn received(published: Published, reader: Reader, after: Arrival) -> Subscription<Entry> {
    let (changes, ended) = (published.changes.subscribe(), published.ended.subscribe());
    let first = Received { published, reader, changes, ended, after: after.0, ready: VecDeque::new() };
    Subscription::from_stream(stream::unfold(first, |mut received| async move { Some((received.next().await?, received)) }))
}

/// One reader of the notices.
struct Notices {
    published: Published,
    reader: Reader,
    newest: watch::Receiver<i64>,
    ended: watch::Receiver<bool>,
    after: i64,
    ready: VecDeque<Notice>,
}

impl Notices {
    async fn next(&mut self) -> Option<Notice> {
        loop {
            if let Some(notice) = self.ready.pop_front() {
                self.after = notice.id;
                return Some(notice);
            }
            self.newest.mark_unchanged();
            let stored = self.reader.notices(self.after, BATCH).await.ok()?;
            let rows = self.published.rows.borrow().clone();
            for (id, record) in stored {
                self.after = id;
                // A kind that a newer version has stored is skipped, not misread.
                let Some(kind) = codes::notice(record.kind) else { continue };
                let conversation = rows.id.get(&record.conversation).copied();
                self.ready.push_back(Notice { id, at_ms: record.at_ms, conversation, kind });
            }
            if self.ready.is_empty() && !changed(&mut self.newest, &mut self.ended).await {
                return None;
            }
        }
    }
}

pub(crate) fn notices(published: Published, reader: Reader, after: i64) -> Subscription<Notice> {
    let (newest, ended) = (published.notices.subscribe(), published.ended.subscribe());
    let first = Notices { published, reader, newest, ended, after, ready: VecDeque::new() };
    Subscription::from_stream(stream::unfold(first, |mut notices| async move { Some((notices.next().await?, notices)) }))
}

pub(crate) async fn history(
    published: &Published,
    reader: &Reader,
    conversation: ConversationId,
    before: Option<Position>,
    limit: usize,
) -> Result<Vec<Entry>, CallError> {
    let row = published.rows.borrow().of.get(&conversation).copied().ok_or(CallError::UnknownConversation)?;
    let place = |seq: u64| if seq == u64::MAX { PENDING } else { seq.cast_signed() };
    let at = before.map_or((i64::MAX, i64::MAX), |position| (place(position.seq), position.id.0));
    let limit = i64::try_from(limit).unwrap_or(BATCH);
    let (_, stored) = reader.before(row, at, limit).await.map_err(|error| CallError::Storage(error.to_string()))?;
    let marks = Marks::of(published, conversation);
    Ok(stored.iter().map(|stored| entry(stored, conversation, marks)).collect())
}
