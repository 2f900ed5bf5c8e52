//! What waits for one link, and the stream of frames that empties it.
//!
//! Bounded, and only filled while a stream is attached: whatever is dropped, the other side reads from the log, because it checks the heads of its devices
//! when a stream begins and when it is told that something found no room. Cuts are the exception: the log does not tell a gateway that a device has gone
//! elsewhere, so they wait for the next stream.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::Stream;
use kith_proto::peer::v1::{Behind, Frame, Item, item::Kind};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::counters::ClusterCounters;

/// Items that may wait, and their bytes.
const MAX_ITEMS: usize = 65_536;
const MAX_BYTES: usize = 32 << 20;
/// Cuts that may wait while there is no stream.
const MAX_CUTS: usize = 65_536;
/// A frame is closed when it holds so much, and then at least one item.
pub(super) const FRAME_BYTES: usize = 256 * 1024;
/// What an item takes beside its payload, roughly.
const ITEM_OVERHEAD: usize = 160;

/// What waits for one link.
#[derive(Debug)]
pub(super) struct Outbox {
    counters: Arc<ClusterCounters>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<(usize, Item)>,
    bytes: usize,
    cuts: VecDeque<Item>,
    /// Something found no room and the other side has not been told.
    gap: bool,
    /// The stream that is attached, if any.
    stream: Option<Attached>,
    streams: u64,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Attached {
    number: u64,
    over: CancellationToken,
}

impl Outbox {
    pub(super) fn new(counters: Arc<ClusterCounters>) -> Self {
        Self { counters, inner: Mutex::default() }
    }

    /// A new stream, which takes over from an earlier one. What goes in from now on comes out of it. The token is cancelled when it is over.
    pub(super) fn attach(self: &Arc<Self>) -> (Frames, CancellationToken) {
        let over = CancellationToken::new();
        let mut inner = self.inner.lock();
        inner.streams += 1;
        let number = inner.streams;
        if let Some(before) = inner.stream.replace(Attached { number, over: over.clone() }) {
            before.over.cancel();
        }
        self.clear(&mut inner);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        (Frames { outbox: Arc::clone(self), number }, over)
    }

