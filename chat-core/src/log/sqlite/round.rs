//! Rounds: about once a second what is in memory is written as a summary, and the journal is relieved of what every device has.
//!
//! A round is made of steps, each small enough to ride in a transaction with appends. Its order is what makes it safe to die at any point: the counters
//! of the rows it is about, then cursors and heads, then deletions of what those cursors cover, then the mark up to which the journal need not be read
//! again. Rows appended since it began are left to the next round, since their counters are known from the journal only.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::{
    conversation::{Conversation, StoredCursor},
    engine::LogWriter,
    hot::{Hot, Slot},
    purge::Sweep,
};
use crate::{domain::IdMap, log::Purged, sqlite::StorageFault};

/// From the end of a round to the start of the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// A round starts early when the journal has grown by this many rows.
const EARLY: i64 = 1 << 16;
/// Rows of one conversation handled in one go.
const PER_CONVERSATION: u64 = 512;
/// Roughly the rows written in one step.
const STEP: u64 = 768;
/// Rows deleted from the journal in one step.
const DELETIONS: usize = 4096;
/// Idle conversations are looked for this often.
const FORGET: Duration = Duration::from_secs(10);

/// Rounds, and who waits for them.
#[derive(Debug)]
pub(super) struct Rounds {
    round: Option<Round>,
    step: Step,
    /// Rounds begun.
    begun: u64,
    ended_at: Instant,
    retry_at: Option<Instant>,
    forget_at: Instant,
    /// Row up to which the summary goes.
    summarised: i64,
    /// Rows to delete that no longer belong to any conversation.
    doomed: Vec<i64>,
    /// Those who wait for the end of the round with this number.
    waiting: Vec<(u64, oneshot::Sender<Result<(), StorageFault>>)>,
    pub(super) sweep: Option<Sweep>,
    pub(super) purged: Purged,
}

#[derive(Debug)]
struct Round {
    no: u64,
    upto: i64,
    pending: VecDeque<Slot>,
    /// Sorted, the largest last.
    deletions: Vec<i64>,
    deleting: bool,
    counters: IdMap<i64, u64>,
    unwritten: Vec<(i64, u64)>,
}

/// What the step in the transaction under way has done; takes effect in memory with its commit.
#[derive(Debug, Default)]
enum Step {
    #[default]
    None,
    Summaries(Vec<Summary>),
    Deleted(usize),
    Counters(usize),
    Ended,
}

/// What is written of one conversation.
#[derive(Debug)]
struct Summary {
    slot: Slot,
    no: i64,
    at_ms: u64,
    /// May be beyond `upto`: what comes after it is replayed.
    shown: u64,
    first: u64,
    /// Entries up to here are in the summary afterwards.
    upto: u64,
    read: [u64; 2],
    delivered: [u64; 2],
    cursors: Vec<(i64, StoredCursor)>,
    /// Entries to be found through `kept` from now on.
    keep: Vec<(u64, i64)>,
    /// Entries that need not be kept; never were in `kept`.
    doomed: Vec<i64>,
    /// Entries to be taken out of `kept` and deleted.
    unkeep: Option<(u64, u64)>,
    purged: Purged,
    /// Not all was done.
    more: bool,
}

impl Rounds {
    pub(super) fn new(summarised: i64) -> Self {
        let now = Instant::now();
        Self {
            round: None,
            step: Step::None,
            begun: 0,
            ended_at: now,
            retry_at: None,
            forget_at: now + FORGET,
            summarised,
            doomed: Vec::new(),
            waiting: Vec::new(),
            sweep: None,
            purged: Purged::default(),
        }
    }

    /// Lists a row that belongs to nothing any more.
    pub(super) fn doom(&mut self, row: i64) {
        self.doomed.push(row);
    }

    /// The number of the next round to begin.
    pub(super) fn next(&self) -> u64 {
        self.begun + 1
    }

    /// Answers when everything that is in memory now is in the database.
    pub(super) fn wait(&mut self, answer: oneshot::Sender<Result<(), StorageFault>>) {
        self.waiting.push((self.next(), answer));
    }

    pub(super) fn fail_waiting(&mut self, fault: &StorageFault) {
        for (_, answer) in self.waiting.drain(..) {
            let _ = answer.send(Err(fault.clone()));
        }
        self.sweep = None;
        self.retry_at = Instant::now().checked_add(INTERVAL);
    }

    pub(super) fn counter(&self, device: i64) -> Option<u64> {
        self.round.as_ref().and_then(|round| round.counters.get(&device).copied())
    }

