//! The statements of a log writer.

use std::collections::HashMap;

use kith_proto::id::{AccountId, ConversationId, DeviceId};
use sqlx::{
    Arguments as _, Encode, PgConnection, Postgres, Row as _, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgHasArrayType, PgTypeInfo},
};
use uuid::Uuid;

use super::{
    bounded,
    plan::Waiting,
    roster::Rosters,
    run::{self, Run},
    session::{Call, unsigned},
};
use crate::log::Append;

/// Bit 0 of the flags.
pub(super) const CHECKPOINT: i16 = 0b01;
/// Bit 1 of the flags.
pub(super) const FROM_HIGH: i16 = 0b10;

const APPEND: &str = "SELECT coalesce(o_base, '{}'), coalesce(o_at_ms, '{}'), coalesce(o_sent, '{}'),
        coalesce(d_message, '{}'), coalesce(d_seq, '{}'), coalesce(d_at_ms, '{}'), coalesce(o_odd, '{}')
    FROM log_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26)";
/// What is refused because its device has connected anew. The class is that of what is wrong with the data, so that one message is found and the rest is appended.
const FENCED: &str = "23K01";
const CREATE: &str = "SELECT log_create($1, $2, $3)";
const FIND: &str = "SELECT i.n, m.seq, m.at_ms, c.sent FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[]) WITH ORDINALITY i(conversation, sender, id, counter, n)
    JOIN conversation c ON c.id = i.conversation
    CROSS JOIN LATERAL log_find(i.conversation, i.sender, i.id, i.counter) m";

/// What a row holds of a run, written straight into the statement.
struct Content<'b, 'a>(&'b [&'a Append]);

impl Type<Postgres> for Content<'_, '_> {
    fn type_info() -> PgTypeInfo {
        <Vec<u8> as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Content<'_, '_> {
    fn array_type_info() -> PgTypeInfo {
        <Vec<u8> as PgHasArrayType>::array_type_info()
    }
}

impl<'q> Encode<'q, Postgres> for Content<'_, '_> {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        run::encode(buf, self.0).ok_or("a message too large to be stored")?;
        Ok(IsNull::No)
    }
}

/// The side of the sender: 0 if it is the lower member.
fn side(append: &Append) -> i16 {
    i16::from(append.sender.account > append.recipient)
}

/// The lower member and the higher.
pub(super) fn members(append: &Append) -> [AccountId; 2] {
    let (a, b) = (append.sender.account, append.recipient);
    if a < b { [a, b] } else { [b, a] }
}

fn uuid(id: [u8; 16]) -> Uuid {
    Uuid::from_bytes(id)
}

/// A place in a batch, which is far smaller than any number that the database knows.
fn number<N: TryFrom<usize> + Default>(n: usize) -> N {
    N::try_from(n).unwrap_or_default()
}

/// Appends of one batch, grouped by conversation, conversations ascending.
pub(super) struct Batch<'a> {
    appends: Vec<&'a Append>,
    groups: Vec<Group>,
    runs: Vec<Run>,
    /// `None` for the database's clock.
    now_ms: Option<i64>,
    /// Whether each message is looked for.
    retries: bool,
}

/// A device that sends something in the batch.
struct Sender {
    device: DeviceId,
    /// The oldest of the connections that it sent on.
    epoch: u64,
    /// The smallest and the largest.
    counters: [u64; 2],
}

struct Group {
    conversation: ConversationId,
    versions: [i64; 2],
    count: usize,
    /// Which of them is the last that is no checkpoint, from 1; 0 if all are.
    shown: usize,
    sent: i16,
    /// The device whose runs go on a chain: the first that sends here. And which of them is its last one.
    sender: DeviceId,
    last: usize,
}

impl Group {
    /// Returns its place among the messages of the group, from 1, and that of the one before on its chain.
    fn add(&mut self, append: &Append) -> (usize, Option<usize>) {
        self.count += 1;
        self.sent |= 1 << side(append);
        if !append.checkpoint {
            self.shown = self.count;
        }
        // Counters rise along a chain: a batch in which they may not is one of retries, whose rows go on none.
        let chained = append.sender.device == self.sender;
        let after = chained.then(|| std::mem::replace(&mut self.last, self.count));
        (self.count, after)
    }
}

/// What became of a conversation of the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    /// The head before; `None` if nothing was done, because the conversation does not exist or has other devices.
    pub(super) base: Option<u64>,
    pub(super) at_ms: u64,
    pub(super) mutual: bool,
}

