//! What every [`SessionDirectory`] promises, as tests. An implementation makes a [`Fixture`] and calls `conformance_tests!` with it, or runs [`all`] on
//! one that is dear to start.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use kith_proto::id::{AccountId, DeviceId, DeviceRef};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use super::{AT_ONCE, Gateway, GatewayId, Place, SessionDirectory, Stale};

/// A lease that does not end during a test.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(500);
/// Until something must have happened; nothing here takes that long unless it is broken.
const WITHIN: Duration = Duration::from_secs(40);
/// A call has failed by then. It is to take 1 s; the rest is for a machine that is busy.
const FAILED_WITHIN: Duration = Duration::from_secs(5);

/// A directory under test, with everything that can happen to it.
#[async_trait(?Send)]
pub(crate) trait Fixture: Send + Sync + Sized {
    /// An empty one.
    async fn new() -> Self;
    /// A gateway that uses it, at [`address`].
    async fn join(&self, gateway: GatewayId, lease: Duration) -> Arc<dyn SessionDirectory>;
    /// It loses everything it holds.
    async fn flush(&self);
    /// Nobody answers, and nobody says so.
    async fn pause(&self);
    /// The end of a pause.
    async fn resume(&self);
    /// Every link to it breaks; new ones can be made.
    async fn cut(&self);
}

pub(crate) fn address(gateway: GatewayId) -> String {
    format!("10.0.0.{}:7000", gateway.0)
}

macro_rules! scenarios {
    ($callback:ident $($arguments:tt)*) => {
        $callback! { ($($arguments)*)
            finds_what_was_entered_until_it_is_left
            the_higher_epoch_stays
            tells_which_places_were_replaced
            an_older_connection_that_ends_changes_nothing
            answers_in_the_order_asked_however_much_it_is
            a_gateway_lives_by_its_lease
            a_gateway_that_resigns_is_gone
            asks_for_everything_anew_after_a_flush
            tells_who_has_found_an_account_that_it_changed
            a_broken_link_makes_everything_stale
            fails_in_time_while_it_is_away_and_recovers
            a_cache_that_obeys_ends_up_right
            news_are_taken_once
        }
    };
}

macro_rules! each {
    (($fixture:ty) $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = <$fixture as $crate::sessions::conformance::Fixture>::new().await;
                $crate::sessions::conformance::$name(&fixture).await;
            }
        )*
    };
}

macro_rules! one_after_another {
    (($fixture:ident) $($name:ident)*) => {
        $(
            eprintln!(concat!("    ", stringify!($name)));
            $name($fixture).await;
            $fixture.flush().await;
        )*
    };
}

macro_rules! conformance_tests {
    ($fixture:ty) => {
        $crate::sessions::conformance::scenarios! { each $fixture }
    };
}

pub(crate) use {conformance_tests, each, scenarios};

/// All of them on the same directory.
#[allow(clippy::print_stderr, reason = "one test with many parts: says which of them failed")]
pub(crate) async fn all(fixture: &impl Fixture) {
    scenarios! { one_after_another fixture }
}

fn account(n: usize) -> AccountId {
    let mut id = [7; 16];
    // Braces mean something in keys of a cluster.
    id[..3].copy_from_slice(b"{x}");
    id[8..].copy_from_slice(&n.to_be_bytes());
    AccountId(id)
}

fn device(account_number: usize, n: u8) -> DeviceRef {
    DeviceRef { account: account(account_number), device: DeviceId([n; 16]) }
}

fn place(device: DeviceRef, directory: &Arc<dyn SessionDirectory>, epoch: u64) -> Place {
    Place { device: device.device, gateway: directory.gateway(), epoch }
}

async fn two(fixture: &impl Fixture) -> [Arc<dyn SessionDirectory>; 2] {
    [fixture.join(GatewayId(1), LONG).await, fixture.join(GatewayId(2), LONG).await]
}

/// The places of one account, in the order of their devices.
async fn found(directory: &Arc<dyn SessionDirectory>, account: AccountId) -> Vec<Place> {
    let mut all = directory.find(&[account]).await.unwrap();
    assert_eq!(all.len(), 1);
    let mut places = all.remove(0);
    places.sort_by_key(|place| place.device);
    places
}

/// Repeats what may fail for a while.
pub(crate) async fn eventually<T, E: std::fmt::Debug>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    let until = Instant::now() + WITHIN;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < until, "{what}: {error:?}"),
        }
        time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn until_told(news: &mut mpsc::Receiver<Stale>, what: impl Fn(Stale) -> bool) {
    let told = async { while !what(news.recv().await.expect("nobody is left to tell")) {} };
    time::timeout(WITHIN, told).await.expect("nothing was told");
}

