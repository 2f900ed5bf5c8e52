//! A socket made of channels that can be stalled, and a way to wait. Shared with the tests of this crate that stand outside it: names come from above.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, Stream, task::AtomicWaker};
use tokio::{sync::mpsc, time::timeout};

use super::{Inbound, Outgoing, SocketError};

/// For anything that must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(100);

/// Waits until that holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, wait).await.expect("it never holds");
}

/// The server's end.
pub(crate) struct ChannelSocket {
    incoming: mpsc::UnboundedReceiver<Result<Inbound, SocketError>>,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    stall: Arc<Stall>,
}

/// The client's end.
pub(crate) struct Ends {
    pub(crate) to_server: mpsc::UnboundedSender<Result<Inbound, SocketError>>,
    pub(crate) from_server: mpsc::UnboundedReceiver<Outgoing>,
    pub(crate) stall: Arc<Stall>,
}

pub(crate) fn channel() -> (ChannelSocket, Ends) {
    let (to_server, incoming) = mpsc::unbounded_channel();
    let (outgoing, from_server) = mpsc::unbounded_channel();
    let stall = Arc::new(Stall::default());
    (ChannelSocket { incoming, outgoing, stall: Arc::clone(&stall) }, Ends { to_server, from_server, stall })
}

#[derive(Default)]
pub(crate) struct Stall {
    full: AtomicBool,
    waker: AtomicWaker,
}

impl Stall {
    /// The socket takes nothing more, or takes again.
    pub(crate) fn set(&self, full: bool) {
        self.full.store(full, Ordering::Release);
        self.waker.wake();
    }
}

impl Stream for ChannelSocket {
    type Item = Result<Inbound, SocketError>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(cx)
    }
}

impl ChannelSocket {
    fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<(), SocketError>> {
        self.stall.waker.register(cx.waker());
        if self.stall.full.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Sink<Outgoing> for ChannelSocket {
    type Error = SocketError;
    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.poll_room(cx)
    }
    fn start_send(self: Pin<&mut Self>, item: Outgoing) -> Result<(), SocketError> {
        self.outgoing.send(item).map_err(|_| SocketError::Io(std::io::ErrorKind::BrokenPipe.into()))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.poll_room(cx)
    }
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.poll_room(cx)
    }
}