    fn is_wanted(&self, dirty: usize, newest: i64) -> bool {
        let wanted = self.sweep.as_ref().is_some_and(Sweep::awaits_round) || !self.waiting.is_empty();
        wanted || (dirty > 0 && (self.ended_at.elapsed() >= INTERVAL || newest - self.summarised >= EARLY))
    }

    /// Takes the step's effect on memory.
    pub(super) fn committed(&mut self, hot: &Mutex<Hot>) {
        match std::mem::take(&mut self.step) {
            Step::None => {}
            Step::Summaries(summaries) => summaries.into_iter().for_each(|summary| self.summarised(&mut hot.lock(), summary)),
            Step::Deleted(count) => self.with_round(|round| round.deletions.truncate(round.deletions.len() - count)),
            Step::Counters(count) => self.with_round(|round| round.unwritten.truncate(round.unwritten.len() - count)),
            Step::Ended => self.end(hot),
        }
    }

    fn with_round(&mut self, change: impl FnOnce(&mut Round)) {
        self.round.as_mut().map(change);
    }

    fn summarised(&mut self, hot: &mut Hot, summary: Summary) {
        let conversation = hot.at(summary.slot);
        conversation.recent.drain(..usize::try_from(summary.upto - conversation.indexed).unwrap_or(usize::MAX));
        conversation.indexed = summary.upto;
        conversation.first = summary.first;
        for (device, stored) in &summary.cursors {
            conversation.cursors.iter_mut().filter(|c| c.device_no == *device).for_each(|c| c.stored = *stored);
        }
        if conversation.recent.is_empty() {
            conversation.recent.shrink_to(16);
        }
        self.purged.delivered += summary.purged.delivered;
        self.purged.expired += summary.purged.expired;
        self.doomed.extend(summary.doomed);
        if summary.more {
            conversation.dirty = true;
            self.with_round(|round| round.pending.push_back(summary.slot));
        }
    }

    fn end(&mut self, hot: &Mutex<Hot>) {
        let Some(round) = self.round.take() else { return };
        hot.lock().end_round();
        self.summarised = round.upto;
        self.ended_at = Instant::now();
        self.retry_at = None;
        let (done, waiting) = std::mem::take(&mut self.waiting).into_iter().partition::<Vec<_>, _>(|(no, _)| *no <= round.no);
        self.waiting = waiting;
        for (_, answer) in done {
            let _ = answer.send(Ok(()));
        }
        if let Some(sweep) = self.sweep.take() {
            self.sweep = sweep.round_ended(round.no, &mut self.purged);
        }
    }

    /// The step did not happen.
    pub(super) fn rolled_back(&mut self, hot: &Mutex<Hot>) {
        if let Step::Summaries(summaries) = std::mem::take(&mut self.step) {
            let mut hot = hot.lock();
            for summary in summaries {
                hot.at(summary.slot).dirty = true;
                self.with_round(|round| round.pending.push_back(summary.slot));
            }
        }
    }
}

impl LogWriter {
    /// Answers when everything that is in memory now is in the database.
    pub(crate) fn flush(&mut self, answer: oneshot::Sender<Result<(), StorageFault>>) {
        self.rounds.wait(answer);
    }

    /// A transaction failed: those who wait are told, and background work rests for a moment.
    pub(crate) fn fail_waiting(&mut self, fault: &StorageFault) {
        self.rounds.fail_waiting(fault);
    }

    /// When there is something to do without being asked: now, at a time, or never.
    pub(crate) fn due(&self) -> Option<Instant> {
        let (dirty, any) = {
            let hot = self.hot.lock();
            (hot.dirty(), hot.len() > 0)
        };
        let rounds = &self.rounds;
        let now = Instant::now();
        if let Some(retry) = rounds.retry_at.filter(|at| *at > now) {
            return Some(retry);
        }
        if rounds.round.is_some() || rounds.sweep.is_some() || rounds.is_wanted(dirty, self.newest) {
            return Some(now);
        }
        let round = (dirty > 0).then(|| rounds.ended_at + INTERVAL);
        let forget = any.then_some(rounds.forget_at);
        round.into_iter().chain(forget).min()
    }

    /// Whether a step is to be taken in the next transaction.
    pub(crate) fn has_step(&mut self) -> bool {
        let now = Instant::now();
        if self.rounds.forget_at <= now {
            self.rounds.forget_at = now + FORGET;
            self.hot.lock().forget_idle();
        }
        if self.rounds.retry_at.is_some_and(|at| at > now) {
            return false;
        }
        let dirty = self.hot.lock().dirty();
        self.rounds.round.is_some() || self.rounds.sweep.is_some() || self.rounds.is_wanted(dirty, self.newest)
    }

