//! A member of a group: one consumer, and a lane for each partition that it was dealt.
//!
//! The consumer is asked for events all the time, as its group wants it to be; each event goes to the lane of its partition, a task that works on one after the other. So an
//! event that is being tried again holds up its own partition only. A lane holds a few events. When it is full its partition is paused, and resumed when the lane has
//! room; the driver fetches again what it had fetched ahead.
//!
//! When a partition goes to another member its lane ends at once, in the middle of an event if need be, after its progress has been stored. Partitions move one by one
//! (cooperative), so the others are not interrupted.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Message as _, Statistics, TopicPartitionList,
    config::{FromClientConfigAndContext as _, RDKafkaLogLevel},
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, StreamConsumer},
    error::KafkaError,
    message::BorrowedMessage,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use super::{aside::Aside, config, cut_off::Reports, dead::Given, producer::Producer, unavailable};
use crate::bus::{
    BusError, Handler, KafkaOptions, Member, Place, Subscription,
    member::left,
    work::{Verdict, work_on},
};

/// Events that wait in a lane.
const LANE: usize = 64;
/// A consumer that cannot go on begins anew after this.
const ANEW_AFTER: Duration = Duration::from_secs(1);

/// What the tasks of a member need.
struct Job {
    options: Arc<KafkaOptions>,
    topic: String,
    dead_letters: String,
    subscription: Subscription,
    handler: Arc<dyn Handler>,
    producer: Arc<Producer>,
    leaving: watch::Receiver<bool>,
}

/// An event as it was fetched.
struct Fetched {
    offset: i64,
    key: Vec<u8>,
    payload: Vec<u8>,
}

struct Lane {
    work: mpsc::Sender<Fetched>,
    /// What found no room; then the partition is paused, until half of the lane is free: the driver throws away what it had fetched ahead.
    over: VecDeque<Fetched>,
    paused: bool,
    /// The offset behind the last event that was worked on, and the one that was stored. -1 before the first.
    done: Arc<AtomicI64>,
    stored: i64,
    task: Option<JoinHandle<()>>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The lanes of a member, shared with the driver's callbacks.
#[derive(Default)]
struct Lanes {
    lanes: Mutex<HashMap<i32, Lane>>,
    progressed: Notify,
    reports: Reports,
}

/// Why a member begins anew.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Fatal(#[from] KafkaError),
    #[error("the driver has had no broker, or no leader of a partition, for long")]
    CutOff,
}

struct Context {
    lanes: Arc<Lanes>,
    subscription: Subscription,
    topic: String,
}

type Consumer = Aside<StreamConsumer<Context>>;

pub(super) fn start(
    options: &Arc<KafkaOptions>,
    subscription: Subscription,
    handler: Arc<dyn Handler>,
    producer: Arc<Producer>,
) -> Result<Member, BusError> {
    let consumer = consumer(options, subscription).map_err(unavailable)?;
    let (topic, dead_letters) = (config::topic(options, subscription.topic), config::dead_letters(options, subscription.topic));
    let options = Arc::clone(options);
    Ok(Member::start(move |leaving| run(consumer, Arc::new(Job { options, topic, dead_letters, subscription, handler, producer, leaving }))))
}

/// With lanes of its own: a driver that is closed reports, and gives partitions back, until that is done, which is nothing to the one after it.
fn consumer(options: &KafkaOptions, subscription: Subscription) -> Result<(Consumer, Owned), KafkaError> {
    let lanes = Arc::<Lanes>::default();
    let topic = config::topic(options, subscription.topic);
    let context = Context { lanes: Arc::clone(&lanes), subscription, topic: topic.clone() };
    let consumer = StreamConsumer::from_config_and_context(&config::consumer(options, subscription.group), context)?;
    let consumer = Aside::new(consumer);
    consumer.subscribe(&[&topic])?;
    Ok((consumer, Owned(lanes)))
}

async fn run((mut consumer, mut lanes): (Consumer, Owned), job: Arc<Job>) {
    while let Err(error) = serve(&consumer, &lanes.0, &job).await {
        tracing::warn!(%error, "a member of the bus cannot go on and begins anew");
        lanes.0.clear();
        (consumer, lanes) = loop {
            sleep(ANEW_AFTER).await;
            match self::consumer(&job.options, job.subscription) {
                Ok(fresh) => break fresh,
                Err(error) => tracing::error!(%error, "a member of the bus cannot begin anew"),
            }
        };
    }
    lanes.0.finish(&consumer, &job.topic).await;
    consumer.end().await;
}

/// Until the member is to leave. An error is one that the driver cannot get over.
async fn serve(consumer: &Consumer, lanes: &Arc<Lanes>, job: &Arc<Job>) -> Result<(), Broken> {
    let mut leaving = job.leaving.clone();
    loop {
        tokio::select! {
            () = left(&mut leaving) => return Ok(()),
            () = lanes.progressed.notified() => lanes.store_and_resume(consumer, &job.topic),
            () = lanes.reports.cut_off_for_good() => return Err(Broken::CutOff),
            received = consumer.recv() => match received {
                Ok(message) => lanes.take(consumer, job, &message),
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the bus gives no events just now"),
            },
        }
    }
}

