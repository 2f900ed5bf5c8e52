//! A service in a folder: started, asked whether it answers, stopped, killed, paused. The same for every program.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::{
    folder::Folder,
    process::{inside, signal, stat, wait},
};

/// Starting includes recovery after a kill, on a machine that is busy with other tests.
const STARTED_WITHIN: Duration = Duration::from_secs(90);
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// A process that waits for the disk dies, or stops, when the disk has answered.
const SIGNALLED_WITHIN: Duration = Duration::from_secs(20);
const LINES_OF_LOG: usize = 25;

/// What differs between services.
pub(crate) trait Program: std::fmt::Debug + Send + Sync + 'static {
    /// For messages.
    const NAME: &'static str;
    /// The signal that asks for an orderly end.
    const ORDERLY: libc::c_int;

    /// Puts aside what an earlier life may have left; no process of the service runs.
    ///
    /// # Errors
    /// If the folder cannot be changed.
    fn tidy(&self, folder: &Path) -> anyhow::Result<()>;

    /// The command that runs it in the foreground. Its working directory is set by the caller.
    fn command(&self, folder: &Path) -> Command;

    /// Asks it something, with a short deadline.
    ///
    /// # Errors
    /// If there is no good answer yet.
    fn answers(&self, folder: &Path) -> anyhow::Result<()>;
}

/// Ends, and its folder with it, when dropped.
#[derive(Debug)]
pub(crate) struct Service<P> {
    /// Held during each change of state, so that one change at a time happens.
    child: Mutex<Option<Child>>,
    program: P,
    /// Dropped last.
    folder: Folder,
}

impl<P: Program> Service<P> {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// If it does not; then with the end of its log.
    pub(crate) fn start(folder: Folder, program: P) -> anyhow::Result<Self> {
        let service = Self { child: Mutex::new(None), program, folder };
        service.restart()?;
        Ok(service)
    }

    pub(crate) fn program(&self) -> &P {
        &self.program
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it in order if it runs, starts it again and waits until it answers.
    ///
    /// # Errors
    /// If it does not stop, or does not answer; then with the end of its log.
    pub(crate) fn restart(&self) -> anyhow::Result<()> {
        let mut child = self.lock();
        self.end(&mut child)?;
        self.program.tidy(self.folder())?;
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.program.command(self.folder());
        command.current_dir(self.folder()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let started = child.insert(command.spawn().with_context(|| format!("cannot start {}", P::NAME))?);
        self.until_it_answers(started)
    }

    fn until_it_answers(&self, child: &mut Child) -> anyhow::Result<()> {
        let mut last = Ok(());
        let mut ended = None;
        let answered = wait(&format!("{} answers", P::NAME), STARTED_WITHIN, || {
            ended = child.try_wait().ok().flatten();
            last = self.program.answers(self.folder());
            ended.is_some() || last.is_ok()
        });
        match (ended, answered, last) {
            (Some(status), ..) => Err(anyhow!("{} ended at once with {status}; the end of its log:\n{}", P::NAME, self.end_of_log())),
            (None, Err(error), last) => Err(error.context(format!("{last:?}; the end of its log:\n{}", self.end_of_log()))),
            (None, Ok(()), _) => Ok(()),
        }
    }

    /// Asks it to end and waits until it has. Nothing happens if it does not run.
    ///
    /// # Errors
    /// If it takes too long.
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        self.end(&mut self.lock())
    }

    fn end(&self, child: &mut Option<Child>) -> anyhow::Result<()> {
        let Some(running) = child else { return Ok(()) };
        self.signal_all(running.id(), libc::SIGCONT);
        signal(running.id(), P::ORDERLY);
        wait(&format!("{} stops", P::NAME), STOPPED_WITHIN, || !matches!(running.try_wait(), Ok(None)))?;
        wait(&format!("the children of {} end", P::NAME), SIGNALLED_WITHIN, || inside(self.folder()).is_empty())?;
        *child = None;
        Ok(())
    }

    /// SIGKILL for all its processes; returns when they are gone.
    ///
    /// # Errors
    /// If they do not go.
    pub(crate) fn kill(&self) -> anyhow::Result<()> {
        let mut child = self.lock();
        let Some(running) = child.as_mut() else { return Ok(()) };
        // Those who start others die first.
        signal(running.id(), libc::SIGKILL);
        wait(&format!("{} dies", P::NAME), SIGNALLED_WITHIN, || {
            let left = inside(self.folder());
            left.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            left.is_empty()
        })?;
        running.wait()?;
        *child = None;
        Ok(())
    }

    /// SIGSTOP for all its processes; returns when they stand still.
    ///
    /// # Errors
    /// If it does not run, or they do not.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        let child = self.lock();
        let pid = child.as_ref().with_context(|| format!("{} does not run", P::NAME))?.id();
        wait(&format!("{} stands still", P::NAME), SIGNALLED_WITHIN, || {
            self.signal_all(pid, libc::SIGSTOP);
            inside(self.folder()).into_iter().filter_map(stat).all(|stat| stat.stopped)
        })
    }

    /// SIGCONT for all its processes.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        let child = self.lock();
        let Some(child) = child.as_ref() else { bail!("{} does not run", P::NAME) };
        self.signal_all(child.id(), libc::SIGCONT);
        Ok(())
    }

    /// The main process first: it starts the others.
    fn signal_all(&self, main: u32, number: libc::c_int) {
        signal(main, number);
        inside(self.folder()).into_iter().filter(|pid| *pid != main).for_each(|pid| signal(pid, number));
    }

    /// The main process, if it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    /// Processor time of all its processes in this life, those that have ended included. In steps of 10 ms.
    ///
    /// # Errors
    /// If it does not run.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let main = self.pid().with_context(|| format!("{} does not run", P::NAME))?;
        let ended = stat(main).with_context(|| format!("{} has died", P::NAME))?.children;
        let living = inside(self.folder());
        ensure!(living.contains(&main), "{} has died", P::NAME);
        Ok(ended + living.into_iter().filter_map(stat).map(|stat| stat.own).sum::<Duration>())
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder().join("log")
    }

    /// The last lines that it wrote.
    pub(crate) fn end_of_log(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_OF_LOG)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        // A panic of another test says nothing about the service.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Drop for Service<P> {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // The folder, dropped next, ends the others. Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Does something that blocks where it does not hold up the caller's other tasks.
pub(crate) async fn aside<P: Program, T: Send + 'static>(
    service: &Arc<Service<P>>,
    act: impl FnOnce(&Service<P>) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let service = Arc::clone(service);
    tokio::task::spawn_blocking(move || act(&service)).await.context("the task was ended")?
}
