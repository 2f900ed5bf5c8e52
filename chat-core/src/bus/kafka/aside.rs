//! What blocks while it is dropped, dropped beside the runtime.

use std::ops::Deref;

/// Its value is dropped on a thread of its own.
#[derive(Debug)]
pub(super) struct Aside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Aside<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Drops it and waits for that, in a place that may block.
    pub(super) async fn end(mut self) {
        let value = self.0.take();
        let _ = tokio::task::spawn_blocking(move || drop(value)).await;
    }
}

impl<T: Send + 'static> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is taken only by what consumes this")
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        if let Some(value) = self.0.take() {
            // Without a thread it is dropped here, with the closure.
            let _ = std::thread::Builder::new().name("kith-bus-close".to_owned()).spawn(move || drop(value));
        }
    }
}
