//! From a configuration to a running server, and back to nothing in order.

mod foundation;
mod lookout;
mod replica;
mod running;
#[cfg(test)]
mod tests;
mod waiting;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kith_chat_core::{accounts::AccountsError, bus, sessions::redis};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use self::running::Running;
use crate::{
    config::{Config, ConfigError},
    health::Health,
    metrics::Metrics,
    rest,
    server::Server,
    storage::StorageError,
    telemetry::TelemetryError,
    tls::{self, TlsError},
};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4_096;
/// Why the server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Kafka cannot be used; names its address.
    #[error(transparent)]
    Bus(#[from] bus::OpenError),
    /// Accounts and messages cannot be had.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The directory that several servers share cannot be used; names its address.
    #[error(transparent)]
    Redis(#[from] redis::OpenError),
    /// The database was opened and fails.
    #[error("cannot read the accounts")]
    Accounts(#[from] AccountsError),
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Traces cannot be sent where the configuration says.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The thread that writes has ended by itself: a fault of the program. What was accepted is on the disk, and a new process begins from there.
    #[error("the database has stopped writing")]
    NotWriting,
    /// The task that accepts connections has ended by itself: a fault of the program.
    #[error("the server has stopped accepting connections")]
    NotAccepting,
}

/// Listens where the configuration says. Port 0 takes any that is free.
///
/// # Errors
/// Names the address if it cannot be had.
pub fn bind(config: &Config) -> Result<TcpListener, RunError> {
    listen_on(config.listen)
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A server that was killed must be able to come back at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|source| RunError::Listen { address, source })
}

/// Serves until `shutdown`, then drains: stops accepting, lets requests and sockets finish, makes everything durable, closes the database.
///
/// What it depends on is waited for. Until it is there the server answers `/healthz`, names what is missing in `/readyz`, and refuses everything else with a
/// hint when to come back.
///
/// # Errors
/// If it cannot start, for a reason that waiting does not mend.
pub async fn run(config: Config, listener: TcpListener, shutdown: CancellationToken) -> Result<(), RunError> {
    config.validate()?;
    raise_file_limit();
    let bound = listener.local_addr().map_err(|source| RunError::Listen { address: config.listen, source })?;
    let tls = if config.has_tls() { Some(tls::acceptor(&config.tls)?) } else { None };
    let names = foundation::names(&config)?;
    let (health, metrics) = (Arc::new(Health::new(&names.all())), Arc::new(Metrics::start()));
    let early = rest::beside(&config, Arc::clone(&health), Arc::clone(&metrics), rest::Refusal::NotYet);
    let server = Arc::new(Server::new(&config, early, Arc::clone(&metrics), tls));
    let accepting = tokio::spawn(Arc::clone(&server).accept(listener));
    tracing::info!(address = %bound, role = %config.role, "listening");
    // Boxed: what opens all that is large, and is needed once.
    let starting = Box::pin(Running::start(config, names, bound, health, metrics));
    match shutdown.run_until_cancelled(starting).await {
        Some(Ok(running)) => running.serve(server, accepting, shutdown).await,
        failed => {
            server.drain(Duration::ZERO).await;
            failed.map_or(Ok(()), |failed| failed.map(drop))
        }
    }
}

/// Raises the limit on open files as far as the process may: every connection is one.
#[cfg(unix)]
#[allow(unsafe_code, reason = "the limit can only be had through libc; both calls get a valid pointer to a live value")]
fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live, writable rlimit; the second call only reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

#[cfg(not(unix))]
fn raise_file_limit() {}
