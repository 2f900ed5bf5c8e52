//! Many pairs of peers at once, each pair writing to one another.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    doors::Doors,
    journal::{agree, agree_and_forget},
    peer::{Peer, Phase, Progress, Settings, Status},
    person::Person,
    wait,
};

/// The longest that everything sent may take to be accepted and delivered once sending has stopped.
const SETTLE_WITHIN: Duration = Duration::from_secs(90);

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    doors: Arc<Doors>,
    phase: watch::Sender<Phase>,
    /// How it goes.
    pub progress: Arc<Progress>,
    pairs: Vec<[Side; 2]>,
}

/// One peer, from outside.
#[derive(Debug)]
struct Side {
    task: JoinHandle<()>,
    status: Arc<Status>,
    settings: Settings,
}

/// How a load went.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Messages accepted and seen by both sides.
    pub messages: u64,
    /// Connections made.
    pub connections: u64,
    /// Deliveries of what was known.
    pub repeats: u64,
}

/// How all devices came to have everything.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// When the last one had.
    pub took: Duration,
    /// Devices that had one connection all the time, out of all.
    pub stayed: usize,
    /// Devices.
    pub devices: usize,
}

/// The state of a load at one moment, to be compared with a later one.
#[derive(Debug, Clone)]
pub struct Mark {
    accepted: Vec<u64>,
    connections: Vec<u64>,
}

impl Load {
    /// Registers the people of `pairs` pairs at one server and lets them write.
    ///
    /// # Errors
    /// If a registration fails.
    pub async fn start(origin: &str, pairs: usize, settings: Settings) -> anyhow::Result<Self> {
        Self::start_at(Doors::one(origin)?, &vec![settings; pairs]).await
    }

    /// The same at a service of several servers, one pair for each of the settings. People begin at one door after the other.
    ///
    /// # Errors
    /// If a registration fails.
    pub async fn start_at(doors: Doors, settings: &[Settings]) -> anyhow::Result<Self> {
        let mut load = Self { doors: Arc::new(doors), phase: watch::channel(Phase::Send).0, progress: Arc::default(), pairs: Vec::new() };
        for settings in settings {
            load.add(*settings).await?;
        }
        Ok(load)
    }

    /// Lets another two people, who have never written, write to one another.
    ///
    /// # Errors
    /// If a registration fails.
    pub async fn add(&mut self, settings: Settings) -> anyhow::Result<()> {
        let door = self.pairs.len();
        let left = Person::register_at(self.doors.rest(door), "left").await?;
        let right = Person::register_at(self.doors.rest(door + 1), "right").await?;
        let devices = (left.device_ref(), right.device_ref());
        let sides = [(left, devices.1, door), (right, devices.0, door + 1)].map(|(person, other, door)| {
            let place = (Arc::clone(&self.doors), door % self.doors.count());
            let peer = Peer::new(person, other, settings, place, self.phase.subscribe(), Arc::clone(&self.progress));
            let (status, progress) = (peer.status(), Arc::clone(&self.progress));
            let task = tokio::spawn(async move {
                if let Err(error) = peer.run().await {
                    progress.failure.lock().get_or_insert_with(|| format!("a peer of pair {door}: {error:#}"));
                }
            });
            Side { task, status, settings }
        });
        self.pairs.push(sides);
        Ok(())
    }

