//! What the log has resolved goes to the sender as an answer and to live devices as a delivery.

use std::sync::Arc;

use kith_chat_core::log::{Outcome, Resolved};
use kith_proto::id::AccountId;
use tokio::sync::mpsc;

use super::{Delivered, InboxLimit, Session, Sessions};
use crate::connection::{LiveMessage, Signal};

/// Connections are woken after so many messages at the latest, so that the first of a large batch does not wait for the last.
const WAKE_EVERY: usize = 64;

impl Sessions {
    /// Runs until the log is gone. Connections are woken from here, inside the runtime and many at a time: waking them one by one from the writer's
    /// thread costs more than the message.
    pub(super) async fn dispatch(self: Arc<Self>, mut resolved: mpsc::Receiver<Vec<Resolved>>) {
        let mut awake = Vec::new();
        while let Some(batch) = resolved.recv().await {
            let running_ms = self.now().running_ms;
            for (at, message) in batch.into_iter().enumerate() {
                self.resolve(&Arc::new(message), running_ms, &mut awake);
                if at % WAKE_EVERY == WAKE_EVERY - 1 {
                    wake(&mut awake);
                }
            }
            wake(&mut awake);
        }
    }

    fn resolve(&self, message: &Arc<Resolved>, running_ms: u64, awake: &mut Vec<Arc<Session>>) {
        self.counters.in_log.down();
        let append = &message.append;
        let (sender, recipient) = (append.sender, append.recipient);
        let Outcome::Accepted { duplicate, mutual, .. } = message.outcome else {
            return self.answer(message, awake);
        };
        self.answer(message, awake);
        if mutual && !self.courier.knows_mutual(append.conversation) {
            self.courier.became_mutual(append.conversation, sender.account, recipient);
        }
        if duplicate {
            self.counters.duplicates.one();
        } else {
            self.counters.accepted.one();
        }
        if self.shared.settings.drop_live_deliveries {
            return;
        }
        for account in [recipient, sender.account] {
            if duplicate {
                self.point_to_log(&account, message);
            } else {
                self.deliver(&account, message, running_ms, awake);
            }
        }
    }

    fn answer(&self, message: &Arc<Resolved>, awake: &mut Vec<Arc<Session>>) {
        let ticket = message.append.ticket;
        self.directory.of(&message.append.sender.account, |sessions| {
            if let Some(session) = sessions.iter().find(|s| s.id() == ticket.connection)
                && session.answer(Arc::clone(message))
            {
                awake.push(Arc::clone(session));
            }
        });
    }

    fn deliver(&self, account: &AccountId, message: &Arc<Resolved>, running_ms: u64, awake: &mut Vec<Arc<Session>>) {
        let limit = self.inbox_limit();
        self.directory.of(account, |sessions| {
            for session in sessions.iter().filter(|s| s.device() != message.append.sender) {
                self.deliver_to(session, message, limit, running_ms, awake);
            }
        });
    }

    fn deliver_to(&self, session: &Arc<Session>, message: &Arc<Resolved>, limit: InboxLimit, running_ms: u64, awake: &mut Vec<Arc<Session>>) {
        let Some(live) = LiveMessage::new(message, &session.device()) else { return };
        match session.deliver(live, limit) {
            Delivered::LeftToLog => {}
            Delivered::Overflowed => {
                self.counters.overflows.one();
                awake.push(Arc::clone(session));
            }
            delivered => {
                self.counters.delivered_live.one();
                session.set_delivered(running_ms);
                if delivered == Delivered::Wake {
                    awake.push(Arc::clone(session));
                }
            }
        }
    }

    /// A duplicate may mean that its delivery was lost. The log holds what was accepted, which need not be what the retry carries, so receivers are sent
    /// there.
    fn point_to_log(&self, account: &AccountId, message: &Resolved) {
        self.directory.of(account, |sessions| {
            sessions.iter().filter(|s| s.device() != message.append.sender).for_each(|s| s.signal(Signal::Behind));
        });
    }
}

fn wake(awake: &mut Vec<Arc<Session>>) {
    awake.drain(..).for_each(|session| session.wake());
}
