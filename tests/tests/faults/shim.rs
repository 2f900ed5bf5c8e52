//! The fault shim does what it says; otherwise the stories that rest on it would prove nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use kith_tests::{
    Story,
    shim::{Faults, compile},
};

/// Both spellings of the calls: `pwrite` and `pwrite64`, and so on.
const SPELLINGS: [(&[&str], &str); 2] = [(&[], "probe32"), (&["-D_FILE_OFFSET_BITS=64", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"], "probe64")];

fn each_spelling(name: &str, story: impl Fn(&Path, &Path) -> Story) -> Story {
    for (flags, program) in SPELLINGS {
        let folder = tempfile::tempdir()?;
        // Test programs may compile it at once, so each test has one of its own.
        let probe = compile(flags, "probe.c", &format!("{program}-{name}"))?;
        story(&probe, folder.path()).with_context(|| program.to_owned())?;
    }
    Ok(())
}

fn start(program: &Path, arguments: &[&str], folder: &Path, faults: &Faults) -> anyhow::Result<Child> {
    Ok(Command::new(program).arg(folder).args(arguments).envs(faults.environment()?).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
}

/// Reads the line that says that everything was written, then cuts the power.
fn kill_when_ready(mut probe: Child) -> Story {
    let mut line = String::new();
    BufReader::new(probe.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
    probe.kill()?;
    probe.wait()?;
    ensure!(line == "ready\n", "the probe saw something wrong: {line:?}");
    Ok(())
}

#[test]
fn a_process_sees_its_own_unsynced_writes_and_a_power_cut_loses_them() -> Story {
    each_spelling("overlay", |probe, folder| {
        kill_when_ready(start(probe, &["overlay"], folder, &Faults::power_cut(folder))?)?;
        ensure!(fs::read(folder.join("b"))?.is_empty(), "what was never synced is on the disk");
        Ok(())
    })
}

#[test]
fn what_was_synced_survives_a_power_cut() -> Story {
    each_spelling("sync", |probe, folder| {
        kill_when_ready(start(probe, &["sync"], folder, &Faults::power_cut(folder))?)?;
        ensure!(fs::read(folder.join("a"))? == b"kept");
        Ok(())
    })
}

#[test]
fn an_ordinary_exit_loses_nothing() -> Story {
    each_spelling("exit", |probe, folder| {
        ensure!(start(probe, &["exit"], folder, &Faults::power_cut(folder))?.wait()?.success());
        ensure!(fs::read(folder.join("a"))? == b"page cache");
        Ok(())
    })
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space() -> Story {
    each_spelling("full", |probe, folder| {
        let data = folder.join("data");
        fs::create_dir(&data)?;
        for faults in [Faults::none(&data), Faults::power_cut(&data)] {
            let mut child = start(probe, &["full"], &data, &faults)?;
            let mut input = child.stdin.take().context("stdin is piped")?;
            let mut output = BufReader::new(child.stdout.take().context("stdout is piped")?);
            let mut ask = || -> anyhow::Result<String> {
                let mut line = String::new();
                writeln!(input, "?")?;
                output.read_line(&mut line)?;
                Ok(line)
            };
            ensure!(ask()? == "ok ok ok\n");
            faults.fill()?;
            ensure!(ask()? == "ENOSPC ENOSPC ok\n");
            faults.make_space()?;
            ensure!(ask()? == "ok ok ok\n");
            drop(input);
            ensure!(child.wait()?.success());
        }
        Ok(())
    })
}

/// Commits numbers until at least `wanted` were printed, cuts the power, and returns how many of the printed ones the database then still has.
fn committed_and_kept(faults: &Faults, database: &Path, synchronous: &str, wanted: u64) -> anyhow::Result<(u64, u64)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sqlite_probe"))
        .args([database.as_os_str(), synchronous.as_ref()])
        .envs(faults.environment()?)
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("stdout is piped")?).lines();
    let mut printed = 0;
    let mut first = None;
    for line in lines {
        printed = line?.parse()?;
        if printed - *first.get_or_insert(printed) + 1 == wanted {
            child.kill()?;
        }
    }
    child.wait()?;
    let database = rusqlite::Connection::open(database)?;
    let intact: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(intact == "ok", "{intact}");
    let kept = database.query_row("SELECT coalesce(max(n), 0) FROM number", [], |row| row.get(0));
    // With OFF even the table may be gone.
    Ok((printed, kept.unwrap_or(0)))
}

#[test]
fn sqlite_with_full_sync_keeps_every_commit_and_with_off_loses_some() -> Story {
    let folder = tempfile::tempdir()?;
    for round in 0..4 {
        let faults = if round % 2 == 0 { Faults::power_cut(folder.path()) } else { Faults::torn_power_cut(folder.path(), 40, round) };
        let (printed, kept) = committed_and_kept(&faults, &folder.path().join("full.db"), "FULL", 300)?;
        ensure!(kept >= printed, "with FULL {printed} were committed and {kept} kept");
    }
    let (printed, kept) = committed_and_kept(&Faults::power_cut(folder.path()), &folder.path().join("off.db"), "OFF", 300)?;
    ensure!(kept < printed, "with OFF nothing was lost, so the shim shows nothing: {printed} committed, {kept} kept");
    Ok(())
}
