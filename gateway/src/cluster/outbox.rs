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
use kith_proto::peer::v1::Frame;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    counters::ClusterCounters,
    wire::{self, Parcel, Sort},
};

/// Items that may wait, and their bytes.
const MAX_ITEMS: usize = 65_536;
const MAX_BYTES: usize = 32 << 20;
/// Cuts that may wait while there is no stream.
const MAX_CUTS: usize = 65_536;
/// A frame is closed when it holds so much, and then at least one item.
pub(super) const FRAME_BYTES: usize = 256 * 1024;
/// What an item takes beside its bytes, roughly.
const ITEM_OVERHEAD: usize = 64;

/// What waits for one link.
#[derive(Debug)]
pub(super) struct Outbox {
    counters: Arc<ClusterCounters>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Parcel>,
    bytes: usize,
    cuts: VecDeque<Parcel>,
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

    /// Puts items in. A cut waits for a stream; others are dropped if there is none, or no room.
    pub(super) fn put(&self, items: impl IntoIterator<Item = Parcel>) {
        let mut inner = self.inner.lock();
        for item in items {
            if item.sort == Sort::Cut {
                if inner.cuts.len() < MAX_CUTS {
                    inner.cuts.push_back(item);
                } else {
                    self.counters.dropped(item.sort);
                }
                continue;
            }
            let bytes = weight(&item);
            let room = inner.items.len() < MAX_ITEMS && inner.bytes + bytes <= MAX_BYTES;
            if inner.stream.is_some() && room {
                inner.items.push_back(item);
                inner.bytes += bytes;
            } else {
                inner.gap |= inner.stream.is_some();
                self.counters.dropped(item.sort);
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
        for item in inner.items.drain(..) {
            self.counters.dropped(item.sort);
        }
    }
}

fn weight(item: &Parcel) -> usize {
    item.bytes.len() + ITEM_OVERHEAD
}

impl Inner {
    fn frame(&mut self, counters: &ClusterCounters) -> Option<Frame> {
        let mut items = Vec::with_capacity(self.cuts.len() + self.items.len() + 1);
        let mut put = |item: Parcel| {
            counters.sent(item.sort);
            items.push(item.bytes);
        };
        self.cuts.drain(..).for_each(&mut put);
        if std::mem::take(&mut self.gap) {
            put(wire::behind(None));
        }
        let mut taken = 0;
        while let Some(item) = self.items.pop_front_if(|item| taken == 0 || taken + weight(item) <= FRAME_BYTES) {
            taken += weight(&item);
            put(item);
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
        match inner.frame(&self.outbox.counters) {
            Some(frame) => Poll::Ready(Some(frame)),
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
    use kith_proto::peer::v1::{Cut, Deliver, Item, item::Kind};
    use prost::Message as _;

    use super::*;

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(Arc::new(ClusterCounters::default())))
    }

    /// With a body of so many bytes.
    fn message(bytes: usize, seq: u64) -> Parcel {
        Item { kind: Some(Kind::Deliver(Deliver { seq, body: vec![0; bytes].into(), ..Deliver::default() })) }.into()
    }

    fn seqs(frame: &Frame) -> Vec<u64> {
        let seq = |item: &bytes::Bytes| match &Item::decode(item.clone()).unwrap().kind {
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
        outbox.put((1..=5).map(|seq| message(100_000, seq)));
        assert_eq!(seqs(&frames.next().await.unwrap()), [1, 2]);
        assert_eq!(seqs(&frames.next().await.unwrap()), [3, 4]);
        outbox.put([message(10 * FRAME_BYTES, 6)]);
        assert_eq!(seqs(&frames.next().await.unwrap()), [5]);
        assert_eq!(seqs(&frames.next().await.unwrap()), [6], "one that is larger than a frame goes alone");
        assert!(frames.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_counted_and_the_other_side_told_once() {
        let outbox = outbox();
        let (mut frames, _) = outbox.attach();
        outbox.put((1..=MAX_ITEMS as u64 + 10).map(|seq| message(0, seq)));
        assert_eq!(outbox.counters.dropped.deliver.value(), 10);
        assert_eq!(seqs(&frames.next().await.unwrap())[..2], [0, 1]);
        outbox.put([message(MAX_BYTES, 1)]);
        assert_eq!(outbox.counters.dropped.deliver.value(), 11);
        assert_eq!(seqs(&frames.next().await.unwrap())[0], 0);
    }

    #[tokio::test]
    async fn without_a_stream_only_cuts_wait() {
        let outbox = outbox();
        let cut = Parcel::from(Item { kind: Some(Kind::Cut(Cut::default())) });
        outbox.put([message(0, 1), cut.clone()]);
        let (mut first, over) = outbox.attach();
        assert_eq!(first.next().await.unwrap().items, [cut.bytes]);
        outbox.put([message(0, 2)]);
        let (mut second, _) = outbox.attach();
        assert!(over.is_cancelled(), "another has taken over");
        assert_eq!(first.next().await, None);
        drop(first);
        outbox.put([message(0, 3)]);
        assert_eq!(seqs(&second.next().await.unwrap()), [3]);
        drop(second);
        outbox.put([message(0, 4)]);
        assert_eq!(outbox.counters.dropped.deliver.value(), 3);
    }
}
