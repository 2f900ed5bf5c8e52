//! A member of a group, as its owner holds it.

use std::time::Duration;

use tokio::{sync::watch, task::JoinHandle, time::timeout};

/// A member that leaves gets so long to finish the events that it is working on.
const LEAVE_WITHIN: Duration = Duration::from_secs(30);

/// Works until it leaves. Dropping it is as if its process had died: what it was working on is worked on again by another member.
#[derive(Debug)]
pub struct Member {
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Member {
    /// Runs what `work` makes; that ends soon after the receiver says so.
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(watch::Receiver<bool>) -> F) -> Self {
        let (leave, leaving) = watch::channel(false);
        Self { leave, task: tokio::spawn(work(leaving)) }
    }

    /// Finishes the events that are being worked on, begins no other, notes how far it came and leaves the group.
    pub async fn leave(mut self) {
        self.leave.send_replace(true);
        if timeout(LEAVE_WITHIN, &mut self.task).await.is_err() {
            tracing::warn!("a member of the bus was still at work when its time to leave was over");
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns when the member is to leave, or its owner is gone.
pub(super) async fn left(leaving: &mut watch::Receiver<bool>) {
    let _ = leaving.wait_for(|leave| *leave).await;
}
