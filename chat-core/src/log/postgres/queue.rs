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
    closed: bool,
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
        let inner = Inner { items: VecDeque::new(), weight: 0, closed: false };
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
        inner.weight += weight;
        inner.items.push_back((weight, item));
        let first = inner.items.len() == 1;
        drop(inner);
        if first {
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
}
