//! `kith bench storm`: a gateway is killed under load, and all its devices come back elsewhere at once.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::{Args, value_parser};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use kith_meter::{Faults, Percentiles};
use kith_proto::id::ConversationId;
use rand::RngExt as _;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    LOST_AFTER,
    api::Account,
    crowd,
    inbox::Inbox,
    link::{Endpoint, Link, LinkError},
    outbox::Outbox,
    pacer::Pacer,
    participant::Participant,
    peer::{Peer, PeerError, Shared},
    progress::Progress,
    report::{self, Outcome},
    target::Target,
};
use crate::process;

/// Files that the generator needs besides its connections.
const SPARE_FILES: u64 = 200;
const BODY_BYTES: usize = 256;
/// Unanswered messages of one connection.
const WINDOW: usize = 64;
/// Connects under way at one time while the run is prepared.
const AT_ONCE: usize = 64;
/// A device comes back after a random moment in the second half of this, which doubles with every attempt that fails: what the SDK does.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Attempts of one device.
const ATTEMPTS: u32 = 12;
/// The gateway that dies.
const VICTIM: usize = 0;
/// How long traffic goes on when all are back.
const AFTERWARDS: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct StormArgs {
    /// Connections over all gateways, each of an account of its own
    #[arg(long, default_value_t = 15_000, value_parser = value_parser!(u32).range(4..=1_000_000))]
    connections: u32,
    /// Messages per second over all pairs, before, during and after
    #[arg(long, default_value_t = 500.0, value_name = "PER_SECOND")]
    rate: f64,
    /// How long messages flow before the gateway dies
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=60))]
    before: u32,
}

#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    gateways: usize,
    connections: usize,
    rate: f64,
    cut_off: usize,
    recovered_ms: f64,
    recovered_p50_ms: f64,
    attempts: u64,
    delivered_us: Percentiles,
    messages: u64,
    lost: u64,
    duplicated: u64,
    misordered: u64,
    unanswered: u64,
}

/// The way back of one device.
struct Return {
    n: usize,
    endpoints: Rc<[Endpoint]>,
    token: String,
    epoch: u64,
    shared: Rc<Shared>,
    attempts: Rc<Cell<u64>>,
}

impl Return {
    /// To the other gateways in turn, at random moments.
    async fn connect(&mut self, lost: PeerError) -> Result<Link, PeerError> {
        let PeerError::Link(mut error) = lost else { return Err(lost) };
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            sleep(rand::rng().random_range(pause / 2..=pause)).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
            self.attempts.set(self.attempts.get() + 1);
            match self.try_once(attempt as usize).await {
                Ok(link) => return Ok(link),
                Err(next) => error = next,
            }
        }
        Err(error.into())
    }

    async fn try_once(&mut self, attempt: usize) -> Result<Link, LinkError> {
        self.epoch += 1;
        let endpoint = &self.endpoints[(self.n + attempt) % self.endpoints.len()];
        let mut link = Link::open(endpoint, self.n).await?;
        link.hello(&self.token, self.epoch, &self.shared.scratch).await?;
        Ok(link)
    }
}

/// Everybody, connected.
struct Crowd {
    peers: Vec<Peer>,
    accounts: Vec<Account>,
    shared: Rc<Shared>,
    attempts: Rc<Cell<u64>>,
}

/// Runs the bench.
///
/// # Errors
/// If it cannot be completed.
pub(super) async fn run(args: &StormArgs, target: &mut Target, run: &str, progress: Progress) -> anyhow::Result<Outcome> {
    let gateways = target.endpoints().len();
    ensure!(gateways >= 2, "a storm needs --spawn-cluster and at least --gateways 2: somebody must survive");
    ensure!(args.rate > 0.0 && args.rate <= 1_000_000.0, "--rate must be above 0 and at most 1,000,000");
    let count = args.connections as usize & !1;
    if process::raise_open_files() < count as u64 + SPARE_FILES {
        bail!("{count} connections need more open files than this process may have (ulimit -Hn)");
    }
    let crowd = gather(count, target, run, progress).await?;
    let start = Instant::now();
    let pacer = Pacer::start(args.rate, start);
    let cut_off: Vec<&Peer> = crowd.peers.iter().enumerate().filter(|(n, _)| n % gateways == VICTIM).map(|(_, peer)| peer).collect();
    let storm = storm(args, target, &crowd, &cut_off, progress);
    let returned = tokio::select! {
        returned = storm => returned?,
        () = pacer.offer(&crowd.peers) => bail!("the pacer ended"),
    };
    drop(pacer);
    progress.say("waiting for what is under way");
    settle(&crowd).await?;
    report(args, gateways, &crowd, &returned)
}

