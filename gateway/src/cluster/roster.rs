//! Which sessions stand in the directory: entered in batches before they read their heads, left in batches, entered again when the directory has forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kith_chat_core::sessions::AT_ONCE;
use kith_proto::{id::DeviceRef, v1::ErrorCode};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::{Cluster, wire};
use crate::sessions::Sessions;

/// A connection does not wait longer for the directory.
const ENTERED_WITHIN: Duration = Duration::from_millis(1_500);
/// Connections that may wait; more go without, and are entered later.
const MAX_ENTERING: usize = 65_536;
/// Connections that have ended and still stand in the directory. Beyond them a place that is none any more stays until its device connects again.
const MAX_LEAVING: usize = 1 << 20;

/// What came of entering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// Others find it, or will as soon as the directory can be asked again.
    Yes,
    /// The device has a newer connection at another gateway: this one is over.
    Replaced,
}

/// What waits for the directory.
#[derive(Debug, Default)]
pub(super) struct Roster {
    entering: Mutex<Vec<Entering>>,
    leaving: Mutex<HashMap<DeviceRef, u64>>,
    work: Notify,
}

#[derive(Debug)]
struct Entering {
    device: DeviceRef,
    epoch: u64,
    entered: oneshot::Sender<Entered>,
}

impl Cluster {
    /// Enters a session; returns when others can find it, or when the directory does not answer: the connection goes on without it then.
    pub(crate) async fn enter(&self, device: DeviceRef, epoch: u64) -> Entered {
        let (entered, answer) = oneshot::channel();
        {
            let mut entering = self.roster.entering.lock();
            if self.is_away() || entering.len() >= MAX_ENTERING {
                drop(entering);
                self.goes_without(device, epoch);
                return Entered::Yes;
            }
            entering.push(Entering { device, epoch, entered });
        }
        self.roster.work.notify_one();
        match timeout(ENTERED_WITHIN, answer).await {
            Ok(Ok(entered)) => entered,
            // Overdue, or the batch has failed.
            _ => {
                self.goes_without(device, epoch);
                Entered::Yes
            }
        }
    }

    /// Takes a session that has ended out of the directory.
    pub(crate) fn leave(&self, device: DeviceRef, epoch: u64) {
        let mut leaving = self.roster.leaving.lock();
        if leaving.len() < MAX_LEAVING {
            let known = leaving.entry(device).or_default();
            *known = epoch.max(*known);
            drop(leaving);
            self.roster.work.notify_one();
        }
    }

    /// It is entered with all others when the directory is back. Nobody knows now where an older connection of the device is: all are told.
    fn goes_without(&self, device: DeviceRef, epoch: u64) {
        self.unentered.store(true, Ordering::Release);
        if let Some(older) = epoch.checked_sub(1) {
            self.links.put_everywhere(&[wire::cut(device, older, ErrorCode::Replaced)]);
        }
    }

    /// Runs for as long as the process serves.
    pub(super) async fn keep_roster(self: Arc<Self>) {
        loop {
            self.roster.work.notified().await;
            while self.enter_some().await | self.leave_some().await {}
        }
    }

    /// Enters some of those that wait; returns whether there were any.
    async fn enter_some(&self) -> bool {
        let some: Vec<Entering> = {
            let mut entering = self.roster.entering.lock();
            if self.is_away() {
                // They learn it from their channel, and go on without.
                entering.clear();
            }
            let most = entering.len().min(AT_ONCE);
            entering.drain(..most).collect()
        };
        if some.is_empty() {
            return false;
        }
        let sessions: Vec<_> = some.iter().map(|entering| (entering.device, entering.epoch)).collect();
        // If it failed, those that wait learn it from their channel.
        if let Some(newer) = self.enter_batch(&sessions).await {
            for Entering { device, epoch, entered } in some {
                let is_replaced = newer.get(&device).is_some_and(|newer| *newer > epoch);
                // It may have gone meanwhile.
                let _ = entered.send(if is_replaced { Entered::Replaced } else { Entered::Yes });
            }
        }
        true
    }

    /// Enters a batch, has older connections elsewhere cut, and returns the devices that have newer ones, with their epochs. `None` if it failed.
    async fn enter_batch(&self, sessions: &[(DeviceRef, u64)]) -> Option<HashMap<DeviceRef, u64>> {
        let others = match self.directory.enter(sessions).await {
            Ok(others) => others,
            Err(error) => {
                self.failed(&error);
                return None;
            }
        };
        let mut newer = HashMap::new();
        if others.is_empty() {
            return Some(newer);
        }
        let epochs: HashMap<_, _> = sessions.iter().copied().collect();
        for (device, place) in others {
            if epochs.get(&device).is_some_and(|epoch| place.epoch > *epoch) {
                newer.insert(device, place.epoch);
            } else if let Some(link) = self.links.get(place.gateway) {
                link.outbox.put([wire::cut(device, place.epoch, ErrorCode::Replaced)]);
            }
        }
        Some(newer)
    }

    /// Leaves some of those that are to leave; returns whether it makes sense to go on.
    async fn leave_some(&self) -> bool {
        if self.is_away() {
            return false;
        }
        let some: Vec<(DeviceRef, u64)> = {
            let mut leaving = self.roster.leaving.lock();
            let some: Vec<_> = leaving.iter().take(AT_ONCE).map(|(device, epoch)| (*device, *epoch)).collect();
            some.iter().for_each(|(device, _)| {
                leaving.remove(device);
            });
            some
        };
        if some.is_empty() {
            return false;
        }
        if let Err(error) = self.directory.leave(&some).await {
            self.failed(&error);
            some.into_iter().for_each(|(device, epoch)| self.leave(device, epoch));
            return false;
        }
        true
    }

    /// Enters everything again: the directory has lost it, or some went without. Returns whether all was entered.
    pub(super) async fn enter_all(&self, sessions: &Sessions) -> bool {
        for shard in sessions.established() {
            for some in shard.chunks(AT_ONCE) {
                let Some(newer) = self.enter_batch(some).await else { return false };
                for (device, epoch) in some {
                    if newer.contains_key(device) {
                        sessions.cut_through(*device, *epoch, ErrorCode::Replaced);
                    } else if !sessions.holds(*device, *epoch) {
                        // It has ended meanwhile, and may have left before it was entered.
                        self.leave(*device, *epoch);
                    }
                }
            }
        }
        true
    }

    /// The directory is back: what has waited for it goes on.
    pub(super) fn resume_roster(&self) {
        self.roster.work.notify_one();
    }
}
