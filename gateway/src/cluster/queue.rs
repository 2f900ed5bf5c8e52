//! A queue with many that put in and one that takes everything at once, bounded by count and by bytes. What finds no room is dropped.

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    work: Notify,
    most: usize,
    most_bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    items: Vec<T>,
    bytes: usize,
}

impl<T> Queue<T> {
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self { waiting: Mutex::new(Waiting { items: Vec::new(), bytes: 0 }), work: Notify::new(), most, most_bytes }
    }

    /// Puts one in that holds so many bytes. Returns whether there was room.
    pub(super) fn put(&self, item: T, bytes: usize) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.items.len() >= self.most || waiting.bytes + bytes > self.most_bytes {
            return false;
        }
        let first = waiting.items.is_empty();
        waiting.items.push(item);
        waiting.bytes += bytes;
        drop(waiting);
        if first {
            self.work.notify_one();
        }
        true
    }

    /// Everything that waits, as soon as something does. Nothing is lost if this is dropped before it is ready.
    pub(super) async fn take(&self) -> Vec<T> {
        loop {
            let items = {
                let mut waiting = self.waiting.lock();
                waiting.bytes = 0;
                std::mem::take(&mut waiting.items)
            };
            if !items.is_empty() {
                return items;
            }
            self.work.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_the_rest_comes_in_order() {
        let queue = Queue::new(3, 10);
        assert!(queue.put(1, 4) && queue.put(2, 4));
        assert!(!queue.put(3, 4), "too many bytes");
        assert!(queue.put(3, 2));
        assert!(!queue.put(4, 0), "too many");
        assert_eq!(queue.take().await, [1, 2, 3]);
        assert!(queue.put(5, 10));
        assert_eq!(queue.take().await, [5]);
    }
}
