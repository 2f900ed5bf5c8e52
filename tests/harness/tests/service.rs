//! A program of one's own, run in the manner of the services.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use kith_harness::{Program, Service};

/// A shell that runs a script in which the program says that it is ready by making the file `ready`.
#[derive(Debug)]
struct Script(&'static str);

impl Program for Script {
    fn name(&self) -> &str {
        "the script"
    }

    fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        Ok(fs::write(folder.join("prepared"), "once")?)
    }

    fn tidy(&self, folder: &Path) -> anyhow::Result<()> {
        // There is none at first.
        let _ = fs::remove_file(folder.join("ready"));
        Ok(())
    }

    fn command(&self, _folder: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", self.0]);
        command
    }

    fn answers(&self, folder: &Path) -> anyhow::Result<()> {
        ensure!(folder.join("ready").exists(), "not ready");
        Ok(())
    }
}

/// Starts a process that leaves the group and the session, and whose parent ends.
const RUNAWAY: &str = "(setsid sh -c 'echo $$ > runaway; touch ready; exec sleep 1000' &); exec sleep 1000";

fn runaway(service: &Service) -> anyhow::Result<PathBuf> {
    let pid = fs::read_to_string(service.folder().join("runaway")).context("the runaway says who it is")?;
    Ok(PathBuf::from(format!("/proc/{}/cwd", pid.trim())))
}

fn is_gone(process: &Path) -> bool {
    fs::read_link(process).is_err()
}

#[tokio::test]
async fn whoever_works_in_the_folder_dies_with_it() -> anyhow::Result<()> {
    let service = Service::start(Arc::new(Script(RUNAWAY))).await?;
    let first = runaway(&service)?;
    ensure!(!is_gone(&first));
    service.kill().await?;
    ensure!(is_gone(&first), "the runaway lives");
    service.restart().await?;
    let (second, folder) = (runaway(&service)?, service.folder().to_owned());
    ensure!(!is_gone(&second) && folder.join("prepared").exists());
    let clone = service.clone();
    drop(service);
    ensure!(!is_gone(&second) && clone.pid().is_some(), "a clone is not enough to live");
    drop(clone);
    ensure!(is_gone(&second) && !folder.exists(), "something is left");
    Ok(())
}

#[tokio::test]
async fn a_program_that_ends_at_once_says_why_and_can_be_tried_again() -> anyhow::Result<()> {
    let error = Service::start(Arc::new(Script("echo because >&2; exit 7"))).await.err().context("it runs")?;
    ensure!(error.to_string().contains("because") && error.to_string().contains("exit status: 7"), "{error}");
    // The second life is the one that fails.
    let service = Service::start(Arc::new(Script("[ -e lived ] && exit 7; touch lived ready; exec sleep 1000"))).await?;
    ensure!(service.restart().await.is_err() && service.pid().is_none());
    ensure!(service.pause().await.is_err() && service.cpu().is_err(), "one that does not run is paused");
    fs::remove_file(service.folder().join("lived"))?;
    service.restart().await?;
    ensure!(service.pid().is_some());
    service.stop().await?;
    ensure!(service.pid().is_none() && service.name() == "the script");
    Ok(())
}

#[tokio::test]
async fn an_orderly_end_is_one() -> anyhow::Result<()> {
    // It starts nothing: a shell that is stopped while it waits for the exec of a stopped child never shows as standing still.
    let service = Service::start(Arc::new(Script("trap 'echo in order; exit' TERM; : > ready; while :; do :; done"))).await?;
    service.pause().await?;
    service.stop().await?;
    ensure!(service.end_of_log() == "in order", "{}", service.end_of_log());
    Ok(())
}
