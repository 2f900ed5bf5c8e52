//! `kith bench direct`: pairs of people, one writing, one reading.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::bail;
use clap::{Args, value_parser};
use kith_meter::{Faults, Percentiles};
use kith_proto::id::ConversationId;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    LOST_AFTER,
    api::Account,
    crowd,
    inbox::Inbox,
    outbox::{MIN_BODY, Outbox},
    pacer::Pacer,
    participant::Participant,
    peer::{Peer, Shared},
    progress::Progress,
    report::{self, Outcome},
    target::{Cpu, Target},
};
use crate::process;

/// In an open loop no connection has more than this unanswered; what is due beyond waits, and its latency counts from when it was due.
const OPEN_LOOP_WINDOW: usize = 64;

#[derive(Debug, Args)]
pub(super) struct DirectArgs {
    /// Pairs of accounts; in each, one sends to the other
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..=9_000))]
    pairs: u32,
    /// Closed loop: unanswered messages that each sender keeps under way
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u16).range(1..=1_000), conflicts_with = "rate")]
    window: u16,
    /// Open loop: messages per second over all pairs, whatever the server does
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Bytes of each message's body
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(MIN_BODY as i64..=32_768))]
    size: u32,
    /// How long to measure
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// How long to run before measuring
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(0..=60))]
    warm_up: u32,
    /// Let each reader write once first, so that ticks flow back to the senders
    #[arg(long)]
    receipts: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    pairs: u32,
    window: Option<u16>,
    rate: Option<f64>,
    size: u32,
    seconds: f64,
    receipts: bool,
    delivered_per_s: f64,
    accepted_per_s: f64,
    accepted_us: Percentiles,
    delivered_us: Percentiles,
    server_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postgres_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redis_cpu_us_per_message: Option<f64>,
    generator_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postgres_huge_pages: Option<bool>,
    messages: u64,
    lost: u64,
    duplicated: u64,
    misordered: u64,
    unanswered: u64,
    refused: u64,
    repeated_on_the_wire: u64,
}

/// The senders and readers, all connected.
struct Pairs {
    senders: Vec<Peer>,
    readers: Vec<Peer>,
    conversations: Vec<ConversationId>,
    shared: Rc<Shared>,
}

/// What the machine did while the window was open.
struct Measured {
    seconds: f64,
    server: Cpu,
    own_cpu: Option<Duration>,
    postgres_huge_pages: Option<bool>,
}

/// Runs the bench.
///
/// # Errors
/// If it cannot be completed.
pub(super) async fn run(args: &DirectArgs, target: &Target, run: &str, progress: Progress) -> anyhow::Result<Outcome> {
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1_000_000.0)) {
        bail!("--rate must be above 0 and at most 1,000,000");
    }
    let pairs = set_up(args, target, run, progress).await?;
    if args.receipts {
        introduce(&pairs).await?;
    }
    let measured = measure(args, target, &pairs, progress).await?;
    progress.say("waiting for what is under way");
    settle(&pairs).await?;
    report(args, &pairs, &measured)
}

async fn set_up(args: &DirectArgs, target: &Target, run: &str, progress: Progress) -> anyhow::Result<Pairs> {
    let count = args.pairs as usize;
    let mut accounts = crowd::register(&target.api, run, 2 * count, &progress).await?;
    let shared = Shared::new();
    let refs: Vec<_> = accounts.iter().map(|account| account.device).collect();
    let conversations: Vec<_> = (0..count).map(|n| ConversationId::direct(refs[n].account, refs[count + n].account)).collect();
    let window = if args.rate.is_some() { OPEN_LOOP_WINDOW } else { args.window.into() };
    let participant = |n: usize, account: &Account| {
        let (pair, peer) = if n < count { (n, refs[count + n]) } else { (n - count, refs[n - count]) };
        let outbox = Outbox::new(conversations[pair], peer, args.size as usize, window, rand::random(), shared.epoch);
        Participant::new(account.device.account, shared.epoch, Some(outbox))
    };
    // Sender and reader of a pair are on different gateways, if there is more than one.
    let endpoint = |n: usize| target.endpoint(if n < count { n } else { n - count + 1 });
    let mut senders = crowd::connect_all(endpoint, &mut accounts, &shared, &progress, participant).await?;
    let readers = senders.split_off(count);
    Ok(Pairs { senders, readers, conversations, shared })
}

