//! What a run found, as a table for people and as one JSON object for scripts.

use std::io::{self, Write};

use kith_meter::{Faults, Percentiles};
use serde::Serialize;

/// Lines of a table: what, how much.
pub(super) type Rows = Vec<(&'static str, String)>;

/// A run that came to its end.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What was run, in one line.
    pub(super) title: String,
    /// The figures.
    pub(super) rows: Rows,
    /// The same for scripts.
    pub(super) json: String,
    /// Whether every promise was kept.
    pub(super) kept: bool,
}

impl Outcome {
    /// Collects a run's figures.
    ///
    /// # Errors
    /// If a figure has no JSON form.
    pub(super) fn new(title: String, rows: Rows, figures: &impl Serialize, kept: bool) -> anyhow::Result<Self> {
        Ok(Self { title, rows, json: serde_json::to_string(figures)?, kept })
    }

    /// Writes the table, and the object if `json`.
    ///
    /// # Errors
    /// If the output is closed.
    pub(super) fn write(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        let width = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        writeln!(out, "{}", self.title)?;
        for (name, value) in &self.rows {
            writeln!(out, "  {name:<width$}  {value}")?;
        }
        if json {
            writeln!(out, "{}", self.json)?;
        }
        out.flush()
    }
}

/// Percentiles for people.
pub(super) fn latency(p: Percentiles) -> String {
    let show = |us: f64| if us >= 10_000.0 { format!("{:.1} ms", us / 1000.0) } else { format!("{us:.0} us") };
    format!("p50 {}   p99 {}   p99.9 {}", show(p.p50), show(p.p99), show(p.p999))
}

/// Broken promises for people.
pub(super) fn faults(faults: Faults) -> String {
    let Faults { lost, duplicated, misordered } = faults;
    format!("{lost} / {duplicated} / {misordered}")
}

/// A count with its thousands apart.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `amount` per `per`, or zero if there was nothing to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are exact in a double")]
pub(super) fn ratio(amount: f64, per: u64) -> f64 {
    if per == 0 { 0.0 } else { amount / per as f64 }
}

/// Events per second.
#[expect(clippy::cast_precision_loss, reason = "counts of a run are exact in a double")]
pub(super) fn per_second(events: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { round(events as f64 / seconds, 1) } else { 0.0 }
}

/// Rounds to some digits after the point.
pub(super) fn round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// Rounds down to a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates and sizes are positive and small")]
pub(super) fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_the_last_line_and_only_when_asked_for() {
        #[derive(Serialize)]
        struct Figures {
            lost: u64,
        }
        let outcome = Outcome::new("title".to_owned(), vec![("lost", "0".to_owned())], &Figures { lost: 0 }, true).unwrap();
        let text = |json| {
            let mut out = Vec::new();
            outcome.write(&mut out, json).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(true).lines().last(), Some(r#"{"lost":0}"#));
        assert_eq!(text(false), "title\n  lost  0\n");
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(latency(Percentiles { p50: 400.0, p99: 3_700.4, p999: 24_000.0 }), "p50 400 us   p99 3700 us   p99.9 24.0 ms");
        assert_eq!((per_second(10, 4.0), ratio(1.0, 0), round(1.266, 2)), (2.5, 0.0, 1.27));
    }
}