    /// One step of a sweep and one of the round. Called when the appends of the transaction are through.
    pub(crate) fn step(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.sweep_step(db)?;
        let dirty = self.hot.lock().dirty();
        if self.rounds.round.is_none() {
            if !self.rounds.is_wanted(dirty, self.newest) {
                return Ok(());
            }
            self.begin_round();
        }
        let Some(mut round) = self.rounds.round.take() else { return Ok(()) };
        let outcome = self.round_step(db, &mut round);
        self.rounds.round = Some(round);
        self.rounds.step = outcome?;
        Ok(())
    }

    fn begin_round(&mut self) {
        self.rounds.begun += 1;
        self.ids[1] = std::mem::take(&mut self.ids[0]);
        // Appends of the transaction under way belong to the next round.
        for key in &self.batch.ids {
            if let Some(original) = self.ids[1].remove(key) {
                self.ids[0].insert(*key, original);
            }
        }
        let counters = std::mem::take(&mut self.counters);
        let unwritten = counters.iter().map(|(device, counter)| (*device, *counter)).collect();
        let pending = self.hot.lock().start_round();
        let no = self.rounds.begun;
        self.rounds.round = Some(Round { no, upto: self.newest, pending, deletions: Vec::new(), deleting: false, counters, unwritten });
    }

    fn round_step(&mut self, db: &Connection, round: &mut Round) -> rusqlite::Result<Step> {
        if !round.unwritten.is_empty() {
            return write_counters(db, &round.unwritten).map(Step::Counters);
        }
        if !round.pending.is_empty() {
            return self.summaries(db, round).map(Step::Summaries);
        }
        if !round.deleting {
            round.deleting = true;
            round.deletions = std::mem::take(&mut self.rounds.doomed);
            round.deletions.sort_unstable();
        }
        if !round.deletions.is_empty() {
            return delete_rows(db, &round.deletions).map(Step::Deleted);
        }
        db.prepare_cached("UPDATE log_meta SET summarised = max(summarised, ?)")?.execute([round.upto])?;
        self.ids[1] = IdMap::default();
        Ok(Step::Ended)
    }

    fn summaries(&self, db: &Connection, round: &mut Round) -> rusqlite::Result<Vec<Summary>> {
        let mut summaries = Vec::new();
        let mut work = 0;
        let outcome = (|| {
            while work < STEP
                && let Some(slot) = round.pending.pop_front()
            {
                let Some(summary) = self.hot.lock().summarise(slot, round.upto) else { continue };
                work += 2 + 3 * summary.work();
                summaries.push(summary);
                if let Some(summary) = summaries.last() {
                    self.write_summary(db, summary)?;
                }
            }
            Ok(())
        })();
        if let Err(error) = outcome {
            let mut hot = self.hot.lock();
            for summary in summaries {
                hot.at(summary.slot).dirty = true;
                round.pending.push_back(summary.slot);
            }
            return Err(error);
        }
        Ok(summaries)
    }

