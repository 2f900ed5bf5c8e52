//! A service in a folder: started, asked whether it answers, stopped, killed, paused. The same for every program.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};

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

/// What differs between services. Implement it to run another program in the same manner, such as one of one's own.
pub trait Program: std::fmt::Debug + Send + Sync {
    /// For messages.
    fn name(&self) -> &str;

    /// The signal that asks for an orderly end.
    fn orderly(&self) -> i32 {
        libc::SIGTERM
    }

    /// Fills the fresh folder, once.
    ///
    /// # Errors
    /// If that cannot be done.
    fn prepare(&self, folder: &Path) -> anyhow::Result<()>;

    /// Puts aside what an earlier life has left; no process of the service runs.
    ///
    /// # Errors
    /// If the folder cannot be changed.
    fn tidy(&self, _folder: &Path) -> anyhow::Result<()> {
        Ok(())
    }

    /// The command that runs it in the foreground. It works in the folder and must stay there or below: that is how its processes are known. What it
    /// writes goes to the file `log` there.
    fn command(&self, folder: &Path) -> Command;

    /// Asks it something, with a short deadline.
    ///
    /// # Errors
    /// If there is no good answer yet.
    fn answers(&self, folder: &Path) -> anyhow::Result<()>;
}

/// A running service. It ends, and its folder with it, when the last clone is dropped, and when this process ends, however it ends.
#[derive(Debug, Clone)]
pub struct Service {
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    /// Held during each change of state, so that one change at a time happens.
    child: Mutex<Option<Child>>,
    /// Its number, to be had while a change is under way; 0 if there is none.
    main: AtomicU32,
    program: Arc<dyn Program>,
    /// Dropped last.
    folder: Folder,
}

impl Service {
    /// Starts it in a folder of its own and waits until it answers.
    ///
    /// # Errors
    /// If it does not; then with the end of its log.
    pub async fn start(program: Arc<dyn Program>) -> anyhow::Result<Self> {
        tokio::task::spawn_blocking(move || Self::start_blocking(program)).await?
    }

    pub(crate) fn start_blocking(program: Arc<dyn Program>) -> anyhow::Result<Self> {
        let folder = Folder::new()?;
        program.prepare(folder.path())?;
        let life = Life { child: Mutex::new(None), main: AtomicU32::new(0), program, folder };
        life.restart()?;
        Ok(Self { life: Arc::new(life) })
    }

    /// SIGKILL for all its processes; returns when they are gone.
    ///
    /// # Errors
    /// If they do not go.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.aside(Life::kill).await
    }

    /// Asks it to end and waits until it has. Nothing happens if it does not run.
    ///
    /// # Errors
    /// If it takes too long.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.aside(Life::stop).await
    }

    /// Starts it again in the same folder, after [`kill`](Self::kill) or [`stop`](Self::stop); one that runs is stopped in order first. Returns when it
    /// answers.
    ///
    /// # Errors
    /// If it does not stop, or does not answer; then with the end of its log.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.aside(Life::restart).await
    }

    /// SIGSTOP for all its processes: connections stay, and nobody answers. Returns when they stand still.
    ///
    /// # Errors
    /// If it does not run, or they do not.
    pub async fn pause(&self) -> anyhow::Result<()> {
        self.aside(Life::pause).await
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Errors
    /// If it does not run.
    pub async fn resume(&self) -> anyhow::Result<()> {
        self.aside(Life::resume).await
    }

    /// The main process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.life.pid()
    }

    /// Processor time of all its processes since it was last started, those that have ended included. In steps of 10 ms.
    ///
    /// # Errors
    /// If it does not run.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        self.life.cpu()
    }

    /// The last lines that it wrote.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        self.life.end_of_log()
    }

    /// Where it lives.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.life.folder.path()
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.life.program.name()
    }

    /// What blocks must not hold up the caller's other tasks: a gateway under test may be one of them.
    async fn aside(&self, act: impl FnOnce(&Life) -> anyhow::Result<()> + Send + 'static) -> anyhow::Result<()> {
        let life = Arc::clone(&self.life);
        tokio::task::spawn_blocking(move || act(&life)).await.context("the task was ended")?
    }
}

