//! Runs steps one after the other and says at the end what became of each.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::run::Deadline;

/// One thing that must pass.
pub(crate) struct Step {
    /// The name of the sub-command.
    pub(crate) name: &'static str,
    /// The longest it may take.
    pub(crate) limit: Duration,
    /// Later steps are pointless without it.
    pub(crate) essential: bool,
    /// Does it.
    pub(crate) run: Box<dyn Fn(Deadline) -> anyhow::Result<()>>,
}

enum Outcome {
    Passed,
    Failed(anyhow::Error),
    NotReached,
}

struct Line {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs one step alone.
pub(crate) fn run_one(step: &Step) -> ExitCode {
    let line = attempt(step, Deadline::after(step.limit));
    summarise(&[line])
}

/// Runs all steps within `limit`. A failure does not keep the later steps from running, unless the step is essential to them.
pub(crate) fn run_all(steps: &[Step], limit: Duration) -> ExitCode {
    let whole = Deadline::after(limit);
    let mut lines = Vec::new();
    let mut stopped = false;
    for step in steps {
        if stopped {
            lines.push(Line { name: step.name, outcome: Outcome::NotReached, took: Duration::ZERO });
            continue;
        }
        let line = attempt(step, whole.at_most(step.limit));
        stopped = step.essential && matches!(line.outcome, Outcome::Failed(_));
        lines.push(line);
    }
    summarise(&lines)
}

fn attempt(step: &Step, deadline: Deadline) -> Line {
    say(&format!("\n==> {}", step.name));
    let started = Instant::now();
    let outcome = match (step.run)(deadline) {
        Ok(()) => Outcome::Passed,
        Err(error) => {
            say(&format!("{} failed: {error:#}", step.name));
            Outcome::Failed(error)
        }
    };
    Line { name: step.name, outcome, took: started.elapsed() }
}

fn summarise(lines: &[Line]) -> ExitCode {
    say("\n==> summary");
    for line in lines {
        let seconds = line.took.as_secs_f64();
        match &line.outcome {
            Outcome::Passed => say(&format!("{:<12} ok      {seconds:>7.1} s", line.name)),
            Outcome::Failed(error) => say(&format!("{:<12} FAILED  {seconds:>7.1} s  {error:#}", line.name)),
            Outcome::NotReached => say(&format!("{:<12} NOT RUN", line.name)),
        }
    }
    let passed = lines.iter().filter(|line| matches!(line.outcome, Outcome::Passed)).count();
    let seconds: f64 = lines.iter().map(|line| line.took.as_secs_f64()).sum();
    if passed == lines.len() {
        say(&format!("xtask: ok, {passed} of {passed} steps passed in {seconds:.0} s"));
        ExitCode::SUCCESS
    } else {
        say(&format!("xtask: FAILED, {passed} of {} steps passed in {seconds:.0} s", lines.len()));
        ExitCode::FAILURE
    }
}

/// This program's output is for a person at a terminal or in a CI log.
#[expect(clippy::print_stdout, reason = "what the program is for")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
