//! How clients of Kafka prove who they are, and whom they believe: the security settings of librdkafka, under its own names, in a file as Kafka's tools take it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// A larger file is a mistake.
const MAX_BYTES: u64 = 64 * 1024;
/// What the names of such settings begin with. Others are not the operator's: what is promised of the bus depends on them.
const SECURITY: [&str; 4] = ["security.", "sasl.", "ssl.", "enable.ssl."];

/// Names and values, of which some are secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientProperties(Vec<(String, String)>);

/// What is wrong with the file. Says no values.
#[derive(Debug, thiserror::Error)]
pub enum PropertiesError {
    /// It cannot be read.
    #[error("cannot read the properties of Kafka's clients in {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line that is neither empty, nor a comment, nor `name=value`.
    #[error("line {0} of the properties of Kafka's clients is not name=value")]
    Malformed(usize),
    /// A setting that is none of security.
    #[error("{name} cannot be set in line {line} of the properties of Kafka's clients: only what begins with security., sasl., ssl. or enable.ssl.")]
    Foreign {
        /// Where.
        line: usize,
        /// Which.
        name: String,
    },
}

impl ClientProperties {
    /// Reads a file of at most 64 KiB.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if it cannot be read or is larger.
    pub fn read(path: &Path) -> Result<Self, PropertiesError> {
        let failed = |source| PropertiesError::File { path: path.to_owned(), source };
        let size = fs::metadata(path).map_err(failed)?.len();
        if size > MAX_BYTES {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 64 KiB")));
        }
        Self::parse(&fs::read_to_string(path).map_err(failed)?)
    }

    /// Takes lines `name=value`; empty ones and those that begin with `#` say nothing. Whether a value makes sense is known when a client is made.
    ///
    /// # Errors
    /// Names the line.
    pub fn parse(text: &str) -> Result<Self, PropertiesError> {
        let said = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        said.map(|(n, line)| {
            let (name, value) = line.split_once('=').ok_or(PropertiesError::Malformed(n + 1))?;
            let (name, value) = (name.trim_end(), value.trim_start());
            match SECURITY.iter().any(|beginning| name.starts_with(beginning)) {
                true => Ok((name.to_owned(), value.to_owned())),
                false => Err(PropertiesError::Foreign { line: n + 1, name: name.to_owned() }),
            }
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for ClientProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_settings_and_values_stay_hidden() {
        let text = "# who we are\n\nsecurity.protocol = SASL_SSL\r\nsasl.password=a=b #c \n  ssl.ca.location=/etc/ca.pem";
        let properties = ClientProperties::parse(text).unwrap();
        let expected = [("security.protocol", "SASL_SSL"), ("sasl.password", "a=b #c"), ("ssl.ca.location", "/etc/ca.pem")];
        assert_eq!(properties.iter().collect::<Vec<_>>(), expected);
        assert!(!format!("{properties:?}").contains("a=b"));
        assert_eq!(ClientProperties::parse("").unwrap(), ClientProperties::default());
    }

    #[test]
    fn what_is_no_setting_of_security_is_refused_by_name() {
        assert!(matches!(ClientProperties::parse("\nsasl.password"), Err(PropertiesError::Malformed(2))));
        let error = ClientProperties::parse("acks=0").unwrap_err();
        assert!(error.to_string().starts_with("acks cannot be set in line 1"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_or_too_large_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.properties");
        assert!(ClientProperties::read(&path).unwrap_err().to_string().contains("client.properties"));
        fs::write(&path, "#".repeat(70_000)).unwrap();
        assert!(matches!(ClientProperties::read(&path), Err(PropertiesError::File { source, .. }) if source.kind() == io::ErrorKind::FileTooLarge));
        fs::write(&path, "security.protocol=ssl").unwrap();
        assert_eq!(ClientProperties::read(&path).unwrap().iter().next(), Some(("security.protocol", "ssl")));
    }
}
