//! Tells the bus, as soon as a message is accepted, of devices that it is for and that are connected nowhere. At once and as well as it can: what finds no room or no bus
//! is dropped, since the relay of the log says it again to whoever still has not fetched the message a little later.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use kith_chat_core::{
    bus::{Bus, Event, Topic, What},
    log::{Append, Outcome, Resolved},
    sessions::{Connections, DirectoryError},
};
use kith_proto::id::{DeviceId, DeviceRef};
use tokio::sync::mpsc;

use super::Sessions;

/// Events that may wait to be published: some 2 MB.
const WAITING: usize = 16_384;
/// Published together.
const BATCH: usize = 256;

/// Devices that a message has a slice for and that are not connected here: a bit for each slice, first those of the recipient, then those of the sender's own devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Absent(u32);

impl Absent {
    /// The device of the slice with this number. An account has too few devices for there to be more than fit.
    pub(super) fn note(&mut self, at: usize) {
        self.0 |= u32::try_from(at).ok().and_then(|at| 1_u32.checked_shl(at)).unwrap_or(0);
    }

    pub(crate) fn is_nobody(self) -> bool {
        self.0 == 0
    }

    /// Who they are.
    pub(crate) fn devices(self, append: &Append) -> impl Iterator<Item = DeviceRef> + '_ {
        let theirs = append.slices.iter().map(|slice| (append.recipient, slice));
        let ours = append.own_slices.iter().map(|slice| (append.sender.account, slice));
        let absent =
            theirs.chain(ours).enumerate().filter(move |(at, _)| u32::try_from(*at).is_ok_and(|at| self.0.checked_shr(at).unwrap_or(0) & 1 == 1));
        absent.filter_map(|(_, (account, slice))| Some(DeviceRef { account, device: DeviceId::try_from(&slice.device[..]).ok()? }))
    }
}

/// A message for a device that is asleep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) what: What,
    pub(crate) at_ms: u64,
}

/// Where to say who is asleep. Clones say it in the same place.
#[derive(Debug, Clone)]
pub struct Sleepers(mpsc::Sender<Told>);

impl Sleepers {
    /// With what [`publish`] takes.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
    }

    /// These devices are asleep, and there is a new message for them.
    pub(crate) fn tell(&self, message: &Resolved, asleep: impl Iterator<Item = DeviceRef>) {
        let Outcome::Accepted { seq, at_ms, duplicate: false, .. } = message.outcome else { return };
        let mut dropped = 0;
        for device in asleep {
            let what = What::MessageForSleepingDevice { conversation: message.append.conversation, seq, device };
            dropped += u64::from(self.0.try_send(Told { what, at_ms }).is_err());
        }
        if dropped > 0 {
            count("full", dropped);
        }
    }
}

fn count(outcome: &'static str, events: u64) {
    metrics::counter!("kith_sleeping_told_total", "outcome" => outcome).increment(events);
}

/// Publishes what is told, for as long as somebody may tell something.
pub(crate) async fn publish(mut told: mpsc::Receiver<Told>, bus: Arc<dyn Bus>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut away = false;
    while told.recv_many(&mut batch, BATCH).await > 0 {
        let events = batch.len() as u64;
        if bus.is_heard(Topic::Sleeping) {
            let records: Vec<_> = batch.iter().map(|told| Event::new(told.what, told.at_ms).to_record()).collect();
            let published = bus.publish(&records).await;
            count(if published.is_ok() { "published" } else { "failed" }, events);
            if let Err(error) = &published
                && !away
            {
                tracing::warn!(%error, "the bus is away: devices that are asleep are told later, from the log");
            }
            away = published.is_err();
        } else {
            count("unheard", events);
        }
        batch.clear();
    }
}

/// Of a server that is alone: nobody is connected anywhere else.
#[async_trait]
impl Connections for Sessions {
    async fn connected(&self, devices: &[DeviceRef]) -> Result<HashSet<DeviceRef>, DirectoryError> {
        let is_here = |device: &&DeviceRef| self.directory.of(&device.account, |sessions| sessions.iter().any(|s| s.device() == **device));
        Ok(devices.iter().filter(is_here).copied().collect())
    }
}