/// Each reader writes once, so that both have sent.
async fn introduce(pairs: &Pairs) -> anyhow::Result<()> {
    pairs.readers.iter().for_each(|reader| keep_full(reader, 1));
    let arrived = || pairs.senders.iter().all(|sender| sender.look(|p| p.taken() == 1 && p.is_acknowledged()));
    if !pairs.shared.wait(LOST_AFTER, arrived).await? {
        bail!("the first messages did not arrive");
    }
    Ok(())
}

fn keep_full(peer: &Peer, messages: u64) {
    peer.change(|participant| {
        if let Some(outbox) = &mut participant.outbox {
            outbox.keep_full(messages);
        }
    });
}

async fn measure(args: &DirectArgs, target: &Target, pairs: &Pairs, progress: Progress) -> anyhow::Result<Measured> {
    let Some(rate) = args.rate else {
        pairs.senders.iter().for_each(|sender| keep_full(sender, u64::MAX));
        return window(args, target, pairs, progress).await;
    };
    let start = Instant::now();
    let pacer = Pacer::start(rate, start);
    tokio::select! {
        measured = window(args, target, pairs, progress) => measured,
        () = pacer.offer(&pairs.senders) => bail!("the pacer ended"),
    }
}

async fn window(args: &DirectArgs, target: &Target, pairs: &Pairs, progress: Progress) -> anyhow::Result<Measured> {
    progress.say("warming up");
    sleep(Duration::from_secs(args.warm_up.into())).await;
    pairs.shared.check()?;
    progress.say("measuring");
    let own = || process::cpu_time(std::process::id()).ok();
    let (server_before, own_before, start) = (target.cpu()?, own(), Instant::now());
    let length = Duration::from_secs(args.seconds.into());
    pairs.shared.meter.borrow_mut().open(start, 10 * length);
    sleep(length).await;
    let (server_after, own_after, end) = (target.cpu()?, own(), Instant::now());
    pairs.shared.meter.borrow_mut().close(end);
    for sender in &pairs.senders {
        sender.change(|participant| participant.outbox.iter_mut().for_each(Outbox::stop));
    }
    let between = |before: Option<Duration>, after: Option<Duration>| Some(after?.saturating_sub(before?));
    Ok(Measured {
        seconds: (end - start).as_secs_f64(),
        server: server_after.since(server_before),
        own_cpu: between(own_before, own_after),
        postgres_huge_pages: target.postgres_has_huge_pages(),
    })
}

/// Waits until everything accepted has been delivered and acknowledged, or can be called lost.
async fn settle(pairs: &Pairs) -> anyhow::Result<()> {
    let settled = || {
        let sent = |sender: &Peer| sender.look(|p| p.is_acknowledged() && p.outbox.as_ref().is_none_or(Outbox::is_settled));
        let received =
            |(sender, reader): (&Peer, &Peer)| reader.look(Participant::taken) >= accepted(sender) && reader.look(Participant::is_acknowledged);
        pairs.senders.iter().all(sent) && pairs.senders.iter().zip(&pairs.readers).all(received)
    };
    pairs.shared.wait(LOST_AFTER, settled).await?;
    Ok(())
}

fn accepted(sender: &Peer) -> u64 {
    sender.look(|p| p.outbox.as_ref().map_or(0, Outbox::accepted))
}

