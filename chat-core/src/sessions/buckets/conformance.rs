//! What all [`Buckets`] promise, as tests.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{self, Instant};

use super::{BucketKey, Buckets, Take};
use crate::domain::Rate;

const WITHIN: Duration = Duration::from_secs(40);
/// Nothing comes back during a test.
const SLOW: Rate = Rate { capacity: 5, per_minute: 1 };
const SLOW_INTERVAL_MS: u64 = 60_000;

/// Buckets under test.
#[async_trait(?Send)]
pub(crate) trait Fixture: Sized {
    /// All full.
    async fn new() -> Self;
    /// Somebody who takes from them; all members take from the same ones.
    async fn member(&self) -> Arc<dyn Buckets>;
}

macro_rules! bucket_tests {
    ($fixture:ty) => {
        $crate::sessions::buckets::conformance::bucket_tests! { each $fixture:
            a_bucket_gives_what_it_holds_and_then_says_when
            buckets_are_different_by_kind_and_by_whose_they_are
            waiting_as_told_is_enough
            members_that_take_at_the_same_time_get_no_more_than_there_is
            what_is_left_is_told_in_the_order_asked
            a_bucket_that_holds_nothing_gives_nothing
        }
    };
    (each $fixture:ty: $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = <$fixture as $crate::sessions::buckets::conformance::Fixture>::new().await;
                $crate::sessions::buckets::conformance::$name(&fixture).await;
            }
        )*
    };
}

pub(crate) use bucket_tests;

fn key(kind: u8, n: u8) -> BucketKey {
    // Braces mean something in keys of a cluster.
    let mut of = *b"{x}.............................";
    of[31] = n;
    BucketKey { kind, of }
}

pub(crate) async fn a_bucket_gives_what_it_holds_and_then_says_when(fixture: &impl Fixture) {
    let buckets = fixture.member().await;
    for _ in 0..SLOW.capacity {
        assert_eq!(buckets.take(key(b'a', 1), SLOW).await.unwrap(), Take::Taken);
    }
    for _ in 0..3 {
        let Take::Empty { after_ms } = buckets.take(key(b'a', 1), SLOW).await.unwrap() else { panic!("more than there was") };
        assert!(after_ms > 0 && after_ms <= SLOW_INTERVAL_MS, "{after_ms}");
    }
}

pub(crate) async fn buckets_are_different_by_kind_and_by_whose_they_are(fixture: &impl Fixture) {
    let one = Rate { capacity: 1, per_minute: 1 };
    let buckets = fixture.member().await;
    for key in [key(b'a', 1), key(b'b', 1), key(b'a', 2)] {
        assert_eq!(buckets.take(key, one).await.unwrap(), Take::Taken);
    }
    assert_ne!(buckets.take(key(b'a', 1), one).await.unwrap(), Take::Taken);
}

pub(crate) async fn waiting_as_told_is_enough(fixture: &impl Fixture) {
    // Far more tokens come back in the time that a busy machine may take between two lines than are asked for, but not at once.
    let rate = Rate { capacity: 1, per_minute: 120 };
    let buckets = fixture.member().await;
    let begun = Instant::now();
    let mut taken = 0;
    while taken < 3 {
        assert!(begun.elapsed() < WITHIN);
        match buckets.take(key(b'a', 1), rate).await.unwrap() {
            Take::Taken => taken += 1,
            Take::Empty { after_ms } => {
                assert!(after_ms <= 500, "{after_ms}");
                time::sleep(Duration::from_millis(after_ms)).await;
                // A refusal has taken nothing, so that it is there now.
                assert_eq!(buckets.take(key(b'a', 1), rate).await.unwrap(), Take::Taken);
                taken += 1;
            }
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(900), "two tokens have come back within {:?}", begun.elapsed());
}

pub(crate) async fn members_that_take_at_the_same_time_get_no_more_than_there_is(fixture: &impl Fixture) {
    let rate = Rate { capacity: 50, per_minute: 1 };
    let members = [fixture.member().await, fixture.member().await];
    let takers: Vec<_> = (0..80)
        .map(|n| {
            let member = Arc::clone(&members[n % 2]);
            tokio::spawn(async move {
                // Some may be turned away for lack of room in the implementation, and ask again.
                loop {
                    match member.take(key(b'a', 1), rate).await {
                        Ok(take) => return take,
                        Err(_) => time::sleep(Duration::from_millis(5)).await,
                    }
                }
            })
        })
        .collect();
    let mut taken = 0;
    for taker in takers {
        taken += u32::from(time::timeout(WITHIN, taker).await.unwrap().unwrap() == Take::Taken);
    }
    assert!(taken <= rate.capacity, "{taken}");
    // An answer that came too late has taken its token all the same; there are none left in any case.
    assert_ne!(members[0].take(key(b'a', 1), rate).await.unwrap(), Take::Taken);
}

pub(crate) async fn what_is_left_is_told_in_the_order_asked(fixture: &impl Fixture) {
    let buckets = fixture.member().await;
    for _ in 0..2 {
        buckets.take(key(b'a', 1), SLOW).await.unwrap();
    }
    let asked = [(key(b'a', 2), SLOW), (key(b'a', 1), SLOW)];
    assert_eq!(buckets.remaining(&asked).await.unwrap(), [5, 3]);
    assert_eq!(buckets.remaining(&asked).await.unwrap(), [5, 3], "to look takes nothing");
    assert_eq!(buckets.remaining(&[]).await.unwrap(), [0_u32; 0]);
}

pub(crate) async fn a_bucket_that_holds_nothing_gives_nothing(fixture: &impl Fixture) {
    let buckets = fixture.member().await;
    assert_ne!(buckets.take(key(b'a', 1), Rate { capacity: 0, per_minute: 60 }).await.unwrap(), Take::Taken);
}
