//! Dead letters, in a topic beside each topic. What is known about one is in its headers, as text, so that any tool shows it.
//!
//! Which were replayed is the committed offset of a group of its own, which nobody is a member of.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    config::FromClientConfigAndContext as _,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
};

use super::{
    config::{self, Quiet},
    producer::Outgoing,
    unavailable,
};
use crate::{
    bus::{BusError, DeadLetter, KafkaOptions, Place, Topic},
    domain::Clock,
};

/// Whose committed offset says which were replayed.
const GROUP: &str = "dlq-replay";
/// How long to wait for a record at a time.
const STEP: Duration = Duration::from_millis(100);

/// An event that is given up.
pub(super) struct Given<'a> {
    pub(super) group: &'static str,
    pub(super) reason: &'static str,
    pub(super) attempts: u32,
    pub(super) origin: Place,
    pub(super) key: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl<'a> Given<'a> {
    pub(super) fn outgoing(&self, dead_letters: &'a str) -> Outgoing<'a> {
        let texts = [
            ("group", self.group.to_owned()),
            ("reason", self.reason.to_owned()),
            ("attempts", self.attempts.to_string()),
            ("origin-partition", self.origin.partition.to_string()),
            ("origin-offset", self.origin.offset.to_string()),
            ("at-ms", Clock::System.now_ms().to_string()),
        ];
        let headers = texts
            .iter()
            .fold(OwnedHeaders::new_with_capacity(texts.len()), |headers, (key, value)| headers.insert(Header { key, value: Some(value.as_str()) }));
        Outgoing { topic: dead_letters, key: self.key, payload: self.payload, headers: Some(headers) }
    }
}

/// The first `limit` that were not replayed. Blocks.
pub(super) fn read(options: &KafkaOptions, topic: Topic, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
    let deadline = Instant::now() + options.answer_within;
    let name = config::dead_letters(options, topic);
    let consumer = consumer(options)?;
    let mut ends = assign(&consumer, &name, options.answer_within).map_err(unavailable)?;
    let mut letters = Vec::new();
    while letters.len() < limit && !ends.is_empty() {
        if Instant::now() >= deadline {
            return Err(unavailable(KafkaError::NoMessageReceived));
        }
        // What is wrong with a connection is mended by the driver, until the deadline.
        let Some(Ok(message)) = consumer.poll(STEP) else { continue };
        if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&message.partition());
        }
        letters.push(letter(topic, &message));
    }
    Ok(letters)
}

/// Notes that these were replayed. Blocks.
pub(super) fn replayed(options: &KafkaOptions, topic: Topic, places: &[Place]) -> Result<(), BusError> {
    let name = config::dead_letters(options, topic);
    let mut next: HashMap<i32, i64> = HashMap::new();
    for place in places {
        let furthest = next.entry(place.partition).or_default();
        *furthest = (*furthest).max(place.offset + 1);
    }
    if next.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    for (partition, offset) in next {
        list.add_partition_offset(&name, partition, Offset::Offset(offset)).map_err(unavailable)?;
    }
    consumer(options)?.commit(&list, CommitMode::Sync).map_err(unavailable)
}

fn consumer(options: &KafkaOptions) -> Result<BaseConsumer<Quiet>, BusError> {
    BaseConsumer::from_config_and_context(&config::reader(options, GROUP), Quiet).map_err(unavailable)
}

/// Begins behind what was replayed. Gives the ends of the partitions that have something, as they are now: what comes later is for the next time.
fn assign(consumer: &BaseConsumer<Quiet>, name: &str, within: Duration) -> Result<HashMap<i32, i64>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(name), within)?;
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        all.add_partition(name, partition.id());
    }
    let committed = consumer.committed_offsets(all, within)?;
    let (mut ends, mut list) = (HashMap::new(), TopicPartitionList::new());
    for partition in committed.elements() {
        let (low, high) = consumer.fetch_watermarks(name, partition.partition(), within)?;
        let start = match partition.offset() {
            Offset::Offset(replayed) => replayed.max(low),
            _ => low,
        };
        if start < high {
            ends.insert(partition.partition(), high);
            list.add_partition_offset(name, partition.partition(), Offset::Offset(start))?;
        }
    }
    consumer.assign(&list)?;
    Ok(ends)
}

/// What is missing in it is as if it were 0 or empty: somebody else may have put it there, and it is to be seen all the same.
fn letter(topic: Topic, message: &BorrowedMessage<'_>) -> DeadLetter {
    let text = |name: &str| {
        let found = message.headers().and_then(|headers| headers.iter().find(|header| header.key == name).and_then(|header| header.value));
        found.map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    };
    let number = |name: &str| text(name).parse::<i64>().unwrap_or(0);
    DeadLetter {
        place: Place { partition: message.partition(), offset: message.offset() },
        topic,
        origin: Place { partition: i32::try_from(number("origin-partition")).unwrap_or(0), offset: number("origin-offset") },
        group: text("group"),
        reason: text("reason"),
        attempts: u32::try_from(number("attempts")).unwrap_or(0),
        at_ms: u64::try_from(number("at-ms")).unwrap_or(0),
        key: message.key().and_then(|key| key.try_into().ok()).unwrap_or_default(),
        payload: message.payload().unwrap_or_default().to_vec(),
    }
}
