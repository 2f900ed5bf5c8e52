//! The rounds: take, decide, commit, let out.

use super::conversation::{Conv, Out};
use super::published::Rows;
use super::{Effects, Engine, Fetch, Input, People, Published, Result};
use crate::clock::Clock;
use crate::error::OpenError;
use crate::fault::{FaultHook, FaultPoint};
use crate::model::{ConnectionState, StopReason};
use crate::store::{Store, StoreError};
use kith_crypto::AccountId;
use kith_crypto::device::DeviceKeys;
use kith_crypto::identity::AccountIdentity;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Inputs of one round: so many messages share a commit.
const ROUND: usize = 256;
/// Sessions kept in memory; above it they are read again when needed.
const CACHED_SESSIONS: usize = 4_096;
/// The WAL is cut after this many rounds that wrote.
const ROUNDS_PER_CHECKPOINT: u32 = 1_024;
/// Requests under way at one time.
const UNDER_WAY: usize = 32;
const FIRST_RETRY_MS: u64 = 500;
const LAST_RETRY_MS: u64 = 60_000;
/// The time of a retry that has come.
const RIPE: u64 = 0;

/// Requests under way, and those that failed and may be tried again later.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    /// With the time at which each was asked.
    under_way: Vec<(Fetch, u64)>,
    failed: Vec<(Fetch, u32, u64)>,
}

impl Fetches {
    /// Whether a request may go out now; it is under way from now on.
    fn start(&mut self, fetch: &Fetch, now: u64) -> bool {
        let same = |other: &Fetch| other.same_as(fetch);
        if self.under_way.len() >= UNDER_WAY
            || self.under_way.iter().any(|(other, _)| same(other))
            || self.failed.iter().any(|(other, _, at)| same(other) && *at > now)
        {
            return false;
        }
        self.under_way.push((fetch.clone(), now));
        true
    }

    /// Gives the time at which it was asked.
    fn finish(&mut self, fetch: &Fetch, failed_after: Option<u64>, now: u64) -> u64 {
        let asked = self.under_way.iter().find(|(other, _)| other.same_as(fetch)).map_or(0, |(_, asked)| *asked);
        self.under_way.retain(|(other, _)| !other.same_as(fetch));
        let before = self.failed.iter().position(|(other, ..)| other.same_as(fetch)).map(|at| self.failed.remove(at));
        if let Some(after_ms) = failed_after {
            let attempts = before.map_or(0, |(_, attempts, _)| attempts) + 1;
            let wait = (FIRST_RETRY_MS << attempts.min(8)).clamp(after_ms.min(3_600_000), LAST_RETRY_MS.max(after_ms));
            self.failed.push((fetch.clone(), attempts, now + wait));
        }
        asked
    }

    fn next_retry(&self) -> Option<u64> {
        self.failed.iter().map(|(.., at)| *at).filter(|at| *at != RIPE).min()
    }

    /// Whether the time has come for something that failed before. It counts once.
    fn ripen(&mut self, now: u64) -> bool {
        let due = self.failed.iter_mut().filter(|(.., at)| *at != RIPE && *at <= now);
        due.map(|(.., at)| *at = RIPE).count() > 0
    }

    /// A new connection: what failed before may be tried at once.
    pub(super) fn forgive(&mut self) {
        self.failed.clear();
    }
}

impl Fetch {
    /// Whether the answer to one serves the other.
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lists { account: a, .. }, Self::Lists { account: b, .. }) => a == b,
            (Self::Bundles { conversation: a, account: x, devices: d, .. }, Self::Bundles { conversation: b, account: y, devices: e, .. }) => {
                a == b && x == y && d == e
            }
            (Self::Keys, Self::Keys) | (Self::Upload(_), Self::Upload(_)) => true,
            _ => false,
        }
    }
}

/// What the engine is made from.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) published: Published,
    pub(crate) fault: FaultHook,
    pub(crate) now_ms: u64,
}

