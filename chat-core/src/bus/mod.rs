//! Events for work that is done beside the way of a message: what follows a revocation, waking a sleeping device, fanning out.
//!
//! An [`Event`] belongs to a [`Topic`] and has a key (an account or a conversation). Topics are cut into partitions by the key; each partition is worked off
//! in order by one member of every group that subscribes. What is promised, by both implementations and under one conformance suite:
//!
//! - **At least once.** [`Bus::publish`] resolves when the events are as durable as the implementation makes them. A member's progress is noted after the work
//!   on an event is done; who dies before that leaves the event to the next member. So handlers are idempotent: [`Event::id`] is the same however often an
//!   event is published and handed out.
//! - **Order per key.** Events of one key are handed out in the order in which they were published, also across retries: an event that fails is tried again in its
//!   place, and those behind it in its partition wait. Repetitions begin at an earlier event and go on from there.
//! - **Nothing blocks for ever.** After its attempts, or at once when its handler says that it can never succeed, an event goes to the dead letters of
//!   its topic, and the next one has its turn. An operator looks at dead letters and replays them (`kith admin dlq`).
//! - **Bounds.** Every wait has a deadline and every queue a bound; what is over it waits at its publisher, and in front of that in the outbox.
//!
//! What must reach the bus together with a change is written to the [`outbox`] in the change's transaction; the [`Relay`] publishes it afterwards. Messages are their own
//! outbox: another relay finds in the log itself which ones devices have not fetched. Publishing directly is for what may be lost with the process.
//!
//! When Kafka is away, publishing fails within its deadline and members wait; both go on by themselves when it is back.
//!
//! Not here: what is done about an event. Handlers live with the service that does the work.

#[cfg(test)]
mod conformance;
mod event;
#[cfg(feature = "kafka")]
mod kafka;
mod letter;
mod member;
mod memory;
pub mod outbox;
mod properties;
mod relay;
mod sleeping;
mod work;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::{
    event::{Event, EventId, Record, Topic, Unreadable, What},
    letter::{DeadLetter, Place},
    member::Member,
    memory::MemoryBus,
    properties::{ClientProperties, PropertiesError},
    relay::Relay,
};

/// Does the work that an event asks for. It is given an event again after a failure and after a crash, so doing it twice must do no harm.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Does it. The future is dropped when the deadline of an attempt passes, and when the partition goes to another member.
    async fn handle(&self, event: &Event) -> Result<(), HandlerError>;
}

/// Why the work on an event failed. The reason is a code of few words (`push_refused`): it becomes a label of metrics and a header of dead letters, so it names no
/// user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// It may succeed later: the event is tried again in its place.
    #[error("to be tried again: {0}")]
    Again(&'static str),
    /// It can never succeed: the event becomes a dead letter.
    #[error("never to be tried again: {0}")]
    Never(&'static str),
}

/// How often an event is tried before it becomes a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, at least one.
    pub attempts: u32,
    /// The pause before the second attempt, at most; doubled each time. Pauses are drawn between half of it and the whole.
    pub first_pause: Duration,
    /// Where doubling ends.
    pub longest_pause: Duration,
    /// An attempt that takes longer has failed.
    pub attempt_within: Duration,
}

impl Default for Retry {
    /// About a minute in all, so that a restart of what a handler depends on makes no dead letters.
    fn default() -> Self {
        Self {
            attempts: 10,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(15),
            attempt_within: Duration::from_secs(30),
        }
    }
}

/// What a group wants.
#[derive(Debug, Clone, Copy)]
pub struct Subscription {
    /// Of which topic.
    pub topic: Topic,
    /// The name of the group. Its members share the topic's partitions; every group is handed all events.
    pub group: &'static str,
    /// What to do about failures.
    pub retry: Retry,
}

/// Why the bus cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Its queue is full: whoever should work it off is behind. Try again.
    #[error("the bus is full")]
    Full,
    /// It did not take the events within the deadline; some of them may have been published all the same. Of each key those are the first ones.
    #[error("the bus is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It was closed.
    #[error("the bus is closed")]
    Closed,
}

