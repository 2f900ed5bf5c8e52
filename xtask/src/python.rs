//! Python environments of our own, with pinned packages, under `target/python`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;

use crate::{
    machine,
    run::{Deadline, run, target},
};

/// The interpreter of the environment `name`, which holds exactly what the requirements file names. Made anew when that file has changed.
pub(crate) fn environment(name: &str, requirements: &Path, deadline: Deadline) -> anyhow::Result<PathBuf> {
    machine::ensure(&machine::PYTHON, deadline)?;
    let folder = target().join("python").join(name);
    let interpreter = folder.join("bin/python");
    let stamp = folder.join("requirements.txt");
    let wanted = fs::read_to_string(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    if fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) && interpreter.exists() {
        return Ok(interpreter);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder), deadline)?;
    run(
        Command::new(&interpreter).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements),
        deadline,
    )
    .context("installing pinned Python packages (is a package index reachable?)")?;
    fs::write(&stamp, wanted)?;
    Ok(interpreter)
}