async fn gather(count: usize, target: &Target, run: &str, progress: Progress) -> anyhow::Result<Crowd> {
    let mut accounts = crowd::register(&target.api, run, count, &progress).await?;
    let shared = Shared::new();
    let refs: Vec<_> = accounts.iter().map(|account| account.device).collect();
    let endpoints: Rc<[Endpoint]> = target.endpoints().into();
    let attempts = Rc::new(Cell::new(0));
    let step = progress.step("connecting", count);
    let peers = stream::iter(accounts.iter_mut().enumerate()).map(|(n, account)| {
        let (step, endpoints, shared, attempts, refs) = (&step, &endpoints, &shared, &attempts, &refs);
        async move {
            let (link, welcome) = crowd::connect(&endpoints[n % endpoints.len()], n, account, shared).await?;
            let peer = refs[n ^ 1];
            let conversation = ConversationId::direct(account.device.account, peer.account);
            let outbox = Outbox::new(conversation, peer, BODY_BYTES, WINDOW, rand::random(), shared.epoch);
            let participant = Participant::new(account.device.account, shared.epoch, Some(outbox));
            crowd::fits(&participant, &welcome)?;
            let mut back = Return {
                n,
                endpoints: Rc::clone(endpoints),
                token: account.token.clone(),
                epoch: account.epoch,
                shared: Rc::clone(shared),
                attempts: Rc::clone(attempts),
            };
            step.one_more();
            anyhow::Ok(Peer::start_with(link, participant, Rc::clone(shared), async move |error| back.connect(error).await))
        }
    });
    let peers = peers.buffered(AT_ONCE).try_collect().await?;
    Ok(Crowd { peers, accounts, shared, attempts })
}

/// Kills the gateway; returns how long each of its devices was away, in ascending order.
async fn storm(args: &StormArgs, target: &mut Target, crowd: &Crowd, cut_off: &[&Peer], progress: Progress) -> anyhow::Result<Vec<Duration>> {
    progress.say("messages flow");
    sleep(Duration::from_secs(args.before.into())).await;
    crowd.shared.check()?;
    progress.say("a gateway is killed");
    let died = Instant::now();
    crowd.shared.meter.borrow_mut().open(died, 10 * LOST_AFTER);
    target.kill(VICTIM).await?;
    let back = |peer: &&Peer| peer.look(|p| p.caught_up.filter(|at| *at > died));
    if !crowd.shared.wait(LOST_AFTER, || cut_off.iter().all(|peer| back(peer).is_some())).await? {
        let missing = cut_off.iter().filter(|peer| back(peer).is_none()).count();
        bail!("{missing} of {} devices did not come back", cut_off.len());
    }
    let mut away: Vec<_> = cut_off.iter().filter_map(back).map(|at| at - died).collect();
    away.sort_unstable();
    sleep(AFTERWARDS).await;
    crowd.peers.iter().for_each(|peer| peer.change(|p| p.outbox.iter_mut().for_each(Outbox::stop)));
    Ok(away)
}

async fn settle(crowd: &Crowd) -> anyhow::Result<()> {
    let settled = || {
        let sent = crowd.peers.iter().all(|peer| peer.look(|p| p.is_acknowledged() && p.outbox.as_ref().is_none_or(Outbox::is_settled)));
        sent && crowd.peers.iter().enumerate().all(|(n, peer)| peer.look(Participant::taken) >= accepted(&crowd.peers[n ^ 1]))
    };
    crowd.shared.wait(LOST_AFTER, settled).await?;
    Ok(())
}

fn accepted(peer: &Peer) -> u64 {
    peer.look(|p| p.outbox.as_ref().map_or(0, Outbox::accepted))
}

fn report(args: &StormArgs, gateways: usize, crowd: &Crowd, away: &[Duration]) -> anyhow::Result<Outcome> {
    let (mut broken, mut messages, mut unanswered) = (Faults::default(), 0, 0);
    let nothing = Inbox::default();
    for (n, peer) in crowd.peers.iter().enumerate() {
        let conversation = ConversationId::direct(crowd.accounts[n].device.account, crowd.accounts[n ^ 1].device.account);
        let sent = accepted(&crowd.peers[n ^ 1]);
        messages += sent;
        unanswered += peer.look(|p| p.outbox.as_ref().map_or(0, Outbox::unresolved));
        peer.look(|p| broken.add(p.inbox(conversation).unwrap_or(&nothing).faults(sent)));
    }
    let ms = |duration: Option<&Duration>| report::round(duration.copied().unwrap_or_default().as_secs_f64() * 1e3, 1);
    let figures = Figures {
        bench: "storm",
        gateways,
        connections: crowd.peers.len(),
        rate: args.rate,
        cut_off: away.len(),
        recovered_ms: ms(away.last()),
        recovered_p50_ms: ms(away.get(away.len() / 2)),
        attempts: crowd.attempts.get(),
        delivered_us: crowd.shared.meter.borrow().delivered_latencies.percentiles(),
        messages,
        lost: broken.lost,
        duplicated: broken.duplicated,
        misordered: broken.misordered,
        unanswered,
    };
    let title = format!("storm: {} connections on {gateways} gateways, {} messages/s, one gateway is killed", figures.connections, args.rate);
    Outcome::new(title, rows(&figures), &figures, broken.none() && unanswered == 0)
}

fn rows(figures: &Figures) -> report::Rows {
    let broken = Faults { lost: figures.lost, duplicated: figures.duplicated, misordered: figures.misordered };
    vec![
        (
            "all back elsewhere, nothing missing",
            format!("{:.0} ms after the kill (half of them after {:.0})", figures.recovered_ms, figures.recovered_p50_ms),
        ),
        ("devices cut off / connects tried", format!("{} / {}", report::count(figures.cut_off as u64), report::count(figures.attempts))),
        ("until delivered, from the kill on", report::latency(figures.delivered_us)),
        ("messages in all", report::count(figures.messages)),
        ("lost / duplicated / misordered", report::faults(broken)),
        ("unanswered", figures.unanswered.to_string()),
    ]
}
