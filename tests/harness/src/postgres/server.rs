//! How a PostgreSQL server is made, run and asked.

use std::{
    env, fs,
    io::{ErrorKind, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::Context as _;

use super::{Options, huge_pages};
use crate::{
    folder::HUGE_PAGES,
    port::Port,
    process,
    random::random_text,
    service::{Program, Service},
    user::{self, User},
};

/// Small, and as safe as in production: fsync, full_page_writes and synchronous_commit are on.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("shared_buffers", "64MB"),
    // Those that are kept for a server that is measured are not for anybody else.
    ("huge_pages", "off"),
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
const COPIED_WITHIN: Duration = Duration::from_secs(120);
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
    options: Options,
    /// The server that it is a standby of.
    follows: Option<Arc<Server>>,
    /// Known once there is one.
    folder: OnceLock<PathBuf>,
}

/// Makes a server and starts it.
///
/// # Errors
/// If PostgreSQL is not installed, or does not start.
pub(super) fn start(options: &Options) -> anyhow::Result<(Service, Arc<Server>)> {
    let server = Arc::new(Server {
        programs: programs().context(MISSING)?,
        user: user::instead_of_root()?,
        port: Port::reserve()?,
        password: random_text()?,
        options: options.clone(),
        follows: None,
        folder: OnceLock::new(),
    });
    let service = Service::start_blocking(Arc::<Server>::clone(&server))?;
    server.sql(&format!("create role {ROLE} login password '{}'", server.password))?;
    Ok((service, server))
}

/// Makes a standby that follows `primary`, and starts it.
///
/// # Errors
/// If the primary does not let itself be copied, or the standby does not start.
pub(super) fn start_standby(primary: &Arc<Server>) -> anyhow::Result<(Service, Arc<Server>)> {
    let server = Arc::new(Server {
        programs: primary.programs.clone(),
        user: primary.user.clone(),
        port: Port::reserve()?,
        password: primary.password.clone(),
        // A standby takes at least as many connections as its primary. A disk is not copied with the rest.
        options: Options { disk: None, huge_pages: false, ..primary.options.clone() },
        follows: Some(Arc::clone(primary)),
        folder: OnceLock::new(),
    });
    let service = Service::start_blocking(Arc::<Server>::clone(&server))?;
    Ok((service, server))
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

impl Server {
    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(super) fn password(&self) -> &str {
        &self.password
    }

    fn initialise(&self, folder: &Path) -> anyhow::Result<()> {
        let password = folder.join("password");
        fs::write(&password, &self.password)?;
        let mut initdb = self.program("initdb");
        initdb.current_dir(folder).arg("--pgdata").arg(folder.join("data")).arg("--pwfile").arg(&password);
        // Others on this machine can reach the port, but not the socket in the folder. What initdb writes need not survive the machine.
        initdb.args(["--username", ADMIN, "--auth-host", "scram-sha-256", "--auth-local", "trust"]);
        initdb.args(["--encoding", "UTF8", "--locale", "C", "--no-sync"]);
        process::run(&mut initdb, INITDB_WITHIN)?;
        fs::remove_file(password)?;
        let configuration = folder.join("data/postgresql.conf");
        fs::write(&configuration, self.configuration(folder))?;
        if self.options.huge_pages && self.reserve_huge_pages(folder) {
            // Whoever takes them in the meantime does not keep it from starting.
            fs::write(configuration, self.configuration(folder) + "huge_pages = 'try'\n")?;
        }
        Ok(())
    }

    /// What the kernel says of the server that runs now.
    pub(super) fn has_huge_pages(&self) -> bool {
        let memory = self.folder().ok().and_then(|folder| {
            let lock = fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
            fs::read_to_string(format!("/proc/{}/smaps_rollup", lock.lines().next()?)).ok()
        });
        let in_huge_pages = |line: &str| line.contains("_Hugetlb:") && !line.contains(" 0 kB");
        memory.is_some_and(|memory| memory.lines().any(in_huge_pages))
    }

    /// As many as the server says that it needs.
    fn reserve_huge_pages(&self, folder: &Path) -> bool {
        let mut question = self.program("postgres");
        question.current_dir(folder).arg("-D").arg(folder.join("data")).args(["-C", "shared_memory_size_in_huge_pages"]);
        let answer = process::run(&mut question, STATEMENT_WITHIN);
        let needed = answer.ok().and_then(|answer| answer.trim().parse().ok()).filter(|needed| *needed > 0);
        needed.is_some_and(|needed| huge_pages::reserve(needed, &folder.join(HUGE_PAGES)))
    }

    /// Copies the primary while it runs. What it lets in by its socket without a password is who may read its folder, and the standby is the same user.
    fn copy(&self, primary: &Self, folder: &Path) -> anyhow::Result<()> {
        let data = folder.join("data");
        let mut copy = self.program("pg_basebackup");
        copy.current_dir(folder).arg("--pgdata").arg(&data).args(["--wal-method", "stream", "--checkpoint", "fast", "--no-sync"]);
        copy.arg("--host").arg(primary.folder()?).args(["--port", &primary.port.number().to_string(), "--username", ADMIN]);
        process::run(&mut copy, COPIED_WITHIN)?;
        let link = format!("host={} port={} user={ADMIN}", primary.folder()?.display(), primary.port.number());
        let following = format!("primary_conninfo = '{link}'\nhot_standby = 'on'\nwal_retrieve_retry_interval = '100ms'\n");
        fs::write(data.join("postgresql.conf"), self.configuration(folder) + &following)?;
        fs::write(data.join("standby.signal"), "")?;
        Ok(())
    }

    /// A file system in memory over the data; the folder's watcher unmounts it.
    fn mount(&self, folder: &Path, mebibytes: u32) -> anyhow::Result<()> {
        let data = folder.join("data");
        fs::create_dir(&data)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "kith-harness"]).arg(&data);
        process::run(&mut mount, STATEMENT_WITHIN).context("a disk of its own needs root and the right to mount")?;
        self.user.as_ref().map_or(Ok(()), |user| user.own(&data))
    }

    /// The file that fills the disk.
    fn ballast(&self) -> anyhow::Result<PathBuf> {
        self.options.disk.context("this server has no disk of its own")?;
        Ok(self.folder()?.join("data/ballast"))
    }

    /// Ends when a single byte no longer fits.
    pub(super) fn fill_disk(&self) -> anyhow::Result<()> {
        let mut file = fs::File::options().create(true).append(true).open(self.ballast()?)?;
        let block = vec![1; 1 << 20];
        let mut size = block.len();
        while size > 0 {
            match file.write(&block[..size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => size /= 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn free_disk(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.ballast()?)?)
    }

    fn folder(&self) -> anyhow::Result<&Path> {
        self.folder.get().map(PathBuf::as_path).context("the server has no folder yet")
    }

    /// In the file, not on the command line, so that ALTER SYSTEM can change it.
    fn configuration(&self, folder: &Path) -> String {
        let port = self.port.number().to_string();
        let folder = folder.display().to_string();
        let place = [("port", port.as_str()), ("unix_socket_directories", &folder)];
        let own = self.options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = SETTINGS.iter().copied().chain(place).chain(own);
        all.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
    }

    /// Runs one statement as superuser.
    ///
    /// # Errors
    /// If the server does not answer or refuses.
    pub(super) fn sql(&self, statement: &str) -> anyhow::Result<String> {
        let mut psql = self.client(self.folder()?);
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
    fn name(&self) -> &str {
        if self.follows.is_some() { "PostgreSQL's standby" } else { "PostgreSQL" }
    }

    /// A "fast" shutdown: sessions are cut off and a checkpoint is written.
    fn orderly(&self) -> i32 {
        libc::SIGINT
    }

    fn prepare(&self, folder: &Path) -> anyhow::Result<()> {
        if let Some(user) = &self.user {
            user.own(folder)?;
        }
        if let Some(mebibytes) = self.options.disk {
            self.mount(folder, mebibytes)?;
        }
        match &self.follows {
            Some(primary) => self.copy(primary, folder)?,
            None => self.initialise(folder)?,
        }
        // Prepared once.
        let _ = self.folder.set(folder.to_owned());
        Ok(())
    }

    /// After a kill the server looks whether the number in its lock file is that of a living process; by now that could be anybody.
    fn tidy(&self, folder: &Path) -> anyhow::Result<()> {
        match fs::remove_file(folder.join("data/postmaster.pid")) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("cannot remove the lock file of a dead server"),
            _ => Ok(()),
        }
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = self.program("postgres");
        command.arg("-D").arg(folder.join("data")).envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn answers(&self, _folder: &Path) -> anyhow::Result<()> {
        self.sql("select 1").map(drop)
    }
}
