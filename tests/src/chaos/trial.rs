//! A fleet under load, on which faults are tried; after each it is proved that every promise was kept.

use std::{
    fmt,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kith_proto::id::DeviceId;
use tokio::task::JoinHandle;

use super::{
    events::{Events, revoke},
    fault::{Fault, Party},
    fleet::{Fleet, FleetOptions, LEASE, pass},
    people::People,
    plan::Timed,
};
use crate::{
    load::{Level, Load, Mark},
    peer::Settings,
    rest::Rest,
};

/// Devices that never reconnected have the last message by then. (DESIGN.md, section 3, rule 1)
const LAST_MESSAGE: Duration = Duration::from_secs(35);
/// Everything that was sent is accepted by then, once everybody has been served again.
const ANSWERED: Duration = Duration::from_secs(30);
/// The SDK has shown everything by then: it may have to notice first that its connection is dead, and then waits a little before it connects.
const SHOWN: Duration = Duration::from_secs(60);
/// Before anything goes wrong messages flow undisturbed.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// For so many pairs of devices there is one pair of people who use the SDK.
const PAIRS_PER_TALK: usize = 6;
/// The load has begun by then.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// The fleet and its load.
#[derive(Debug)]
pub struct Trial {
    // Dropped before the fleet that they stand on.
    events: Option<Events>,
    people: People,
    load: Load,
    fleet: Fleet,
    /// Messages accepted in earlier trials, and texts shown.
    accepted: u64,
    shown: u64,
}

/// How faults were survived.
#[derive(Debug, Clone, Copy)]
pub struct Survival {
    /// From the end of the last fault until everybody was served and everything sent was accepted.
    pub recovered: Duration,
    /// From the last message until every device had it.
    pub level: Level,
    /// Messages accepted.
    pub accepted: u64,
    /// Messages that came to the device they were for.
    pub delivered: u64,
    /// Texts that the SDK has shown.
    pub shown: u64,
    /// Messages sent to a gateway that had no right to handle them.
    pub ghosts: u64,
}

/// People who write to one another: half of them wait where they are, half go elsewhere when they get no answer, and come back elsewhere when their device has
/// died. Of every six pairs one writes as fast as it may.
#[must_use]
pub fn manners(pairs: usize) -> Vec<Settings> {
    let person = |restless: bool| Settings {
        pause: Duration::from_millis(150),
        give_up: Duration::from_secs(120),
        patience: restless.then_some(Duration::from_secs(3)),
        restless: restless.then_some(Duration::from_secs(12)),
        ..Settings::new(4, 256)
    };
    let bot = |restless: bool| Settings { window: 16, pause: Duration::from_millis(20), ..person(restless) };
    (0..pairs).map(|n| if n % 6 == 5 { bot(n % 12 == 11) } else { person(n % 2 == 0) }).collect()
}

impl Trial {
    /// Starts the fleet and the load.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn start(options: &FleetOptions, manners: &[Settings]) -> anyhow::Result<Self> {
        let fleet = Fleet::start(options).await?;
        let load = Load::start_at(fleet.doors()?, manners).await?;
        let people = People::start(&fleet.origin(), manners.len().div_ceil(PAIRS_PER_TALK)).await?;
        let events = match &fleet.kafka {
            Some(kafka) => Some(Events::listen(kafka).await?),
            None => None,
        };
        load.accept_more(10 * manners.len() as u64, BEGUN_WITHIN).await?;
        Ok(Self { events, people, load, fleet, accepted: 0, shown: 0 })
    }

    /// The fleet.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// The load.
    #[must_use]
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// One fault, at once.
    ///
    /// # Errors
    /// As [`survive`](Self::survive).
    pub async fn survive_one(&mut self, fault: Fault, lasts: Duration) -> anyhow::Result<Survival> {
        self.survive(&[Timed::now(fault, lasts)], false).await.with_context(|| fault.to_string())
    }

    /// One fault, in the midst of which everybody falls silent.
    ///
    /// # Errors
    /// As [`survive`](Self::survive).
    pub async fn survive_in_silence(&mut self, fault: Fault, lasts: Duration) -> anyhow::Result<Survival> {
        self.survive(&[Timed::now(fault, lasts)], true).await.with_context(|| format!("{fault}, in silence"))
    }

    /// Lets all this go wrong and heals it. Then everybody is served again, nothing was lost, doubled, misplaced or left out on any device, and those that never
    /// reconnected have the last message, all within the times that are promised. `silent`: in the midst of it everybody falls silent, so that nothing comes
    /// behind the messages of that time that could tell of them.
    ///
    /// # Errors
    /// The first promise that was not kept.
    pub async fn survive(&mut self, faults: &[Timed], silent: bool) -> anyhow::Result<Survival> {
        pass(tokio::time::Instant::now() + UNDISTURBED, || self.load.is_well()).await?;
        let (before, ghosts) = (self.load.mark(), self.ghosts());
        let revoked = self.play(faults, silent).await?;
        let healed = Instant::now();
        let within = faults.iter().map(|timed| timed.fault.promise().after).sum();
        if !silent {
            self.all_served(within).await?;
        }
        self.people.write(false);
        self.load.quiet(within + ANSWERED).await?;
        let recovered = healed.elapsed();
        self.fleet.all_run()?;
        let level = self.load.level(&before, LAST_MESSAGE).await.context("the last message")?;
        let delivered = self.load.compare()?;
        let shown = self.people.heard(SHOWN).await.context("people who use the SDK")?;
        if let (Some(events), Some(revoked)) = (&self.events, revoked) {
            events.out(revoked).await?;
        }
        let accepted = self.load.accepted();
        let survival =
            Survival { recovered, level, accepted: accepted - self.accepted, delivered, shown: shown - self.shown, ghosts: self.ghosts() - ghosts };
        ensure!(survival.delivered == survival.accepted, "{} messages were accepted and {delivered} compared", survival.accepted);
        (self.accepted, self.shown) = (accepted, shown);
        self.load.resume();
        self.people.write(true);
        if silent {
            self.all_served(within).await?;
        }
        Ok(survival)
    }

    async fn all_served(&self, within: Duration) -> anyhow::Result<()> {
        self.load.all_served_since(&self.load.mark(), within).await.context("after everything was healed")
    }

    fn ghosts(&self) -> u64 {
        self.load.progress.ghosts.load(Ordering::Relaxed)
    }

    /// Everything that begins and ends, in its time. With Kafka a device is revoked when the first fault is there.
    async fn play(&mut self, faults: &[Timed], silent: bool) -> anyhow::Result<Option<JoinHandle<DeviceId>>> {
        let begun = tokio::time::Instant::now();
        let (mut watched, mut revoked) = (None, None);
        for (at, moment, timed) in moments(faults, silent) {
            self.until(begun + at, watched.as_mut()).await?;
            match moment {
                Moment::Begin => {
                    self.fleet.inject(&timed.fault).await.with_context(|| format!("cannot begin: {timed}"))?;
                    self.haunt(&timed, true);
                    if revoked.is_none() && self.events.is_some() {
                        revoked = Some(revoke(Rest::new(&self.fleet.origin())?));
                    }
                    // Of several at once none says what must go on meanwhile.
                    watched = (faults.len() == 1).then(|| Watched::new(timed.fault, self.load.mark()));
                }
                Moment::Hush => {
                    watched = None;
                    self.people.write(false);
                    self.load.hush();
                }
                Moment::End => {
                    self.haunt(&timed, false);
                    self.fleet.heal(&timed.fault).await.with_context(|| format!("cannot end: {timed}"))?;
                }
            }
        }
        Ok(revoked)
    }

    async fn until(&self, at: tokio::time::Instant, mut watched: Option<&mut Watched>) -> anyhow::Result<()> {
        pass(at, || {
            self.load.is_well()?;
            watched.as_mut().map_or(Ok(()), |watched| watched.look(&self.load))
        })
        .await
    }

    /// What is sent to a gateway that stands still for longer than its lease must never be handled.
    fn haunt(&self, timed: &Timed, haunted: bool) {
        if let Fault::Pause(Party::Gateway(n)) = timed.fault
            && timed.lasts > LEASE
        {
            self.load.doors().haunt(n, haunted);
        }
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { recovered, level, accepted, delivered, shown, ghosts } = self;
        write!(f, "served again after {:.1} s, level after {:.1} s ", recovered.as_secs_f64(), level.took.as_secs_f64())?;
        write!(f, "({} of {} devices never reconnected), accepted {accepted}, delivered {delivered}, shown {shown}", level.stayed, level.devices)?;
        if *ghosts > 0 {
            write!(f, ", {ghosts} ghosts ignored")?;
        }
        Ok(())
    }
}

