//! The bus within one process. What it holds ends with the process; what must not is in the outbox until it is published here, and handlers that must see it after a
//! restart subscribe before the relay starts.
//!
//! Each partition is a queue of bounded length. An event stays until every group is past it and its room is needed, so that a group that comes later sees what is left, as it
//! would in Kafka. When a queue is full of what some group has not worked off, publishing waits, and fails at its deadline.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as Turn, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    Bus, BusError, DeadLetter, Handler, Member, Place, Record, Subscription, Topic,
    member::left,
    work::{Verdict, work_on},
};
use crate::domain::Clock;

const PARTITIONS: usize = 8;
/// Events of one partition.
const HELD: usize = 4_096;
/// Dead letters of one topic; the oldest goes when another comes.
const DEAD_LETTERS: usize = 1_024;
const PUBLISH_WITHIN: Duration = Duration::from_secs(5);

/// The bus within one process.
#[derive(Debug)]
pub struct MemoryBus {
    shared: Arc<Shared>,
    publish_within: Duration,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something in the state has changed.
    changed: watch::Sender<()>,
    held: usize,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Log>,
    groups: HashMap<(Topic, &'static str), Group>,
    members: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Log {
    partitions: [Partition; PARTITIONS],
    dead: VecDeque<DeadLetter>,
    next_dead: i64,
}

#[derive(Debug, Default)]
struct Partition {
    /// The offset of the first record.
    first: u64,
    records: VecDeque<Record>,
}

impl Partition {
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }
}

#[derive(Debug)]
struct Group {
    /// In the order in which they came; partitions are dealt out among them.
    members: Vec<u64>,
    /// Of each partition: the next event to be worked on.
    next: [u64; PARTITIONS],
    /// Held by whoever works on a partition, so that one that is dealt to another member is not worked on by both.
    turns: [Arc<Turn<()>>; PARTITIONS],
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::bounded(HELD, PUBLISH_WITHIN)
    }
}

impl MemoryBus {
    /// With queues of this length, whose publishers wait so long for room.
    #[must_use]
    pub(super) fn bounded(held: usize, publish_within: Duration) -> Self {
        let shared = Shared { state: Mutex::default(), changed: watch::Sender::default(), held };
        Self { shared: Arc::new(shared), publish_within }
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, records: &[Record]) -> Result<(), BusError> {
        let all = async {
            for record in records {
                let mut changed = self.shared.changed.subscribe();
                while !self.shared.push(record)? {
                    let _ = changed.changed().await;
                }
            }
            Ok(())
        };
        timeout(self.publish_within, all).await.unwrap_or(Err(BusError::Full))
    }

    /// Once there is a group: what it has not worked off it will.
    fn is_heard(&self, topic: Topic) -> bool {
        self.shared.state.lock().groups.keys().any(|(heard, _)| *heard == topic)
    }

    async fn subscribe(&self, subscription: Subscription, handler: Arc<dyn Handler>) -> Result<Member, BusError> {
        let seat = Seat::take(&self.shared, subscription)?;
        Ok(Member::start(move |leaving| async move {
            let mut partitions = JoinSet::new();
            for partition in 0..PARTITIONS {
                partitions.spawn(seat.clone().tend(partition, Arc::clone(&handler), leaving.clone()));
            }
            partitions.join_all().await;
        }))
    }

    async fn dead_letters(&self, topic: Topic, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        let state = self.shared.state.lock();
        Ok(state.topics.get(&topic).map(|log| log.dead.iter().take(limit).cloned().collect()).unwrap_or_default())
    }

    async fn replay(&self, topic: Topic, limit: usize) -> Result<usize, BusError> {
        let letters = self.dead_letters(topic, limit).await?;
        for letter in &letters {
            self.publish(&[Record { topic, key: letter.key, payload: letter.payload.clone() }]).await?;
            if let Some(log) = self.shared.state.lock().topics.get_mut(&topic) {
                log.dead.retain(|dead| dead.place != letter.place);
            }
        }
        Ok(letters.len())
    }

    async fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.changed.send_replace(());
    }
}

impl Shared {
    /// Whether there was room.
    fn push(&self, record: &Record) -> Result<bool, BusError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(BusError::Closed);
        }
        let place = usize::from(record.key[15]) % PARTITIONS;
        let oldest_needed = state.groups.iter().filter(|((topic, _), _)| *topic == record.topic).map(|(_, group)| group.next[place]).min();
        let partition = &mut state.topics.entry(record.topic).or_default().partitions[place];
        if partition.records.len() >= self.held {
            if oldest_needed.is_some_and(|needed| needed <= partition.first) {
                return Ok(false);
            }
            partition.records.pop_front();
            partition.first += 1;
        }
        partition.records.push_back(record.clone());
        metrics::counter!("kith_bus_published_total", "topic" => record.topic.name()).increment(1);
        drop(state);
        self.changed.send_replace(());
        Ok(true)
    }
}