    /// Messages accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.progress.accepted.load(Ordering::Relaxed)
    }

    /// The doors, to mark one.
    #[must_use]
    pub fn doors(&self) -> &Doors {
        &self.doors
    }

    fn sides(&self) -> impl Iterator<Item = &Side> {
        self.pairs.iter().flatten()
    }

    /// Whether all peers are well.
    ///
    /// # Errors
    /// Why the first one failed.
    pub fn is_well(&self) -> anyhow::Result<()> {
        if let Some(failure) = self.progress.failure.lock().clone() {
            bail!(failure);
        }
        ensure!(self.sides().all(|side| !side.task.is_finished()), "a peer has ended");
        Ok(())
    }

    /// Waits until a condition holds for all peers that `concerned` picks.
    async fn until(&self, what: &str, within: Duration, holds: impl Fn() -> bool) -> anyhow::Result<()> {
        wait::until(what, within, async || match self.is_well() {
            Ok(()) => holds().then_some(Ok(())),
            failed => Some(failed),
        })
        .await?
    }

    /// Waits until `more` further messages were accepted.
    ///
    /// # Errors
    /// If that does not happen within `within`, or a peer has failed.
    pub async fn accept_more(&self, more: u64, within: Duration) -> anyhow::Result<()> {
        let wanted = self.accepted() + more;
        self.until(&format!("{more} more messages accepted"), within, || self.accepted() >= wanted).await
    }

    /// Remembers where everybody is.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            accepted: self.sides().map(|side| side.status.accepted.load(Ordering::SeqCst)).collect(),
            connections: self.sides().map(|side| side.status.connection.load(Ordering::SeqCst)).collect(),
        }
    }

    /// How many peers have had a message accepted that they sent after the mark, out of those who go elsewhere when they get no answer, or of all.
    #[must_use]
    pub fn served_since(&self, mark: &Mark, only_movers: bool) -> (usize, usize) {
        let concerned: Vec<_> = self.sides().zip(&mark.accepted).filter(|(side, _)| !only_movers || side.settings.patience.is_some()).collect();
        // As many as fit into the window may have been sent before.
        let served = |(side, before): &&(&Side, &u64)| side.status.accepted.load(Ordering::SeqCst) > **before + side.settings.window as u64;
        (concerned.iter().filter(served).count(), concerned.len())
    }

    /// Waits until everybody has had a message accepted that was sent after the mark.
    ///
    /// # Errors
    /// If somebody has not within `within`, or a peer has failed.
    pub async fn all_served_since(&self, mark: &Mark, within: Duration) -> anyhow::Result<()> {
        let all = |(served, of)| served == of;
        let waited = self.until("everybody is served", within, || all(self.served_since(mark, false))).await;
        waited.with_context(|| format!("{:?} of all peers are served", self.served_since(mark, false)))
    }

    /// Stops sending.
    pub fn hush(&self) {
        self.phase.send_replace(Phase::Settle);
    }

    /// Stops sending and waits until everything sent was accepted.
    ///
    /// # Errors
    /// If something is not within `within`, or a peer has failed.
    pub async fn quiet(&self, within: Duration) -> anyhow::Result<()> {
        self.hush();
        self.until("an answer to everything sent", within, || self.sides().all(|side| side.status.settled.load(Ordering::SeqCst))).await
    }

    /// After [`quiet`](Self::quiet): waits until every device has everything, of which it is told nothing. Counts those that have not reconnected since the mark.
    ///
    /// # Errors
    /// If a device has not within `within`, or a peer has failed.
    pub async fn level(&self, mark: &Mark, within: Duration) -> anyhow::Result<Level> {
        let begun = Instant::now();
        let behind = || self.pairs.iter().filter(|pair| !is_level(pair)).count();
        self.until("every device has everything", within, || behind() == 0)
            .await
            .with_context(|| format!("pairs behind: {:?}", self.pairs.iter().filter(|pair| !is_level(pair)).map(places).collect::<Vec<_>>()))?;
        let stayed = self.sides().zip(&mark.connections).filter(|(side, before)| side.status.connection.load(Ordering::SeqCst) == **before).count();
        Ok(Level { took: begun.elapsed(), stayed, devices: 2 * self.pairs.len() })
    }

    /// After [`level`](Self::level): compares what the two of each pair saw, and forgets it. Returns how many messages were compared.
    ///
    /// # Errors
    /// If anything was lost, doubled or misplaced.
    pub fn compare(&self) -> anyhow::Result<u64> {
        let compared = self.pairs.iter().enumerate().map(|(n, [left, right])| {
            let sent = (left.status.made.load(Ordering::SeqCst), right.status.made.load(Ordering::SeqCst));
            agree_and_forget(&mut left.status.journal.lock(), &mut right.status.journal.lock(), sent).with_context(|| format!("pair {n}"))
        });
        compared.sum()
    }

    /// Sends again, after [`quiet`](Self::quiet).
    pub fn resume(&self) {
        self.phase.send_replace(Phase::Send);
    }

    /// Stops sending, waits until everything is accepted and delivered, and compares what the two of each pair saw.
    ///
    /// # Errors
    /// If anything was lost, doubled or misplaced.
    pub async fn settle(self) -> anyhow::Result<Outcome> {
        self.quiet(SETTLE_WITHIN).await?;
        self.phase.send_replace(Phase::Finish);
        let mut outcome = Outcome { messages: 0, connections: self.progress.connections.load(Ordering::Relaxed), repeats: 0 };
        for sides in self.pairs {
            let statuses = sides.each_ref().map(|side| Arc::clone(&side.status));
            for side in sides {
                wait::within("a peer's end", SETTLE_WITHIN, side.task).await?.context("a peer panicked")?;
            }
            if let Some(failure) = self.progress.failure.lock().clone() {
                bail!(failure);
            }
            let [left, right] = statuses;
            let sent = (left.made.load(Ordering::SeqCst), right.made.load(Ordering::SeqCst));
            let (left, right) = (left.journal.lock(), right.journal.lock());
            agree(&left, &right, sent)?;
            outcome.messages += sent.0 + sent.1;
            outcome.repeats += left.repeats + right.repeats;
        }
        Ok(outcome)
    }
}

/// Both devices have everything that either knows of. What was accepted is known to its sender.
fn is_level([left, right]: &[Side; 2]) -> bool {
    let (left, right) = (left.status.journal.lock(), right.status.journal.lock());
    let head = left.head().max(right.head());
    left.contiguous() == head && right.contiguous() == head
}

/// For messages: up to where the two have everything, and the highest place known.
fn places([left, right]: &[Side; 2]) -> (u64, u64, u64) {
    let (left, right) = (left.status.journal.lock(), right.status.journal.lock());
    (left.contiguous(), right.contiguous(), left.head().max(right.head()))
}
