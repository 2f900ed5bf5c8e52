//! What the operating system says about processes: processor time, memory, limits, signals. Linux only where it reads /proc.

use std::{fs, io, time::Duration};

/// Clock ticks per second in /proc: fixed by the kernel's interface on every architecture Linux runs on today.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time, user and system, that a process has used.
///
/// # Errors
/// If there is no such process or /proc is not there.
pub(crate) fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_cpu_time(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has another form than expected"))
}

/// Fields 14 and 15; the name in field 2 may hold anything, so counting begins behind its closing parenthesis.
fn parse_cpu_time(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// Proportional set size of a process in bytes: its memory, shared pages divided by those who share them.
///
/// # Errors
/// If there is no such process, it belongs to another user, or /proc is not there.
pub(crate) fn proportional_set_size(pid: u32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    parse_pss(&rollup).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/smaps_rollup has another form than expected"))
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Raises the soft limit of open files to the hard one and returns it. A server and a load generator hold one file per connection.
pub(crate) fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "two system calls on a struct of our own; neither keeps the pointer")]
    // SAFETY: `limit` is a valid rlimit for the whole of both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            }
        }
    }
    limit.rlim_cur
}

/// Asks a child of this process to end (SIGTERM).
pub(crate) fn terminate(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        #[expect(unsafe_code, reason = "a system call without pointers")]
        // SAFETY: kill has no memory effects; the caller owns the child, so the pid cannot have been given to another process.
        unsafe {
            libc::kill(pid, libc::SIGTERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "42 (a ) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 123 77 0 0 20 0 5 0 100 1000 10 18446744073709551615";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_millis(2000)));
        assert_eq!(parse_cpu_time("42 (x) S 1"), None);
    }

    #[test]
    fn memory_is_in_bytes() {
        assert_eq!(
            parse_pss("55d0-7ff ---p 00000000 00:00 0 [rollup]\nRss:  900 kB\nPss:                 123 kB\nPss_Dirty: 1 kB\n"),
            Some(123 * 1024)
        );
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        assert!(proportional_set_size(std::process::id()).unwrap() > 100_000);
        cpu_time(std::process::id()).unwrap();
        assert!(raise_open_files() >= 256);
    }
}