fn concerns(account: AccountId) -> impl Fn(Stale) -> bool {
    move |stale| stale == Stale::Everything || stale == Stale::Account(account)
}

pub(crate) async fn finds_what_was_entered_until_it_is_left(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let [phone, laptop] = [device(1, 1), device(1, 2)];
    assert_eq!(found(&two, account(1)).await, []);
    // Two devices of one account in one call, and the same gateway again.
    assert_eq!(one.enter(&[(phone, 1), (laptop, 5)]).await.unwrap(), []);
    assert_eq!(one.enter(&[(phone, 2)]).await.unwrap(), []);
    for reader in [&one, &two] {
        assert_eq!(found(reader, account(1)).await, [place(phone, &one, 2), place(laptop, &one, 5)]);
    }
    one.leave(&[(phone, 2)]).await.unwrap();
    assert_eq!(found(&two, account(1)).await, [place(laptop, &one, 5)]);
    one.leave(&[(laptop, 5), (phone, 2)]).await.unwrap();
    assert_eq!(found(&two, account(1)).await, []);
    assert_eq!(one.find(&[]).await.unwrap(), Vec::<Vec<Place>>::new());
    assert_eq!(one.enter(&[]).await.unwrap(), []);
    one.leave(&[]).await.unwrap();
}

pub(crate) async fn the_higher_epoch_stays(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    // Compared as numbers of 64 bits: no byte, sign or rounding decides.
    let epochs =
        [1, 2, 0x80, 0xff, 0x100, 0xff00, 0x0001_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, (1 << 53) + 1, (1 << 53) + 2, u64::MAX];
    let phone = device(1, 1);
    for pair in epochs.windows(2) {
        let &[low, high] = pair else { unreachable!() };
        two.leave(&[(phone, low)]).await.unwrap();
        one.enter(&[(phone, high)]).await.unwrap();
        assert_eq!(two.enter(&[(phone, low)]).await.unwrap(), [(phone, place(phone, &one, high))]);
        assert_eq!(found(&two, account(1)).await, [place(phone, &one, high)]);
        assert_eq!(one.enter(&[(phone, low)]).await.unwrap(), [], "one's own is not another's");
        assert_eq!(found(&two, account(1)).await, [place(phone, &one, high)]);
        one.leave(&[(phone, high)]).await.unwrap();
    }
}

pub(crate) async fn tells_which_places_were_replaced(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let [phone, laptop, tablet] = [device(1, 1), device(1, 2), device(2, 3)];
    one.enter(&[(phone, 1), (laptop, 1), (tablet, 8)]).await.unwrap();
    let mut others = two.enter(&[(phone, 2), (device(3, 1), 1), (tablet, 7)]).await.unwrap();
    others.sort_by_key(|(device, _)| *device);
    assert_eq!(others, [(phone, place(phone, &one, 1)), (tablet, place(tablet, &one, 8))]);
    assert_eq!(found(&one, account(1)).await, [place(phone, &two, 2), place(laptop, &one, 1)]);
    assert_eq!(two.enter(&[(phone, 3)]).await.unwrap(), []);
}

pub(crate) async fn an_older_connection_that_ends_changes_nothing(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let phone = device(1, 1);
    one.enter(&[(phone, 1)]).await.unwrap();
    two.enter(&[(phone, 2)]).await.unwrap();
    one.leave(&[(phone, 1)]).await.unwrap();
    one.leave(&[(phone, 2)]).await.unwrap();
    two.leave(&[(phone, 1), (device(1, 2), 2)]).await.unwrap();
    assert_eq!(found(&one, account(1)).await, [place(phone, &two, 2)]);
}

pub(crate) async fn answers_in_the_order_asked_however_much_it_is(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let many = 2 * AT_ONCE + 100;
    let sessions: Vec<_> = (0..many).filter(|n| n % 3 != 0).map(|n| (device(n, 1), n as u64)).collect();
    assert_eq!(one.enter(&sessions).await.unwrap(), []);
    let asked: Vec<_> = (0..many).rev().chain([5, 5]).collect();
    let expected: Vec<Vec<Place>> = asked.iter().map(|n| if n % 3 == 0 { Vec::new() } else { vec![place(device(*n, 1), &one, *n as u64)] }).collect();
    let accounts: Vec<_> = asked.into_iter().map(account).collect();
    assert_eq!(two.find(&accounts).await.unwrap(), expected);
    one.leave(&sessions).await.unwrap();
    assert!(two.find(&accounts).await.unwrap().iter().all(Vec::is_empty));
}

