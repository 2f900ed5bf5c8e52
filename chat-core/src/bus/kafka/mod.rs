//! The bus on Kafka, through librdkafka.
//!
//! - One idempotent producer per process, `acks=all`: an event is published when all copies in sync have it, once.
//! - Keys are placed by their hash, so that those of one account or conversation share a partition.
//! - A member is one consumer of a group (`member.rs`). Offsets are stored after the work; librdkafka commits what is stored twice a second, when a partition
//!   is given up and when the member leaves.
//! - Dead letters are a topic beside each topic, `<topic>.dlq` (`dead.rs`).
//!
//! librdkafka has threads of its own and blocks when it is closed. It is closed on a thread beside the runtime (`aside.rs`), and begins anew when it does not find back to Kafka
//! (`cut_off.rs` for members, `producer.rs` for the producer).

mod aside;
mod config;
mod cut_off;
mod dead;
mod member;
mod producer;
mod topics;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;

use self::producer::Producer;
use super::{Bus, BusError, DeadLetter, Handler, KafkaOptions, Member, OpenError, Record, Subscription, Topic};

/// The bus on Kafka.
#[derive(Debug)]
pub(super) struct KafkaBus {
    options: Arc<KafkaOptions>,
    producer: Arc<Producer>,
}

/// A driver's call that blocks gives up by itself a little before it is given up.
const GRACE: Duration = Duration::from_secs(2);

impl KafkaBus {
    /// Makes the topics that are missing, which shows that the cluster answers.
    pub(super) async fn open(options: &KafkaOptions) -> Result<Self, OpenError> {
        // First, because it listens to what the driver reports, which the one that makes topics does not: why nobody answers stands in the log then.
        let bus = Self::attach(options)?;
        topics::make(options).await?;
        Ok(bus)
    }

    /// Takes the topics as they are.
    pub(super) fn attach(options: &KafkaOptions) -> Result<Self, OpenError> {
        let options = Arc::new(options.clone());
        let producer = Producer::new(Arc::clone(&options)).map_err(|error| OpenError::Options(Box::new(error)))?;
        Ok(Self { options, producer: Arc::new(producer) })
    }

    /// Runs what blocks beside the runtime.
    async fn blocking<T: Send + 'static>(&self, call: impl FnOnce(&KafkaOptions) -> Result<T, BusError> + Send + 'static) -> Result<T, BusError> {
        let options = Arc::clone(&self.options);
        match timeout(options.answer_within + GRACE, tokio::task::spawn_blocking(move || call(&options))).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => Err(BusError::Unavailable(Box::new(error))),
            Err(late) => Err(BusError::Unavailable(Box::new(late))),
        }
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn publish(&self, records: &[Record]) -> Result<(), BusError> {
        self.producer.publish(records).await
    }

    /// By whoever reads the topic, now or within a day.
    fn is_heard(&self, _: Topic) -> bool {
        true
    }

    async fn subscribe(&self, subscription: Subscription, handler: Arc<dyn Handler>) -> Result<Member, BusError> {
        member::start(&self.options, subscription, handler, Arc::clone(&self.producer))
    }

    async fn dead_letters(&self, topic: Topic, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.blocking(move |options| dead::read(options, topic, limit)).await
    }

    async fn replay(&self, topic: Topic, limit: usize) -> Result<usize, BusError> {
        let letters = self.dead_letters(topic, limit).await?;
        let records: Vec<_> = letters.iter().map(|letter| Record { topic, key: letter.key, payload: letter.payload.clone() }).collect();
        self.producer.publish(&records).await?;
        let places: Vec<_> = letters.iter().map(|letter| letter.place).collect();
        self.blocking(move |options| dead::replayed(options, topic, &places)).await?;
        Ok(letters.len())
    }

    async fn close(&self) {
        let producer = Arc::clone(&self.producer);
        let flushed = self.blocking(move |options| producer.close(options.publish_within)).await;
        if let Err(error) = flushed {
            tracing::warn!(%error, "the bus was closed before everything was published; it is published again from where it came");
        }
    }
}

/// What a failure of the driver is to the port.
fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> BusError {
    BusError::Unavailable(Box::new(error))
}
