//! Accepts connections and speaks HTTP/1.1 on them, until they become WebSockets or end.
//!
//! Bounded: connections in all and per address, the size of a head, the time until a head has come, the time for which a client may refuse to read.

mod lingering;
mod slots;
mod stalled;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use self::{lingering::Lingering, slots::Slots, stalled::Stalled};
use crate::{
    config::{self, Config},
    metrics::Metrics,
    peer::{Network, Peer},
};

/// The largest head of a request; hyper allows no less.
const MAX_HEAD: usize = 8 * 1024;
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// After an accept that failed for want of descriptors or memory.
const BREATHER: Duration = Duration::from_millis(50);

/// What every connection needs.
pub(crate) struct Server {
    /// How long a client may refuse to read, and take for a head.
    patience: Duration,
    head_within: Duration,
    trusted: Vec<Network>,
    metrics: Arc<Metrics>,
    /// Until there is something to serve.
    early: Router,
    router: OnceLock<Router>,
    tls: Option<TlsAcceptor>,
    slots: Arc<Slots>,
    http: http1::Builder,
    connections: TaskTracker,
    /// Finish what has begun and take nothing new.
    stop: CancellationToken,
    /// End at once.
    abort: CancellationToken,
}

impl Server {
    /// Answers with `early` until it is opened.
    pub(crate) fn new(config: &Config, early: Router, metrics: Arc<Metrics>, tls: Option<TlsAcceptor>) -> Self {
        let head_within = config::ms(config.http.header_timeout_ms);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(head_within).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        Self {
            patience: config::ms(2 * config.sessions.keep_alive_ms + config.http.header_timeout_ms),
            head_within,
            trusted: config.http.trusted(),
            metrics,
            early,
            router: OnceLock::new(),
            tls,
            slots: Arc::new(Slots::new(config.http.max_connections, config.http.max_connections_per_address)),
            http,
            connections: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// From now on this answers, also on connections that there are already.
    pub(crate) fn open(&self, router: Router) {
        // Whoever opens twice has the first: nobody does.
        let _ = self.router.set(router);
    }

    /// Accepts until told to stop.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }

    /// Stops accepting, lets requests finish `within`, then ends what is left.
    pub(crate) async fn drain(&self, within: Duration) {
        self.stop.cancel();
        self.connections.close();
        if timeout(within, self.connections.wait()).await.is_err() {
            self.abort.cancel();
            self.connections.wait().await;
        }
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let peer = Peer::direct(address.ip(), &self.trusted);
        // A proxy bounds its own clients.
        let exempt = peer.is_local || self.trusted.iter().any(|network| network.contains(peer.address));
        let Some(slot) = self.slots.take((!exempt).then(|| peer.limit_key()).flatten()) else {
            self.metrics.http_turned_away.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            server.metrics.http_connections.fetch_add(1, Ordering::Relaxed);
            Arc::clone(&server).connection(stream, peer).await;
            server.metrics.http_connections.fetch_sub(1, Ordering::Relaxed);
            drop(slot);
        });
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: Peer) {
        // Small frames must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.serve(stream, peer).await };
        // A failed handshake is the client's affair.
        if let Ok(Ok(stream)) = timeout(self.head_within, tls.accept(stream)).await {
            self.serve(stream, peer).await;
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: &Arc<Self>, stream: S, peer: Peer) {
        let server = Arc::clone(self);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let (head, body) = request.into_parts();
            let body = axum::body::Body::new(Lingering::new(body, &head.headers));
            let router = server.router.get().unwrap_or(&server.early);
            router.clone().oneshot(Request::from_parts(head, body))
        });
        let io = TokioIo::new(Stalled::new(stream, self.patience));
        let mut connection = std::pin::pin!(self.http.serve_connection(io, service).with_upgrades());
        // Errors of a connection are the client's affair: it went away, or sent what is not HTTP.
        if self.stop.run_until_cancelled(connection.as_mut()).await.is_none() {
            connection.as_mut().graceful_shutdown();
            let _ = self.abort.run_until_cancelled(connection).await;
        }
    }
}

/// The client went away before it was accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
