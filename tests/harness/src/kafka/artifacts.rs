//! The broker's jar files: fetched once per machine and version, by Maven, which checks their checksums.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;

use crate::process::{self, on_path, wait};

/// Names all versions; what it leads to is kept until it changes.
const POM: &str = include_str!("pom.xml");
/// Pinned, like the artifacts.
const COPY: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";
const MISSING: &str =
    "Kafka's artifacts are not in the cache, and there is no mvn on PATH to fetch them (on Debian and Ubuntu: apt-get install maven)";
const FETCHED_WITHIN: Duration = Duration::from_secs(600);

/// The folder with the jar files.
///
/// # Errors
/// If they have to be fetched and cannot be.
pub(super) fn ensure() -> anyhow::Result<PathBuf> {
    let cache = cache().context("neither XDG_CACHE_HOME nor HOME is set")?;
    let folder = cache.join(format!("kafka-{:016x}", version()));
    if folder.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    // Held until the end; the kernel lets go of it if this process dies.
    let lock = fs::File::create(cache.join("kafka.lock"))?;
    wait("another process fetches Kafka", FETCHED_WITHIN, || lock.try_lock().is_ok())?;
    if !folder.exists() {
        fetch(&cache, &folder)?;
    }
    Ok(folder)
}

fn cache() -> Option<PathBuf> {
    let own = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    Some(own.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?.join("kith"))
}

fn version() -> u64 {
    let mut hasher = DefaultHasher::new();
    POM.hash(&mut hasher);
    hasher.finish()
}

/// The folder gets its name when it is complete.
fn fetch(cache: &Path, folder: &Path) -> anyhow::Result<()> {
    on_path("mvn").context(MISSING)?;
    let partial = tempfile::Builder::new().prefix("kafka-partial-").tempdir_in(cache)?;
    fs::write(partial.path().join("pom.xml"), POM)?;
    let mut maven = Command::new("mvn");
    maven.current_dir(partial.path()).args(["--batch-mode", "--quiet", "--strict-checksums", COPY]);
    maven.args(["-DincludeScope=runtime", "-DoutputDirectory=."]);
    process::run(&mut maven, FETCHED_WITHIN).context("Maven cannot fetch Kafka (is a Maven repository reachable?)")?;
    fs::rename(partial.keep(), folder)?;
    Ok(())
}
