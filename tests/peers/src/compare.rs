//! `peers compare`: both load generators in the same shapes, in turn, and one table of the medians.

use std::{
    env,
    io::{Write as _, stderr, stdout},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, value_parser};
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

use crate::table::{self, Row, Unit};

/// Longer than any shape takes, its server's start included.
const RUN_WITHIN: Duration = Duration::from_secs(900);

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The `kith` program, in the release profile [default: beside this one]
    #[arg(long, value_name = "FILE")]
    kith: Option<PathBuf>,
    /// Runs of each shape on each server, in turn; the table shows medians
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    runs: u32,
    /// ejabberd's connections to PostgreSQL (10 if nobody configures it)
    #[arg(long, default_value_t = 10, value_parser = value_parser!(u16).range(1..=180))]
    sql_pool: u16,
    /// See in a minute whether everything works; the figures mean nothing
    #[arg(long)]
    smoke: bool,
}

/// What is measured on both.
struct Shape {
    title: String,
    bench: &'static str,
    /// Arguments that both generators know.
    common: Vec<String>,
    /// Arguments of ours alone.
    ours: Vec<String>,
    rows: &'static [Row],
}

const MESSAGES: &[Row] = &[
    Row { name: "delivered/s", at: "/delivered_per_s", unit: Unit::Whole },
    Row { name: "server CPU per message, µs", at: "/server_cpu_us_per_message", unit: Unit::Tenths },
    Row { name: "PostgreSQL CPU per message, µs", at: "/postgres_cpu_us_per_message", unit: Unit::Tenths },
    Row { name: "Redis CPU per message, µs", at: "/redis_cpu_us_per_message", unit: Unit::Tenths },
    Row { name: "generator CPU per message, µs", at: "/generator_cpu_us_per_message", unit: Unit::Tenths },
    Row { name: "accepted, p50, ms", at: "/accepted_us/p50", unit: Unit::Milliseconds },
    Row { name: "accepted, p99, ms", at: "/accepted_us/p99", unit: Unit::Milliseconds },
    Row { name: "delivered, p50, ms", at: "/delivered_us/p50", unit: Unit::Milliseconds },
    Row { name: "delivered, p99, ms", at: "/delivered_us/p99", unit: Unit::Milliseconds },
    Row { name: "delivered, p99.9, ms", at: "/delivered_us/p999", unit: Unit::Milliseconds },
    Row { name: "lost", at: "/lost", unit: Unit::Whole },
    Row { name: "doubled", at: "/duplicated", unit: Unit::Whole },
    Row { name: "out of order", at: "/misordered", unit: Unit::Whole },
];

const IDLE: &[Row] = &[
    Row { name: "server bytes per connection", at: "/server_bytes_per_connection", unit: Unit::Whole },
    Row { name: "server bytes before the first", at: "/server_base_bytes", unit: Unit::Whole },
    Row { name: "lost", at: "/lost", unit: Unit::Whole },
];

/// Runs everything and prints the tables, and all figures as one JSON line at the end.
///
/// # Errors
/// If a run fails; a run in which a message was lost is one that fails.
pub(crate) async fn run(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    let own = env::current_exe()?;
    let kith = args.kith.clone().unwrap_or_else(|| own.with_file_name("kith"));
    ensure!(kith.is_file(), "there is no {}: build it, or name it by --kith", kith.display());
    let runs = if args.smoke { 1 } else { args.runs };
    let mut all = Vec::new();
    for shape in shapes(args) {
        let (mut peers, mut kiths) = (Vec::new(), Vec::new());
        for n in 1..=runs {
            writeln!(stderr(), "{}: run {n} of {runs}", shape.title)?;
            peers.push(figures(&own, &[&[shape.bench.to_owned()][..], &shape.common, &shape.ours].concat()).await?);
            let command = ["bench", shape.bench, "--spawn-cluster", "--gateways", "1", "--json"].map(str::to_owned);
            kiths.push(figures(&kith, &[&command[..], &shape.common].concat()).await?);
        }
        let name = peers[0]["server"].as_str().unwrap_or("ejabberd").to_owned();
        writeln!(stdout().lock(), "\n{}", table::side_by_side(&shape.title, (&name, &peers), ("Kith", &kiths), shape.rows))?;
        all.push(json!({"shape": shape.title, name: peers, "kith": kiths}));
    }
    writeln!(stdout().lock(), "{}", json!({"bench": "compare", "smoke": args.smoke, "shapes": all}))?;
    Ok(ExitCode::SUCCESS)
}

fn shapes(args: &CompareArgs) -> Vec<Shape> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let (pairs, time, connections, quiet) = if args.smoke { (5, "--seconds 2 --warm-up 0", 20, 1) } else { (500, "--seconds 20", 15_000, 60) };
    let messages = |title: String, load: &str| Shape {
        title,
        bench: "direct",
        common: words(&format!("--pairs {pairs} {load} --size 256 {time}")),
        ours: words(&format!("--sql-pool {}", args.sql_pool)),
        rows: MESSAGES,
    };
    vec![
        messages(format!("Durable direct messages, {pairs} pairs, 10 unanswered each, 256 bytes"), "--window 10"),
        messages(format!("The same {pairs} pairs at 500 messages/s offered"), "--rate 500"),
        Shape {
            title: format!("{connections} quiet connections, each after a message sent and one received"),
            bench: "idle",
            common: words(&format!("--connections {connections} --quiet {quiet}")),
            ours: Vec::new(),
            rows: IDLE,
        },
    ]
}

/// Runs a generator and reads the JSON object in its last line.
async fn figures(program: &Path, arguments: &[String]) -> anyhow::Result<Value> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let line = || format!("{} {}", program.display(), arguments.join(" "));
    let output = timeout(RUN_WITHIN, command.output()).await.with_context(|| format!("{} takes too long", line()))??;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("{}: {}\n{text}", line(), output.status);
    }
    let last = text.lines().last().with_context(|| format!("{} printed nothing", line()))?;
    serde_json::from_str(last).with_context(|| format!("{} printed no figures: {last}", line()))
}
