//! `kith serve`: the whole server in one process.

use std::{
    io::{Write as _, stdout},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use kith_gateway::config::{Config, LogFormat, RegistrationPolicy, Role};
use tokio::{
    io::{AsyncReadExt as _, stdin},
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The exit status of a process that a second signal ended.
const ENDED_AT_ONCE: i32 = 130;

/// Arguments of `kith serve`. Everything else is set by the file and by `KITH_…` variables.
#[derive(Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Configuration file (TOML); KITH_CONFIG names one as well
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder that holds everything the server keeps, unless PostgreSQL does [default: ./kith-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address and port for HTTP and WebSocket; port 0 takes any free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Parts of the server that this process runs: all, gateway or relay; all with the embedded database [default: all]
    #[arg(long, value_name = "ROLE")]
    role: Option<Role>,
    /// How log lines look [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// End when standard input ends: for a parent process that must not leave a server behind
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object per line
    Json,
}

impl ServeArgs {
    /// The configuration: defaults, file, environment, then what was given here.
    fn configure(&self) -> anyhow::Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        if let Some(role) = self.role {
            config.role = role;
        }
        match self.log_format {
            Some(Format::Json) => config.log.format = LogFormat::Json,
            Some(Format::Text) => config.log.format = LogFormat::Text,
            None => {}
        }
        config.validate()?;
        Ok(config)
    }
}

/// Serves until a signal asks to stop; then drains. A second signal ends the process at once.
///
/// # Errors
/// If the configuration is wrong, the address cannot be listened on, or the server fails.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = args.configure()?;
    log_to_stderr(&config)?;
    let listener = kith_gateway::bind(&config)?;
    let shutdown = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signals(shutdown.clone(), args.end_with_stdin));
    introduce(&config, listener.local_addr()?)?;
    let served = kith_gateway::run(config, listener, shutdown).await;
    signals.abort();
    served?;
    Ok(ExitCode::SUCCESS)
}

fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => filter,
        _ => config.log.filter.clone(),
    };
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("{filter} is no filter for logs"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
    }
    Ok(())
}

/// Says where things are. Parents that started this process read the first address from it.
fn introduce(config: &Config, bound: SocketAddr) -> std::io::Result<()> {
    let (http, ws) = if config.has_tls() { ("https", "wss") } else { ("http", "ws") };
    let registration = match config.registration_policy() {
        RegistrationPolicy::Open => "open to everybody who can connect",
        RegistrationPolicy::Invite => "by invite code (kith admin invite)",
        RegistrationPolicy::Closed => "closed",
        RegistrationPolicy::Auto => "as the address allows",
    };
    let storage = match config.postgres.options() {
        Some(options) => format!("PostgreSQL at {}", options.address().map_or_else(|_| "?".to_owned(), |address| address.to_string())),
        None => std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone()).display().to_string(),
    };
    let mut out = stdout().lock();
    writeln!(out, "kith {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "  REST          {http}://{bound}")?;
    writeln!(out, "  WebSocket     {ws}://{bound}/v1/ws")?;
    if !config.public_url.is_empty() {
        writeln!(out, "  clients dial  {}", config.public_url)?;
    }
    if config.role != Role::All {
        writeln!(out, "  role          {}", config.role)?;
    }
    writeln!(out, "  data          {storage}")?;
    writeln!(out, "  registration  {registration}")?;
    out.flush()
}

async fn stop_on_signals(shutdown: CancellationToken, with_stdin: bool) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be received");
        return;
    };
    let mut signals = 0;
    tokio::select! {
        _ = terminate.recv() => signals += 1,
        _ = interrupt.recv() => signals += 1,
        () = end_of_stdin(), if with_stdin => {}
    }
    tracing::info!("stopping: no new connections, and what was accepted is finished; a second signal ends at once");
    shutdown.cancel();
    while signals < 2 {
        tokio::select! {
            _ = terminate.recv() => signals += 1,
            _ = interrupt.recv() => signals += 1,
        }
    }
    // Everything that was answered is on disk already.
    std::process::exit(ENDED_AT_ONCE);
}

async fn end_of_stdin() {
    let mut ignored = [0; 64];
    while matches!(stdin().read(&mut ignored).await, Ok(1..)) {}
}
