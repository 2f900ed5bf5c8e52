//! Starts people who use the SDK in processes of their own (`sdk_actor`), and reads what they were shown.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use kith_client::FaultPoint;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::wait;

const LIFE: Duration = Duration::from_secs(150);

/// Who somebody is, over all lives.
#[derive(Debug, Clone)]
pub struct Role {
    /// The program `sdk_actor`.
    pub program: PathBuf,
    /// What they dial.
    pub origin: String,
    /// Where their store is.
    pub home: PathBuf,
    /// Their name.
    pub name: String,
    /// Whom they write to.
    pub peer: String,
    /// How many texts they send, and expect.
    pub count: u64,
}

/// One life.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    name: String,
    /// What it complains of.
    complaints: PathBuf,
    /// A point at which it dies was set; it may pass that one also after it was done.
    may_die: bool,
}

/// How a life ended.
#[derive(Debug)]
pub enum Fate {
    /// Everything sent and shown; still running.
    Done(Box<Actor>),
    /// Killed.
    Died,
}

impl Role {
    /// Begins a life, which may end at a passage of a fault point.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn live(&self, until: Option<(FaultPoint, u64)>) -> anyhow::Result<Actor> {
        let complaints = self.home.with_extension("stderr");
        let mut command = Command::new(&self.program);
        command
            .stderr(fs::File::create(&complaints)?)
            .args([&self.origin, &self.home.display().to_string(), &self.name, &self.peer, &self.count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some((point, passage)) = until {
            command.env("KITH_ACTOR_DIE_AT", format!("{point:?}:{passage}"));
        }
        Ok(Actor { child: command.spawn()?, name: self.name.clone(), complaints, may_die: until.is_some() })
    }

    /// What was shown, in order.
    ///
    /// # Errors
    /// If nothing was.
    pub fn shown(&self) -> anyhow::Result<Vec<String>> {
        shown(&self.home)
    }

    /// What the peer must have sent and this one must have been shown.
    #[must_use]
    pub fn expected(&self) -> Vec<String> {
        (1..=self.count).map(|number| format!("{} {number}", self.peer)).collect()
    }
}

fn shown(home: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(home.join("shown")).context("nothing was shown")?;
    Ok(text.lines().filter_map(|line| line.split_once('\t')).map(|(_, what)| what.to_owned()).collect())
}

impl Actor {
    /// Waits until they are done or dead.
    ///
    /// # Errors
    /// If they fail, or do neither.
    pub async fn fate(mut self) -> anyhow::Result<Fate> {
        let mut line = String::new();
        let out = self.child.stdout.as_mut().context("stdout is piped")?;
        wait::within(&format!("{} is done or dead", self.name), LIFE, BufReader::new(out).read_line(&mut line))
            .await
            .with_context(|| fs::read_to_string(&self.complaints).unwrap_or_default())??;
        if line == "done\n" {
            return Ok(Fate::Done(Box::new(self)));
        }
        let status = self.child.wait().await?;
        ensure!(was_killed(status), "{} ended with {status}: {line}{}", self.name, fs::read_to_string(&self.complaints)?);
        Ok(Fate::Died)
    }

    /// Ends a life in order; one that was to die may do so still.
    ///
    /// # Errors
    /// If it does not end, or badly.
    pub async fn end(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = wait::within(&format!("{} ends", self.name), LIFE, self.child.wait()).await??;
        let ended_as_it_may = status.success() || self.may_die && was_killed(status);
        if !ended_as_it_may {
            bail!("{} ended with {status}: {}", self.name, fs::read_to_string(&self.complaints)?);
        }
        Ok(())
    }
}

fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(9)
}
