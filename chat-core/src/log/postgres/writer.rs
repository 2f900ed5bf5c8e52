//! A log writer: takes what is waiting, appends it in one round trip, and tells what became of it. Several may be at work, each on conversations of its
//! own, and so may other processes on the same ones.
//!
//! A batch is resolved before the next one of this writer begins: a commit of unknown outcome is settled by sending the same batch again, of which what was
//! committed comes back as duplicates.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use kith_proto::id::{AccountId, ConversationId};
use tokio::{sync::mpsc, time::timeout};

use super::{
    append::{Appended, Batch, Create, Find, is_fenced, members},
    counters::Counters,
    plan::{Step, Waiting, plan},
    queue::Queue,
    rest::rest,
    roster::{Load, Rosters},
    session::{Failed, Session, Twice},
};
use crate::{
    domain::{Clock, IdSet},
    log::{Append, CommitTimes, Outcome, Refusal, Resolved},
};

/// Appends in a batch: as many rows where each device has one under way, a fourth of that where ten are. With 512 the statement's own cost is felt: 5 to 8 % less
/// was delivered with 5,000 pairs that wait for each message.
const BATCH: usize = 1024;
/// Bytes in a batch.
const BATCH_BYTES: usize = 1 << 20;
/// Batches in a row in which an append may find the devices of its conversation changed.
const ATTEMPTS: u8 = 8;

pub(super) struct Writer {
    pub(super) queue: Arc<Queue<Box<Append>>>,
    pub(super) resolved: mpsc::Sender<Vec<Resolved>>,
    pub(super) clock: Clock,
    pub(super) session: Session,
    pub(super) rosters: Rosters,
    /// What an earlier batch has left, in order.
    pub(super) held: VecDeque<Waiting>,
    /// Conversations that do not exist, or have other devices than was thought.
    pub(super) amiss: Vec<(ConversationId, [AccountId; 2])>,
    pub(super) counters: Counters,
}

/// What a turn has decided so far.
struct Turn {
    waiting: Vec<Waiting>,
    outcomes: Vec<Option<Outcome>>,
    /// Something of these conversations was put off or refused: what follows waits for the next batch.
    closed: HashSet<ConversationId>,
}

impl Writer {
    /// Until the queue is closed and empty, or nobody wants to know.
    pub(super) async fn run(mut self) {
        while !self.held.is_empty() || self.queue.ready().await {
            let waiting = self.gather();
            let (begun, messages) = (Instant::now(), waiting.len());
            let resolved = self.turn(waiting).await;
            let took = begun.elapsed();
            if !resolved.is_empty() && self.resolved.send(resolved).await.is_err() {
                break;
            }
            let rest = rest(messages, took);
            if self.held.is_empty() && !rest.is_zero() {
                // Whether the time is over or a batch is full: what waits is taken.
                let _ = timeout(rest, self.queue.filled(BATCH, BATCH_BYTES)).await;
            }
        }
    }

    fn gather(&mut self) -> Vec<Waiting> {
        let mut appends = Vec::new();
        let held = self.held.len().min(BATCH);
        let mut waiting: Vec<Waiting> = self.held.drain(..held).collect();
        // What follows something that is held must not overtake it.
        if self.held.is_empty() && waiting.len() < BATCH {
            self.queue.take_now(&mut appends, BATCH - waiting.len(), BATCH_BYTES);
        }
        waiting.extend(appends.into_iter().map(Waiting::from));
        waiting
    }

    async fn turn(&mut self, waiting: Vec<Waiting>) -> Vec<Resolved> {
        let begun = Instant::now();
        let outcomes = waiting.iter().map(|_| None).collect();
        let mut turn = Turn { waiting, outcomes, closed: HashSet::new() };
        match self.prepare(&turn.waiting).await {
            Ok(steps) => {
                self.append(&mut turn, &steps).await;
                self.check(&mut turn, steps).await;
            }
            Err(failed) => {
                complain(&failed);
                turn.outcomes.fill(Some(Outcome::Refused(Refusal::StorageUnavailable)));
            }
        }
        let committed = Instant::now();
        let resolved = self.finish(turn, CommitTimes { taken: begun, committed });
        metrics::histogram!("kith_log_transaction_seconds").record((committed - begun).as_secs_f64());
        metrics::histogram!("kith_log_transaction_messages").record(f64::from(u32::try_from(resolved.len()).unwrap_or(u32::MAX)));
        resolved
    }

