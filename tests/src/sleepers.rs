//! What is told of devices that are asleep, as a consumer of Kafka hears it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kith_chat_core::bus::{self, Bus, Event, Handler, HandlerError, KafkaOptions, Member, Retry, Subscription, Topic, What};
use kith_harness::Kafka;
use kith_proto::id::{ConversationId, DeviceRef};
use parking_lot::Mutex;

use crate::{identity::random, wait};

/// Whoever relays may be in a pause after failures, or gone, so that another one has to notice.
const WITHIN: Duration = Duration::from_secs(60);

/// A message that waits for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Where it is.
    pub conversation: ConversationId,
    /// Which it is.
    pub seq: u64,
    /// Who is asleep.
    pub device: DeviceRef,
}

/// A consumer of its own.
#[derive(Debug)]
pub struct Sleepers {
    // Leaves before the bus goes.
    _member: Member,
    _bus: Arc<dyn Bus>,
    heard: Arc<Heard>,
}

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<Told>>);

#[async_trait]
impl Handler for Heard {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        if let What::MessageForSleepingDevice { conversation, seq, device } = event.what {
            self.0.lock().push(Told { conversation, seq, device });
        }
        Ok(())
    }
}

/// Without repetitions, in the order in which it was first heard.
#[must_use]
pub fn first_heard(told: &[Told]) -> Vec<Told> {
    let mut first = Vec::new();
    for told in told {
        if !first.contains(told) {
            first.push(*told);
        }
    }
    first
}

impl Sleepers {
    /// Settings of servers that tell, under a name of their own, and again of what devices have not fetched after so many milliseconds.
    #[must_use]
    pub fn settings(kafka: &Kafka, after_ms: u64) -> [(&'static str, String); 3] {
        [
            ("KITH_KAFKA_BROKERS", kafka.address().to_string()),
            ("KITH_KAFKA_TOPIC_PREFIX", format!("story-{}", hex::encode(random::<6>()))),
            ("KITH_KAFKA_SLEEPING_AFTER_MS", after_ms.to_string()),
        ]
    }

    /// Listens to such servers.
    ///
    /// # Errors
    /// If Kafka cannot be used.
    pub async fn listen(settings: &[(&'static str, String); 3]) -> anyhow::Result<Self> {
        let [(_, brokers), (_, prefix), _] = settings;
        let options = KafkaOptions { prefix: prefix.clone(), ..KafkaOptions::new(brokers) };
        let bus = bus::open(Some(&options)).await?;
        let heard = Arc::<Heard>::default();
        let subscription = Subscription { topic: Topic::Sleeping, group: "story", retry: Retry::default() };
        let member = bus.subscribe(subscription, Arc::<Heard>::clone(&heard)).await?;
        Ok(Self { _member: member, _bus: bus, heard })
    }

    /// Everything that was heard so far, repetitions included, as soon as it is enough.
    ///
    /// # Errors
    /// If that does not come about.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Told]) -> bool) -> anyhow::Result<Vec<Told>> {
        let heard = wait::until(what, WITHIN, async || Some(self.heard.0.lock().clone()).filter(|told| enough(told)));
        heard.await.map_err(|error| error.context(format!("heard was {:?}", self.heard.0.lock())))
    }
}