impl Engine {
    /// Reads everything the engine keeps in memory from the store.
    pub(crate) fn load(parts: Parts) -> std::result::Result<Self, OpenError> {
        let Parts { store, published, fault, now_ms } = parts;
        let me = store.self_record()?.ok_or(OpenError::NotRegistered)?;
        let keys = store.meta("device")?.ok_or(StoreError::Malformed("device keys"))?;
        let keys = DeviceKeys::from_bytes(&keys).map_err(StoreError::from)?;
        let identity = store.meta("identity")?.map(|bytes| AccountIdentity::from_bytes(&bytes)).transpose().map_err(StoreError::from)?;
        let account = me.account.as_slice().try_into().map_err(|_| StoreError::Malformed("account"))?;
        let mut engine = Self {
            keys,
            identity,
            me,
            me_dirty: false,
            account: AccountId::from_bytes(account),
            people: People::default(),
            conversations: HashMap::new(),
            of: HashMap::new(),
            sessions: HashMap::new(),
            chains: HashMap::new(),
            bundles: HashMap::new(),
            fetches: Fetches::default(),
            awake: HashSet::new(),
            link: None,
            next_change: 0,
            next_arrival: 0,
            now: now_ms,
            clock_ms: now_ms,
            keys_checked_ms: 0,
            erased_ms: 0,
            typing: HashMap::new(),
            presence: HashMap::new(),
            stale_before: false,
            published,
            fault,
            effects: Effects::default(),
            store,
        };
        engine.read_state()?;
        engine.publish_all();
        Ok(engine)
    }

    /// (Re)reads what the store holds: at the start, and after a transaction that failed.
    pub(super) fn read_state(&mut self) -> Result<()> {
        self.me = self.store.self_record()?.ok_or(StoreError::Malformed("self"))?;
        self.me_dirty = false;
        self.people = People::read(&self.store)?;
        (self.next_change, self.next_arrival) = self.store.entry_counters()?;
        (self.sessions, self.chains, self.bundles) = (HashMap::new(), HashMap::new(), HashMap::new());
        self.conversations.clear();
        // A number that was given to a conversation that was not stored is given to the next one.
        self.of.clear();
        for (no, record) in self.store.conversations()? {
            let conv = Conv::new(no, record)?;
            self.of.insert(conv.id, no);
            self.conversations.insert(no, conv);
        }
        for stored in self.store.outbox()? {
            let record = &stored.record;
            let out = Out {
                no: stored.no,
                entry: record.entry,
                kind: u8::try_from(record.kind).map_err(|_| StoreError::Malformed("outbox"))?,
                client_msg_id: record.client_msg_id.as_slice().try_into().map_err(|_| StoreError::Malformed("outbox"))?,
                composed: !record.frame.is_empty(),
                in_flight: false,
            };
            self.conv(stored.conversation)?.queue.push_back(out);
        }
        self.awake = self.conversations.keys().copied().collect();
        Ok(())
    }

    pub(super) fn publish_all(&mut self) {
        self.effects.conversations_changed = true;
        self.effects.rows_changed = true;
        self.effects.newest_notice = self.store.newest_notice().ok();
        self.let_out();
    }

    /// One round with everything that came in. Gives what the worker is to fetch.
    pub(crate) fn round(&mut self, inputs: Vec<Input>, now: u64) -> Vec<Fetch> {
        // Time never goes back here, whatever the clock does, nor does it stand still until a clock that was set back has come so far again.
        self.now += now.saturating_sub(std::mem::replace(&mut self.clock_ms, now));
        let decided = inputs.into_iter().try_for_each(|input| self.take(input)).and_then(|()| self.work()).and_then(|()| self.flush());
        match decided.and_then(|()| self.store.commit()) {
            Ok(_) => {
                self.note_change();
                self.let_out()
            }
            Err(error) => self.undo(&error),
        }
    }

