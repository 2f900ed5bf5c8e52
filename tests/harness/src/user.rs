//! The unprivileged user as whom a server runs that refuses to run as root.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command};

use anyhow::Context as _;

/// From `/etc/passwd`.
#[derive(Debug, Clone)]
pub(crate) struct User {
    uid: u32,
    gid: u32,
}

/// In this order: the service's own, then the one that every system has.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// Whom to be instead of root; `None` if this process is not root.
pub(crate) fn instead_of_root() -> anyhow::Result<Option<User>> {
    use std::os::unix::fs::MetadataExt as _;
    // The folder of a process belongs to its effective user.
    if fs::metadata("/proc/self").context("cannot read /proc")?.uid() != 0 {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let found = CANDIDATES.iter().find_map(|name| passwd.lines().find_map(|line| parse(line, name)));
    found.map(Some).context("this process is root, PostgreSQL refuses root, and there is neither a user postgres nor a user nobody")
}

fn parse(line: &str, name: &str) -> Option<User> {
    let mut fields = line.split(':');
    if fields.next()? != name {
        return None;
    }
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { uid, gid })
}

impl User {
    /// Makes the path theirs.
    pub(crate) fn own(&self, path: &Path) -> anyhow::Result<()> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).with_context(|| format!("cannot give away {}", path.display()))
    }

    /// Makes the command run as them.
    pub(crate) fn run<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.uid(self.uid).gid(self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_a_line_of_passwd() {
        let line = "postgres:x:101:104:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash";
        let user = parse(line, "postgres").expect("it is that line");
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(parse(line, "postgre").is_none());
        assert!(parse("", "postgres").is_none());
    }
}
