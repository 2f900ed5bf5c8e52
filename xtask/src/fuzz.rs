//! Runs the fuzz targets of `fuzz/` on stable Rust, without cargo-fuzz: the compiler's own coverage pass and libFuzzer from its crate are enough.
//!
//! New inputs are kept under `target/fuzz-corpus`, so that runs build on one another; the committed seeds are in `fuzz/corpus`. An input that makes a
//! target fail is left in `target/fuzz-failures` and named.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, atomic::AtomicUsize, atomic::Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    machine,
    report::say,
    run::{Deadline, cargo, root, run, target},
};

/// How long each target runs in `cargo xtask test`: a minute and a half for all of them on two processors.
pub(crate) const DEFAULT_SECONDS: u64 = 8;

/// What `cargo fuzz --sanitizer none` passes: edge counters and comparisons, for the code of the target and of everything below it.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions";

pub(crate) fn run_targets(seconds: u64, only: Option<&str>, deadline: Deadline) -> anyhow::Result<()> {
    machine::ensure(&machine::CXX, deadline)?;
    let mut names = targets()?;
    if let Some(only) = only {
        names.retain(|name| name == only);
    }
    if names.is_empty() {
        bail!("no such fuzz target");
    }
    let programs = build(deadline)?;
    let failed = fuzz_all(&names, &programs, seconds, deadline);
    if !failed.is_empty() {
        bail!("{} of {} targets failed:\n{}", failed.len(), names.len(), failed.join("\n"));
    }
    say(&format!("fuzz: {} targets ran {seconds} s each and found nothing", names.len()));
    Ok(())
}

/// One file in `fuzz/fuzz_targets` is one target.
fn targets() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets")).context("fuzz/fuzz_targets is missing")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Builds all targets and returns the folder they are in. A target triple is given so that build scripts and macros stay as they are.
fn build(deadline: Deadline) -> anyhow::Result<PathBuf> {
    let triple = host_triple()?;
    let folder = target().join("fuzz");
    let mut command = cargo(&["build", "--manifest-path", "fuzz/Cargo.toml", "--locked", "--release", "--bins", "--target", &triple]);
    run(command.env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &folder), deadline)?;
    Ok(folder.join(triple).join("release"))
}

fn host_triple() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc -vV names no host")
}

/// As many at once as there are processors.
fn fuzz_all(names: &[String], programs: &Path, seconds: u64, deadline: Deadline) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = fuzz_one(name, programs, seconds, deadline) {
                        failed.lock().expect("no other worker panics").push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no worker panicked")
}

fn fuzz_one(name: &str, programs: &Path, seconds: u64, deadline: Deadline) -> anyhow::Result<()> {
    let corpus = target().join("fuzz-corpus").join(name);
    let failures = target().join("fuzz-failures").join(name);
    let seeds = root().join("fuzz/corpus").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&failures)?;
    if !seeds.is_dir() {
        bail!("{name}: no seeds in {}", seeds.display());
    }
    let log = failures.join("log");
    let output = fs::File::create(&log)?;
    let mut command = Command::new(programs.join(name));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", failures.display()))
        .args(["-max_len=70000", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .args([&corpus, &seeds])
        .stdout(output.try_clone()?)
        .stderr(output);
    let result = run(&mut command, deadline.at_most(Duration::from_secs(seconds + 60)));
    let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if result.is_err() {
        let tail: Vec<&str> = text.lines().rev().take(30).collect();
        bail!("{name}: inputs and log in {}\n{}", failures.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    let runs = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).map_or("?", str::trim);
    say(&format!("fuzz {name}: ok, {runs} inputs"));
    Ok(())
}