    fn take(&mut self, input: Input) -> Result<()> {
        match input {
            Input::Command(command) => self.call(command),
            Input::NextEpoch { reply } => self.next_epoch(reply),
            Input::Stale { reply } => self.stale(reply),
            Input::Welcome { connection, welcome, frames } => self.welcome(connection, &welcome, frames),
            Input::Frame { connection, frame } => self.frame(connection, *frame),
            Input::Disconnected { connection } => {
                self.disconnected(connection);
                Ok(())
            }
            Input::Fetched { fetch, answer } => self.fetched(&fetch, answer),
        }
    }

    /// Asks for something once.
    pub(super) fn want(&mut self, fetch: Fetch) {
        if self.fetches.start(&fetch, self.now) {
            self.effects.fetches.push(fetch);
        }
    }

    /// Gives the time at which it was asked: what the answer says is at least as new.
    pub(super) fn finished(&mut self, fetch: &Fetch, failed_after: Option<u64>) -> u64 {
        self.awake.extend(self.conversations.keys());
        self.fetches.finish(fetch, failed_after, self.now)
    }

    /// What follows from the state and the time rather than from an input.
    fn work(&mut self) -> Result<()> {
        self.forget_typing();
        self.daily_keys()?;
        self.time_out_sends();
        self.ask_for_ticks();
        let due: Vec<i64> = self.conversations.values().filter(|conv| conv.wake_at().is_some_and(|at| at <= self.now)).map(|conv| conv.no).collect();
        self.awake.extend(due);
        if self.fetches.ripen(self.now) {
            self.awake.extend(self.conversations.keys());
        }
        for no in std::mem::take(&mut self.awake) {
            self.drain(no)?;
            self.ask_for_gap(no)?;
            self.repairs(no)?;
            self.checkpoints(no)?;
            self.pump(no)?;
        }
        self.acknowledge();
        Ok(())
    }

    /// Writes what changed in memory into the transaction.
    fn flush(&mut self) -> Result<()> {
        if std::mem::take(&mut self.me_dirty) {
            self.store.set_self_record(&self.me)?;
        }
        self.people.flush(&mut self.store)?;
        for conv in self.conversations.values_mut().filter(|conv| conv.dirty) {
            self.store.set_conversation(conv.no, &conv.record)?;
            conv.dirty = false;
            self.effects.conversations_changed = true;
        }
        for (row, sessions) in self.sessions.iter_mut().filter(|(_, sessions)| sessions.dirty) {
            self.store.set_sessions(*row, &sessions.set, sessions.skipped_dirty)?;
            (sessions.dirty, sessions.skipped_dirty) = (false, false);
        }
        if self.sessions.len() > CACHED_SESSIONS {
            self.sessions.clear();
            self.chains.clear();
        }
        for point in [FaultPoint::Composed, FaultPoint::AcceptedWritten, FaultPoint::DeliverWritten] {
            if self.effects.points.contains(&point) {
                self.fault.at(point);
            }
        }
        Ok(())
    }

    fn note_change(&mut self) {
        for (written, committed) in [
            (FaultPoint::Composed, FaultPoint::ComposeCommitted),
            (FaultPoint::AcceptedWritten, FaultPoint::AcceptedCommitted),
            (FaultPoint::DeliverWritten, FaultPoint::DeliverCommitted),
            (FaultPoint::AfterQueue, FaultPoint::AfterQueue),
        ] {
            if self.effects.points.contains(&written) {
                self.fault.at(committed);
            }
        }
    }

    /// Lets the results of a committed round out.
    fn let_out(&mut self) -> Vec<Fetch> {
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(link) = &self.link {
            for frame in effects.frames.drain(..) {
                if link.frames.try_send(frame).is_err() {
                    // The socket takes nothing any more; the next connection begins where the store says.
                    effects.drop_link = true;
                    break;
                }
            }
        }
        if effects.drop_link {
            self.unlink();
        }
        self.publish(&effects);
        for reply in effects.replies {
            reply(true);
        }
        if let Some(reason) = effects.stop {
            self.published.connection.send_replace(ConnectionState::Stopped(reason));
        }
        effects.fetches
    }

