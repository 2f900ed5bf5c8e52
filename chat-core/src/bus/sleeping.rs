//! Tells of messages that wait for devices which are connected nowhere, from the log.
//!
//! A gateway says so at once when it has accepted a message and knows where everybody is, as well as it can: nothing of that survives the gateway, or an outage of the bus.
//! What is found here is what such a message leaves behind, an acknowledgement that does not come. It also finds the device whose connection was taken for alive and was
//! not, if the time that is overdue is longer than the time in which gateways notice that. Said twice it is the same event, with the same [`EventId`](super::EventId).

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use kith_proto::id::DeviceRef;

use super::{
    Bus, Event, Record, Topic, What,
    relay::{Failed, Next, Source},
};
use crate::{
    log::{Found, Overdue, OverdueMessage},
    sessions::Connections,
};

/// A look reads whatever was written lately, and what it finds is old: it need not be often.
const QUIET: Duration = Duration::from_secs(5);

pub(super) struct FromLog {
    log: Box<dyn Overdue>,
    connections: Arc<dyn Connections>,
    bus: Arc<dyn Bus>,
    /// Events that are being published.
    under_way: u64,
}

impl FromLog {
    pub(super) fn new(log: Box<dyn Overdue>, connections: Arc<dyn Connections>, bus: Arc<dyn Bus>) -> Self {
        Self { log, connections, bus, under_way: 0 }
    }
}

#[async_trait]
impl Source for FromLog {
    async fn next(&mut self, limit: usize) -> Result<Next, Failed> {
        self.under_way = 0;
        if !self.bus.is_heard(Topic::Sleeping) {
            return Ok(Next::Records { records: Vec::new(), more: false });
        }
        let (messages, more) = match self.log.next(limit).await? {
            Found::Elsewhere => return Ok(Next::Elsewhere),
            Found::Here { messages, more, late } => {
                metrics::gauge!("kith_sleeping_relay_late_seconds").set(late.as_secs_f64());
                (messages, more)
            }
        };
        let records = asleep(&*self.connections, &messages).await?;
        self.under_way = records.len() as u64;
        Ok(Next::Records { records, more })
    }

    async fn published(&mut self) -> Result<(), Failed> {
        self.log.done().await?;
        metrics::counter!("kith_sleeping_relayed_total").increment(self.under_way);
        Ok(())
    }

    fn quiet(&self) -> Duration {
        QUIET
    }

    fn name(&self) -> &'static str {
        "log"
    }

    fn count_failure(&self) {
        metrics::counter!("kith_sleeping_relay_failures_total").increment(1);
    }

    async fn release(&mut self) {
        self.log.release().await;
    }
}

/// An event for each device that lacks a message and is connected nowhere, in the order of the messages.
async fn asleep(connections: &dyn Connections, messages: &[OverdueMessage]) -> Result<Vec<Record>, Failed> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let mut devices: Vec<DeviceRef> = messages.iter().flat_map(|message| message.devices.iter().copied()).collect();
    devices.sort_unstable();
    devices.dedup();
    let connected = connections.connected(&devices).await?;
    let mut records = Vec::new();
    for message in messages {
        for device in message.devices.iter().filter(|device| !connected.contains(device)) {
            let what = What::MessageForSleepingDevice { conversation: message.conversation, seq: message.seq, device: *device };
            records.push(Event::new(what, message.at_ms).to_record());
        }
    }
    Ok(records)
}