/// Why no bus could be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration names Kafka, and the program was built without it.
    #[error("this program was built without Kafka; build it with `--features kafka`")]
    NotBuilt,
    /// An option that the driver refuses.
    #[error("the options of Kafka are not valid")]
    Options(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody answers there, or the topics cannot be made.
    #[error("Kafka at {brokers} cannot be used")]
    Unavailable {
        /// Where.
        brokers: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl OpenError {
    /// Whether waiting may mend it.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The port.
#[async_trait]
pub trait Bus: Send + Sync + fmt::Debug {
    /// Publishes in the order given, and returns when all are durable. It is one round trip for events of different keys; those of one key follow each other, so that
    /// after a failure what was published of a key is a beginning of what was given.
    ///
    /// # Errors
    /// After a deadline of its own. Publishing the same records again is always right.
    async fn publish(&self, records: &[Record]) -> Result<(), BusError>;

    /// Whether anything that is published on the topic could come to anybody: what nobody hears need not be made.
    fn is_heard(&self, topic: Topic) -> bool;

    /// Joins a group, which begins with the oldest event that is kept. The member works in tasks of its own until it leaves or is dropped.
    ///
    /// # Errors
    /// If the bus is closed, or refuses the subscription.
    async fn subscribe(&self, subscription: Subscription, handler: Arc<dyn Handler>) -> Result<Member, BusError>;

    /// At most `limit` dead letters of the topic that have not been replayed; in each partition the oldest ones.
    ///
    /// # Errors
    /// If they cannot be read within the deadline.
    async fn dead_letters(&self, topic: Topic, limit: usize) -> Result<Vec<DeadLetter>, BusError>;

    /// Publishes those that [`dead_letters`](Self::dead_letters) would give once more, at the end of their topic and for all groups, and notes that they were
    /// replayed. Returns how many. What fails again is a new dead letter.
    ///
    /// # Errors
    /// If they cannot be read or published within the deadline. Some may have been published, and are then published again next time.
    async fn replay(&self, topic: Topic, limit: usize) -> Result<usize, BusError>;

    /// Finishes what is under way, within a deadline; after that publishing fails. Members leave by themselves, before.
    async fn close(&self);
}

/// How to use Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaOptions {
    /// Where to begin: `host:port`, several separated by commas.
    pub brokers: String,
    /// How to be let in.
    pub properties: ClientProperties,
    /// Before the names of all topics and groups, so that installations may share a cluster.
    pub prefix: String,
    /// Partitions of each topic when it is made: as many members of a group can work at a time. -1 for the cluster's default.
    pub partitions: i32,
    /// Copies of each partition when a topic is made. -1 for the cluster's default, which should be 3.
    pub replication: i32,
    /// How long events are kept, whether or not they were worked off. Dead letters are kept [`DEAD_LETTERS_KEPT`].
    pub retention: Duration,
    /// The deadline of publishing.
    pub publish_within: Duration,
    /// The deadline of opening, reading dead letters and closing.
    pub answer_within: Duration,
}

/// How long a dead letter waits for somebody to look at it.
pub const DEAD_LETTERS_KEPT: Duration = Duration::from_secs(14 * 24 * 3_600);

impl KafkaOptions {
    /// What production uses.
    #[must_use]
    pub fn new(brokers: &str) -> Self {
        Self {
            brokers: brokers.to_owned(),
            properties: ClientProperties::default(),
            prefix: "kith".to_owned(),
            partitions: 12,
            replication: -1,
            retention: Duration::from_secs(24 * 3_600),
            publish_within: Duration::from_secs(15),
            answer_within: Duration::from_secs(30),
        }
    }
}

/// Opens the bus: on Kafka if there are options for it, else in this process. Topics that are missing are made.
///
/// # Errors
/// If Kafka cannot be used; names its address.
pub async fn open(kafka: Option<&KafkaOptions>) -> Result<Arc<dyn Bus>, OpenError> {
    match kafka {
        None => Ok(Arc::new(MemoryBus::default())),
        Some(options) => on_kafka(options).await,
    }
}

/// A bus on Kafka as it is, without making topics and without asking whether anybody answers: for a tool beside the servers.
///
/// # Errors
/// If the program was built without Kafka, or an option is not valid.
pub fn attach(options: &KafkaOptions) -> Result<Arc<dyn Bus>, OpenError> {
    #[cfg(feature = "kafka")]
    return Ok(Arc::new(kafka::KafkaBus::attach(options)?));
    #[cfg(not(feature = "kafka"))]
    {
        let _ = options;
        Err(OpenError::NotBuilt)
    }
}

#[cfg(feature = "kafka")]
async fn on_kafka(options: &KafkaOptions) -> Result<Arc<dyn Bus>, OpenError> {
    let bus = kafka::KafkaBus::open(options).await?;
    Ok(Arc::new(bus))
}

#[cfg(not(feature = "kafka"))]
#[allow(clippy::unused_async, reason = "as with the feature")]
async fn on_kafka(_options: &KafkaOptions) -> Result<Arc<dyn Bus>, OpenError> {
    Err(OpenError::NotBuilt)
}