/// However the member ends, its lanes end with it.
struct Owned(Arc<Lanes>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl Lanes {
    fn clear(&self) {
        self.lanes.lock().clear();
    }

    fn take(self: &Arc<Self>, consumer: &Consumer, job: &Arc<Job>, message: &BorrowedMessage<'_>) {
        let partition = message.partition();
        let fetched = Fetched {
            offset: message.offset(),
            key: message.key().unwrap_or_default().to_vec(),
            payload: message.payload().unwrap_or_default().to_vec(),
        };
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(partition).or_insert_with(|| Lane::start(self, job, partition));
        lane.over.push_back(fetched);
        if !lane.fill() && !lane.paused {
            lane.paused = true;
            let paused = consumer.pause(&list(message.topic(), [partition]));
            if let Err(error) = paused {
                tracing::debug!(%error, "a partition was not paused");
            }
        }
    }

    fn store_and_resume(&self, consumer: &Consumer, topic: &str) {
        let mut resumed = Vec::new();
        for (partition, lane) in self.lanes.lock().iter_mut() {
            lane.store(|next| consumer.store_offset(topic, *partition, next - 1));
            if lane.paused && lane.fill() && lane.work.capacity() >= LANE / 2 {
                lane.paused = false;
                resumed.push(*partition);
            }
        }
        if !resumed.is_empty()
            && let Err(error) = consumer.resume(&list(topic, resumed))
        {
            tracing::debug!(%error, "partitions were not resumed");
        }
    }

    /// Waits for the events that are being worked on. What waits behind them is for the next member.
    async fn finish(&self, consumer: &Consumer, topic: &str) {
        let mut lanes = std::mem::take(&mut *self.lanes.lock());
        for (partition, lane) in &mut lanes {
            if let Some(task) = lane.task.as_mut() {
                let _ = task.await;
            }
            lane.store(|next| consumer.store_offset(topic, *partition, next - 1));
        }
    }
}

fn list(topic: &str, partitions: impl IntoIterator<Item = i32>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, partition);
    }
    list
}

impl Lane {
    fn start(lanes: &Arc<Lanes>, job: &Arc<Job>, partition: i32) -> Self {
        let (work, fetched) = mpsc::channel(LANE);
        let done = Arc::new(AtomicI64::new(-1));
        let task = tokio::spawn(follow(Arc::clone(lanes), Arc::clone(job), partition, fetched, Arc::clone(&done)));
        Self { work, over: VecDeque::new(), paused: false, done, stored: -1, task: Some(task) }
    }

    /// Hands on what waits, and says whether that was all.
    fn fill(&mut self) -> bool {
        while let Some(fetched) = self.over.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) = self.work.try_send(fetched) {
                self.over.push_front(back);
                return false;
            }
        }
        true
    }

    fn store(&mut self, store: impl FnOnce(i64) -> Result<(), KafkaError>) {
        let done = self.done.load(Ordering::Acquire);
        if done > self.stored {
            // Refused when the partition is no longer ours: whoever has it does the work again.
            match store(done) {
                Ok(()) => self.stored = done,
                Err(error) => tracing::debug!(%error, "an offset was not stored"),
            }
        }
    }
}

/// Works on the events of a partition, one after the other.
async fn follow(lanes: Arc<Lanes>, job: Arc<Job>, partition: i32, mut fetched: mpsc::Receiver<Fetched>, done: Arc<AtomicI64>) {
    let mut leaving = job.leaving.clone();
    loop {
        let event = tokio::select! {
            biased;
            () = left(&mut leaving) => return,
            event = fetched.recv() => event,
        };
        let Some(event) = event else { return };
        if let Verdict::Dead { reason, attempts } = work_on(&job.subscription, &job.handler, &event.payload).await {
            let origin = Place { partition, offset: event.offset };
            let (group, key, payload) = (job.subscription.group, &event.key[..], &event.payload[..]);
            bury(&job, Given { group, reason, attempts, origin, key, payload }).await;
        }
        done.store(event.offset + 1, Ordering::Release);
        lanes.progressed.notify_one();
    }
}

/// An event is not passed over before its letter is durable: as long as that cannot be had its partition waits.
async fn bury(job: &Job, given: Given<'_>) {
    while let Err(error) = job.producer.send(vec![given.outgoing(&job.dead_letters)]).await {
        tracing::warn!(%error, "a dead letter cannot be published yet");
        sleep(job.subscription.retry.longest_pause).await;
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, log_message: &str) {
        config::log(level, fac, log_message);
    }

    /// How far this member is behind, over its partitions; and whether it is cut off.
    fn stats(&self, statistics: Statistics) {
        self.lanes.reports.take(&statistics, &self.topic);
        let partitions = statistics.topics.get(&self.topic).into_iter().flat_map(|topic| topic.partitions.values());
        let active = partitions.filter(|partition| partition.partition >= 0 && partition.fetch_state == "active");
        let behind: i64 = active.map(|partition| partition.consumer_lag_stored.max(0)).sum();
        let gauge = metrics::gauge!("kith_bus_lag", "topic" => self.subscription.topic.name(), "group" => self.subscription.group);
        gauge.set(behind as f64);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the client of Kafka reports");
    }
}

impl ConsumerContext for Context {
    /// Partitions that go are stored as far as they came; the driver commits that before it lets go of them.
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(partitions) = rebalance else { return };
        for partition in partitions.elements() {
            let Some(mut lane) = self.lanes.lanes.lock().remove(&partition.partition()) else { continue };
            lane.store(|next| consumer.store_offset(&self.topic, partition.partition(), next - 1));
            if lane.paused {
                let _ = consumer.resume(&list(&self.topic, [partition.partition()]));
            }
        }
    }
}
