//! What `/proc` tells of processes.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Clock ticks per second in what `/proc` tells: fixed by Linux for all that it shows to programs.
const TICKS: u64 = 100;

/// Processor time of this process.
///
/// # Errors
/// If `/proc` is not there.
pub(crate) fn own_cpu_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    parse_cpu_time(&stat).context("/proc/self/stat has another form than expected")
}

/// Fields 14 and 15; the name in field 2 may hold anything, so counting begins behind its closing bracket.
fn parse_cpu_time(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11).map_while(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis((fields.next()? + fields.next()?) * (1000 / TICKS)))
}

/// Proportional set size of a process in bytes.
///
/// # Errors
/// If there is no such process, or it belongs to another user.
pub(crate) fn proportional_set_size(pid: u32) -> anyhow::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the server's memory cannot be read")?;
    let kilobytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kilobytes.context("/proc/PID/smaps_rollup has another form than expected")? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_can_be_measured() {
        assert!(proportional_set_size(std::process::id()).unwrap() > 100_000);
        own_cpu_time().unwrap();
        let stat = "42 (a ) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 123 77 0 0 20 0 5 0 100 1000 10 18446744073709551615";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(2)));
    }
}
