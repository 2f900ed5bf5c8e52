//! Redis from the system's packages. Nothing is written to disk: a restart begins empty, which is the worst that can happen to its users.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Deref,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    port::Port,
    process::on_path,
    random::random_text,
    service::{Program, Service},
};

const MISSING: &str = "Redis is not installed: there is no redis-server on PATH (on Debian and Ubuntu: apt-get install redis-server)";
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// No answer that the harness asks for is longer.
const LONGEST_ANSWER: usize = 16 << 20;

/// A server with a folder of its own, and a [`Service`]: kill it, stop it, restart it, pause it, ask for its processor time. It ends when this is dropped,
/// and when this process ends, however it ends.
#[derive(Debug)]
pub struct Redis {
    service: Service,
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    port: Port,
    password: String,
    settings: String,
}

impl Redis {
    /// A server of your own.
    ///
    /// # Errors
    /// If it cannot be started; the message says what to install, or ends with the server's log.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// A server of your own with other lines of `redis.conf`, which win over those of the harness.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        on_path("redis-server").context(MISSING)?;
        let settings = settings.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
        let server = Arc::new(Server { port: Port::reserve()?, password: random_text()?, settings });
        let service = Service::start(Arc::<Server>::clone(&server)).await?;
        Ok(Self { service, server })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.port.address()
    }

    /// With a password.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_through(self.address())
    }

    /// The same server reached at another address, such as that of a proxy.
    #[must_use]
    pub fn url_through(&self, address: SocketAddr) -> String {
        format!("redis://:{}@{address}", self.server.password)
    }

    /// Runs one command and returns its answer: a number or a text; empty if there is none.
    ///
    /// # Errors
    /// If the server refuses, does not answer within 5 s, or answers with a list.
    pub async fn ask(&self, command: &[&str]) -> anyhow::Result<String> {
        let server = Arc::clone(&self.server);
        let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
        tokio::task::spawn_blocking(move || server.ask(&command)).await?
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn flush(&self) -> anyhow::Result<()> {
        self.ask(&["FLUSHALL"]).await.map(drop)
    }
}

impl Deref for Redis {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl Server {
    fn ask(&self, command: &[String]) -> anyhow::Result<String> {
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
        "Redis"
    }

    fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        let own = format!(
            "bind 127.0.0.1\nport {}\nrequirepass {}\ndir \"{}\"\nsave \"\"\nappendonly no\ndaemonize no\n{}",
            self.port.number(),
            self.password,
            folder.display(),
            self.settings
        );
        Ok(fs::write(folder.join("redis.conf"), own)?)
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("redis-server");
        command.arg(folder.join("redis.conf"));
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