    fn write_summary(&self, db: &Connection, summary: &Summary) -> rusqlite::Result<()> {
        let no = summary.no;
        if let Some((from, to)) = summary.unkeep {
            let rows: Vec<i64> = db
                .prepare_cached("SELECT no FROM kept WHERE conversation = ? AND seq BETWEEN ? AND ? ORDER BY no")?
                .query_map(params![no, from, to], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut delete = db.prepare_cached("DELETE FROM entry WHERE no = ?")?;
            rows.into_iter().try_for_each(|row| delete.execute([row]).map(|_| ()))?;
            db.prepare_cached("DELETE FROM kept WHERE conversation = ? AND seq BETWEEN ? AND ?")?.execute(params![no, from, to])?;
        }
        for (seq, row) in &summary.keep {
            let (sender, id): (i64, [u8; 16]) =
                db.prepare_cached("SELECT sender, client_msg_id FROM entry WHERE no = ?")?.query_row([row], |row| Ok((row.get(0)?, row.get(1)?)))?;
            db.prepare_cached("INSERT OR IGNORE INTO kept(conversation, seq, no, digest) VALUES (?, ?, ?, ?)")?.execute(params![
                no,
                seq,
                row,
                self.digest(sender, &id)
            ])?;
        }
        for (device, stored) in &summary.cursors {
            db.prepare_cached("UPDATE cursor SET seq = ?, behind = ? WHERE conversation = ? AND device = ?")?.execute(params![
                stored.seq,
                stored.behind,
                no,
                device
            ])?;
        }
        let sql =
            "UPDATE conversation SET head = ?, at_ms = ?, shown = ?, first = ?, low_read = ?, high_read = ?, low_delivered = ?, high_delivered = ?
            WHERE no = ?";
        let Summary { upto, at_ms, shown, first, read, delivered, .. } = summary;
        db.prepare_cached(sql)?.execute(params![upto, at_ms, shown, first, read[0], read[1], delivered[0], delivered[1], no])?;
        Ok(())
    }
}

impl Summary {
    fn work(&self) -> u64 {
        let unkept = self.unkeep.map_or(0, |(from, to)| to - from + 1);
        self.keep.len() as u64 + unkept
    }
}

impl Hot {
    /// Decides what to write of a conversation. It is clean then, unless it has rows after `newest`.
    fn summarise(&mut self, slot: Slot, newest: i64) -> Option<Summary> {
        let conversation = self.try_at(slot)?;
        let summary = summarise(slot, conversation, newest);
        if conversation.recent.back().is_some_and(|row| *row > newest) {
            self.mark_dirty(slot);
        }
        Some(summary)
    }
}

/// Decides what to write of a conversation, as far as its rows go up to `newest`, and marks it clean.
fn summarise(slot: Slot, conversation: &mut Conversation, newest: i64) -> Summary {
    let c = conversation;
    c.dirty = false;
    let head = c.indexed + c.recent.partition_point(|row| *row <= newest) as u64;
    let everyone = c.delivered_to_all().min(head);
    let gone = everyone.max(c.expired.min(head));
    let kept_end = gone.min(c.indexed).min(c.first.saturating_add(PER_CONVERSATION) - 1);
    let unkeep = (kept_end >= c.first).then_some((c.first, kept_end));
    let mut first = unkeep.map_or(c.first, |(_, to)| to + 1);
    let kept_is_empty = first > c.indexed;
    // Rows to delete cost little: they only have to be listed. Rows to keep are indexed one by one.
    let dooming = if kept_is_empty { gone.saturating_sub(c.indexed) } else { 0 };
    let keeping = (head - c.indexed - dooming).min(PER_CONVERSATION);
    let doomed: Vec<i64> = c.recent.iter().copied().take(usize::try_from(dooming).unwrap_or(0)).collect();
    let upto = c.indexed + dooming + keeping;
    let keep_from = c.indexed + dooming + 1;
    let keep = (keep_from..=upto).zip(c.recent.iter().copied().skip(doomed.len())).collect();
    if dooming > 0 {
        first = gone + 1;
    }
    let removed = first - c.first;
    let delivered = (everyone + 1).saturating_sub(c.first).min(removed);
    let more = upto < head || (gone >= first);
    Summary {
        slot,
        no: c.no,
        at_ms: c.at_ms,
        shown: c.shown,
        first,
        upto,
        read: c.read,
        delivered: c.delivered,
        cursors: c.cursors.iter().filter_map(|k| changed(k.device_no, k.stored, StoredCursor { seq: k.seq, behind: k.seq < c.head })).collect(),
        keep,
        doomed,
        unkeep,
        purged: Purged { delivered, expired: removed - delivered },
        more,
    }
}

fn changed(device: i64, stored: StoredCursor, wanted: StoredCursor) -> Option<(i64, StoredCursor)> {
    (stored != wanted).then_some((device, wanted))
}

/// Deletes from the end of a sorted list, runs of neighbours at once. Returns how many were deleted.
fn delete_rows(db: &Connection, sorted: &[i64]) -> rusqlite::Result<usize> {
    let batch = &sorted[sorted.len().saturating_sub(DELETIONS)..];
    let mut delete = db.prepare_cached("DELETE FROM entry WHERE no BETWEEN ? AND ?")?;
    for run in batch.chunk_by(|a, b| a + 1 == *b) {
        delete.execute([run[0], run[run.len() - 1]])?;
    }
    Ok(batch.len())
}

fn write_counters(db: &Connection, counters: &[(i64, u64)]) -> rusqlite::Result<usize> {
    let batch = &counters[counters.len().saturating_sub(usize::try_from(STEP).unwrap_or(0))..];
    let mut update = db.prepare_cached("UPDATE device SET counter = max(counter, ?) WHERE no = ?")?;
    for (device, counter) in batch {
        update.execute(params![counter, device])?;
    }
    Ok(batch.len())
}
