//! Streams that give the current value first and then changes, everywhere alike.

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream, Stream};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::watch;

/// The current value, then every change. Nothing is queued for a reader that is slow: it gets the newest state when it asks next, so a subscription
/// costs the same however long it is left alone. It ends when the client shuts down.
pub struct Subscription<T>(BoxStream<'static, T>);

impl<T: Send + 'static> Subscription<T> {
    /// The current value at the first call, then the next change; `None` once the client has shut down.
    pub async fn next(&mut self) -> Option<T> {
        self.0.next().await
    }

    /// A subscription to a value of which only the newest state matters.
    pub(crate) fn to_watch(receiver: watch::Receiver<T>) -> Self
    where
        T: Clone + Sync,
    {
        let first = (receiver, true);
        Self::from_stream(stream::unfold(first, |(mut receiver, first)| async move {
            if !first {
                receiver.changed().await.ok()?;
            }
            let value = receiver.borrow_and_update().clone();
            Some((value, (receiver, false)))
        }))
    }

    pub(crate) fn from_stream(stream: impl Stream<Item = T> + Send + 'static) -> Self {
        Self(stream.boxed())
    }
}

impl<T> Stream for Subscription<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(cx)
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_the_current_value_then_only_the_newest_change_then_ends() {
        let (sender, receiver) = watch::channel(1);
        let mut subscription = Subscription::to_watch(receiver);
        assert_eq!(subscription.next().await, Some(1));
        sender.send_replace(2);
        sender.send_replace(3);
        assert_eq!(subscription.next().await, Some(3));
        drop(sender);
        assert_eq!(subscription.next().await, None);
    }
}
