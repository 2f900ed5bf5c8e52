//! Finds, signals and measures processes through `/proc`, and runs short programs with a deadline.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// Clock ticks per second in what `/proc` tells: fixed by Linux for all that it shows to programs.
const TICKS: u64 = 100;

/// Between two looks at something that is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(5);

/// The living processes whose working directory is the folder or below it.
pub(crate) fn inside(folder: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Not readable: gone, a zombie, or of somebody else, and so not ours.
    pids.filter(|pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(folder))).collect()
}

/// Sends a signal; to a process that is gone, nothing happens.
pub(crate) fn signal(pid: u32, signal: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    #[expect(unsafe_code, reason = "a system call without pointers")]
    // SAFETY: `kill` takes two numbers and touches no memory of ours.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// What the kernel tells of one process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Stopped by SIGSTOP.
    pub(crate) stopped: bool,
    /// Processor time of its own.
    pub(crate) own: Duration,
    /// Processor time of the children that it has waited for.
    pub(crate) children: Duration,
}

pub(crate) fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The second field is the program's name in brackets, and may itself hold spaces and brackets.
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let stopped = fields.next()? == "T";
    let mut ticks = fields.skip(10).map_while(|field| field.trim_end().parse::<u64>().ok());
    let mut pair = || Some(Duration::from_millis((ticks.next()? + ticks.next()?) * (1000 / TICKS)));
    Some(Stat { stopped, own: pair()?, children: pair()? })
}

/// Waits for something, looking often.
pub(crate) fn wait(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > limit {
            bail!("{what}: not within {limit:?}");
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Runs a short program that writes little, and returns what it wrote.
///
/// # Errors
/// If it cannot be started, takes too long or fails; then with what it wrote.
pub(crate) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<String> {
    let output = output(command, limit)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(if output.stderr.is_empty() { &output.stdout } else { &output.stderr });
        bail!("{}: {}: {}", name(command), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn output(command: &mut Command, limit: Duration) -> anyhow::Result<Output> {
    let name = name(command);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))?;
    let ended = wait(&format!("{name} ends"), limit, || !matches!(child.try_wait(), Ok(None)));
    if ended.is_err() {
        child.kill()?;
    }
    let output = child.wait_with_output()?;
    ended.map(|()| output)
}

/// Where a program is.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_of_stat_whose_name_is_odd() {
        let line = "42 (a) b (c) T 1 42 42 0 -1 4194560 100 200 3 4 150 50 7 3 20 0 1 0 100 1000 50\n";
        let expected = Stat { stopped: true, own: Duration::from_secs(2), children: Duration::from_millis(100) };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("42 (a"), None);
    }

    #[test]
    fn finds_this_process_where_it_works() {
        let here = env::current_dir().and_then(|here| here.canonicalize()).expect("there is one");
        assert!(inside(&here).contains(&std::process::id()));
        assert!(stat(std::process::id()).is_some_and(|stat| !stat.stopped));
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let error = run(Command::new("sleep").arg("600"), Duration::from_millis(50)).expect_err("it takes longer");
        assert!(error.to_string().contains("not within"), "{error}");
        let error = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), Duration::from_secs(30)).expect_err("it fails");
        assert!(error.to_string().contains("exit status: 3: no"), "{error}");
        assert_eq!(run(Command::new("echo").arg("yes"), Duration::from_secs(30)).expect("it works"), "yes");
    }
}