impl Life {
    fn restart(&self) -> anyhow::Result<()> {
        let mut child = self.lock();
        self.end(&mut child)?;
        self.program.tidy(self.folder.path())?;
        let log = fs::File::options().create(true).append(true).open(self.log())?;
        let mut command = self.program.command(self.folder.path());
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let started = child.insert(command.spawn().with_context(|| format!("cannot start {}", self.program.name()))?);
        self.main.store(started.id(), Ordering::Relaxed);
        let answers = self.until_it_answers(started);
        if answers.is_err() {
            self.destroy(&mut child)?;
        }
        answers
    }

    fn until_it_answers(&self, child: &mut Child) -> anyhow::Result<()> {
        let name = self.program.name();
        let mut last = Ok(());
        let mut ended = None;
        let answered = wait(&format!("{name} answers"), STARTED_WITHIN, || {
            ended = child.try_wait().ok().flatten();
            last = self.program.answers(self.folder.path());
            ended.is_some() || last.is_ok()
        });
        match (ended, answered, last) {
            (Some(status), ..) => Err(anyhow!("{name} ended at once with {status}; the end of its log:\n{}", self.end_of_log())),
            (None, Err(error), last) => Err(error.context(format!("{last:?}; the end of its log:\n{}", self.end_of_log()))),
            (None, Ok(()), _) => Ok(()),
        }
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.end(&mut self.lock())
    }

    fn end(&self, child: &mut Option<Child>) -> anyhow::Result<()> {
        let Some(running) = child else { return Ok(()) };
        let name = self.program.name();
        self.signal_all(running.id(), libc::SIGCONT);
        signal(running.id(), self.program.orderly());
        wait(&format!("{name} stops"), STOPPED_WITHIN, || !matches!(running.try_wait(), Ok(None)))?;
        wait(&format!("the children of {name} end"), SIGNALLED_WITHIN, || inside(self.folder.path()).is_empty())?;
        self.forget(child);
        Ok(())
    }

    fn kill(&self) -> anyhow::Result<()> {
        self.destroy(&mut self.lock())
    }

    fn destroy(&self, child: &mut Option<Child>) -> anyhow::Result<()> {
        let Some(running) = child else { return Ok(()) };
        // Those who start others die first. One that has been waited for has no number any more, and is not asked to die.
        running.kill()?;
        wait(&format!("{} dies", self.program.name()), SIGNALLED_WITHIN, || {
            let left = inside(self.folder.path());
            left.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            left.is_empty()
        })?;
        running.wait()?;
        self.forget(child);
        Ok(())
    }

    fn forget(&self, child: &mut Option<Child>) {
        self.main.store(0, Ordering::Relaxed);
        *child = None;
    }

    fn pause(&self) -> anyhow::Result<()> {
        let child = self.lock();
        let pid = self.running(&child)?.id();
        wait(&format!("{} stands still", self.program.name()), SIGNALLED_WITHIN, || {
            self.signal_all(pid, libc::SIGSTOP);
            inside(self.folder.path()).into_iter().filter_map(stat).all(|stat| stat.stopped)
        })
    }

    fn resume(&self) -> anyhow::Result<()> {
        let child = self.lock();
        self.signal_all(self.running(&child)?.id(), libc::SIGCONT);
        Ok(())
    }

    /// The main process first: it starts the others.
    fn signal_all(&self, main: u32, number: libc::c_int) {
        signal(main, number);
        inside(self.folder.path()).into_iter().filter(|pid| *pid != main).for_each(|pid| signal(pid, number));
    }

    fn pid(&self) -> Option<u32> {
        Some(self.main.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        let main = self.pid().with_context(|| format!("{} does not run", self.program.name()))?;
        let living = inside(self.folder.path());
        ensure!(living.contains(&main), "{} has died", self.program.name());
        let ended = stat(main).with_context(|| format!("{} has died", self.program.name()))?.children;
        Ok(ended + living.into_iter().filter_map(stat).map(|stat| stat.own).sum::<Duration>())
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn end_of_log(&self) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_OF_LOG)..].join("\n")
    }

    fn running<'a>(&self, child: &'a Option<Child>) -> anyhow::Result<&'a Child> {
        child.as_ref().with_context(|| format!("{} does not run", self.program.name()))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        // A panic of another test says nothing about the service.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            // The folder, dropped next, ends the others. Already gone is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