    fn publish(&self, effects: &Effects) {
        if effects.rows_changed {
            let rows = Rows { of: self.of.iter().map(|(id, no)| (crate::ids::wire_conversation(*id), *no)).collect(), id: HashMap::new() };
            let id = rows.of.iter().map(|(id, no)| (*no, *id)).collect();
            self.published.rows.send_replace(Arc::new(Rows { id, ..rows }));
        }
        if effects.conversations_changed {
            self.published.conversations.send_replace(self.all_conversations());
        }
        self.published.changes.send_if_modified(|newest| {
            let moved = *newest != self.next_change || effects.conversations_changed;
            *newest = self.next_change;
            moved
        });
        if effects.typing_changed {
            self.published.typing.send_replace(self.all_typing());
        }
        if effects.presence_changed {
            self.published.presence.send_replace(self.presence.values().cloned().collect());
        }
        if let Some(newest) = effects.newest_notice {
            self.published.notices.send_replace(newest);
        }
    }

    /// The transaction failed: nothing of the round happened.
    fn undo(&mut self, error: &StoreError) -> Vec<Fetch> {
        tracing::error!(%error, "a transaction of the store failed");
        self.store.rollback();
        self.unlink();
        let effects = std::mem::take(&mut self.effects);
        for reply in effects.replies {
            reply(false);
        }
        for fetch in &effects.fetches {
            self.fetches.finish(fetch, Some(0), self.now);
        }
        let fatal = !matches!(error, StoreError::Database(_));
        if self.read_state().is_err() || fatal {
            self.effects.stop = Some(match error {
                StoreError::OtherWriter => StopReason::OtherProcess,
                _ => StopReason::StoreFailed,
            });
        }
        self.effects.conversations_changed = true;
        self.let_out()
    }

    /// When the engine has to look again although nothing comes in.
    pub(crate) fn wake_at(&self) -> u64 {
        let linked = self.conversations.values().filter(|_| self.link.is_some());
        let conversations = linked.filter_map(Conv::wake_at);
        let typing = self.typing.values().copied();
        let soonest = conversations.chain(typing).chain(self.fetches.next_retry()).min();
        soonest.unwrap_or(u64::MAX).min(self.now + 1_000)
    }

    /// Whether the engine has given up.
    fn stopped(&self) -> bool {
        matches!(&*self.published.connection.borrow(), ConnectionState::Stopped(StopReason::StoreFailed | StopReason::OtherProcess))
    }

    /// Runs until `stop`, on the thread it is called on.
    pub(crate) fn run(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        clock: &dyn Clock,
        fetches: &mpsc::UnboundedSender<Fetch>,
        stop: &CancellationToken,
    ) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
        let mut rounds = 0;
        while let Some(batch) = runtime.block_on(next_batch(&mut inputs, self.wake_at().saturating_sub(self.now), stop)) {
            for fetch in self.round(batch, clock.now_ms()) {
                // The number of requests under way is bounded by `Fetches`, so this queue is too.
                let _ = fetches.send(fetch);
            }
            rounds += 1;
            if rounds % ROUNDS_PER_CHECKPOINT == 0 {
                self.store.truncate_wal();
            }
            if self.stopped() {
                break;
            }
        }
        self.store.truncate_wal();
        let ended = self.published.ended.clone();
        drop(self);
        ended.send_replace(true);
    }
}

/// What is waiting, at most a round of it; empty when the time has come; `None` at the end.
async fn next_batch(inputs: &mut mpsc::Receiver<Input>, wait_ms: u64, stop: &CancellationToken) -> Option<Vec<Input>> {
    let mut batch = Vec::new();
    tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        received = inputs.recv_many(&mut batch, ROUND) => if received == 0 { return None },
        () = tokio::time::sleep(Duration::from_millis(wait_ms.max(1))) => {}
    }
    Some(batch)
}