async fn renewed(directory: &Arc<dyn SessionDirectory>) -> (Vec<Gateway>, bool) {
    let mut renewal = eventually("a renewal", async || directory.renew().await).await;
    renewal.gateways.sort_by_key(|gateway| gateway.id);
    (renewal.gateways, renewal.anew)
}

fn gateways<const N: usize>(ids: [u64; N]) -> Vec<Gateway> {
    ids.map(GatewayId).map(|id| Gateway { id, address: address(id) }).to_vec()
}

pub(crate) async fn a_gateway_lives_by_its_lease(fixture: &impl Fixture) {
    let [one, two] = [fixture.join(GatewayId(1), LONG).await, fixture.join(GatewayId(2), SHORT).await];
    assert_eq!(renewed(&one).await, (gateways([1]), true));
    assert_eq!(renewed(&one).await, (gateways([1]), false));
    assert!(renewed(&two).await.1);
    let looking = fixture.join(GatewayId(9), LONG).await;
    let alive = async || {
        let mut alive = looking.gateways().await.unwrap();
        alive.sort_unstable();
        alive
    };
    eventually("it is missed by one who is no gateway", async || match alive().await == [GatewayId(1)] {
        true => Ok(()),
        false => Err("still there"),
    })
    .await;
    eventually("it is missed", async || match renewed(&one).await.0 == gateways([1]) {
        true => Ok(()),
        false => Err("still there"),
    })
    .await;
    assert_eq!(renewed(&two).await, (gateways([1, 2]), true), "its lease had ended");
    assert!(alive().await.contains(&GatewayId(1)) && !alive().await.contains(&GatewayId(9)), "who only looks is none");
}

pub(crate) async fn a_gateway_that_resigns_is_gone(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    one.resign().await.unwrap();
    assert!(renewed(&one).await.1);
    assert_eq!(renewed(&two).await, (gateways([1, 2]), true));
    one.resign().await.unwrap();
    assert_eq!(renewed(&two).await, (gateways([2]), false));
    assert!(renewed(&one).await.1);
}

pub(crate) async fn asks_for_everything_anew_after_a_flush(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let mut news = two.stale().unwrap();
    let phone = device(1, 1);
    assert!(renewed(&one).await.1 && renewed(&two).await.1);
    one.enter(&[(phone, 1)]).await.unwrap();
    assert_eq!(found(&two, account(1)).await, [place(phone, &one, 1)]);
    fixture.flush().await;
    until_told(&mut news, |stale| stale == Stale::Everything).await;
    assert_eq!(found(&two, account(1)).await, []);
    assert_eq!(renewed(&one).await, (gateways([1]), true));
    assert_eq!(renewed(&two).await, (gateways([1, 2]), true));
    assert!(!renewed(&one).await.1 && !renewed(&two).await.1);
    one.enter(&[(phone, 1)]).await.unwrap();
    until_told(&mut news, concerns(account(1))).await;
    assert_eq!(found(&two, account(1)).await, [place(phone, &one, 1)]);
}

pub(crate) async fn tells_who_has_found_an_account_that_it_changed(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let mut news = two.stale().unwrap();
    let [phone, laptop] = [device(1, 1), device(1, 2)];
    // Also what was not there has been found so.
    assert_eq!(found(&two, account(1)).await, []);
    one.enter(&[(phone, 1)]).await.unwrap();
    until_told(&mut news, concerns(account(1))).await;
    assert_eq!(found(&two, account(1)).await, [place(phone, &one, 1)]);
    one.enter(&[(laptop, 1)]).await.unwrap();
    until_told(&mut news, concerns(account(1))).await;
    assert_eq!(found(&two, account(1)).await.len(), 2);
    one.leave(&[(phone, 1)]).await.unwrap();
    until_told(&mut news, concerns(account(1))).await;
    assert_eq!(found(&two, account(1)).await, [place(laptop, &one, 1)]);
    // One's own.
    two.enter(&[(laptop, 2)]).await.unwrap();
    until_told(&mut news, concerns(account(1))).await;
    // Found among many.
    let accounts: Vec<_> = (1..=AT_ONCE).map(account).collect();
    two.find(&accounts).await.unwrap();
    one.enter(&[(device(AT_ONCE, 1), 1)]).await.unwrap();
    until_told(&mut news, concerns(account(AT_ONCE))).await;
}

