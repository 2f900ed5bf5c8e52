//! Accepts connections and speaks HTTP/1.1 on them, until they become WebSockets or end.
//!
//! Bounded: connections in all and per address, the size of a head, the time until a head has come, the time for which a client may refuse to read.

mod lingering;
mod slots;
mod stalled;

use std::{net::SocketAddr, sync::Arc, time::Duration};

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
use crate::{config, peer::Peer, state::AppState};

/// The largest head of a request; hyper allows no less.
const MAX_HEAD: usize = 8 * 1024;
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// After an accept that failed for want of descriptors or memory.
const BREATHER: Duration = Duration::from_millis(50);

/// What every connection needs.
pub(crate) struct Server {
    state: Arc<AppState>,
    router: Router,
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
    pub(crate) fn new(state: Arc<AppState>, router: Router, tls: Option<TlsAcceptor>) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config::ms(state.config.http.header_timeout_ms))
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS);
        let slots = Arc::new(Slots::new(state.config.http.max_connections, state.config.http.max_connections_per_address));
        let token = CancellationToken::new;
        Self { state, router, tls, slots, http, connections: TaskTracker::new(), stop: token(), abort: token() }
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
        let peer = Peer::direct(address.ip(), &self.state.trusted);
        // A proxy bounds its own clients.
        let exempt = peer.is_local || self.state.trusted.iter().any(|network| network.contains(peer.address));
        let Some(slot) = self.slots.take((!exempt).then(|| peer.limit_key()).flatten()) else {
            self.state.metrics.http_turned_away.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return;
        };
        let server = Arc::clone(self);
        self.connections.spawn(async move {
            server.state.metrics.http_connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            server.connection(stream, peer).await;
            server.state.metrics.http_connections.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            drop(slot);
        });
    }

    async fn connection(&self, stream: TcpStream, peer: Peer) {
        // Small frames must not wait for each other.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.serve(stream, peer).await };
        let within = config::ms(self.state.config.http.header_timeout_ms);
        // A failed handshake is the client's affair.
        if let Ok(Ok(stream)) = timeout(within, tls.accept(stream)).await {
            self.serve(stream, peer).await;
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S, peer: Peer) {
        let patience = config::ms(2 * self.state.config.sessions.keep_alive_ms + self.state.config.http.header_timeout_ms);
        let router = self.router.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let (head, body) = request.into_parts();
            let body = axum::body::Body::new(Lingering::new(body, &head.headers));
            router.clone().oneshot(Request::from_parts(head, body))
        });
        let io = TokioIo::new(Stalled::new(stream, patience));
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
