//! What every bus must do. Handlers note what they are handed; tests wait for what was noted.

mod faults;
mod groups;
mod kafka;
mod memory;
mod relay;
mod sleeping;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kith_proto::id::{AccountId, ConversationId, DeviceId, DeviceRef};
use parking_lot::Mutex;

use super::{Bus, Event, Handler, HandlerError, Member, Record, Retry, Subscription, Topic, What};

/// On a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);

/// Makes one test of each rule; `$make` gives a fresh bus and whatever must outlive it.
macro_rules! suite {
    ($make:expr) => {
        $crate::bus::conformance::suite!($make, groups:
            events_of_a_key_are_in_order, every_group_is_handed_everything, two_members_share_a_topic, who_leaves_has_noted_how_far_it_came);
        $crate::bus::conformance::suite!($make, faults:
            what_a_dead_member_worked_on_is_worked_on_again, what_fails_is_tried_again_in_its_place, poison_becomes_a_dead_letter_and_blocks_nobody,
            what_fails_too_often_becomes_a_dead_letter, what_cannot_be_read_becomes_a_dead_letter, a_handler_that_panics_or_hangs_has_failed,
            dead_letters_are_replayed_once, a_closed_bus_refuses);
    };
    ($make:expr, $module:ident: $($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let (bus, _guard) = $make.await;
            $crate::bus::conformance::$module::$name(bus).await;
        }
    )*};
}
use suite;

type Store = Arc<dyn Bus>;

/// Tried three times without much of a pause.
const RETRY: Retry = Retry { attempts: 3, first_pause: Duration::from_millis(2), longest_pause: Duration::from_millis(10), attempt_within: SOON };

fn subscription(group: &'static str) -> Subscription {
    Subscription { topic: Topic::Sleeping, group, retry: RETRY }
}

/// The n-th event of a key. Keys fall into different partitions, as far as there are any.
fn event(key: u8, n: u64) -> Event {
    let device = DeviceRef { account: AccountId([key; 16]), device: DeviceId([key; 16]) };
    Event::new(What::MessageForSleepingDevice { conversation: ConversationId([key; 16]), seq: n, device }, n)
}

fn records(events: impl IntoIterator<Item = Event>) -> Vec<Record> {
    events.into_iter().map(|event| event.to_record()).collect()
}

/// Key and number.
fn place(event: &Event) -> (u8, u64) {
    match event.what {
        What::MessageForSleepingDevice { conversation, seq, .. } => (conversation.0[0], seq),
        What::DeviceRevoked(device) => (device.account.0[0], u64::from(device.device.0[0])),
        What::AccountErased(account) => (account.0[0], 0),
    }
}

type Decision = Box<dyn Fn((u8, u64), usize) -> Result<(), Trouble> + Send + Sync>;

/// What a handler does instead of the work.
enum Trouble {
    Fails(HandlerError),
    Hangs,
    Panics,
}

/// Notes what was handed to it and what it did, in order.
struct Notes {
    handed: Mutex<Vec<(u8, u64)>>,
    done: Mutex<Vec<(u8, u64)>>,
    /// Given an event and how often it was handed over before.
    decide: Decision,
}

impl Notes {
    fn of_all() -> Arc<Self> {
        Self::deciding(|_, _| Ok(()))
    }

    fn deciding(decide: impl Fn((u8, u64), usize) -> Result<(), Trouble> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { handed: Mutex::default(), done: Mutex::default(), decide: Box::new(decide) })
    }

    fn handed(&self, place: (u8, u64)) -> usize {
        self.handed.lock().iter().filter(|handed| **handed == place).count()
    }

    fn has_done(&self, all: &[Event]) -> bool {
        let done: HashSet<_> = self.done.lock().iter().copied().collect();
        all.iter().all(|event| done.contains(&place(event)))
    }

    /// Done in the order of numbers within each key, repetitions aside.
    fn assert_in_order(&self) {
        let done = self.done.lock();
        for key in 0..=u8::MAX {
            let mut seen = HashSet::new();
            let first: Vec<u64> = done.iter().filter(|(k, n)| *k == key && seen.insert(*n)).map(|(_, n)| *n).collect();
            assert!(first.is_sorted(), "key {key}: {first:?}");
        }
    }
}

#[async_trait]
impl Handler for Notes {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        let place = place(event);
        let before = {
            let mut handed = self.handed.lock();
            let before = handed.iter().filter(|handed| **handed == place).count();
            handed.push(place);
            before
        };
        match (self.decide)(place, before) {
            Ok(()) => {}
            Err(Trouble::Fails(error)) => return Err(error),
            Err(Trouble::Hangs) => std::future::pending().await,
            Err(Trouble::Panics) => panic!("a handler of a test"),
        }
        self.done.lock().push(place);
        Ok(())
    }
}

async fn join(bus: &Store, group: &'static str, notes: &Arc<Notes>) -> Member {
    bus.subscribe(subscription(group), Arc::<Notes>::clone(notes)).await.unwrap()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