/// What happens in a trial; at the same time in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begin,
    /// In the midst of the first fault.
    Hush,
    End,
}

fn moments(faults: &[Timed], silent: bool) -> Vec<(Duration, Moment, Timed)> {
    let ends = |timed: &Timed| [(timed.begins, Moment::Begin, *timed), (timed.begins + timed.lasts, Moment::End, *timed)];
    let first = faults.iter().min_by_key(|timed| timed.begins).filter(|_| silent);
    let hush = first.map(|timed| (timed.begins + timed.lasts / 2, Moment::Hush, *timed));
    let mut moments: Vec<_> = faults.iter().flat_map(ends).chain(hush).collect();
    moments.sort_by_key(|(at, moment, _)| (*at, *moment));
    moments
}

/// Whether devices are served while a fault lasts.
#[derive(Debug)]
struct Watched {
    fault: Fault,
    mark: Mark,
    since: Instant,
    served: bool,
}

impl Watched {
    fn new(fault: Fault, mark: Mark) -> Self {
        Self { fault, mark, since: Instant::now(), served: false }
    }

    fn look(&mut self, load: &Load) -> anyhow::Result<()> {
        let Some((within, everybody)) = self.fault.promise().meanwhile else { return Ok(()) };
        if self.served {
            return Ok(());
        }
        let (served, of) = load.served_since(&self.mark, !everybody);
        self.served = served == of;
        ensure!(self.served || self.since.elapsed() <= within, "{within:?} after it began {served} of {of} devices are served");
        Ok(())
    }
}
