//! How a Redis process is made, run and asked.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use crate::{port::Port, service::Program};

const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// No answer that the harness asks for is longer.
const LONGEST_ANSWER: usize = 16 << 20;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: Port,
    /// For nodes of a cluster to speak with one another.
    pub(super) bus: Option<Port>,
    pub(super) password: String,
    pub(super) kind: Kind,
    /// Lines of the configuration that win.
    pub(super) settings: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Keeps data.
    Store,
    /// Watches over those who do.
    Sentinel,
}

impl Server {
    fn configuration(&self, folder: &Path) -> String {
        let Self { port, password, settings, .. } = self;
        let common = format!("bind 127.0.0.1\nport {}\nrequirepass {password}\ndir \"{}\"\ndaemonize no\n", port.number(), folder.display());
        let store = format!("masterauth {password}\nsave \"\"\nappendonly no\n");
        let cluster = |bus: &Port| format!("cluster-enabled yes\ncluster-port {}\ncluster-node-timeout 2000\n", bus.number());
        let kind = if self.kind == Kind::Store { store } else { String::new() };
        let bus = self.bus.as_ref().map(cluster).unwrap_or_default();
        format!("{common}{kind}{bus}{settings}")
    }

    /// Runs one command.
    ///
    /// # Errors
    /// If the server refuses, does not answer in time, or answers with a list.
    pub(super) fn ask(&self, command: &[String]) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.port.address(), ANSWERED_WITHIN)?;
        stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
        stream.set_write_timeout(Some(ANSWERED_WITHIN))?;
        stream.write_all(&encode(&["AUTH".to_owned(), self.password.clone()]))?;
        stream.write_all(&encode(command))?;
        let mut answers = BufReader::new(stream);
        ensure!(answer(&mut answers)? == "OK", "the password is wrong");
        answer(&mut answers)
    }
}

/// A list of byte strings, as the protocol wants commands.
fn encode(words: &[String]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    bytes.into_bytes()
}

fn answer(source: &mut impl std::io::BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    source.by_ref().take(1024).read_line(&mut line)?;
    let line = line.strip_suffix("\r\n").context("the connection ended")?;
    match line.split_at_checked(1).context("an empty answer")? {
        ("+" | ":", text) => Ok(text.to_owned()),
        ("$", "-1") => Ok(String::new()),
        ("$", length) => {
            let length: usize = length.parse()?;
            ensure!(length <= LONGEST_ANSWER, "an answer of {length} bytes");
            let mut bytes = vec![0; length + 2];
            source.read_exact(&mut bytes)?;
            bytes.truncate(length);
            Ok(String::from_utf8(bytes)?)
        }
        (_, text) => bail!("Redis says {text}"),
    }
}

impl Program for Server {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Store => "Redis",
            Kind::Sentinel => "Redis Sentinel",
        }
    }

    fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        Ok(fs::write(folder.join("redis.conf"), self.configuration(folder))?)
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("redis-server");
        command.arg(folder.join("redis.conf"));
        if self.kind == Kind::Sentinel {
            command.arg("--sentinel");
        }
        command
    }

    fn answers(&self, _folder: &Path) -> anyhow::Result<()> {
        self.ask(&["PING".to_owned()]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::{answer, encode};

    #[test]
    fn speaks_the_protocol() {
        assert_eq!(encode(&["GET".to_owned(), "é".to_owned()]), "*2\r\n$3\r\nGET\r\n$2\r\né\r\n".as_bytes());
        let mut source: &[u8] = b"+OK\r\n:42\r\n$5\r\na\r\nbc\r\n$-1\r\n-ERR no\r\n$3\r\nab";
        assert_eq!(answer(&mut source).expect("a status"), "OK");
        assert_eq!(answer(&mut source).expect("a number"), "42");
        assert_eq!(answer(&mut source).expect("a text"), "a\r\nbc");
        assert_eq!(answer(&mut source).expect("nothing"), "");
        assert_eq!(answer(&mut source).expect_err("an error").to_string(), "Redis says ERR no");
        assert!(answer(&mut source).is_err(), "a text that was cut off");
    }
}
