//! docs/operations.md names every setting with its default, and none that does not exist.

use std::{collections::BTreeMap, fs, path::Path};

use kith_gateway::config::Config;
use serde_json::Value;

/// The rows of all tables whose first cell is a variable of ours: the variable, and its default as it stands there.
fn rows() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let cells = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let variable = cells.next()?.trim_matches('*').trim_matches('`');
        let default = cells.next()?;
        variable.starts_with("KITH_").then(|| (variable.to_owned(), default.to_owned()))
    });
    let rows: Vec<_> = cells.collect();
    let count = rows.len();
    let rows: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(rows.len(), count, "a variable has two rows");
    rows
}

/// Every setting as a variable, with its default as the page shows it.
fn settings() -> BTreeMap<String, String> {
    let defaults = serde_json::to_value(Config::default()).expect("it can be written down");
    let mut settings = BTreeMap::new();
    for (key, value) in defaults.as_object().expect("it has sections") {
        match value.as_object() {
            Some(section) => section.iter().for_each(|(name, value)| drop(settings.insert(variable(&[key, name]), shown(value)))),
            None => drop(settings.insert(variable(&[key]), shown(value))),
        }
    }
    settings
}

fn variable(path: &[&String]) -> String {
    path.iter().fold("KITH".to_owned(), |all, part| format!("{all}_{}", part.to_uppercase()))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "–".to_owned(),
        Value::String(text) => format!("`{text}`"),
        Value::Array(items) if items.is_empty() => "–".to_owned(),
        Value::Bool(is) => format!("`{is}`"),
        other => other.to_string(),
    }
}

#[test]
fn the_page_names_every_setting_with_its_default() {
    let rows = rows();
    for (variable, default) in settings() {
        let Some(told) = rows.get(&variable) else { panic!("docs/operations.md has no row for {variable} (default {default})") };
        // Thousands are told apart for people.
        let told = if default.starts_with(|first: char| first.is_ascii_digit()) { told.replace(',', "") } else { told.clone() };
        assert_eq!(told, default, "the default of {variable} in docs/operations.md");
    }
}

#[test]
fn the_page_names_no_setting_that_does_not_exist() {
    let settings = settings();
    let unknown: Vec<_> = rows().into_keys().filter(|variable| !settings.contains_key(variable)).collect();
    assert!(unknown.is_empty(), "docs/operations.md names {unknown:?}");
}
