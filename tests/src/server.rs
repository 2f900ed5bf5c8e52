//! The `kith` program as a process of its own: started, watched, killed, started again.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use kith_harness::{Database, Port, Postgres, Redis};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{recorder::Recorder, rest::Rest, shim::Faults, wait};

/// A server that has not answered `/readyz` by then has failed. Generous: the machine may be busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// A process that was told to end has ended by then.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// How long an access token lasts.
pub const ACCESS_TOKEN_SECONDS: &str = "KITH_TOKENS_ACCESS_SECONDS";
/// `off` leaves out every sync: unsafe, and there only so that the suite can be shown to notice.
pub const SYNCHRONOUS: &str = "KITH_STORAGE_SYNCHRONOUS";

/// How often the server pings a quiet connection.
pub const KEEP_ALIVE_MS: &str = "KITH_SESSIONS_KEEP_ALIVE_MS";
/// `true` drops every live delivery, so that only catch-up and the checks of the head are left.
pub const DROP_DELIVERIES: &str = "KITH_SESSIONS_DROP_DELIVERIES";

/// Limits that many people behind one address would run into. Stories about limits ask for the server's own.
const WIDE_LIMITS: &[(&str, &str)] = &[("KITH_LIMITS_ENFORCED", "false")];

/// `cluster` lets every story be played on PostgreSQL and Redis, but for those about the embedded database itself. `cargo xtask test` plays them both ways.
const SHAPE: &str = "TEST_SHAPE";

/// A server with a folder and an address that stay the same over restarts.
#[derive(Debug)]
pub struct Server {
    home: TempDir,
    port: Port,
    settings: Vec<(String, String)>,
    faults: Option<Faults>,
    child: Option<Child>,
    /// Dropped after the server.
    _services: Option<Services>,
}

/// What a server of a fleet stands on: a database of its own and a Redis of its own.
#[derive(Debug)]
struct Services {
    database: Database,
    redis: Redis,
}

impl Services {
    async fn start() -> anyhow::Result<Self> {
        let database = Postgres::shared().database().await;
        let config = kith_gateway::config::Config::from_parts(None, [("KITH_POSTGRES_URL".to_owned(), database.url())])?;
        kith_gateway::migrate(&config).await?;
        Ok(Self { database, redis: Redis::start().await? })
    }

    fn settings(&self) -> [(String, String); 2] {
        [("KITH_POSTGRES_URL".to_owned(), self.database.url()), ("KITH_REDIS_URL".to_owned(), self.redis.url())]
    }
}

/// How to start a server.
#[derive(Debug, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    power_cut: Option<(u8, u64)>,
    disk: bool,
    own_limits: bool,
}

impl Options {
    /// The usual server.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With this in its environment.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With the limits it has by default.
    #[must_use]
    pub fn own_limits(mut self) -> Self {
        self.own_limits = true;
        self
    }

    /// SIGKILL loses what was not synced, but for `leak_percent` of the blocks.
    #[must_use]
    pub fn power_cut(mut self, leak_percent: u8, seed: u64) -> Self {
        self.power_cut = Some((leak_percent, seed));
        self
    }

    /// The disk can be filled.
    #[must_use]
    pub fn small_disk(mut self) -> Self {
        self.disk = true;
        self
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn start(self) -> anyhow::Result<Server> {
        self.start_on(Port::reserve()?).await
    }

    /// The same, on a port known before; see [`Server::reserve_behind_tap`].
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn start_on(self, port: Port) -> anyhow::Result<Server> {
        let home = tempfile::tempdir()?;
        let data = home.path().join("data");
        fs::create_dir(&data)?;
        let faults = match self.power_cut {
            Some((leak, seed)) => Some(Faults::torn_power_cut(&data, leak, seed)),
            None => self.disk.then(|| Faults::none(&data)),
        };
        // Faults of the disk are faults of the embedded database's disk.
        let services = match env::var(SHAPE) {
            Ok(shape) if shape == "cluster" && faults.is_none() => Some(Services::start().await?),
            Ok(shape) if shape != "cluster" => bail!("{SHAPE} is {shape:?}, and there is only \"cluster\" besides the embedded shape"),
            _ => None,
        };
        let limits = if self.own_limits { &[] } else { WIDE_LIMITS };
        let mut settings: Vec<_> = limits.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).chain(self.settings).collect();
        settings.extend(services.iter().flat_map(Services::settings));
        let mut server = Server { home, port, settings, faults, child: None, _services: services };
        server.start().await?;
        Ok(server)
    }
}