/// A member's place in its group; given up when the last of its tasks has ended.
#[derive(Debug, Clone)]
struct Seat(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    shared: Arc<Shared>,
    subscription: Subscription,
    member: u64,
}

impl Seat {
    fn take(shared: &Arc<Shared>, subscription: Subscription) -> Result<Self, BusError> {
        let mut state = shared.state.lock();
        if state.closed {
            return Err(BusError::Closed);
        }
        state.members += 1;
        let member = state.members;
        let log = state.topics.entry(subscription.topic).or_default();
        let oldest = std::array::from_fn(|partition| log.partitions[partition].first);
        let group = state.groups.entry((subscription.topic, subscription.group));
        group.or_insert_with(|| Group { members: Vec::new(), next: oldest, turns: Default::default() }).members.push(member);
        drop(state);
        shared.changed.send_replace(());
        Ok(Self(Arc::new(Taken { shared: Arc::clone(shared), subscription, member })))
    }

    /// Works off one partition whenever it is this member's.
    async fn tend(self, partition: usize, handler: Arc<dyn Handler>, mut leaving: watch::Receiver<bool>) {
        let mut changed = self.0.shared.changed.subscribe();
        while !*leaving.borrow() {
            changed.borrow_and_update();
            let Some(turn) = self.0.turn(partition) else {
                tokio::select! {
                    _ = changed.changed() => continue,
                    () = left(&mut leaving) => break,
                }
            };
            let _turn = turn.lock().await;
            // Whoever had it before may have worked it off, or another member has joined meanwhile.
            if let Some((offset, record)) = self.0.next(partition) {
                let verdict = work_on(&self.0.subscription, &handler, &record.payload).await;
                self.0.advance(Place { partition: i32::try_from(partition).unwrap_or(i32::MAX), offset: signed(offset) }, record, verdict);
            }
        }
    }
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

impl Taken {
    fn key(&self) -> (Topic, &'static str) {
        (self.subscription.topic, self.subscription.group)
    }

    /// There is something to do in this partition, and it is this member's.
    fn turn(&self, partition: usize) -> Option<Arc<Turn<()>>> {
        self.next(partition)?;
        Some(Arc::clone(&self.shared.state.lock().groups.get(&self.key())?.turns[partition]))
    }

    fn next(&self, partition: usize) -> Option<(u64, Record)> {
        let state = self.shared.state.lock();
        let group = state.groups.get(&self.key())?;
        if group.members.get(partition % group.members.len().max(1)) != Some(&self.member) {
            return None;
        }
        let offset = group.next[partition];
        let held = &state.topics.get(&self.subscription.topic)?.partitions[partition];
        let record = held.records.get(usize::try_from(offset.checked_sub(held.first)?).ok()?)?;
        Some((offset, record.clone()))
    }

    fn advance(&self, origin: Place, record: Record, verdict: Verdict) {
        let (topic, group) = self.key();
        let mut state = self.shared.state.lock();
        let State { topics, groups, .. } = &mut *state;
        let (Some(log), Some(progress)) = (topics.get_mut(&topic), groups.get_mut(&(topic, group))) else { return };
        if let Verdict::Dead { reason, attempts } = verdict {
            log.bury(DeadLetter {
                place: Place { partition: 0, offset: log.next_dead },
                topic,
                origin,
                group: group.to_owned(),
                reason: reason.to_owned(),
                attempts,
                at_ms: Clock::System.now_ms(),
                key: record.key,
                payload: record.payload,
            });
        }
        if let Ok(partition) = usize::try_from(origin.partition) {
            progress.next[partition] += 1;
        }
        let waiting: u64 = log.partitions.iter().zip(progress.next).map(|(partition, next)| partition.end() - next).sum();
        drop(state);
        metrics::gauge!("kith_bus_lag", "topic" => topic.name(), "group" => group).set(waiting as f64);
        self.shared.changed.send_replace(());
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(group) = self.shared.state.lock().groups.get_mut(&self.key()) {
            group.members.retain(|member| *member != self.member);
        }
        self.shared.changed.send_replace(());
    }
}

impl Log {
    fn bury(&mut self, letter: DeadLetter) {
        if self.dead.len() == DEAD_LETTERS {
            self.dead.pop_front();
        }
        self.next_dead += 1;
        self.dead.push_back(letter);
    }
}
