//! The relay of what the log has for devices that are asleep.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::{relay::Wall, *};
use crate::{
    bus::{
        Relay,
        relay::{Next, Source as _},
        sleeping::FromLog,
    },
    log::{Found, LogError, Overdue, OverdueMessage},
    sessions::{Connections, DirectoryError},
};

/// What of a log is left to be looked at.
#[derive(Debug, Default)]
struct Journal {
    messages: Vec<OverdueMessage>,
    upto: AtomicUsize,
    asked: AtomicUsize,
}

#[derive(Debug)]
struct Reader(Arc<Journal>, usize);

#[async_trait]
impl Overdue for Reader {
    async fn next(&mut self, limit: usize) -> Result<Found, LogError> {
        self.0.asked.fetch_add(1, Ordering::AcqRel);
        let from = self.0.upto.load(Ordering::Acquire);
        self.1 = self.0.messages.len().min(from + limit);
        Ok(Found::Here { messages: self.0.messages[from..self.1].to_vec(), more: self.1 - from == limit, late: Duration::ZERO })
    }

    async fn done(&mut self) -> Result<(), LogError> {
        self.0.upto.store(self.1, Ordering::Release);
        Ok(())
    }

    async fn release(&mut self) {}
}

/// Even keys are connected; sometimes nobody knows.
#[derive(Debug, Default)]
struct Even(AtomicBool);

#[async_trait]
impl Connections for Even {
    async fn connected(&self, devices: &[DeviceRef]) -> Result<HashSet<DeviceRef>, DirectoryError> {
        if self.0.load(Ordering::Acquire) {
            return Err(DirectoryError("away".into()));
        }
        Ok(devices.iter().filter(|device| device.device.0[0].is_multiple_of(2)).copied().collect())
    }
}

/// Each key has a conversation; `n` counts in it.
fn message(key: u8, n: u64) -> OverdueMessage {
    let device = DeviceRef { account: AccountId([key; 16]), device: DeviceId([key; 16]) };
    OverdueMessage { conversation: ConversationId([key; 16]), seq: n, at_ms: n, devices: vec![device] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_devices_that_are_nowhere_goes_out_in_order_and_waits_while_anything_is_away() {
    let messages: Vec<_> = (0..700).map(|n| message(u8::try_from(n % 7).unwrap(), n)).collect();
    let expected: Vec<_> = (0..700).map(|n| (u8::try_from(n % 7).unwrap(), n)).filter(|(key, _)| !key.is_multiple_of(2)).collect();
    let journal = Arc::new(Journal { messages, ..Journal::default() });
    let (wall, even) = (Arc::new(Wall::default()), Arc::new(Even::default()));
    even.0.store(true, Ordering::Release);
    wall.away.store(true, Ordering::Release);
    let relay = Relay::for_sleeping(Box::new(Reader(Arc::clone(&journal), 0)), Arc::<Even>::clone(&even), Arc::<Wall>::clone(&wall));
    let asked_again = |what: &'static str| {
        let before = journal.asked.load(Ordering::Acquire);
        let journal = Arc::clone(&journal);
        async move { until(what, || journal.asked.load(Ordering::Acquire) >= before + 3).await }
    };
    asked_again("it tries while nobody knows who is connected").await;
    even.0.store(false, Ordering::Release);
    asked_again("it tries while the bus is away").await;
    assert_eq!((journal.upto.load(Ordering::Acquire), wall.published.lock().len()), (0, 0), "nothing is passed over");
    wall.away.store(false, Ordering::Release);
    until("all is looked at", || journal.upto.load(Ordering::Acquire) == 700).await;
    assert_eq!(*wall.published.lock(), expected);
    relay.stop().await;
}

#[tokio::test]
async fn the_log_is_not_asked_while_nobody_would_hear_of_it() {
    let journal = Arc::new(Journal { messages: vec![message(1, 1)], ..Journal::default() });
    let wall = Arc::new(Wall::default());
    wall.deaf.store(true, Ordering::Release);
    let mut source = FromLog::new(Box::new(Reader(Arc::clone(&journal), 0)), Arc::new(Even::default()), Arc::<Wall>::clone(&wall));
    assert!(matches!(source.next(10).await, Ok(Next::Records { records, more: false }) if records.is_empty()));
    assert_eq!(journal.asked.load(Ordering::Acquire), 0);
    wall.deaf.store(false, Ordering::Release);
    assert!(matches!(source.next(10).await, Ok(Next::Records { records, .. }) if records.len() == 1));
}

#[tokio::test]
async fn a_bus_in_this_process_is_heard_once_somebody_listens() {
    let bus: Store = Arc::new(crate::bus::MemoryBus::default());
    assert!(!bus.is_heard(Topic::Sleeping));
    let member = join(&bus, "group", &Notes::of_all()).await;
    assert!(bus.is_heard(Topic::Sleeping) && !bus.is_heard(Topic::Accounts));
    member.leave().await;
    assert!(bus.is_heard(Topic::Sleeping), "the group goes on when somebody joins it again");
}
