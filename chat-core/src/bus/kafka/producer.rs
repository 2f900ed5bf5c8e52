//! Publishing.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rdkafka::{
    config::FromClientConfigAndContext as _,
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    GRACE,
    aside::Aside,
    config::{self, Quiet},
    unavailable,
};
use crate::bus::{BusError, KafkaOptions, Record};

/// How soon a full queue is looked at again.
const ROOM_EVERY: Duration = Duration::from_millis(10);
/// A driver in which events time out again and again, for so many deadlines, is replaced: after it was told that nobody leads a partition it may never ask again who does (librdkafka, issue
/// 5430). When it is Kafka that is away, another driver does no harm.
const DEADLINES: u32 = 2;

type Client = Arc<Aside<FutureProducer<Quiet>>>;

/// The producer of a process.
pub(super) struct Producer {
    options: Arc<KafkaOptions>,
    /// Another one when the driver cannot go on.
    client: RwLock<Client>,
    /// When the first event of those that time out again and again was given to it, and when the last one had timed out.
    timed_out: Mutex<Option<(Instant, Instant)>>,
    closed: AtomicBool,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

/// Something to be published.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) key: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) headers: Option<OwnedHeaders>,
}

impl Producer {
    pub(super) fn new(options: Arc<KafkaOptions>) -> Result<Self, KafkaError> {
        let client = RwLock::new(client(&options)?);
        Ok(Self { options, client, timed_out: Mutex::new(None), closed: AtomicBool::new(false) })
    }

    /// In waves that hold each key once: a wave begins when the one before it is durable, so that nothing of a key overtakes something that failed.
    pub(super) async fn publish(&self, records: &[Record]) -> Result<(), BusError> {
        let deadline = Instant::now() + self.options.publish_within;
        for wave in waves(records) {
            if Instant::now() >= deadline {
                return Err(unavailable(KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut)));
            }
            let names: Vec<_> = wave.iter().map(|record| config::topic(&self.options, record.topic)).collect();
            let outgoing = wave.iter().zip(&names);
            let outgoing = outgoing.map(|(record, topic)| Outgoing { topic, key: &record.key, payload: &record.payload, headers: None });
            self.send(outgoing.collect()).await?;
            for record in wave {
                metrics::counter!("kith_bus_published_total", "topic" => record.topic.name()).increment(1);
            }
        }
        Ok(())
    }

    /// Sends all at once; their order is kept unless one fails.
    pub(super) async fn send(&self, outgoing: Vec<Outgoing<'_>>) -> Result<(), BusError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(BusError::Closed);
        }
        let client = Arc::clone(&self.client.read());
        let begun = Instant::now();
        let deadline = begun + self.options.publish_within;
        let mut sent = Vec::with_capacity(outgoing.len());
        let (mut outcome, mut stands_still, mut timed_out) = (Ok(()), false, false);
        for outgoing in outgoing {
            match enqueue(&client, outgoing, deadline).await {
                Ok(delivery) => sent.push(delivery),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        // The driver has the same deadline and answers for each. That all have been answered for is what lets the caller begin again.
        for delivery in sent {
            let delivered = match timeout_at(deadline + GRACE, delivery).await {
                Ok(Ok(Ok(_))) => Ok(()),
                Ok(Ok(Err((error, _)))) => {
                    timed_out |= error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut);
                    Err(unavailable(error))
                }
                Ok(Err(canceled)) => Err(unavailable(canceled)),
                Err(late) => {
                    stands_still = true;
                    Err(unavailable(late))
                }
            };
            outcome = outcome.and(delivered);
        }
        if stands_still {
            // Its threads wait by the wall clock: when that is set back they wait for as long. What it still has goes when it is dropped.
            self.replace(&client, "it stands still");
        } else if let (Err(_), Some((code, _))) = (&outcome, client.client().fatal_error()) {
            // After some errors it refuses everything for ever.
            self.replace(&client, &code.to_string());
        } else if timed_out && Arc::ptr_eq(&client, &self.client.read()) && self.times_out_for_long(begun) {
            self.replace(&client, "what it is given times out");
        }
        outcome
    }

    /// Notes that something given to this driver at that time has timed out now; what was given to one before it says nothing of this one. Other events may have gone out meanwhile: partitions have leaders of their own.
    fn times_out_for_long(&self, begun: Instant) -> bool {
        let (now, long) = (Instant::now(), self.options.publish_within * DEADLINES);
        let mut timed_out = self.timed_out.lock();
        let first = timed_out.filter(|(_, last)| begun < *last + long).map_or(begun, |(first, _)| first);
        let is_long = now - first >= long;
        *timed_out = (!is_long).then_some((first, now));
        is_long
    }

    /// Begins anew, if nobody else has done so already.
    fn replace(&self, broken: &Client, why: &str) {
        let mut current = self.client.write();
        if Arc::ptr_eq(&current, broken) {
            tracing::warn!(why, "the producer of the bus begins anew");
            match client(&self.options) {
                Ok(fresh) => {
                    *current = fresh;
                    *self.timed_out.lock() = None;
                }
                Err(error) => tracing::error!(%error, "the producer of the bus cannot begin anew"),
            }
        }
    }

    /// Blocks until what is under way is published.
    pub(super) fn close(&self, within: Duration) -> Result<(), BusError> {
        self.closed.store(true, Ordering::Relaxed);
        let client = Arc::clone(&self.client.read());
        client.flush(within).map_err(unavailable)
    }
}

fn client(options: &KafkaOptions) -> Result<Client, KafkaError> {
    Ok(Arc::new(Aside::new(FutureProducer::from_config_and_context(&config::producer(options), Quiet)?)))
}

async fn enqueue(client: &Client, outgoing: Outgoing<'_>, deadline: Instant) -> Result<DeliveryFuture, BusError> {
    let Outgoing { topic, key, payload, headers } = outgoing;
    let mut record = FutureRecord { topic, partition: None, payload: Some(payload), key: Some(key), timestamp: None, headers };
    loop {
        match client.send_result(record) {
            Ok(delivery) => return Ok(delivery),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) if Instant::now() < deadline => record = back,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Err(BusError::Full),
            Err((error, _)) => return Err(unavailable(error)),
        }
        sleep(ROOM_EVERY).await;
    }
}

/// The n-th record of a key is in the n-th wave; within a wave they stand as they were given.
fn waves(records: &[Record]) -> Vec<Vec<&Record>> {
    let mut seen = HashMap::new();
    let mut waves: Vec<Vec<&Record>> = Vec::new();
    for record in records {
        let before = seen.entry((record.topic, record.key)).or_insert(0_usize);
        if *before == waves.len() {
            waves.push(Vec::new());
        }
        waves[*before].push(record);
        *before += 1;
    }
    waves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Topic;

    #[test]
    fn a_wave_holds_each_key_once() {
        let record = |key: u8, n: u8| Record { topic: Topic::Accounts, key: [key; 16], payload: vec![n] };
        let records = [record(1, 1), record(2, 2), record(1, 3), record(1, 4), record(2, 5), record(3, 6)];
        let waves: Vec<Vec<u8>> = waves(&records).into_iter().map(|wave| wave.into_iter().map(|record| record.payload[0]).collect()).collect();
        assert_eq!(waves, [vec![1, 2, 6], vec![3, 5], vec![4]]);
        assert!(super::waves(&[]).is_empty());
    }
}