/// What became of the batch.
#[derive(Debug)]
pub(super) struct Appended {
    /// Of each conversation.
    pub(super) placed: Vec<Placed>,
    /// Messages, by their number in the batch, that were there before: seq and time.
    pub(super) duplicates: HashMap<usize, (u64, u64)>,
    /// Conversations in which there may be retries, by their number in the batch, ascending: if there are any, nothing was done. Only of a batch that does not look for them.
    pub(super) odd: Vec<usize>,
}

impl<'a> Batch<'a> {
    /// `order` are the numbers of the appends in `waiting`, sorted by conversation, those of one conversation in the order in which they came.
    pub(super) fn new(waiting: &'a [Waiting], order: &[usize], rosters: &Rosters, now_ms: Option<u64>, retries: bool) -> Self {
        let appends: Vec<_> = order.iter().map(|n| &*waiting[*n].append).collect();
        let mut groups: Vec<Group> = Vec::with_capacity(appends.len());
        let mut runs: Vec<Run> = Vec::with_capacity(appends.len());
        for (n, append) in appends.iter().enumerate() {
            if groups.last().is_none_or(|group| group.conversation != append.conversation) {
                let versions = members(append).map(|account| rosters.get(account).map_or(0, |roster| roster.version));
                let (conversation, sender) = (append.conversation, append.sender.device);
                groups.push(Group { conversation, versions, count: 0, shown: 0, sent: 0, sender, last: 0 });
            }
            let group = groups.len() - 1;
            let (nth, after) = groups[group].add(append);
            if nth == 1 || !runs.last_mut().is_some_and(|run| run.extend(appends[n - 1], append)) {
                runs.push(Run::new(append, n, group, nth, after));
            }
        }
        debug_assert!(retries || runs.iter().all(|run| run.after.is_none_or(|after| after == 0 || follows(&appends, run, after))));
        Self { appends, groups, runs, now_ms: now_ms.map(bounded), retries }
    }

    /// Each sending device, ascending.
    fn senders(&self) -> Vec<Sender> {
        let one = |append: &&Append| Sender { device: append.sender.device, epoch: append.epoch, counters: [append.device_counter; 2] };
        let mut senders: Vec<_> = self.appends.iter().map(one).collect();
        senders.sort_unstable_by_key(|sender| sender.device);
        senders.dedup_by(|next, first| {
            let same = next.device == first.device;
            if same {
                first.epoch = first.epoch.min(next.epoch);
                first.counters = [first.counters[0].min(next.counters[0]), first.counters[1].max(next.counters[1])];
            }
            same
        });
        senders
    }

    /// The group of each append, by number.
    pub(super) fn groups(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().enumerate().flat_map(|(n, group)| (0..group.count).map(move |_| n))
    }
}

