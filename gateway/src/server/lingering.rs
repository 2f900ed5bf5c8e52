//! A request's body whose unread rest is read and thrown away after the answer.
//!
//! A connection that closes while bytes lie unread is reset, and a reset overtakes the answer: a client that is still writing what was refused would
//! see a broken pipe and never learn why. So the rest is taken in for a while, bounded in bytes and time, as web servers do.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Buf as _, Bytes, Frame, Incoming, SizeHint};
use tokio::{runtime::Handle, time::timeout};

/// For how long a refused client may go on writing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the rest that are read at most; with more than that the client sees the reset.
const MOST: usize = 8 << 20;

/// See the module.
pub(super) struct Lingering {
    body: Option<Incoming>,
    lingers: bool,
}

impl Lingering {
    /// A client that asks with `Expect` writes nothing after a refusal; reading on would invite it to.
    pub(super) fn new(body: Incoming, headers: &HeaderMap) -> Self {
        Self { body: Some(body), lingers: !headers.contains_key(header::EXPECT) }
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.body.as_mut().map_or(Poll::Ready(None), |body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| self.lingers && !body.is_end_stream()) else { return };
        // The connection waits for the body's owner, so the task ends with it at the latest.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(PATIENCE, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = MOST;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, |data| data.remaining());
        let Some(rest) = left.checked_sub(read) else { return };
        left = rest;
    }
}
