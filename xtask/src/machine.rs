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

/// The workspace's tests are built with the feature `kafka`; the server alone is not.
pub(crate) const MAKE: Tool = Tool { what: "make, with which librdkafka is built", probe: &["make", "--version"], package: "make" };

/// The interpreter with the module that makes environments.
pub(crate) const PYTHON: Tool = Tool {
    what: "Python 3.11 or later with venv, for the vectors and the black-box client",
    probe: &["python3", "-c", PYTHON_PROBE],
    package: "python3-venv",
};

const PYTHON_PROBE: &str = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))";

/// What `tests/harness` starts, and what brings Kafka, which Debian does not have.
pub(crate) const SERVICES: [Tool; 4] = [
    Tool {
        what: "PostgreSQL 15 or later, for the tests of the cluster shape",
        probe: &["sh", "-c", "ls /usr/lib/postgresql/*/bin/initdb || command -v initdb"],
        package: "postgresql",
    },
    Tool { what: "Redis, for the tests of the cluster shape", probe: &["redis-server", "--version"], package: "redis-server" },
    Tool {
        what: "Java 17 or later, on which Kafka runs",
        probe: &["sh", "-c", r#"java -version 2>&1 | grep -Eq 'version "(1[7-9]|[2-9][0-9])'"#],
        package: "default-jre-headless",
    },
    Tool { what: "Maven, which fetches Kafka", probe: &["mvn", "--version"], package: "maven" },
];

/// Makes sure that a tool is there.
///
/// # Errors
/// If it is missing and cannot be installed; the message says what to install.
pub(crate) fn ensure(tool: &Tool, deadline: Deadline) -> anyhow::Result<()> {
    ensure_all(std::slice::from_ref(tool), deadline)
}

/// Makes sure that all the tools are there, and installs what is missing at once.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_all(tools: &[Tool], deadline: Deadline) -> anyhow::Result<()> {
    let missing: Vec<_> = tools.iter().filter(|tool| !is_there(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    missing.iter().for_each(|tool| say(&format!("{} is missing; trying to install the package {}", tool.what, tool.package)));
    let packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    install(&packages, deadline.at_most(INSTALL))?;
    if let Some(tool) = missing.iter().find(|tool| !is_there(tool)) {
        bail!("{} is missing, and the package {} did not bring it", tool.what, tool.package);
    }
    Ok(())
}

/// Installs packages where that can be done without asking anybody.
fn install(packages: &[&str], deadline: Deadline) -> anyhow::Result<()> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if !root || !succeeds(Command::new("apt-get").arg("--version")) {
        bail!("please install what is missing (on Debian and Ubuntu: apt-get install {}) and run this again", packages.join(" "));
    }
    run(Command::new("apt-get").args(["update", "-qq"]), deadline)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut install, deadline)
}

fn is_there(tool: &Tool) -> bool {
    succeeds(Command::new(tool.probe[0]).args(&tool.probe[1..]))
}
