//! The steps of `cargo xtask test`.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    conformance, fuzz as fuzzing, machine, python,
    report::{Step, say},
    run::{Deadline, Group, cargo, root, run, target},
};

/// Everything that must pass, the cheap and telling steps first.
pub(crate) fn everything() -> Vec<Step> {
    vec![
        fmt(),
        build(),
        services(),
        unit(),
        cluster(),
        clippy(),
        doc(),
        vectors(),
        model(),
        conformance(),
        demo(),
        fuzz(fuzzing::DEFAULT_SECONDS, None),
    ]
}

fn step(name: &'static str, minutes: u64, run: impl Fn(Deadline) -> anyhow::Result<()> + 'static) -> Step {
    Step { name, limit: Duration::from_secs(minutes * 60), essential: false, run: Box::new(run) }
}

pub(crate) fn fmt() -> Step {
    step("fmt", 1, |deadline| run(&mut cargo(&["fmt", "--all", "--check"]), deadline))
}

pub(crate) fn clippy() -> Step {
    step("clippy", 10, |deadline| run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]), deadline))
}

pub(crate) fn build() -> Step {
    let build = step("build", 40, |deadline| {
        machine::ensure(&machine::MAKE, deadline)?;
        run(&mut cargo(&["build", "--workspace", "--all-targets"]), deadline)
    });
    Step { essential: true, ..build }
}

/// What tests start is installed and fetched here, so that no test has to wait for it.
pub(crate) fn services() -> Step {
    step("services", 15, |deadline| {
        machine::ensure_all(&machine::SERVICES, deadline)?;
        run(&mut Command::new(target().join("debug/fetch_kafka")), deadline)
    })
}

pub(crate) fn unit() -> Step {
    step("unit", 30, |deadline| {
        run(quiet(&mut cargo(&["test", "--workspace", "--all-targets", "--no-fail-fast"])), deadline)?;
        run(&mut cargo(&["test", "--workspace", "--doc"]), deadline)
    })
}

/// The stories of whole systems once more, on PostgreSQL and Redis. Those about the embedded database's own disk have been told by `unit`.
pub(crate) fn cluster() -> Step {
    let stories = ["--test", "server", "--test", "sdk", "--test", "faults"];
    step("cluster", 15, move |deadline| {
        let mut test = cargo(&["test", "--workspace", "--no-fail-fast"]);
        test.args(stories).args(["--", "--skip", "shim", "--skip", "kill_under_load", "--skip", "disk_full"]);
        run(quiet(test.env("TEST_SHAPE", "cluster")), deadline)
    })
}

/// An error that ends a story says what happened in a few lines, which a backtrace of a hundred would push out of whatever keeps only the end. Panics keep theirs.
fn quiet(test: &mut Command) -> &mut Command {
    test.env("RUST_LIB_BACKTRACE", "0")
}

pub(crate) fn doc() -> Step {
    step("doc", 5, |deadline| run(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"), deadline))
}

pub(crate) fn vectors() -> Step {
    step("vectors", 6, |deadline| {
        let folder = root().join("client-sdk/crypto/vectors");
        let python = python::environment("vectors", &folder.join("requirements.txt"), deadline)?;
        run(Command::new(python).args(["make_vectors.py", "--check"]).current_dir(folder), deadline)
    })
}

/// The tool is built once per machine, which takes longer than running it.
pub(crate) fn model() -> Step {
    step("model", 15, |deadline| {
        machine::ensure(&machine::PYTHON, deadline)?;
        run(Command::new("python3").arg("client-sdk/crypto/model/check.py").current_dir(root()), deadline)
    })
}

pub(crate) fn conformance() -> Step {
    step("conformance", 5, conformance::run_client)
}

pub(crate) fn demo() -> Step {
    step("demo", 5, |deadline| [&["demo"][..], &["demo", "--cluster"]].into_iter().try_for_each(|form| demonstrate(form, deadline)))
}

fn demonstrate(form: &[&str], deadline: Deadline) -> anyhow::Result<()> {
    let mut child = Group::spawn(Command::new(target().join("debug/kith")).args(form).stdin(Stdio::null()).stdout(Stdio::piped()))
        .context("cannot start kith demo; build first")?;
    let mut last = String::new();
    // The pipe ends with the process, and the process ends by itself or at the deadline below.
    let lines = BufReader::new(child.stdout().context("the output was piped")?);
    let reader = std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            say(&line);
            last = line;
        }
        last
    });
    let status = child.wait(deadline)?;
    let last = reader.join().map_err(|_| anyhow::anyhow!("reading the transcript failed"))?;
    if !status.success() || last != "demo: ok" {
        bail!("{status}, last line {last:?}");
    }
    Ok(())
}

pub(crate) fn fuzz(seconds: u64, target: Option<String>) -> Step {
    step("fuzz", 15 + seconds, move |deadline| fuzzing::run_targets(seconds, target.as_deref(), deadline))
}

pub(crate) fn chaos(arguments: Vec<String>) -> Step {
    step("chaos", 23 * 60, move |deadline| {
        let mut chaos = Command::new(target().join("debug/chaos"));
        run(chaos.args(&arguments).arg("--logs").arg(target().join("chaos")), deadline)
    })
}

/// The forms of the issue, one after the other; each prints a table and its JSON line.
const BENCHES: [&[&str]; 5] = [
    &["direct", "--spawn", "--pairs", "500", "--window", "10", "--size", "256", "--seconds", "20", "--json"],
    &["direct", "--spawn", "--pairs", "500", "--rate", "1000", "--size", "256", "--seconds", "20", "--json"],
    &["idle", "--spawn", "--connections", "15000", "--json"],
    &["login", "--spawn", "--concurrency", "64", "--seconds", "10", "--json"],
    &["catchup", "--spawn", "--messages", "100000", "--json"],
];

pub(crate) fn bench() -> Step {
    step("bench", 40, |deadline| {
        run(&mut cargo(&["build", "--release", "--workspace"]), deadline)?;
        let program = target().join("release/kith");
        BENCHES.iter().try_for_each(|form| run(Command::new(&program).arg("bench").args(*form), deadline))
    })
}