impl Call for Batch<'_> {
    type Answer = Appended;

    async fn run(&self, connection: &mut PgConnection) -> Result<Appended, sqlx::Error> {
        let (groups, runs) = (&self.groups, &self.runs);
        let of = |run: &Run| run.of(&self.appends);
        // What all messages of a run have in common.
        let each = |run: &Run| self.appends[run.start];
        let least = |run: &Run| bounded(each(run).device_counter);
        let largest = |run: &Run| bounded(self.appends[run.start + run.count - 1].device_counter);
        let name = |run: &Run| (run.count == 1).then(|| uuid(each(run).client_msg_id.0));
        let flags = |run: &Run| (i16::from(each(run).checkpoint) * CHECKPOINT) | (side(each(run)) * FROM_HIGH);
        let senders = self.senders();
        let mut arguments = PgArguments::default();
        arguments.reserve(26, runs.iter().map(Run::statement_bytes).sum());
        let query = sqlx::query_with(APPEND, arguments)
            .bind(groups.iter().map(|g| uuid(g.conversation.0)).collect::<Vec<_>>())
            .bind(groups.iter().map(|g| g.versions[0]).collect::<Vec<_>>())
            .bind(groups.iter().map(|g| g.versions[1]).collect::<Vec<_>>())
            .bind(groups.iter().map(|g| number(g.count)).collect::<Vec<i64>>())
            .bind(groups.iter().map(|g| g.sent).collect::<Vec<_>>())
            .bind(groups.iter().map(|g| number(g.shown)).collect::<Vec<i64>>())
            .bind(groups.iter().map(|g| uuid(g.sender.0)).collect::<Vec<_>>())
            .bind(groups.iter().map(|g| number(g.last)).collect::<Vec<i64>>())
            .bind(runs.iter().map(|r| number(r.group + 1)).collect::<Vec<i32>>())
            .bind(runs.iter().map(|r| number(r.last)).collect::<Vec<i64>>())
            .bind(runs.iter().map(|r| number(r.count)).collect::<Vec<i16>>())
            .bind(runs.iter().map(|r| uuid(each(r).sender.device.0)).collect::<Vec<_>>())
            .bind(runs.iter().map(name).collect::<Vec<_>>())
            .bind(runs.iter().map(least).collect::<Vec<_>>())
            .bind(runs.iter().map(largest).collect::<Vec<_>>())
            .bind(runs.iter().map(|r| bounded(each(r).sender_list_version)).collect::<Vec<_>>())
            .bind(runs.iter().map(|r| bounded(each(r).recipient_list_version)).collect::<Vec<_>>())
            .bind(runs.iter().map(flags).collect::<Vec<_>>())
            .bind(runs.iter().map(|r| Content(of(r))).collect::<Vec<_>>())
            .bind(runs.iter().map(|r| r.after.map(number::<i64>)).collect::<Vec<_>>())
            .bind(senders.iter().map(|s| uuid(s.device.0)).collect::<Vec<_>>())
            .bind(senders.iter().map(|s| bounded(s.epoch)).collect::<Vec<_>>())
            .bind(senders.iter().map(|s| bounded(s.counters[1])).collect::<Vec<_>>())
            .bind(senders.iter().map(|s| bounded(s.counters[0])).collect::<Vec<_>>())
            .bind(self.now_ms)
            .bind(self.retries);
        let row = query.fetch_one(connection).await?;
        let (base, at_ms, sent): (Vec<i64>, Vec<i64>, Vec<i16>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let placed = base.iter().zip(at_ms).zip(sent);
        let placed = placed.map(|((base, at_ms), sent)| Placed { base: u64::try_from(*base).ok(), at_ms: unsigned(at_ms), mutual: sent == 0b11 });
        let (numbers, seqs, times): (Vec<i64>, Vec<i64>, Vec<i64>) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        let duplicates = numbers.into_iter().zip(seqs).zip(times);
        let duplicates = duplicates.filter_map(|((n, seq), at)| Some((usize::try_from(n - 1).ok()?, (unsigned(seq), unsigned(at)))));
        let mut odd: Vec<i32> = row.try_get(6)?;
        odd.sort_unstable();
        let odd = odd.into_iter().filter_map(|group| usize::try_from(group - 1).ok()).collect();
        Ok(Appended { placed: placed.collect(), duplicates: duplicates.collect(), odd })
    }
}

/// Whether a run has larger counters than what its sender has sent before it, which is the `after`th message of their conversation.
fn follows(appends: &[&Append], run: &Run, after: usize) -> bool {
    let first = run.start + run.count - run.last;
    appends[first + after - 1].device_counter < appends[run.start].device_counter
}

/// Whether an append was refused because its device has connected anew since.
pub(super) fn is_fenced(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(FENCED))
}

/// Makes conversations that do not exist, from appends to them.
pub(super) struct Create<'a>(pub(super) &'a [(ConversationId, [AccountId; 2])]);

impl Call for Create<'_> {
    type Answer = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let query = sqlx::query(CREATE)
            .bind(self.0.iter().map(|(id, _)| uuid(id.0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|(_, members)| uuid(members[0].0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|(_, members)| uuid(members[1].0)).collect::<Vec<_>>());
        query.execute(connection).await.map(|_| ())
    }
}

/// A message that was there before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Its number among those looked for.
    pub(super) n: usize,
    pub(super) seq: u64,
    pub(super) at_ms: u64,
    pub(super) mutual: bool,
}

/// Looks for messages by who sent them under which name.
pub(super) struct Find<'a>(pub(super) Vec<&'a Append>);

impl Call for Find<'_> {
    type Answer = Vec<Found>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Found>, sqlx::Error> {
        let query = sqlx::query(FIND)
            .bind(self.0.iter().map(|a| uuid(a.conversation.0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|a| uuid(a.sender.device.0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|a| uuid(a.client_msg_id.0)).collect::<Vec<_>>())
            .bind(self.0.iter().map(|a| bounded(a.device_counter)).collect::<Vec<_>>());
        let rows = query.fetch_all(connection).await?;
        let found = |row: &sqlx::postgres::PgRow| {
            let n: i64 = row.try_get(0)?;
            let sent: i16 = row.try_get(3)?;
            let n = usize::try_from(n - 1).unwrap_or(usize::MAX);
            Ok(Found { n, seq: unsigned(row.try_get(1)?), at_ms: unsigned(row.try_get(2)?), mutual: sent == 0b11 })
        };
        rows.iter().map(found).collect()
    }
}
