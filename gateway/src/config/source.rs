//! Where settings come from: defaults, file, environment.

use std::path::PathBuf;

use kith_chat_core::bus::PropertiesError;
use toml::{Table, Value};

use super::Config;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, or holds an unknown key or a value of another type.
    #[error("the configuration file is not valid: {0}")]
    Toml(String),
    /// A variable that names no setting.
    #[error("{0} is no setting of this program")]
    UnknownVariable(String),
    /// A variable whose value is of another type.
    #[error("{name} must be {expected}")]
    Variable {
        /// Which.
        name: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A value that is out of range, missing, or at odds with another.
    #[error("{key} {why}")]
    Invalid {
        /// Which key.
        key: &'static str,
        /// What is wrong, as the rest of the sentence.
        why: String,
    },
    /// The file for Kafka's clients.
    #[error(transparent)]
    Kafka(#[from] PropertiesError),
}

const PREFIX: &str = "KITH_";
/// Variables of other commands of the same program, and of the test suite's file system.
const NOT_SETTINGS: [&str; 5] = ["KITH_CONFIG", "KITH_SERVER", "KITH_HOME", "KITH_PASSPHRASE", "KITH_FAULT_"];

pub(super) fn read(file: Option<&str>, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let mut table: Table = toml::from_str(file.unwrap_or_default()).map_err(|error| toml_error(&error))?;
    // Every setting with its type: the defaults as they would stand in a file.
    let known = Table::try_from(Config::default()).map_err(|error| ConfigError::Toml(error.to_string()))?;
    for (name, text) in environment {
        let is_setting = name.starts_with(PREFIX) && !NOT_SETTINGS.iter().any(|other| name.starts_with(other));
        if is_setting {
            let (section, key, default) = find(&known, &name).ok_or_else(|| ConfigError::UnknownVariable(name.clone()))?;
            let value = parse(default, &name, &text)?;
            place(&mut table, section, key, value)?;
        }
    }
    Value::Table(table).try_into().map_err(|error| toml_error(&error))
}

fn toml_error(error: &toml::de::Error) -> ConfigError {
    // Its `Display` would quote the whole line, value included.
    ConfigError::Toml(error.message().to_owned())
}

/// Section, key and default of a variable. Between section and key may stand one underscore or two.
fn find<'a>(known: &'a Table, name: &str) -> Option<(Option<&'a str>, &'a str, &'a Value)> {
    let path = name[PREFIX.len()..].to_ascii_lowercase().replace("__", "_");
    for (key, value) in known {
        match value {
            Value::Table(section) => {
                let rest = path.strip_prefix(key.as_str()).and_then(|rest| rest.strip_prefix('_'));
                if let Some((name, value)) = rest.and_then(|rest| section.get_key_value(rest)) {
                    return Some((Some(key), name, value));
                }
            }
            value if *key == path => return Some((None, key, value)),
            _ => {}
        }
    }
    None
}

fn parse(default: &Value, name: &str, text: &str) -> Result<Value, ConfigError> {
    let wrong = |expected| ConfigError::Variable { name: name.to_owned(), expected };
    Ok(match default {
        Value::Integer(_) => Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?),
        Value::Boolean(_) => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        Value::Array(_) => Value::Array(text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Value::from).collect()),
        _ => Value::from(text),
    })
}

fn place(table: &mut Table, section: Option<&str>, key: &str, value: Value) -> Result<(), ConfigError> {
    let Some(section) = section else {
        table.insert(key.to_owned(), value);
        return Ok(());
    };
    let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    let inner = entry.as_table_mut().ok_or_else(|| ConfigError::Toml(format!("{section} is a section")))?;
    inner.insert(key.to_owned(), value);
    Ok(())
}