    /// Reads what has to be known of accounts, and decides.
    async fn prepare(&mut self, waiting: &[Waiting]) -> Result<Vec<Step>, Failed> {
        let mut fresh = HashSet::new();
        let amiss = std::mem::take(&mut self.amiss);
        if !amiss.is_empty() {
            self.session.call(Twice::Harmless, &Create(&amiss)).await?;
            let mut accounts: Vec<_> = amiss.iter().flat_map(|(_, members)| *members).collect();
            accounts.sort_unstable();
            accounts.dedup();
            self.load(accounts, &mut fresh).await?;
        }
        loop {
            match plan(waiting, &self.rosters, &fresh) {
                Ok(steps) => return Ok(steps),
                Err(unsure) => self.load(unsure, &mut fresh).await?,
            }
        }
    }

    async fn load(&mut self, accounts: Vec<AccountId>, fresh: &mut HashSet<AccountId>) -> Result<(), Failed> {
        let loaded = self.session.call(Twice::Harmless, &Load(&accounts)).await?;
        self.rosters.replace(&accounts, loaded);
        fresh.extend(accounts);
        Ok(())
    }

    /// Appends: conversations in which there may be retries apart from the others, and if the server finds fault with the data, in ever smaller parts, until only what is at fault is
    /// refused.
    async fn append(&mut self, turn: &mut Turn, steps: &[Step]) {
        let mut order: Vec<usize> = (0..steps.len()).filter(|n| steps[*n] == Step::Append).collect();
        let mut suspects: IdSet<ConversationId> = IdSet::default();
        for append in order.iter().map(|n| &turn.waiting[*n].append) {
            if !self.counters.rises(append.sender.device, append.device_counter) {
                suspects.insert(append.conversation);
            }
        }
        order.sort_by_key(|n| turn.waiting[*n].append.conversation);
        let (retries, new) = order.into_iter().partition(|n| suspects.contains(&turn.waiting[*n].append.conversation));
        // With whether each message is looked for.
        let mut parts: Vec<(Vec<usize>, bool)> = vec![(retries, true), (new, false)];
        while let Some((mut part, retries)) = parts.pop() {
            part.retain(|n| !turn.is_closed(*n));
            if part.is_empty() {
                continue;
            }
            let batch = Batch::new(&turn.waiting, &part, &self.rosters, self.clock.given_ms(), retries);
            match self.session.call(Twice::Harmless, &batch).await {
                Ok(appended) if appended.odd.is_empty() => {
                    let groups: Vec<usize> = batch.groups().collect();
                    self.amiss.extend(turn.place(&part, &groups, &appended));
                }
                Ok(appended) => {
                    let (odd, even): (Vec<_>, Vec<_>) =
                        part.iter().zip(batch.groups()).partition(|(_, group)| appended.odd.binary_search(group).is_ok());
                    let numbers = |part: Vec<(&usize, usize)>| part.into_iter().map(|(n, _)| *n).collect();
                    parts.extend([(numbers(odd), true), (numbers(even), false)]);
                }
                Err(Failed::Sql(error)) if is_about_data(&error) && part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([(rest, retries), (part, retries)]);
                }
                Err(failed) => {
                    complain(&failed);
                    part.iter().for_each(|n| turn.refuse(*n, Refusal::StorageUnavailable));
                }
            }
        }
    }

    /// Refuses what is not a duplicate.
    async fn check(&mut self, turn: &mut Turn, steps: Vec<Step>) {
        let doubtful: Vec<(usize, Refusal)> = steps
            .into_iter()
            .enumerate()
            .filter_map(|(n, step)| match step {
                Step::Check(refusal) if !turn.is_closed(n) => Some((n, refusal)),
                _ => None,
            })
            .collect();
        if doubtful.is_empty() {
            return;
        }
        let find = Find(doubtful.iter().map(|(n, _)| &*turn.waiting[*n].append).collect());
        let found = self.session.call(Twice::Harmless, &find).await;
        match found {
            Ok(found) => {
                let found: HashMap<usize, _> = found.into_iter().map(|found| (found.n, found)).collect();
                for (number, (n, refusal)) in doubtful.into_iter().enumerate() {
                    match found.get(&number) {
                        Some(f) => turn.outcomes[n] = Some(Outcome::Accepted { seq: f.seq, at_ms: f.at_ms, duplicate: true, mutual: f.mutual }),
                        None => turn.refuse(n, refusal),
                    }
                }
            }
            Err(failed) => {
                complain(&failed);
                doubtful.into_iter().for_each(|(n, _)| turn.refuse(n, Refusal::StorageUnavailable));
            }
        }
    }

    /// Keeps what has no outcome yet, before all that comes later.
    fn finish(&mut self, turn: Turn, commit: CommitTimes) -> Vec<Resolved> {
        let mut resolved = Vec::with_capacity(turn.waiting.len());
        let mut held = Vec::new();
        for (mut waiting, outcome) in turn.waiting.into_iter().zip(turn.outcomes) {
            let Some(outcome) = outcome else {
                held.push(waiting);
                continue;
            };
            if matches!(outcome, Outcome::Refused(_)) {
                waiting.append.gate.shut();
            }
            waiting.append.course.commit = Some(commit);
            resolved.push(Resolved { append: *waiting.append, outcome });
        }
        held.into_iter().rev().for_each(|waiting| self.held.push_front(waiting));
        resolved
    }
}

