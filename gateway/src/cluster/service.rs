//! The stream from another gateway, from the side that is dialled: nobody gets further than the door without a proof, and even at the door there is room for a
//! bounded number.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{Stream, StreamExt as _, stream};
use kith_proto::peer::v1::{
    Frame,
    peer_server::{Peer, PeerServer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, transport::Server, transport::server::Connected};

use super::{
    Cluster,
    dial::{PING_EVERY, PONG_WITHIN, PROOF, WINDOW, ascii},
};
use crate::sessions::Sessions;

/// Connections to the port of the gateways at a time, proven or not.
const MAX_CONNECTIONS: usize = 2_048;
/// A connection that has not shown a proof by then is closed.
const PROVE_WITHIN: Duration = Duration::from_secs(5);
/// Streams on one connection; a gateway needs one.
const MAX_STREAMS: u32 = 4;
/// Bytes of headers.
const MAX_HEADERS: u32 = 8 * 1024;
/// After an accept that failed for want of descriptors or memory.
const BREATHER: Duration = Duration::from_millis(50);

/// Answers the calls of other gateways.
struct Door {
    cluster: Arc<Cluster>,
    sessions: Arc<Sessions>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

#[async_trait]
impl Peer for Door {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<Frame>>) -> Result<Response<Self::LinkStream>, Status> {
        let cluster = &self.cluster;
        let proof = request.metadata().get(PROOF).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let claim = cluster.proofs.check_dial(proof, cluster.clock.now_ms()).map_err(|error| {
            cluster.counters.refused.one();
            Status::unauthenticated(error.to_string())
        })?;
        if let Some(standing) = request.extensions().get::<Standing>() {
            standing.0.store(true, Ordering::Release);
        }
        let Some(link) = cluster.links.called_by(claim.from) else {
            cluster.counters.refused.one();
            return Err(Status::resource_exhausted("too many gateways"));
        };
        // Attached before the caller hears of it; see `dial.rs`.
        let (frames, over) = link.outbox.attach();
        let (cluster, sessions, incoming) = (Arc::clone(cluster), Arc::clone(&self.sessions), request.into_inner());
        let answer = ascii(&cluster.proofs.answer(&claim)).map_err(|error| Status::internal(error.to_string()))?;
        let ended = over.clone().cancelled_owned();
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            shutdown.run_until_cancelled(cluster.serve_link(&sessions, &link, incoming, &over)).await;
            over.cancel();
        });
        let outgoing: Self::LinkStream = Box::pin(frames.map(Ok).take_until(ended));
        let mut response = Response::new(outgoing);
        response.metadata_mut().insert(PROOF, answer);
        Ok(response)
    }
}

/// Serves other gateways until the shutdown.
pub(super) async fn serve(cluster: Arc<Cluster>, sessions: Arc<Sessions>, listener: TcpListener, tracker: TaskTracker, shutdown: CancellationToken) {
    let door = Door { cluster, sessions, tracker, shutdown };
    let service = PeerServer::new(door).max_decoding_message_size(super::MAX_MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN));
    if let Err(error) = server.serve_with_incoming(service, connections(listener)).await {
        tracing::error!(error = &error as &dyn std::error::Error, "other gateways can no longer call");
    }
}

fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<Caller>> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    stream::unfold((listener, slots), |(listener, slots)| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
                    let _ = stream.set_nodelay(true);
                    return Some((Ok(Caller::new(stream, slot)), (listener, slots)));
                }
                Err(_) => sleep(BREATHER).await,
            }
        }
    })
}

/// A connection that is closed unless a proof is shown on it soon.
struct Caller {
    stream: TcpStream,
    standing: Standing,
    overdue: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

/// Whether a proof was shown on the connection.
#[derive(Debug, Clone)]
struct Standing(Arc<AtomicBool>);

impl Caller {
    fn new(stream: TcpStream, slot: OwnedSemaphorePermit) -> Self {
        Self { stream, standing: Standing(Arc::default()), overdue: Some(Box::pin(sleep(PROVE_WITHIN))), _slot: slot }
    }

    fn is_overdue(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(overdue) = &mut self.overdue else { return false };
        if self.standing.0.load(Ordering::Acquire) {
            self.overdue = None;
            return false;
        }
        overdue.as_mut().poll(cx).is_ready()
    }
}

impl Connected for Caller {
    type ConnectInfo = Standing;

    fn connect_info(&self) -> Standing {
        self.standing.clone()
    }
}

impl AsyncRead for Caller {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_overdue(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}
