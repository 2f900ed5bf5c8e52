//! A bounded queue into a thread: refuses when full, is drained in batches, and wakes its thread only when that sleeps.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Bounded by items and by weight (bytes).
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    wake: Condvar,
    max_items: usize,
    max_weight: usize,
}

struct Inner<T> {
    items: VecDeque<(usize, T)>,
    weight: usize,
    sleeping: usize,
    nudged: bool,
    closed: bool,
}

impl<T> std::fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.len()).finish_non_exhaustive()
    }
}

/// Why an item came back.
#[derive(Debug)]
pub(crate) enum PushError<T> {
    /// No room.
    Full(T),
    /// The thread has ended or is about to.
    Closed(T),
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Items, a nudge, or the deadline: look what there is to do.
    Awake,
    /// Closed, and nothing is left.
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(max_items: usize, max_weight: usize) -> Self {
        let inner = Inner { items: VecDeque::new(), weight: 0, sleeping: 0, nudged: false, closed: false };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), max_items, max_weight }
    }

    /// Adds an item. One heavier than the whole queue is still taken when the queue is empty.
    pub(crate) fn push(&self, item: T, weight: usize) -> Result<(), PushError<T>> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(PushError::Closed(item));
        }
        if inner.items.len() >= self.max_items || (inner.weight + weight > self.max_weight && !inner.items.is_empty()) {
            return Err(PushError::Full(item));
        }
        inner.weight += weight;
        inner.items.push_back((weight, item));
        let sleeping = inner.sleeping > 0;
        drop(inner);
        if sleeping {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Makes the thread look around although nothing is queued.
    pub(crate) fn nudge(&self) {
        self.inner.lock().nudged = true;
        self.wake.notify_one();
    }

    /// Moves what is waiting into `out`, in order, up to the limits (at least one item). Waits for something until `deadline` (for ever if `None`).
    pub(crate) fn take(&self, out: &mut Vec<T>, max_items: usize, max_weight: usize, deadline: Option<Instant>) -> Taken {
        let mut inner = self.inner.lock();
        while inner.items.is_empty() && !inner.closed && !inner.nudged {
            inner.sleeping += 1;
            let timed_out = match deadline {
                None => {
                    self.wake.wait(&mut inner);
                    false
                }
                Some(at) => self.wake.wait_until(&mut inner, at).timed_out(),
            };
            inner.sleeping -= 1;
            if timed_out {
                break;
            }
        }
        inner.nudged = false;
        if inner.items.is_empty() && inner.closed {
            return Taken::Closed;
        }
        let mut weight = 0;
        while out.len() < max_items {
            match inner.items.front() {
                Some((next, _)) if out.is_empty() || weight + next <= max_weight => weight += next,
                _ => break,
            }
            out.extend(inner.items.pop_front().map(|(_, item)| item));
        }
        inner.weight -= weight;
        Taken::Awake
    }

    /// Items that wait.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().items.len()
    }

    /// Nothing more is accepted; what waits is still handed out.
    pub(crate) fn close(&self) {
        self.inner.lock().closed = true;
        self.wake.notify_all();
    }

    /// Whether [`close`](Self::close) was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }
}

/// The deadline `after` from now.
pub(crate) fn within(after: Duration) -> Option<Instant> {
    Instant::now().checked_add(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_in_order_up_to_items_and_weight() {
        let queue = Queue::new(10, 100);
        for n in 0..5 {
            queue.push(n, 20).unwrap();
        }
        let mut out = Vec::new();
        assert_eq!(queue.take(&mut out, 3, 1000, None), Taken::Awake);
        assert_eq!(out, [0, 1, 2]);
        out.clear();
        assert_eq!(queue.take(&mut out, 3, 20, None), Taken::Awake);
        assert_eq!(out, [3]);
    }

    #[test]
    fn refuses_when_full_and_gives_the_item_back() {
        let queue = Queue::new(2, 100);
        queue.push(1, 150).expect("an item heavier than the queue passes alone");
        assert!(matches!(queue.push(2, 1), Err(PushError::Full(2))));
        let mut out = Vec::new();
        queue.take(&mut out, 9, 9, None);
        queue.push(3, 1).unwrap();
        queue.push(4, 1).unwrap();
        assert!(matches!(queue.push(5, 1), Err(PushError::Full(5))));
    }

    #[test]
    fn hands_out_what_is_left_after_closing() {
        let queue = Queue::new(2, 100);
        queue.push(1, 1).unwrap();
        queue.close();
        assert!(matches!(queue.push(2, 1), Err(PushError::Closed(2))));
        let mut out = Vec::new();
        assert_eq!(queue.take(&mut out, 9, 9, None), Taken::Awake);
        assert_eq!(out, [1]);
        out.clear();
        assert_eq!(queue.take(&mut out, 9, 9, None), Taken::Closed);
    }
}
