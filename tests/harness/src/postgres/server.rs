//! How a PostgreSQL server is made, run and asked.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;

use super::Options;
use crate::{
    folder::Folder,
    port::Port,
    process,
    service::{Program, Service},
    user::{self, User},
};

/// Small, and as safe as in production: fsync, full_page_writes and synchronous_commit are on.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "64MB"),
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    // In the folder, so that a killed server leaves nothing in /dev/shm.
    ("dynamic_shared_memory_type", "mmap"),
    ("log_line_prefix", "%m [%p] %d "),
    ("log_checkpoints", "off"),
];

const MISSING: &str = "PostgreSQL is not installed: neither /usr/lib/postgresql/*/bin nor PATH has initdb, postgres and psql \
                       (on Debian and Ubuntu: apt-get install postgresql)";
const PROGRAMS: [&str; 3] = ["initdb", "postgres", "psql"];
const PACKAGED: &str = "/usr/lib/postgresql";
const INITDB_WITHIN: Duration = Duration::from_secs(120);
const STATEMENT_WITHIN: Duration = Duration::from_secs(60);
/// The superuser, who may come in by the socket in the folder without a password, and otherwise has the same one as everybody.
pub(super) const ADMIN: &str = "postgres";
/// Owns the databases, and is nobody special otherwise.
pub(super) const ROLE: &str = "kith";

/// The folder of the service holds `data` and the server's Unix socket.
#[derive(Debug)]
pub(crate) struct Server {
    /// The folder with its programs.
    programs: PathBuf,
    user: Option<User>,
    port: Port,
    password: String,
    environment: Vec<(String, String)>,
}

/// Makes a server and starts it.
///
/// # Errors
/// If PostgreSQL is not installed, or does not start.
pub(super) fn start(options: &Options) -> anyhow::Result<Service<Server>> {
    let programs = programs().context(MISSING)?;
    let user = user::instead_of_root()?;
    let folder = Folder::new(user.as_ref())?;
    let server = Server { programs, user, port: Port::reserve()?, password: password()?, environment: options.environment.clone() };
    server.initialise(folder.path(), &options.settings)?;
    let service = Service::start(folder, server)?;
    let password = service.program().password();
    service.program().sql(service.folder(), &format!("create role {ROLE} login password '{password}'"))?;
    Ok(service)
}

/// The folder that has all the programs: of the newest version that is packaged, or on PATH.
fn programs() -> Option<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = fs::read_dir(PACKAGED)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    packaged.sort();
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut all = packaged.into_iter().rev().map(|(_, folder)| folder).chain(on_path);
    all.find(|folder| PROGRAMS.iter().all(|name| folder.join(name).is_file()))
}

fn password() -> anyhow::Result<String> {
    let mut random = [0; 16];
    fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).context("the system gives no randomness")?;
    let mut text = String::new();
    random.iter().try_for_each(|byte| write!(text, "{byte:02x}"))?;
    Ok(text)
}

impl Server {
    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    fn initialise(&self, folder: &Path, settings: &[(String, String)]) -> anyhow::Result<()> {
        let password = folder.join("password");
        fs::write(&password, &self.password)?;
        let mut initdb = self.program("initdb");
        initdb.current_dir(folder).arg("--pgdata").arg(folder.join("data")).arg("--pwfile").arg(&password);
        // Others on this machine can reach the port, but not the socket in the folder. What initdb writes need not survive the machine.
        initdb.args(["--username", ADMIN, "--auth-host", "scram-sha-256", "--auth-local", "trust"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        process::run(&mut initdb, INITDB_WITHIN)?;
        fs::remove_file(password)?;
        fs::write(folder.join("data/postgresql.conf"), self.configuration(folder, settings))?;
        Ok(())
    }

    /// In the file, not on the command line, so that ALTER SYSTEM can change it.
    fn configuration(&self, folder: &Path, settings: &[(String, String)]) -> String {
        let port = self.port.number().to_string();
        let folder = folder.display().to_string();
        let place = [("port", port.as_str()), ("unix_socket_directories", &folder)];
        let own = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = SETTINGS.iter().copied().chain(place).chain(own);
        all.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
    }

    /// Runs one statement as superuser.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub(super) fn sql(&self, folder: &Path, statement: &str) -> anyhow::Result<String> {
        let mut psql = self.client(folder);
        process::run(psql.args(["--command", statement]), STATEMENT_WITHIN)
    }

    fn client(&self, folder: &Path) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        // Whatever the person at this machine has set up for servers of their own.
        env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("PG")).for_each(|name| {
            psql.env_remove(name);
        });
        psql.env("PGCONNECT_TIMEOUT", "5").args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1"]);
        psql.arg("--host").arg(folder).args(["--port", &self.port.number().to_string(), "--username", ADMIN, "--dbname", "postgres"]);
        psql
    }

    /// One of the programs, as the user who may run it.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        if let Some(user) = &self.user {
            user.run(&mut command);
        }
        command
    }
}

impl Program for Server {
    const NAME: &'static str = "PostgreSQL";
    /// A "fast" shutdown: sessions are cut off and a checkpoint is written.
    const ORDERLY: libc::c_int = libc::SIGINT;

    /// After a kill the server looks whether the number in its lock file is that of a living process; by now that could be anybody.
    fn tidy(&self, folder: &Path) -> anyhow::Result<()> {
        match fs::remove_file(folder.join("data/postmaster.pid")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("cannot remove the lock file of a dead server"),
            _ => Ok(()),
        }
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = self.program("postgres");
        command.arg("-D").arg(folder.join("data")).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn answers(&self, folder: &Path) -> anyhow::Result<()> {
        self.sql(folder, "select 1").map(drop)
    }
}
