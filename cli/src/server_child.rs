//! A server as a child process: this very executable as `kith serve`, on a folder of its own.

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::process;

/// A server on a small folder is ready within a second; a machine under load may be slower.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// A drain takes a few seconds at most.
const END_DEADLINE: Duration = Duration::from_secs(15);

/// A running server. It is killed when this is dropped, and ends by itself when this process does.
#[derive(Debug)]
pub(crate) struct ServerChild {
    child: Child,
    pid: u32,
    address: SocketAddr,
    started_in: Duration,
    // Kept open: the server may print more, and it ends when its input does.
    _stdout: BufReader<ChildStdout>,
    _stdin: Option<ChildStdin>,
}

impl ServerChild {
    /// Starts a server on `data` and waits until it is ready. Port 0 takes any free one. `settings` are `KITH_…` variables.
    ///
    /// # Errors
    /// If it cannot be started, ends at once, or is not ready within 20 s.
    pub(crate) async fn start(data: &Path, listen: SocketAddr, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let began = Instant::now();
        let program = std::env::current_exe().context("this program's own file cannot be found")?;
        let mut command = Command::new(program);
        command.args(["serve", "--end-with-stdin", "--listen", &listen.to_string(), "--data"]).arg(data);
        // A server of our own hears nothing of what the user has configured for another one.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("KITH_"))) {
            command.env_remove(name);
        }
        command.envs(settings.iter().copied());
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "warn");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().context("the server cannot be started")?;
        let pid = child.id().context("the server ended at once")?;
        let mut stdout = BufReader::new(child.stdout.take().context("the server has no output")?);
        let stdin = child.stdin.take();
        let ready = async {
            let address = read_address(&mut stdout).await?;
            until_ready(address).await?;
            Ok::<_, anyhow::Error>(address)
        };
        let address = timeout(READY_DEADLINE, ready).await.context("the server is not ready after 20 s")??;
        Ok(Self { child, pid, address, started_in: began.elapsed(), _stdout: stdout, _stdin: stdin })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it is linked with so many other gateways.
    ///
    /// # Errors
    /// If it is not within 20 s.
    pub(crate) async fn linked_with(&self, others: usize) -> anyhow::Result<()> {
        if others == 0 {
            return Ok(());
        }
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
        let linked = async {
            loop {
                let page = async { http.get(format!("http://{}/metrics", self.address)).send().await?.text().await };
                if page.await.is_ok_and(|page| peer_links(&page).is_some_and(|links| links >= others)) {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(READY_DEADLINE, linked).await.context("the gateways are not linked after 20 s")
    }

    /// From the start of the process until it said that it was ready.
    pub(crate) fn started_in(&self) -> Duration {
        self.started_in
    }

    /// Ends it without warning (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("the server cannot be killed")
    }

    /// Lets it drain and end (SIGTERM).
    ///
    /// # Errors
    /// If it does not end within 15 s or ends with an error.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        process::terminate(self.pid);
        let status = timeout(END_DEADLINE, self.child.wait()).await.context("the server does not end")??;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}

/// What `/metrics` says about the links to other gateways.
fn peer_links(page: &str) -> Option<usize> {
    page.lines().find_map(|line| line.strip_prefix("kith_peer_links "))?.trim().parse().ok()
}

/// The server prints its addresses first.
async fn read_address(stdout: &mut BufReader<ChildStdout>) -> anyhow::Result<SocketAddr> {
    let mut line = String::new();
    loop {
        line.clear();
        if stdout.read_line(&mut line).await? == 0 {
            bail!("the server ended before it listened");
        }
        if let Some(address) = line.split_whitespace().find_map(|word| word.strip_prefix("http://")) {
            return address.parse().with_context(|| format!("the server printed a strange address: {address}"));
        }
    }
}

async fn until_ready(address: SocketAddr) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build()?;
    loop {
        if let Ok(answer) = http.get(format!("http://{address}/readyz")).send().await
            && answer.status().is_success()
        {
            return Ok(());
        }
        sleep(Duration::from_millis(5)).await;
    }
}
