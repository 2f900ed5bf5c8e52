//! Figures of two servers, side by side.

use std::fmt::Write as _;

use serde_json::Value;

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Where in the figures it is (a JSON pointer).
    pub(crate) at: &'static str,
    pub(crate) unit: Unit,
}

/// How a figure is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// A whole number.
    Whole,
    /// With one digit after the point.
    Tenths,
    /// Microseconds, shown as milliseconds.
    Milliseconds,
}

/// A Markdown table of the medians, with the range in brackets where there were several runs.
pub(crate) fn side_by_side(title: &str, left: (&str, &[Value]), right: (&str, &[Value]), rows: &[Row]) -> String {
    let mut out = format!("| {title} | {} | {} |\n| --- | ---: | ---: |\n", left.0, right.0);
    for row in rows {
        let (left, right) = (cell(left.1, *row), cell(right.1, *row));
        if (left.as_str(), right.as_str()) != ("–", "–") {
            writeln!(out, "| {} | {left} | {right} |", row.name).expect("a string takes everything");
        }
    }
    out
}

fn cell(runs: &[Value], row: Row) -> String {
    let mut values: Vec<f64> = runs.iter().filter_map(|run| run.pointer(row.at)?.as_f64()).collect();
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return "–".to_owned() };
    let show = |value: f64| shown(value, row.unit);
    let median = show(median(&values));
    if show(*least) == show(*most) { median } else { format!("{median} ({} to {})", show(*least), show(*most)) }
}

/// Of values in order, at least one.
fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Whole => thousands(&format!("{value:.0}")),
        Unit::Tenths => format!("{value:.1}"),
        Unit::Milliseconds if value < 10_000.0 => format!("{:.2}", value / 1_000.0),
        Unit::Milliseconds => thousands(&format!("{:.0}", value / 1_000.0)),
    }
}

fn thousands(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn medians_and_ranges_are_shown_and_what_neither_has_is_not() {
        let rows = [
            Row { name: "rate", at: "/rate", unit: Unit::Whole },
            Row { name: "p50", at: "/us/p50", unit: Unit::Milliseconds },
            Row { name: "redis", at: "/redis", unit: Unit::Tenths },
            Row { name: "none", at: "/none", unit: Unit::Tenths },
        ];
        let left = [json!({"rate": 2656.4, "us": {"p50": 1200.0}}), json!({"rate": 2700.0, "us": {"p50": 1200.0}})];
        let right = [json!({"rate": 3.0, "us": {"p50": 45_000.0}, "redis": 0.25}), json!({"rate": 1.0}), json!({"rate": 80_000.0})];
        let expected = "| t | a | b |\n| --- | ---: | ---: |\n| rate | 2,678 (2,656 to 2,700) | 3 (1 to 80,000) |\n| p50 | 1.20 | 45 |\n\
                        | redis | – | 0.2 |\n";
        assert_eq!(side_by_side("t", ("a", &left), ("b", &right), &rows), expected);
    }
}