impl Turn {
    fn is_closed(&self, n: usize) -> bool {
        self.closed.contains(&self.waiting[n].append.conversation)
    }

    fn refuse(&mut self, n: usize, refusal: Refusal) {
        self.closed.insert(self.waiting[n].append.conversation);
        self.outcomes[n] = Some(Outcome::Refused(refusal));
    }

    /// Takes in what was appended. Returns the conversations that were amiss.
    fn place(&mut self, order: &[usize], groups: &[usize], appended: &Appended) -> Vec<(ConversationId, [AccountId; 2])> {
        let mut amiss = Vec::new();
        let mut next = vec![0; appended.placed.len()];
        for (number, (n, group)) in order.iter().zip(groups).enumerate() {
            let placed = appended.placed[*group];
            let Some(base) = placed.base else {
                amiss.extend(self.put_off(*n));
                continue;
            };
            let (seq, at_ms, duplicate) = match appended.duplicates.get(&number) {
                Some((seq, at_ms)) => (*seq, *at_ms, true),
                None => {
                    next[*group] += 1;
                    (base + next[*group], placed.at_ms, false)
                }
            };
            self.outcomes[*n] = Some(Outcome::Accepted { seq, at_ms, duplicate, mutual: placed.mutual });
        }
        amiss
    }

    /// Leaves an append to the next batch. Returns its conversation if it is the first of it.
    fn put_off(&mut self, n: usize) -> Option<(ConversationId, [AccountId; 2])> {
        let waiting = &mut self.waiting[n];
        waiting.attempts += 1;
        let conversation = waiting.append.conversation;
        if waiting.attempts > ATTEMPTS && !self.closed.contains(&conversation) {
            tracing::error!("the devices of a conversation do not settle");
            self.refuse(n, Refusal::StorageUnavailable);
            return None;
        }
        let first = self.closed.insert(conversation);
        first.then(|| (conversation, members(&self.waiting[n].append)))
    }
}

/// Whether an error is about what was sent, so that the rest may be good.
fn is_about_data(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        // Data exception, integrity constraint violation, program limit exceeded.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class))),
        _ => false,
    }
}

fn complain(failed: &Failed) {
    // That the server is away is told once, by the session.
    // Nobody waits any more for what a device sent before it connected anew.
    if let Failed::Sql(error) = failed
        && !is_fenced(error)
    {
        tracing::error!(error = error as &dyn std::error::Error, "messages could not be stored");
    }
}
