//! Builds the fault shim of `tests/shim` and says with which environment a process runs on it.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Context as _, bail};

/// What is wrong with the disk under a folder.
#[derive(Debug, Clone)]
pub struct Faults {
    folder: PathBuf,
    hold: bool,
    leak_percent: u8,
    seed: u64,
}

impl Faults {
    /// Nothing yet, except that the disk can be filled with [`Faults::fill`]. The folder must exist.
    #[must_use]
    pub fn none(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), hold: false, leak_percent: 0, seed: 0 }
    }

    /// SIGKILL loses what was not synced.
    #[must_use]
    pub fn power_cut(folder: &Path) -> Self {
        Self { hold: true, ..Self::none(folder) }
    }

    /// SIGKILL loses an arbitrary part of what was not synced: about `leak_percent` of the written blocks get through all the same.
    #[must_use]
    pub fn torn_power_cut(folder: &Path, leak_percent: u8, seed: u64) -> Self {
        Self { leak_percent, seed, ..Self::power_cut(folder) }
    }

    /// From now on, writing fails with ENOSPC.
    ///
    /// # Errors
    /// If the control file cannot be made.
    pub fn fill(&self) -> anyhow::Result<()> {
        fs::write(self.control(), b"").context("cannot fill the disk")
    }

    /// There is space again.
    ///
    /// # Errors
    /// If the control file cannot be removed.
    pub fn make_space(&self) -> anyhow::Result<()> {
        fs::remove_file(self.control()).context("cannot make space")
    }

    /// The environment for a process on this disk.
    ///
    /// # Errors
    /// If the shim cannot be compiled.
    pub fn environment(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        Ok(vec![
            ("LD_PRELOAD", library()?.display().to_string()),
            ("KITH_FAULT_DIR", self.folder.display().to_string()),
            ("KITH_FAULT_FULL", self.control().display().to_string()),
            ("KITH_FAULT_HOLD", u8::from(self.hold).to_string()),
            ("KITH_FAULT_LEAK", self.leak_percent.to_string()),
            ("KITH_FAULT_SEED", self.seed.to_string()),
        ])
    }

    /// Beside the folder, not in it.
    fn control(&self) -> PathBuf {
        self.folder.with_extension("full")
    }
}

/// The wall clock of one process, or of several, which can be put forward and back while they run. Clocks that only go forward are not touched.
#[derive(Debug)]
pub struct WallClock {
    hand: PathBuf,
}

impl WallClock {
    /// A clock that is right. The hand is a file, which must outlive the processes.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn new(hand: PathBuf) -> anyhow::Result<Self> {
        let clock = Self { hand };
        clock.set(0)?;
        Ok(clock)
    }

    /// From now on it is ahead of the machine's by so many milliseconds, or behind it if that is negative.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, ahead_ms: i64) -> anyhow::Result<()> {
        // Written in place: processes have it in their memory.
        let mut file = fs::File::options().create(true).write(true).truncate(false).open(&self.hand).context("cannot set the clock")?;
        file.write_all(&ahead_ms.to_ne_bytes()).context("cannot set the clock")
    }

    /// The environment for a process that goes by it.
    ///
    /// # Errors
    /// If the shim cannot be compiled.
    pub fn environment(&self) -> anyhow::Result<[(&'static str, String); 2]> {
        static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let library = once(&LIBRARY, "clock.c", "clock.so")?;
        Ok([("LD_PRELOAD", library.display().to_string()), ("KITH_FAULT_CLOCK", self.hand.display().to_string())])
    }
}

/// The compiled shim of the disk.
fn library() -> anyhow::Result<&'static Path> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&LIBRARY, "powercut.c", "powercut.so")
}

/// A library to load before others; compiled once per process, beside the test programs.
fn once(library: &'static OnceLock<Result<PathBuf, String>>, source: &str, name: &str) -> anyhow::Result<&'static Path> {
    match library.get_or_init(|| compile(&["-shared", "-fPIC"], source, name).map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => bail!("{error}"),
    }
}

/// Compiles a C file of `tests/shim`.
///
/// # Errors
/// If there is no C compiler, or it fails.
pub fn compile(flags: &[&str], source: &str, name: &str) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim").join(source);
    let folder = env::current_exe()?.parent().context("a test program is in a folder")?.to_owned();
    // Several test programs may do this at once: each writes a file of its own and renames it into place.
    let unfinished = folder.join(format!("{name}.{}", std::process::id()));
    let output = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror"])
        .args(flags)
        .arg("-o")
        .arg(&unfinished)
        .arg(&source)
        .args(["-ldl", "-lpthread"])
        .output()
        .context("cannot run cc")?;
    if !output.status.success() {
        bail!("cc {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    }
    let finished = folder.join(name);
    fs::rename(&unfinished, &finished)?;
    Ok(finished)
}
