//! Runs programs, each with a deadline.

use std::{
    io::IsTerminal as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// When something has to be finished.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// That far from now.
    pub(crate) fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// This deadline, or `limit` from now if that is sooner.
    pub(crate) fn at_most(self, limit: Duration) -> Self {
        Self(self.0.min(Instant::now() + limit))
    }

    fn is_over(self) -> bool {
        Instant::now() >= self.0
    }
}

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}

/// Where builds and everything else that can be made again goes.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that runs this program, in the root of the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// Runs a command to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command, deadline: Deadline) -> anyhow::Result<()> {
    let name = describe(command);
    let mut child = Group::spawn(command.stdin(Stdio::null())).with_context(|| format!("cannot start {name}"))?;
    let status = child.wait(deadline).with_context(|| name.clone())?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Whether a command can be started and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(program, |text, argument| format!("{text} {}", argument.to_string_lossy()))
}

/// A child and whatever it starts: ended together. At a terminal the child stays in our own group, so that Ctrl-C reaches it.
pub(crate) struct Group {
    child: Child,
    own_group: bool,
}

impl Group {
    /// Starts it.
    pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let own_group = !std::io::stdin().is_terminal();
        if own_group {
            command.process_group(0);
        }
        Ok(Self { child: command.spawn()?, own_group })
    }

    /// Waits for its end, or ends it when the time is over.
    pub(crate) fn wait(&mut self, deadline: Deadline) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if deadline.is_over() {
                self.end();
                bail!("took too long and was ended");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it writes, if its output was piped.
    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    fn end(&mut self) {
        if self.own_group {
            succeeds(Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]));
        }
        // Already gone is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end();
        }
    }
}