    /// Puts items in, with the bytes of their payload. A cut waits for a stream; others are dropped if there is none, or no room.
    pub(super) fn put(&self, items: impl IntoIterator<Item = (usize, Item)>) {
        let mut inner = self.inner.lock();
        for (bytes, item) in items {
            if matches!(item.kind, Some(Kind::Cut(_))) {
                if inner.cuts.len() < MAX_CUTS {
                    inner.cuts.push_back(item);
                } else {
                    self.counters.dropped(&item);
                }
                continue;
            }
            let bytes = bytes + ITEM_OVERHEAD;
            let room = inner.items.len() < MAX_ITEMS && inner.bytes + bytes <= MAX_BYTES;
            if inner.stream.is_some() && room {
                inner.items.push_back((bytes, item));
                inner.bytes += bytes;
            } else {
                inner.gap |= inner.stream.is_some();
                self.counters.dropped(&item);
            }
        }
        let waker = if inner.stream.is_some() { inner.waker.take() } else { None };
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Something for the other side was dropped before it got here.
    pub(super) fn note_gap(&self) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.gap |= inner.stream.is_some();
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn clear(&self, inner: &mut Inner) {
        inner.gap = false;
        inner.bytes = 0;
        for (_, item) in inner.items.drain(..) {
            self.counters.dropped(&item);
        }
    }
}

impl Inner {
    fn frame(&mut self) -> Option<Frame> {
        let mut items: Vec<Item> = self.cuts.drain(..).collect();
        if std::mem::take(&mut self.gap) {
            items.push(Item { kind: Some(Kind::Behind(Behind { account: bytes::Bytes::new() })) });
        }
        let mut taken = 0;
        while let Some((bytes, item)) = self.items.pop_front_if(|(bytes, _)| taken == 0 || taken + *bytes <= FRAME_BYTES) {
            taken += bytes;
            items.push(item);
        }
        self.bytes -= taken;
        (!items.is_empty()).then_some(Frame { items })
    }
}

/// A stream of what waits. It ends when another takes over; when it is dropped, what waits is dropped.
#[derive(Debug)]
pub(super) struct Frames {
    outbox: Arc<Outbox>,
    number: u64,
}

impl Stream for Frames {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut inner = self.outbox.inner.lock();
        if inner.stream.as_ref().is_none_or(|stream| stream.number != self.number) {
            return Poll::Ready(None);
        }
        match inner.frame() {
            Some(frame) => {
                frame.items.iter().for_each(|item| self.outbox.counters.sent(item));
                Poll::Ready(Some(frame))
            }
            None => {
                inner.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let mut inner = self.outbox.inner.lock();
        if let Some(stream) = inner.stream.take_if(|stream| stream.number == self.number) {
            stream.over.cancel();
            self.outbox.clear(&mut inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};
    use kith_proto::peer::v1::{Cut, Deliver};

    use super::*;

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(Arc::new(ClusterCounters::default())))
    }

    fn message(seq: u64) -> Item {
        Item { kind: Some(Kind::Deliver(Deliver { seq, ..Deliver::default() })) }
    }

    fn seqs(frame: &Frame) -> Vec<u64> {
        let seq = |item: &Item| match &item.kind {
            Some(Kind::Deliver(deliver)) => deliver.seq,
            Some(Kind::Behind(_)) => 0,
            other => panic!("{other:?}"),
        };
        frame.items.iter().map(seq).collect()
    }

    #[tokio::test]
    async fn what_waits_comes_in_frames_of_bounded_size() {
        let outbox = outbox();
        let (mut frames, _) = outbox.attach();
        outbox.put((1..=5).map(|seq| (100_000, message(seq))));
        assert_eq!(seqs(&frames.next().await.unwrap()), [1, 2]);
        assert_eq!(seqs(&frames.next().await.unwrap()), [3, 4]);
        outbox.put([(10 * FRAME_BYTES, message(6))]);
        assert_eq!(seqs(&frames.next().await.unwrap()), [5]);
        assert_eq!(seqs(&frames.next().await.unwrap()), [6], "one that is larger than a frame goes alone");
        assert!(frames.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_the_other_side_told_once() {
        let outbox = outbox();
        let (mut frames, _) = outbox.attach();
        outbox.put((1..=MAX_ITEMS as u64 + 10).map(|seq| (0, message(seq))));
        assert_eq!(outbox.counters.dropped.deliver.value(), 10);
        assert_eq!(seqs(&frames.next().await.unwrap())[..2], [0, 1]);
        outbox.put([(MAX_BYTES, message(1))]);
        assert_eq!(outbox.counters.dropped.deliver.value(), 11);
        assert_eq!(seqs(&frames.next().await.unwrap())[0], 0);
    }

    #[tokio::test]
    async fn without_a_stream_only_cuts_wait() {
        let outbox = outbox();
        let cut = Item { kind: Some(Kind::Cut(Cut::default())) };
        outbox.put([(0, message(1)), (0, cut)]);
        let (mut first, over) = outbox.attach();
        assert!(matches!(&first.next().await.unwrap().items[..], [Item { kind: Some(Kind::Cut(_)) }]));
        outbox.put([(0, message(2))]);
        let (mut second, _) = outbox.attach();
        assert!(over.is_cancelled(), "another has taken over");
        assert_eq!(first.next().await, None);
        drop(first);
        outbox.put([(0, message(3))]);
        assert_eq!(seqs(&second.next().await.unwrap()), [3]);
        drop(second);
        outbox.put([(0, message(4))]);
        assert_eq!(outbox.counters.dropped.deliver.value(), 3);
    }
}
