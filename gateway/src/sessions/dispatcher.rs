//! What the log has resolved goes to the sender as an answer and to live devices as a delivery; what another gateway's log has resolved, to live devices.

use std::sync::Arc;

use kith_chat_core::log::{Outcome, Resolved};
use kith_proto::{id::AccountId, v1::Slice};
use tokio::sync::mpsc;

use super::{Absent, Delivered, InboxLimit, Session, Sessions, counters::us};
use crate::{
    cluster,
    connection::{LiveMessage, Signal},
};

/// Connections are woken after so many messages at the latest, so that the first of a large batch does not wait for the last.
const WAKE_EVERY: usize = 64;

/// Connections that are to be woken, many at a time: waking them one by one costs more than the message.
#[derive(Debug)]
pub(crate) struct Awake {
    running_ms: u64,
    limit: InboxLimit,
    sessions: Vec<Arc<Session>>,
    messages: usize,
}

impl Awake {
    /// A message is through.
    fn message(&mut self) {
        self.messages += 1;
        if self.messages.is_multiple_of(WAKE_EVERY) {
            self.wake();
        }
    }

    /// Wakes them.
    pub(crate) fn wake(&mut self) {
        self.sessions.drain(..).for_each(|session| session.wake());
    }
}

/// Where a message was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// Here: all slices are there.
    Here,
    /// At another gateway, which has sent the slices of those devices that it knows to be here.
    Elsewhere,
}

impl Sessions {
    /// For a batch that comes now.
    pub(crate) fn awaken(&self) -> Awake {
        Awake { running_ms: self.now().running_ms, limit: self.inbox_limit(), sessions: Vec::new(), messages: 0 }
    }

    /// Runs until the log is gone. Connections are woken from here, inside the runtime, and not from the writer's thread.
    pub(super) async fn dispatch(self: Arc<Self>, mut resolved: mpsc::Receiver<Vec<Resolved>>) {
        while let Some(batch) = resolved.recv().await {
            self.measure(&batch);
            let mut awake = self.awaken();
            let accepted_us = if self.cluster.is_some() { cluster::now_us() } else { 0 };
            for message in batch {
                self.resolve(&Arc::new(message), accepted_us, &mut awake);
                awake.message();
            }
            awake.wake();
        }
    }

    /// One transaction: one measurement, which counts for all its messages.
    fn measure(&self, batch: &[Resolved]) {
        if let Some(commit) = batch.first().and_then(|message| message.append.course.commit) {
            self.counters.stages.commit.record_many(us(commit.committed - commit.taken), batch.len() as u64);
        }
    }

    fn resolve(&self, message: &Arc<Resolved>, accepted_us: u64, awake: &mut Awake) {
        self.counters.in_log.down();
        self.answer(message, awake);
        let Outcome::Accepted { duplicate, .. } = message.outcome else { return };
        self.note_mutual(message);
        if duplicate {
            self.counters.duplicates.one();
        } else {
            self.counters.accepted.one();
        }
        if self.shared.settings.drop_live_deliveries {
            return;
        }
        let absent = if duplicate {
            self.point_to_log(message);
            Absent::default()
        } else {
            self.fan_out(message, Accepted::Here, awake)
        };
        if let Some(tracer) = &self.tracer {
            tracer.accepted(&message.append.course);
        }
        match &self.cluster {
            Some(cluster) if duplicate => cluster.route_again(message),
            Some(cluster) => cluster.route(message, accepted_us, absent),
            None => self.tell_of_sleepers(message, absent),
        }
    }

    /// Nobody is connected anywhere else.
    fn tell_of_sleepers(&self, message: &Resolved, absent: Absent) {
        if let Some(sleepers) = self.sleepers.as_ref().filter(|_| !absent.is_nobody()) {
            sleepers.tell(message, absent.devices(&message.append));
        }
    }

    /// A message that was accepted at another gateway.
    pub(crate) fn deliver_from_peer(&self, message: &Arc<Resolved>, awake: &mut Awake) {
        self.note_mutual(message);
        if !self.shared.settings.drop_live_deliveries {
            self.fan_out(message, Accepted::Elsewhere, awake);
        }
        awake.message();
    }

    fn answer(&self, message: &Arc<Resolved>, awake: &mut Awake) {
        let ticket = message.append.ticket;
        self.directory.of(&message.append.sender.account, |sessions| {
            if let Some(session) = sessions.iter().find(|s| s.id() == ticket.connection)
                && session.answer(Arc::clone(message))
            {
                awake.sessions.push(Arc::clone(session));
            }
        });
    }

    fn note_mutual(&self, message: &Resolved) {
        let append = &message.append;
        if matches!(message.outcome, Outcome::Accepted { mutual: true, .. }) && !self.courier.knows_mutual(append.conversation) {
            self.courier.became_mutual(append.conversation, append.sender.account, append.recipient);
        }
    }

    /// To all live devices of both accounts that are here, but not to the one that sent it. Tells which of those that it is for are not; a checkpoint wakes
    /// nobody.
    fn fan_out(&self, message: &Arc<Resolved>, accepted: Accepted, awake: &mut Awake) -> Absent {
        let (append, mut absent) = (&message.append, Absent::default());
        for (account, slices, before) in [(append.recipient, &append.slices, 0), (append.sender.account, &append.own_slices, append.slices.len())] {
            self.directory.of(&account, |sessions| {
                for session in sessions.iter().filter(|s| s.device() != append.sender) {
                    self.deliver_to(session, message, accepted, awake);
                }
                if accepted == Accepted::Here && !append.checkpoint {
                    let is_here = |slice: &Slice| sessions.iter().any(|s| s.device().device.0[..] == slice.device[..]);
                    slices.iter().enumerate().filter(|(_, slice)| !is_here(slice)).for_each(|(at, _)| absent.note(before + at));
                }
            });
        }
        absent
    }

    fn deliver_to(&self, session: &Arc<Session>, message: &Arc<Resolved>, accepted: Accepted, awake: &mut Awake) {
        let Some(live) = LiveMessage::new(message, &session.device()) else { return };
        if accepted == Accepted::Elsewhere && !live.is_addressed() {
            // Whether it has none, or has come here so lately that its slice was not sent along, only the log knows.
            if session.note_missed() {
                session.signal(Signal::Behind);
            }
            return;
        }
        match session.deliver(live, awake.limit) {
            Delivered::LeftToLog => {}
            Delivered::Overflowed => {
                self.counters.overflows.one();
                awake.sessions.push(Arc::clone(session));
            }
            delivered => {
                self.counters.delivered_live.one();
                session.set_delivered(awake.running_ms);
                if delivered == Delivered::Wake {
                    awake.sessions.push(Arc::clone(session));
                }
            }
        }
    }

    /// A duplicate may mean that its delivery was lost. The log holds what was accepted, which need not be what the retry carries, so receivers are sent
    /// there.
    fn point_to_log(&self, message: &Resolved) {
        for account in accounts(message) {
            self.directory.of(&account, |sessions| {
                sessions.iter().filter(|s| s.device() != message.append.sender).for_each(|s| s.signal(Signal::Behind));
            });
        }
    }
}

fn accounts(message: &Resolved) -> [AccountId; 2] {
    [message.append.recipient, message.append.sender.account]
}
