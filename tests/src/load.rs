//! Many pairs of peers at once, each pair writing to one another.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    journal::{Journal, agree},
    peer::{Peer, Phase, Progress, Settings},
    person::Person,
    wait,
};

/// The longest that everything sent may take to be accepted and delivered once sending has stopped.
const SETTLE_WITHIN: Duration = Duration::from_secs(90);

type Running = JoinHandle<anyhow::Result<(Journal, u64)>>;

/// A load that is running.
#[derive(Debug)]
pub struct Load {
    phase: watch::Sender<Phase>,
    /// How it goes.
    pub progress: Arc<Progress>,
    pairs: Vec<(Running, Running)>,
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

impl Load {
    /// Registers the people of `pairs` pairs and lets them write.
    ///
    /// # Errors
    /// If a registration fails.
    pub async fn start(origin: &str, pairs: usize, settings: Settings) -> anyhow::Result<Self> {
        let (phase, seen) = watch::channel(Phase::Send);
        let progress = Arc::new(Progress::default());
        let mut people = Vec::with_capacity(pairs);
        for _ in 0..pairs {
            people.push((Person::register(origin, "left").await?, Person::register(origin, "right").await?));
        }
        let start = |person, other| tokio::spawn(Peer::new(person, other, settings, seen.clone(), Arc::clone(&progress)).run());
        let pairs = people
            .into_iter()
            .map(|(left, right)| {
                let (left_device, right_device) = (left.device_ref(), right.device_ref());
                (start(left, right_device), start(right, left_device))
            })
            .collect();
        Ok(Self { phase, progress, pairs })
    }

    /// Messages accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.progress.accepted.load(Ordering::Relaxed)
    }

    /// Waits until `more` further messages were accepted.
    ///
    /// # Errors
    /// If that does not happen within `within`, or a peer has failed.
    pub async fn accept_more(&self, more: u64, within: Duration) -> anyhow::Result<()> {
        let wanted = self.accepted() + more;
        let failed = || self.pairs.iter().any(|(left, right)| left.is_finished() || right.is_finished());
        wait::until(&format!("{more} more messages accepted"), within, async || (self.accepted() >= wanted || failed()).then_some(())).await?;
        ensure!(!failed(), "a peer has failed; settle the load to learn how");
        Ok(())
    }

    /// Stops sending, waits until everything is accepted and delivered, and compares what the two of each pair saw.
    ///
    /// # Errors
    /// If anything was lost, doubled or misplaced.
    pub async fn settle(self) -> anyhow::Result<Outcome> {
        self.phase.send_replace(Phase::Settle);
        let (peers, progress) = (2 * self.pairs.len(), &self.progress);
        let done =
            || progress.settled.load(Ordering::Relaxed) == peers || self.pairs.iter().any(|(left, right)| left.is_finished() || right.is_finished());
        wait::until("an answer to everything sent", SETTLE_WITHIN, async || done().then_some(())).await?;
        self.phase.send_replace(Phase::Finish);
        let mut outcome = Outcome { messages: 0, connections: progress.connections.load(Ordering::Relaxed), repeats: 0 };
        for (left, right) in self.pairs {
            let ((left, left_sent), (right, right_sent)) = (finished(left).await?, finished(right).await?);
            agree(&left, &right, (left_sent, right_sent))?;
            outcome.messages += left_sent + right_sent;
            outcome.repeats += left.repeats + right.repeats;
        }
        Ok(outcome)
    }
}

async fn finished(peer: Running) -> anyhow::Result<(Journal, u64)> {
    wait::within("a peer's end", SETTLE_WITHIN, peer).await?.context("a peer panicked")?
}
