//! The transcript of the demonstration: what a person reads.

use std::io::{self, IsTerminal as _, Write as _};

use kith_client::Tick;

use crate::local_time::{LocalTime, now_ms};

const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";
const BLUE: &str = "\x1b[94m";
const GREEN: &str = "\x1b[32m";
const MAGENTA: &str = "\x1b[35m";
const RESET: &str = "\x1b[0m";

/// Writes to standard output, with colours if it is a terminal and nobody asked for none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transcript {
    coloured: bool,
}

impl Transcript {
    /// For this process's standard output.
    pub(super) fn new() -> Self {
        Self { coloured: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.coloured { format!("{style}{text}{RESET}") } else { text.to_owned() }
    }

    fn line(text: &str) {
        // Whoever closes the output early does not want the rest; the exit status tells the outcome.
        let _ = writeln!(io::stdout(), "{text}");
    }

    fn clock(self) -> String {
        self.paint(DIM, &LocalTime::of(now_ms()).hours_minutes_seconds())
    }

    /// Begins the transcript.
    pub(super) fn title(self, text: &str) {
        Self::line(&self.paint(BOLD, text));
    }

    /// What happens next and why it matters.
    pub(super) fn explain(self, text: &str) {
        Self::line("");
        Self::line(&self.paint(DIM, &format!("          {text}")));
    }

    /// Something that happened.
    pub(super) fn event(self, text: &str) {
        Self::line(&format!("{}  {text}", self.clock()));
    }

    /// Somebody says something; shown as its reader has it, with its ticks as its writer sees them.
    pub(super) fn says(self, who: &str, text: &str, tick: Option<Tick>) {
        let style = if who == "alice" { GREEN } else { MAGENTA };
        let tick = tick.map(|tick| format!("  {}", self.tick(tick))).unwrap_or_default();
        Self::line(&format!("{}  {}  {text}{tick}", self.clock(), self.paint(style, &format!("{who:<5}"))));
    }

    /// The writer's ticks, with the word for those who do not see colours.
    pub(super) fn tick(self, tick: Tick) -> String {
        match tick {
            Tick::Failed => "failed".to_owned(),
            Tick::Pending => self.paint(DIM, "… waiting"),
            Tick::Sent => self.paint(DIM, "✓ sent"),
            Tick::Delivered => self.paint(DIM, "✓✓ delivered"),
            Tick::Read => self.paint(BLUE, "✓✓ read"),
        }
    }

    /// The end.
    pub(super) fn end(text: &str) {
        Self::line("");
        Self::line(text);
    }
}