pub(crate) async fn a_broken_link_makes_everything_stale(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let mut news = two.stale().unwrap();
    let phone = device(1, 1);
    one.enter(&[(phone, 1)]).await.unwrap();
    for epoch in 1..4 {
        eventually("it is found", async || two.find(&[account(1)]).await).await;
        fixture.cut().await;
        until_told(&mut news, |stale| stale == Stale::Everything).await;
        // What is found after a break is as good as what was found before it.
        eventually("it is found", async || two.find(&[account(1)]).await).await;
        eventually("it is entered", async || one.enter(&[(phone, epoch + 1)]).await).await;
        until_told(&mut news, concerns(account(1))).await;
        let places = eventually("it is found", async || two.find(&[account(1)]).await).await;
        assert_eq!(places, [[place(phone, &one, epoch + 1)]]);
    }
}

pub(crate) async fn fails_in_time_while_it_is_away_and_recovers(fixture: &impl Fixture) {
    let [one, two] = two(fixture).await;
    let mut news = two.stale().unwrap();
    let phone = device(1, 1);
    one.enter(&[(phone, 1)]).await.unwrap();
    two.find(&[account(1)]).await.unwrap();
    fixture.pause().await;
    // The first calls wait for their deadline, later ones know; many at once do not pile up.
    for _ in 0..3 {
        let calls = async {
            assert!(two.find(&[account(1)]).await.is_err());
            assert!(one.enter(&[(phone, 1)]).await.is_err());
        };
        time::timeout(2 * FAILED_WITHIN, calls).await.expect("a call waits");
        let all = async {
            let many = (0..200).map(|_| {
                let two = Arc::clone(&two);
                tokio::spawn(async move { two.find(&[account(1)]).await.is_err() })
            });
            for call in many.collect::<Vec<_>>() {
                assert!(call.await.unwrap());
            }
        };
        time::timeout(FAILED_WITHIN, all).await.expect("one of many calls waits");
    }
    let others = async {
        assert!(one.leave(&[(phone, 1)]).await.is_err());
        assert!(one.renew().await.is_err());
        assert!(one.resign().await.is_err());
    };
    time::timeout(FAILED_WITHIN, others).await.expect("a call waits");
    until_told(&mut news, |stale| stale == Stale::Everything).await;
    fixture.resume().await;
    eventually("it is entered", async || one.enter(&[(phone, 7)]).await).await;
    eventually("it is found where it is", async || match two.find(&[account(1)]).await {
        Ok(places) if places == [[place(phone, &one, 7)]] => Ok(()),
        other => Err(other),
    })
    .await;
    renewed(&one).await;
}

/// The rule that a gateway follows: what is found is kept unless something stale was told while it was looked up, and until it is.
#[derive(Debug, Default)]
struct Cache {
    kept: Option<Vec<Place>>,
}

impl Cache {
    fn told(&mut self, news: &mut mpsc::Receiver<Stale>) -> bool {
        let mut any = false;
        while news.try_recv().is_ok() {
            (self.kept, any) = (None, true);
        }
        any
    }

    async fn look(&mut self, directory: &Arc<dyn SessionDirectory>, news: &mut mpsc::Receiver<Stale>) {
        self.told(news);
        if self.kept.is_none() {
            let found = directory.find(&[account(1)]).await;
            if !self.told(news) {
                self.kept = found.ok().map(|mut all| all.remove(0));
            }
        }
    }
}

pub(crate) async fn a_cache_that_obeys_ends_up_right(fixture: &impl Fixture) {
    const LAST: u64 = 500;
    const LOOKS: u32 = 3;
    let [one, two] = two(fixture).await;
    let mut news = two.stale().unwrap();
    let phone = device(1, 1);
    let writer = Arc::clone(&one);
    // Neither outruns the other: one write for some looks.
    let (turns, mut turn) = mpsc::channel(1);
    let writing = tokio::spawn(async move {
        for epoch in 1..=LAST {
            turn.recv().await;
            // Links are cut meanwhile.
            while writer.enter(&[(phone, epoch)]).await.is_err() {
                time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let (mut cache, mut seen) = (Cache::default(), HashSet::new());
    let mut round = 0;
    while !writing.is_finished() {
        cache.look(&two, &mut news).await;
        seen.extend(cache.kept.iter().flatten().map(|place| place.epoch));
        round += 1;
        if round % LOOKS == 0 {
            let _ = turns.try_send(());
        }
        if round == 50 {
            fixture.cut().await;
        }
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
    assert!(!seen.is_empty());
    // Nobody writes any more: the news alone bring it up to date.
    eventually("the last is seen", async || {
        cache.look(&two, &mut news).await;
        match cache.kept.as_deref() == Some(&[place(phone, &one, LAST)]) {
            true => Ok(()),
            false => Err(cache.kept.clone()),
        }
    })
    .await;
}

pub(crate) async fn news_are_taken_once(fixture: &impl Fixture) {
    let one = fixture.join(GatewayId(1), LONG).await;
    assert!(one.stale().is_some());
    assert!(one.stale().is_none());
}
