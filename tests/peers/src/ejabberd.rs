//! ejabberd from the system's packages, in a temporary folder, with everything in PostgreSQL.
//!
//! It runs as the packages' `ejabberdctl foreground` would run it, but under the caller's user, without Erlang's distribution (so there is no name
//! server that would stay behind), and with all its files in the folder.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kith_harness::Program;

/// The domain of all users.
pub(crate) const HOST: &str = "peer.test";
/// The password of all users.
pub(crate) const PASSWORD: &str = "correct-horse";
const MISSING: &str = "ejabberd is not installed: there is no /usr/lib/*/ejabberd-* (on Debian: tests/peers/run.sh installs it)";
const SCHEMA: &str = "/usr/share/ejabberd/sql/pg.sql";
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// What `ejabberdctl` gives to Erlang if nobody has configured it, but for the number of sockets (32,000 there).
const ERLANG_OPTIONS: [&str; 4] = ["+K", "true", "+P", "250000"];
const SOCKETS: &str = "100000";

/// The server and its database.
#[derive(Debug)]
pub(crate) struct Ejabberd {
    /// Where Erlang finds it and its libraries.
    libraries: PathBuf,
    /// As its folder is called.
    version: String,
    address: SocketAddr,
    database: String,
    pool: u16,
}

/// The parts of `postgres://role:password@host:port/name`.
struct Parts<'a> {
    role: &'a str,
    password: &'a str,
    host: &'a str,
    port: &'a str,
    name: &'a str,
}

impl Ejabberd {
    /// On the empty database at `url`, with so many connections to it.
    ///
    /// # Errors
    /// If ejabberd is not installed.
    pub(crate) fn new(url: &str, pool: u16) -> anyhow::Result<Self> {
        let (libraries, version) = installed().context(MISSING)?;
        // Free now; nobody else on this machine is expected to take it in the second before the server does.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        Ok(Self { libraries, version, address, database: url.to_owned(), pool })
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Such as `ejabberd-23.01`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Makes the schema, and users [`name`]`(0)` to `name(users)`, in the table that ejabberd's documentation gives for it.
    ///
    /// # Errors
    /// If the database refuses.
    pub(crate) fn register(&self, users: usize) -> anyhow::Result<()> {
        self.psql(&["--file", SCHEMA])?;
        let insert = format!("insert into users (username, password) select 'u' || n, '{PASSWORD}' from generate_series(0, {users}) n");
        self.psql(&["--command", &insert, "--command", "analyze users"]).map(drop)
    }

    /// Rows of the archive.
    ///
    /// # Errors
    /// If the database refuses.
    pub(crate) fn archived(&self) -> anyhow::Result<u64> {
        let rows = self.psql(&["--command", "select count(*) from archive"])?;
        rows.trim().parse().context("psql printed no number")
    }

    fn psql(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut psql = Command::new("psql");
        psql.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1", "--dbname", &self.database]);
        let output = psql.args(arguments).stdin(Stdio::null()).output().context("cannot start psql")?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn parts(&self) -> Option<Parts<'_>> {
        let (credentials, place) = self.database.strip_prefix("postgres://")?.split_once('@')?;
        let (role, password) = credentials.split_once(':')?;
        let (address, name) = place.split_once('/')?;
        let (host, port) = address.rsplit_once(':')?;
        Some(Parts { role, password, host, port, name })
    }

    /// Everything that is not named here is as ejabberd ships it. Its backlog of 5 would let connections hang that come 64 at once.
    fn configuration(&self) -> anyhow::Result<String> {
        let Parts { role, password, host, port, name } = self.parts().context("the database's address has another form than expected")?;
        Ok(format!(
            r#"hosts: ["{HOST}"]
loglevel: warning
listen:
  -
    ip: "{ip}"
    port: {listen}
    module: ejabberd_c2s
    max_stanza_size: 262144
    backlog: 4096
default_db: sql
sql_type: pgsql
sql_server: "{host}"
sql_port: {port}
sql_database: "{name}"
sql_username: "{role}"
sql_password: "{password}"
sql_pool_size: {pool}
auth_method: sql
auth_password_format: plain
modules:
  mod_mam:
    default: always
    assume_mam_usage: true
  mod_offline: {{}}
  mod_stream_mgmt: {{}}
"#,
            ip = self.address.ip(),
            listen = self.address.port(),
            pool = self.pool,
        ))
    }
}

/// The name of the n-th user.
pub(crate) fn name(n: usize) -> String {
    format!("u{n}")
}

/// The folder of Erlang libraries that has ejabberd, and its version.
fn installed() -> Option<(PathBuf, String)> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.filter_map(|folder| Some((newest(&folder)?, folder))).map(|(version, folder)| (folder, version)).next()
}

fn newest(folder: &Path) -> Option<String> {
    let names = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("ejabberd-") && folder.join(name).join("ebin").is_dir()).max()
}

impl Program for Ejabberd {
    fn name(&self) -> &str {
        "ejabberd"
    }

    fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir(folder.join("spool"))?;
        Ok(fs::write(folder.join("ejabberd.yml"), self.configuration()?)?)
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new("erl");
        command.args(ERLANG_OPTIONS).args(["-noinput", "-mnesia", "dir"]).arg(format!("\"{}\"", folder.join("spool").display()));
        command.args(["-s", "ejabberd"]);
        command.env("HOME", folder).env("ERL_LIBS", &self.libraries).env("ERL_MAX_PORTS", SOCKETS);
        command.env("EJABBERD_CONFIG_PATH", folder.join("ejabberd.yml")).env("EJABBERD_LOG_PATH", folder.join("ejabberd.log"));
        command.env("ERL_CRASH_DUMP_BYTES", "0");
        command
    }

    /// The listener is opened last, when everything else has started.
    fn answers(&self, _folder: &Path) -> anyhow::Result<()> {
        TcpStream::connect_timeout(&self.address, ANSWERS_WITHIN)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_named_in_the_configuration() {
        let ejabberd = Ejabberd {
            libraries: PathBuf::new(),
            version: String::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 15_222)),
            database: "postgres://kith:s3cret@127.0.0.1:15432/test_0".to_owned(),
            pool: 10,
        };
        let configuration = ejabberd.configuration().unwrap();
        for line in ["sql_server: \"127.0.0.1\"", "sql_port: 15432", "sql_database: \"test_0\"", "sql_password: \"s3cret\"", "port: 15222"] {
            assert!(configuration.contains(line), "{line}\n{configuration}");
        }
    }
}
