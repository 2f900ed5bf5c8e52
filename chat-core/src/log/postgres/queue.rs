//! A bounded queue into a task: refuses when full, is drained in batches.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bounded by items and by weight (bytes).
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    wake: Notify,
    max_items: usize,
    max_weight: usize,
}

struct Inner<T> {
    items: VecDeque<(usize, T)>,
    weight: usize,
    /// The task is woken by so many items, or so much weight.
    full: (usize, usize),
    closed: bool,
}

impl<T> Inner<T> {
    fn is_full(&self) -> bool {
        self.items.len() >= self.full.0 || self.weight >= self.full.1
    }
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.inner.lock().items.len()).finish_non_exhaustive()
    }
}

/// Why an item came back.
#[derive(Debug)]
pub(super) enum Refused<T> {
    /// No room.
    Full(T),
    /// The task has ended or is about to.
    Closed(T),
}

impl<T> Queue<T> {
    pub(super) fn new(max_items: usize, max_weight: usize) -> Self {
        let inner = Inner { items: VecDeque::new(), weight: 0, full: (usize::MAX, usize::MAX), closed: false };
        Self { inner: Mutex::new(inner), wake: Notify::new(), max_items, max_weight }
    }

    /// Adds an item. One heavier than the whole queue is still taken when the queue is empty.
    pub(super) fn push(&self, item: T, weight: usize) -> Result<(), Refused<T>> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(Refused::Closed(item));
        }
        if inner.items.len() >= self.max_items || (inner.weight + weight > self.max_weight && !inner.items.is_empty()) {
            return Err(Refused::Full(item));
        }
        let was_full = inner.is_full();
        inner.weight += weight;
        inner.items.push_back((weight, item));
        let wakes = inner.items.len() == 1 || (!was_full && inner.is_full());
        drop(inner);
        if wakes {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves what is waiting into `out`, in order, up to the limits; at least one item if there is any and `out` is empty. Never waits.
    pub(super) fn take_now(&self, out: &mut Vec<T>, max_items: usize, max_weight: usize) {
        let mut inner = self.inner.lock();
        let mut weight = 0;
        while out.len() < max_items {
            match inner.items.front() {
                Some((next, _)) if out.is_empty() || weight + next <= max_weight => weight += next,
                _ => break,
            }
            out.extend(inner.items.pop_front().map(|(_, item)| item));
        }
        inner.weight -= weight;
    }

    /// Returns when something is waiting; false when the queue is closed and nothing is left.
    pub(super) async fn ready(&self) -> bool {
        loop {
            {
                let inner = self.inner.lock();
                if !inner.items.is_empty() {
                    return true;
                }
                if inner.closed {
                    return false;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Returns when so many items are waiting, or so much weight, or half of what has room here; or when the queue is closed.
    pub(super) async fn filled(&self, items: usize, weight: usize) {
        loop {
            {
                let mut inner = self.inner.lock();
                inner.full = (items.min(self.max_items / 2), weight.min(self.max_weight / 2));
                if inner.is_full() || inner.closed {
                    return;
                }
            }
            self.wake.notified().await;
        }
    }

    /// Nothing more is accepted; what waits is still handed out.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn takes_in_order_up_to_items_and_weight() {
        let queue = Queue::new(10, 100);
        for n in 0..5 {
            queue.push(n, 20).unwrap();
        }
        assert!(matches!(queue.push(9, 1), Err(Refused::Full(9))));
        let mut out = Vec::new();
        queue.take_now(&mut out, 3, 1000);
        assert_eq!(out, [0, 1, 2]);
        out.clear();
        queue.take_now(&mut out, 3, 20);
        assert_eq!(out, [3]);
        queue.push(5, 500).unwrap_err();
        queue.close();
        assert!(matches!(queue.push(9, 1), Err(Refused::Closed(9))));
        assert!(queue.ready().await, "what is left is handed out");
        out.clear();
        queue.take_now(&mut out, 3, 1);
        assert_eq!(out, [4], "one item at least");
        assert!(!queue.ready().await);
    }
    #[tokio::test]
    async fn is_filled_by_items_or_weight_or_closed() {
        let full = async |queue: &Queue<u8>| tokio::time::timeout(std::time::Duration::ZERO, queue.filled(3, 100)).await.is_ok();
        let queue = Queue::new(10, 1000);
        queue.push(1, 1).unwrap();
        queue.push(2, 1).unwrap();
        assert!(!full(&queue).await, "two of three");
        // Whoever waits already is woken.
        let (filled, ()) =
            tokio::join!(tokio::time::timeout(std::time::Duration::from_secs(10), queue.filled(3, 100)), async { queue.push(3, 1).unwrap() });
        filled.expect("three");

        let mut out = Vec::new();
        queue.take_now(&mut out, 10, 1000);
        assert!(!full(&queue).await, "empty again");
        queue.push(1, 1).unwrap();
        let (filled, ()) =
            tokio::join!(tokio::time::timeout(std::time::Duration::from_secs(10), queue.filled(3, 100)), async { queue.push(2, 99).unwrap() });
        filled.expect("by weight");
        queue.take_now(&mut out, 10, 1000);
        let (filled, ()) = tokio::join!(tokio::time::timeout(std::time::Duration::from_secs(10), queue.filled(3, 100)), async { queue.close() });
        filled.expect("closed");
    }
}
