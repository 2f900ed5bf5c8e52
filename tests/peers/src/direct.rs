//! `peers direct`: pairs of users, one writing, one reading; the same load as `kith bench direct`.
//!
//! *Accepted* is the server's acknowledgement to the sender (XEP-0198): by then the sender's copy is in the archive. *Delivered* is the reader's
//! acknowledgement to the server, written after the message has come: by then both copies are. The sender's window is what the server has not acknowledged.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use clap::{Args, value_parser};
use kith_meter::{Faults, Percentiles};
use serde::Serialize;
use tokio::time::sleep;

use crate::{
    client::{Client, Shared},
    ejabberd::{HOST, PASSWORD, name},
    measures::{Cpu, Servers, microseconds_each, per_second, round},
    outbox::Outbox,
    pacer,
    xmpp::BODY_HEAD,
};

/// As `kith bench` has it.
const LOST_AFTER: Duration = Duration::from_secs(45);
/// In an open loop no connection has more than this unanswered; what is due beyond waits, and its latency counts from when it was due.
const OPEN_LOOP_WINDOW: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct DirectArgs {
    /// Pairs of users; in each, one sends to the other
    #[arg(long, default_value_t = 500, value_parser = value_parser!(u32).range(1..=9_000))]
    pairs: u32,
    /// Closed loop: unanswered messages that each sender keeps under way
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u16).range(1..=1_000), conflicts_with = "rate")]
    window: u16,
    /// Open loop: messages per second over all pairs, whatever the server does
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Bytes of each message's body
    #[arg(long, default_value_t = 256, value_parser = value_parser!(u32).range(BODY_HEAD as i64..=32_768))]
    size: u32,
    /// How long to measure
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// How long to run before measuring
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(0..=60))]
    warm_up: u32,
    /// ejabberd's connections to PostgreSQL (10 if nobody configures it)
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u16).range(1..=180))]
    sql_pool: u16,
}

#[derive(Debug, Serialize)]
struct Figures<'a> {
    bench: &'static str,
    server: &'a str,
    sql_pool: u16,
    pairs: u32,
    window: Option<u16>,
    rate: Option<f64>,
    size: u32,
    seconds: f64,
    delivered_per_s: f64,
    accepted_per_s: f64,
    accepted_us: Percentiles,
    delivered_us: Percentiles,
    server_cpu_us_per_message: f64,
    postgres_cpu_us_per_message: f64,
    generator_cpu_us_per_message: f64,
    messages: u64,
    lost: u64,
    duplicated: u64,
    misordered: u64,
    unanswered: u64,
    /// Two for each message: the sender's and the reader's.
    archived_rows: u64,
    archive_missing: u64,
}

/// The users, all logged in.
struct Pairs {
    senders: Vec<Client>,
    readers: Vec<Client>,
    shared: Rc<Shared>,
}

/// What the machine did while the window was open.
struct Measured {
    seconds: f64,
    cpu: Cpu,
}

/// Runs the bench and prints its JSON line. The exit status is 0 only if nothing was lost, doubled, misordered or missing from the archive.
///
/// # Errors
/// If it cannot be completed.
pub(crate) async fn run(args: &DirectArgs) -> anyhow::Result<ExitCode> {
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1_000_000.0)) {
        bail!("--rate must be above 0 and at most 1,000,000");
    }
    let servers = Servers::start(2 * args.pairs as usize, args.sql_pool).await?;
    let pairs = log_in(args, &servers).await?;
    let measured = measure(args, &servers, &pairs).await?;
    settle(&pairs).await?;
    let figures = figures(args, &servers, &pairs, &measured)?;
    writeln!(stdout().lock(), "{}", serde_json::to_string(&figures)?)?;
    let kept = figures.lost + figures.duplicated + figures.misordered + figures.unanswered + figures.archive_missing == 0;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn log_in(args: &DirectArgs, servers: &Servers) -> anyhow::Result<Pairs> {
    let count = args.pairs as usize;
    let names: Vec<_> = (0..2 * count).map(name).collect();
    let window = if args.rate.is_some() { OPEN_LOOP_WINDOW } else { args.window.into() };
    let shared = Shared::new();
    let outbox = |n: usize| {
        let peer = &names[(n + count) % (2 * count)];
        Outbox::new(format!("{peer}@{HOST}"), args.size as usize, window, shared.epoch)
    };
    let mut senders = Client::start_all(servers.ejabberd.address(), HOST, &names, PASSWORD, outbox, &shared).await?;
    let readers = senders.split_off(count);
    Ok(Pairs { senders, readers, shared })
}

