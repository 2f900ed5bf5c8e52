//! `kith bench login`: from TCP connect to usable, by token; and beside it logging in by challenge and signature.

use std::time::{Duration, Instant};

use clap::{Args, value_parser};
use futures_util::future::try_join_all;
use kith_meter::{Latencies, Percentiles};
use serde::Serialize;

use super::{
    api::Account,
    crowd,
    peer::Shared,
    progress::Progress,
    report::{self, Outcome},
    target::{Cpu, Target},
};

/// The challenge logins are run for at most this long.
const CHALLENGE_SECONDS: u32 = 5;
/// Accounts that each worker takes in turn, so that nobody replaces a connection of a moment ago.
const ACCOUNTS_PER_WORKER: usize = 8;

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// Connects under way at one time
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u16).range(1..=2_000))]
    concurrency: u16,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u32).range(1..=120))]
    seconds: u32,
    /// How long to run before measuring
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(0..=60))]
    warm_up: u32,
}

#[derive(Debug, Serialize)]
struct Figures {
    bench: &'static str,
    concurrency: u16,
    seconds: f64,
    logins_per_s: f64,
    login_us: Percentiles,
    challenge_logins_per_s: f64,
    challenge_login_us: Percentiles,
    server_cpu_us_per_login: Option<f64>,
}

/// What the workers of one phase did.
struct Phase {
    count: u64,
    latencies: Latencies,
    seconds: f64,
    cpu: Option<Duration>,
}

/// Runs the bench.
///
/// # Errors
/// If it cannot be completed; a login that fails ends the run.
pub(super) async fn run(args: &LoginArgs, target: &Target, run: &str, progress: Progress) -> anyhow::Result<Outcome> {
    let workers = usize::from(args.concurrency);
    let mut accounts = crowd::register(&target.api, run, workers * ACCOUNTS_PER_WORKER, &progress).await?;
    let shared = Shared::new();
    progress.say("connecting by token");
    let warm_up = Duration::from_secs(args.warm_up.into());
    by_token(target, &mut accounts, &shared, warm_up).await?;
    let tokens = by_token(target, &mut accounts, &shared, Duration::from_secs(args.seconds.into())).await?;
    progress.say("logging in by challenge");
    let challenges = by_challenge(target, &accounts, Duration::from_secs(args.seconds.min(CHALLENGE_SECONDS).into())).await?;
    let figures = Figures {
        bench: "login",
        concurrency: args.concurrency,
        seconds: report::round(tokens.seconds, 3),
        logins_per_s: report::per_second(tokens.count, tokens.seconds),
        login_us: tokens.latencies.percentiles(),
        challenge_logins_per_s: report::per_second(challenges.count, challenges.seconds),
        challenge_login_us: challenges.latencies.percentiles(),
        server_cpu_us_per_login: tokens.cpu.map(|cpu| report::round(report::ratio(cpu.as_secs_f64() * 1e6, tokens.count), 1)),
    };
    let title = format!("login: {} at once, {} s", args.concurrency, args.seconds);
    Outcome::new(title, rows(&figures), &figures, true)
}

fn rows(figures: &Figures) -> report::Rows {
    vec![
        ("connects until usable, by token", format!("{} per second", report::count(report::whole(figures.logins_per_s)))),
        ("  each", report::latency(figures.login_us)),
        ("  server CPU", figures.server_cpu_us_per_login.map_or_else(|| "unknown".to_owned(), |us| format!("{us} us"))),
        ("logins by challenge", format!("{} per second", report::count(report::whole(figures.challenge_logins_per_s)))),
        ("  each", report::latency(figures.challenge_login_us)),
    ]
}

async fn by_token(target: &Target, accounts: &mut [Account], shared: &Shared, length: Duration) -> anyhow::Result<Phase> {
    let (start, cpu) = (Instant::now(), target.cpu()?);
    let workers = accounts.chunks_mut(ACCOUNTS_PER_WORKER).enumerate().map(|(n, own)| async move {
        let mut latencies = Vec::new();
        let mut turn = 0;
        while start.elapsed() < length {
            let account = &mut own[turn % ACCOUNTS_PER_WORKER];
            let began = Instant::now();
            let (link, _) = crowd::connect(target.endpoint(n), n, account, shared).await?;
            latencies.push(began.elapsed());
            link.close().await;
            turn += 1;
        }
        anyhow::Ok(latencies)
    });
    let latencies = try_join_all(workers).await?;
    phase(latencies, start, cpu, target)
}

async fn by_challenge(target: &Target, accounts: &[Account], length: Duration) -> anyhow::Result<Phase> {
    let (start, cpu) = (Instant::now(), target.cpu()?);
    let workers = accounts.chunks(ACCOUNTS_PER_WORKER).map(|own| async move {
        let mut latencies = Vec::new();
        let mut turn = 0;
        while start.elapsed() < length {
            let began = Instant::now();
            target.api.log_in(&own[turn % ACCOUNTS_PER_WORKER]).await?;
            latencies.push(began.elapsed());
            turn += 1;
        }
        anyhow::Ok(latencies)
    });
    let latencies = try_join_all(workers).await?;
    phase(latencies, start, cpu, target)
}

fn phase(all: Vec<Vec<Duration>>, start: Instant, cpu: Cpu, target: &Target) -> anyhow::Result<Phase> {
    let seconds = start.elapsed().as_secs_f64();
    let cpu = target.cpu()?.since(cpu).server;
    let mut latencies = Latencies::default();
    let mut count = 0;
    for latency in all.into_iter().flatten() {
        latencies.record(latency);
        count += 1;
    }
    Ok(Phase { count, latencies, seconds, cpu })
}
