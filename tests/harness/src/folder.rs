//! A temporary folder in which a service runs, and the watcher that ends whatever runs there.
//!
//! A process belongs to the folder if its working directory is in it. That holds for children of the service too, whichever process group or session they
//! have moved to and whoever is their parent by now.
//!
//! The watcher is a shell that reads from a pipe which only this process holds. Whichever way this process ends, the kernel closes the pipe; the watcher
//! then kills what runs in the folder and removes it. (`PR_SET_PDEATHSIG` would not do: it fires when the parent's thread ends, and spares grandchildren.)

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// Waits for the end of its input; then kills, gives back what the kernel would keep (a segment, a mount, huge pages), and removes the folder. Bounded: about 20 s.
///
/// PostgreSQL holds a System V shared memory segment, which outlives a killed server; its number is in line 7 of `postmaster.pid`.
const WATCH: &str = r#"
read -r _
tries=0
while [ $tries -lt 400 ]; do
  found=$(find /proc/[0-9]*/cwd -maxdepth 0 -lname "$1*" 2>/dev/null)
  [ -n "$found" ] || break
  for one in $found; do one=${one#/proc/}; kill -KILL "${one%/cwd}" 2>/dev/null; done
  tries=$((tries + 1))
  sleep 0.02
done
segment=$(sed -n '7s/.* //p' "$1/data/postmaster.pid" 2>/dev/null)
[ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
umount -l "$1/data" 2>/dev/null
pages=$(tr -cd 0-9 < "$1/huge_pages" 2>/dev/null)
if [ -n "$pages" ]; then
  left=$(($(cat /proc/sys/vm/nr_hugepages) - pages))
  [ $left -ge 0 ] || left=0
  echo $left > /proc/sys/vm/nr_hugepages
fi
rm -rf "$1"
"#;

/// The file that says how many huge pages the machine keeps for what runs in the folder.
pub(crate) const HUGE_PAGES: &str = "huge_pages";

/// The longest path that leaves room for the name of a Unix socket in the folder (the kernel allows 107 bytes).
const LONGEST: usize = 80;

/// Removed when dropped, together with whatever runs in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    watcher: Child,
}

impl Folder {
    /// A fresh folder that nobody else can read.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let usual = std::env::temp_dir();
        // Unix sockets go in there.
        let parent = if usual.as_os_str().len() > LONGEST { PathBuf::from("/tmp") } else { usual };
        let made =
            tempfile::Builder::new().prefix("kith-").tempdir_in(&parent).with_context(|| format!("cannot make a folder in {}", parent.display()))?;
        // Links resolved: `/proc` shows working directories that way.
        let path = made.path().canonicalize()?;
        let watcher = watch(&path).context("cannot start the watcher")?;
        // From here on the watcher removes it.
        let _ = made.keep();
        Ok(Self { path, watcher })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn watch(folder: &Path) -> std::io::Result<Child> {
    use std::os::unix::process::CommandExt as _;
    Command::new("/bin/sh")
        .args(["-c", WATCH, "kith-harness-watcher"])
        .arg(folder)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Out of our group: what ends the group must not end the one who tidies up.
        .process_group(0)
        .spawn()
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.watcher.stdin.take());
        // If it cannot be waited for it is gone, which is as good.
        let _ = self.watcher.wait();
    }
}