async fn measure(args: &DirectArgs, servers: &Servers, pairs: &Pairs) -> anyhow::Result<Measured> {
    let Some(rate) = args.rate else {
        pairs.senders.iter().for_each(|sender| sender.change(|outbox| outbox.keep_full(u64::MAX)));
        return window(args, servers, pairs).await;
    };
    tokio::select! {
        measured = window(args, servers, pairs) => measured,
        () = pacer::offer(rate, &pairs.senders) => bail!("the pacer ended"),
    }
}

async fn window(args: &DirectArgs, servers: &Servers, pairs: &Pairs) -> anyhow::Result<Measured> {
    sleep(Duration::from_secs(args.warm_up.into())).await;
    pairs.shared.check()?;
    let length = Duration::from_secs(args.seconds.into());
    let (before, start) = (servers.cpu()?, Instant::now());
    pairs.shared.meter.borrow_mut().open(start, 10 * length);
    sleep(length).await;
    let (after, end) = (servers.cpu()?, Instant::now());
    pairs.shared.meter.borrow_mut().close(end);
    pairs.senders.iter().for_each(|sender| sender.change(Outbox::stop));
    Ok(Measured { seconds: (end - start).as_secs_f64(), cpu: after.since(before) })
}

/// Waits until everything accepted has been delivered, or can be called lost.
async fn settle(pairs: &Pairs) -> anyhow::Result<()> {
    let settled = |(sender, reader): (&Client, &Client)| {
        let (unanswered, accepted) = sender.look(|outbox, _| (outbox.unanswered(), outbox.accepted()));
        unanswered == 0 && reader.look(|_, inbox| inbox.taken()) >= accepted
    };
    pairs.shared.wait(LOST_AFTER, || pairs.senders.iter().zip(&pairs.readers).all(settled)).await?;
    Ok(())
}

fn figures<'a>(args: &DirectArgs, servers: &'a Servers, pairs: &Pairs, measured: &Measured) -> anyhow::Result<Figures<'a>> {
    let (mut faults, mut messages, mut unanswered) = (Faults::default(), 0, 0);
    for (sender, reader) in pairs.senders.iter().zip(&pairs.readers) {
        let accepted = sender.look(|outbox, _| outbox.accepted());
        messages += accepted;
        unanswered += sender.look(|outbox, _| outbox.unanswered());
        faults.add(reader.look(|_, inbox| inbox.faults(accepted)));
    }
    let archived_rows = servers.ejabberd.archived()?;
    let meter = pairs.shared.meter.borrow();
    ensure!(meter.delivered > 0, "nothing was delivered while measuring");
    let each = |time| microseconds_each(time, meter.delivered);
    Ok(Figures {
        bench: "direct",
        server: servers.ejabberd.version(),
        sql_pool: args.sql_pool,
        pairs: args.pairs,
        window: args.rate.is_none().then_some(args.window),
        rate: args.rate,
        size: args.size,
        seconds: round(measured.seconds, 3),
        delivered_per_s: per_second(meter.delivered, measured.seconds),
        accepted_per_s: per_second(meter.accepted, measured.seconds),
        accepted_us: meter.accepted_latencies.percentiles(),
        delivered_us: meter.delivered_latencies.percentiles(),
        server_cpu_us_per_message: each(measured.cpu.server),
        postgres_cpu_us_per_message: each(measured.cpu.postgres),
        generator_cpu_us_per_message: each(measured.cpu.own),
        messages,
        lost: faults.lost,
        duplicated: faults.duplicated,
        misordered: faults.misordered,
        unanswered,
        archived_rows,
        archive_missing: (2 * messages).saturating_sub(archived_rows),
    })
}