impl Server {
    /// A port for a server, and a wire tap in front of it that clients can dial.
    ///
    /// # Errors
    /// If no ports can be had.
    pub async fn reserve_behind_tap() -> anyhow::Result<(Port, Recorder)> {
        let port = Port::reserve()?;
        let tap = Recorder::before(port.address()).await?;
        Ok((port, tap))
    }

    /// `http://127.0.0.1:port`.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Its REST interface.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn rest(&self) -> anyhow::Result<Rest> {
        Rest::new(&self.origin())
    }

    /// The folder with its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Everything it has printed and logged so far, over all its lives.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_file())?).into_owned())
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// What is wrong with its disk.
    ///
    /// # Errors
    /// If it was started on a sound one.
    pub fn faults(&self) -> anyhow::Result<&Faults> {
        self.faults.as_ref().context("this server has a sound disk")
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Changes its environment from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts it again (or at first) and waits until it is ready.
    ///
    /// # Errors
    /// If it runs already or does not get ready; the error shows the end of its log.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the server runs already");
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = Command::new(program()?);
        command
            .arg("serve")
            .env("KITH_LISTEN", self.port.address().to_string())
            .env("KITH_DATA", self.data())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true);
        if let Some(faults) = &self.faults {
            command.envs(faults.environment()?);
        }
        self.child = Some(command.spawn()?);
        self.ready().await
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let rest = self.rest()?;
        let child = self.child.as_mut().context("the server was started")?;
        let ready = wait::until("/readyz says 200", READY_WITHIN, async || {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            let answer = rest.raw(reqwest::Method::GET, "/readyz", None, None).await;
            answer.is_ok_and(|(status, ..)| status == 200).then_some(Ok(()))
        })
        .await;
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the server ended with {status}:\n{}", self.log_tail()),
            Err(error) => bail!("{error}:\n{}", self.log_tail()),
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.take().context("the server does not run")?.kill().await.context("cannot kill the server")
    }

    /// SIGTERM; does not wait.
    ///
    /// # Errors
    /// If it does not run.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal("-TERM")
    }

    /// SIGSTOP; returns when it stands still.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.signal("-STOP")?;
        let stat = format!("/proc/{}/stat", self.pid().context("the server does not run")?);
        let stands = || Some(fs::read_to_string(&stat).ok()?.rsplit_once(") ")?.1.starts_with('T'));
        wait::until("the server stands still", GONE_WITHIN, async || stands()?.then_some(())).await
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.pid().context("the server does not run")?;
        let status = std::process::Command::new("kill").args([name, &pid.to_string()]).status()?;
        ensure!(status.success(), "cannot signal the server");
        Ok(())
    }

    /// Whether the process is there; false after it has ended by itself as well.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for its end after [`Server::terminate`] and returns whether it was an orderly one.
    ///
    /// # Errors
    /// If it does not end.
    pub async fn ended(&mut self) -> anyhow::Result<bool> {
        let mut child = self.child.take().context("the server does not run")?;
        Ok(wait::within("the server's end", GONE_WITHIN, child.wait()).await??.success())
    }
}

/// `kith`, beside this program or the folder of the test programs. Cargo builds it with `--workspace --all-targets`.
fn program() -> anyhow::Result<PathBuf> {
    let this = env::current_exe()?;
    let found = this.ancestors().skip(1).take(2).map(|folder| folder.join("kith")).find(|program| program.is_file());
    found.with_context(|| format!("there is no kith near {}: cargo build --workspace --all-targets", this.display()))
}

/// Memory of a process, as the kernel counts it.
///
/// # Errors
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Files and sockets that a process has open.
///
/// # Errors
/// If there is no such process.
pub fn open_files(pid: u32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Lets this process, and the servers it starts, have that many files open.
///
/// # Errors
/// If the machine does not allow it.
pub fn allow_many_files(count: u64) -> anyhow::Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    let mut numbers = line.split_whitespace().filter_map(|word| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() });
    let (soft, hard) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if soft >= count {
        return Ok(());
    }
    ensure!(hard >= count, "this machine allows {hard} open files and the test needs {count} (ulimit -Hn)");
    let pid = std::process::id().to_string();
    let status =
        std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={count}:{hard}")]).status().context("cannot run prlimit")?;
    ensure!(status.success(), "prlimit failed");
    Ok(())
}
