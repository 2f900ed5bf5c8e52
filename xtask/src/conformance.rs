//! Runs the black-box client in Python against a server process of its own.
//!
//! The client lives in `tests/conformance`: `requirements.txt` (pinned) and `run.py --server URL`, which exits 0 only if everything held.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use crate::{
    python,
    run::{Deadline, Group, root, run, target},
};

const READY_WITHIN: Duration = Duration::from_secs(20);

pub(crate) fn run_client(deadline: Deadline) -> anyhow::Result<()> {
    let folder = root().join("tests/conformance");
    if !folder.join("run.py").exists() {
        bail!("tests/conformance/run.py is missing");
    }
    let python = python::environment("conformance", &folder.join("requirements.txt"), deadline)?;
    let data = target().join("conformance-data");
    if data.exists() {
        fs::remove_dir_all(&data)?;
    }
    fs::create_dir_all(&data)?;
    let (server, url) = start_server(&data)?;
    let result = run(Command::new(python).args(["run.py", "--server", &url]).current_dir(folder), deadline);
    drop(server);
    result.with_context(|| format!("the server's log is {}", data.join("log").display()))
}

/// A server on a free port; ended when the value is dropped.
fn start_server(data: &Path) -> anyhow::Result<(Group, String)> {
    let log = fs::File::create(data.join("log"))?;
    let server = Group::spawn(
        Command::new(target().join("debug/kith"))
            .arg("serve")
            .env("KITH_LISTEN", "127.0.0.1:0")
            .env("KITH_DATA", data.join("kith-data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )
    .context("cannot start kith serve; build first")?;
    let (log, started) = (data.join("log"), Instant::now());
    loop {
        if let Some(url) = fs::read_to_string(&log)?.lines().find_map(address) {
            return Ok((server, url));
        }
        if started.elapsed() > READY_WITHIN {
            bail!("kith serve did not say within {READY_WITHIN:?} where it listens; see {}", log.display());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The server prints its addresses once it listens.
fn address(line: &str) -> Option<String> {
    line.split_whitespace().find(|word| word.starts_with("http://")).map(str::to_owned)
}