fn report(args: &DirectArgs, pairs: &Pairs, measured: &Measured) -> anyhow::Result<Outcome> {
    let mut broken = Faults::default();
    let (mut messages, mut unanswered, mut refused, mut repeats) = (0, 0, 0, 0);
    let nothing = Inbox::default();
    for ((sender, reader), conversation) in pairs.senders.iter().zip(&pairs.readers).zip(&pairs.conversations) {
        messages += accepted(sender);
        let (open, refusals) = sender.look(|p| p.outbox.as_ref().map_or((0, 0), |outbox| (outbox.unresolved(), outbox.refusals())));
        (unanswered, refused) = (unanswered + open, refused + refusals);
        reader.look(|p| {
            let inbox = p.inbox(*conversation).unwrap_or(&nothing);
            broken.add(inbox.faults(accepted(sender)));
            repeats += inbox.repeats();
        });
    }
    let meter = pairs.shared.meter.borrow();
    let per_message = |cpu: Option<Duration>| cpu.map(|cpu| report::round(report::ratio(cpu.as_secs_f64() * 1e6, meter.delivered), 2));
    let figures = Figures {
        bench: "direct",
        pairs: args.pairs,
        window: args.rate.is_none().then_some(args.window),
        rate: args.rate,
        size: args.size,
        seconds: report::round(measured.seconds, 3),
        receipts: args.receipts,
        delivered_per_s: report::per_second(meter.delivered, measured.seconds),
        accepted_per_s: report::per_second(meter.accepted, measured.seconds),
        accepted_us: meter.accepted_latencies.percentiles(),
        delivered_us: meter.delivered_latencies.percentiles(),
        server_cpu_us_per_message: per_message(measured.server.server),
        postgres_cpu_us_per_message: per_message(measured.server.postgres),
        redis_cpu_us_per_message: per_message(measured.server.redis),
        generator_cpu_us_per_message: per_message(measured.own_cpu),
        postgres_huge_pages: measured.postgres_huge_pages,
        messages,
        lost: broken.lost,
        duplicated: broken.duplicated,
        misordered: broken.misordered,
        unanswered,
        refused,
        repeated_on_the_wire: repeats,
    };
    Outcome::new(title(args), rows(&figures), &figures, broken.none() && unanswered == 0)
}

fn title(args: &DirectArgs) -> String {
    let load = args.rate.map_or_else(|| format!("window {}", args.window), |rate| format!("{rate} messages/s offered"));
    let receipts = if args.receipts { ", ticks flowing back" } else { "" };
    format!("direct: {} pairs, {load}, {} bytes, {} s{receipts}", args.pairs, args.size, args.seconds)
}

fn rows(figures: &Figures) -> report::Rows {
    let cpu = |us: Option<f64>| us.map_or_else(|| "unknown (give --server-pid)".to_owned(), |us| format!("{us} us per message"));
    let broken = Faults { lost: figures.lost, duplicated: figures.duplicated, misordered: figures.misordered };
    let mut rows = vec![
        ("delivered", format!("{} per second", report::count(report::whole(figures.delivered_per_s)))),
        ("accepted", format!("{} per second", report::count(report::whole(figures.accepted_per_s)))),
        ("until accepted", report::latency(figures.accepted_us)),
        ("until delivered", report::latency(figures.delivered_us)),
        ("server CPU", cpu(figures.server_cpu_us_per_message)),
        ("generator CPU", cpu(figures.generator_cpu_us_per_message)),
    ];
    let services = [("PostgreSQL CPU", figures.postgres_cpu_us_per_message), ("Redis CPU", figures.redis_cpu_us_per_message)];
    rows.extend(services.into_iter().filter(|(_, us)| us.is_some()).map(|(name, us)| (name, cpu(us))));
    rows.extend(figures.postgres_huge_pages.map(|yes| ("PostgreSQL's memory", if yes { "in huge pages" } else { "in pages of 4 KiB" }.to_owned())));
    rows.extend([
        ("messages in all", report::count(figures.messages)),
        ("lost / duplicated / misordered", report::faults(broken)),
        ("unanswered / refused / repeated", format!("{} / {} / {}", figures.unanswered, figures.refused, figures.repeated_on_the_wire)),
    ]);
    rows
}
