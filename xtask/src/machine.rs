//! What a fresh machine may lack: asked for, installed where we may, named where we may not.

use std::{process::Command, time::Duration};

use anyhow::bail;

use crate::{
    report::say,
    run::{Deadline, run, succeeds},
};

const INSTALL: Duration = Duration::from_secs(300);

/// A program the tests need beside Rust and a C compiler.
pub(crate) struct Tool {
    /// What it is for, for the message.
    pub(crate) what: &'static str,
    /// How to see whether it is there.
    pub(crate) probe: &'static [&'static str],
    /// The Debian or Ubuntu package that brings it.
    pub(crate) package: &'static str,
}

/// libFuzzer is C++ and comes as source with its crate.
pub(crate) const CXX: Tool = Tool { what: "a C++ compiler, for the fuzzing runtime", probe: &["c++", "--version"], package: "g++" };

/// The interpreter with the module that makes environments.
pub(crate) const PYTHON: Tool = Tool {
    what: "Python 3.11 or later with venv, for the vectors and the black-box client",
    probe: &["python3", "-c", PYTHON_PROBE],
    package: "python3-venv",
};

const PYTHON_PROBE: &str = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))";

/// Makes sure that a tool is there.
///
/// # Errors
/// If it is missing and cannot be installed; the message says what to install.
pub(crate) fn ensure(tool: &Tool, deadline: Deadline) -> anyhow::Result<()> {
    if is_there(tool) {
        return Ok(());
    }
    say(&format!("{} is missing; trying to install the package {}", tool.what, tool.package));
    install(tool.package, deadline.at_most(INSTALL))?;
    if !is_there(tool) {
        bail!("{} is missing, and the package {} did not bring it", tool.what, tool.package);
    }
    Ok(())
}

/// Installs a package where that can be done without asking anybody.
pub(crate) fn install(package: &str, deadline: Deadline) -> anyhow::Result<()> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root || !succeeds(Command::new("apt-get").arg("--version")) {
        bail!("please install it (on Debian and Ubuntu: apt-get install {package}) and run this again");
    }
    run(Command::new("apt-get").args(["update", "-qq"]), deadline)?;
    run(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends", package]).env("DEBIAN_FRONTEND", "noninteractive"), deadline)
}

fn is_there(tool: &Tool) -> bool {
    succeeds(Command::new(tool.probe[0]).args(&tool.probe[1..]))
}
