//! The bus within one process.

use super::*;
use crate::bus::{BusError, MemoryBus};

fn fresh() -> (Store, ()) {
    (Arc::new(MemoryBus::default()), ())
}

suite!(async { fresh() });

#[tokio::test]
async fn a_full_queue_refuses_in_time_and_takes_more_when_there_is_room() {
    let bus: Store = Arc::new(MemoryBus::bounded(3, Duration::from_millis(50)));
    let (open, closed) = (Arc::new(tokio::sync::Semaphore::new(0)), Notes::of_all());
    // Nobody needs what is dropped here.
    bus.publish(&records((0..10).map(|n| event(1, n)))).await.unwrap();
    let gate = Gate { open: Arc::clone(&open), notes: Arc::clone(&closed) };
    let _member = bus.subscribe(subscription("slow"), Arc::new(gate)).await.unwrap();
    assert!(matches!(bus.publish(&records([event(1, 10)])).await, Err(BusError::Full)));
    open.add_permits(100);
    let rest: Vec<_> = (10..20).map(|n| event(1, n)).collect();
    for event in &rest {
        while bus.publish(&records([*event])).await.is_err() {}
    }
    until("all are done", || closed.has_done(&rest)).await;
    assert_eq!(closed.done.lock()[0], (1, 7), "the oldest that was kept");
}

/// Works only when it is let.
struct Gate {
    open: Arc<tokio::sync::Semaphore>,
    notes: Arc<Notes>,
}

#[async_trait]
impl Handler for Gate {
    async fn handle(&self, event: &Event) -> Result<(), HandlerError> {
        self.open.acquire().await.map_err(|_| HandlerError::Never("closed"))?.forget();
        self.notes.handle(event).await
    }
}
