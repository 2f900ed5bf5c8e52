//! What a connection measures of the messages that go through it: a few of them, against the clock that was read at the beginning of the turn.

use std::time::Instant;

use kith_chat_core::log::{Append, Resolved, Trace};
use kith_proto::id::ConversationId;

use crate::{
    connection::LiveMessage,
    sessions::{Sessions, us},
    telemetry::Tracer,
};

/// One message in so many is measured, in each direction.
const SAMPLE: u32 = 16;
/// Deliveries at most that wait here for their acknowledgement to be measured; others go unmeasured.
const MOST_AWAITED: usize = 8;

/// The messages of one connection that are being measured.
#[derive(Debug)]
pub(super) struct Stages {
    /// When the turn began: what is read in it came then, or shortly before.
    turn: Instant,
    sends: u32,
    deliveries: u32,
    send: Option<Sent>,
    awaited: Vec<Awaited>,
}

#[derive(Debug)]
struct Sent {
    request: u64,
    received: Instant,
    submitted: Instant,
}

/// Delivered, and not yet acknowledged.
#[derive(Debug)]
struct Awaited {
    conversation: ConversationId,
    seq: u64,
    /// For the histogram.
    since: Option<Instant>,
    trace: Option<Trace>,
}

impl Stages {
    pub(super) fn new(now: Instant) -> Self {
        Self { turn: now, sends: 0, deliveries: 0, send: None, awaited: Vec::new() }
    }

    pub(super) fn turn(&mut self, now: Instant) {
        self.turn = now;
    }

    /// A message is about to be handed to the log.
    pub(super) fn submitting(&mut self, append: &mut Append, sessions: &Sessions) {
        let sampled = self.send.is_none() && self.sends.is_multiple_of(SAMPLE);
        self.sends = self.sends.wrapping_add(1);
        let traced = sessions.tracer().is_some_and(Tracer::chooses);
        if !sampled && !traced {
            return;
        }
        let now = Instant::now();
        if sampled {
            sessions.counters().stages.receive.record(us(now.saturating_duration_since(self.turn)));
            self.send = Some(Sent { request: append.ticket.request, received: self.turn, submitted: now });
        }
        if traced {
            append.course.trace = Some(Tracer::begin(self.turn.min(now), now));
        }
    }

    /// The log did not take it, so that no answer comes.
    pub(super) fn bounced(&mut self, request: u64) {
        self.send.take_if(|sent| sent.request == request);
    }

    /// The log has answered.
    pub(super) fn answered(&mut self, message: &Resolved, sessions: &Sessions) {
        let Some(sent) = self.send.take_if(|sent| sent.request == message.append.ticket.request) else { return };
        sessions.counters().accept_latency.record(us(self.turn.saturating_duration_since(sent.received)));
        if let Some(commit) = message.append.course.commit {
            sessions.counters().stages.queue.record(us(commit.taken.saturating_duration_since(sent.submitted)));
        }
    }

    /// A live delivery is about to be put into the socket.
    pub(super) fn delivering(&mut self, live: &LiveMessage, sessions: &Sessions) {
        let sampled = self.deliveries.is_multiple_of(SAMPLE);
        self.deliveries = self.deliveries.wrapping_add(1);
        let course = &live.message().append.course;
        if !sampled && course.trace.is_none() {
            return;
        }
        if let Some(commit) = course.commit.filter(|_| sampled) {
            sessions.counters().stages.deliver.record(us(self.turn.saturating_duration_since(commit.committed)));
        }
        let trace = sessions.tracer().and_then(|tracer| tracer.delivered(course));
        if self.awaited.len() < MOST_AWAITED
            && let Some(fields) = live.fields()
        {
            self.awaited.push(Awaited { conversation: *fields.conversation, seq: fields.seq, since: sampled.then_some(self.turn), trace });
        }
    }

    /// The device has these.
    pub(super) fn acknowledged(&mut self, cursors: &[(ConversationId, u64)], sessions: &Sessions) {
        if self.awaited.is_empty() {
            return;
        }
        let turn = self.turn;
        self.awaited.retain(|awaited| {
            let stays = !cursors.iter().any(|(conversation, seq)| *conversation == awaited.conversation && *seq >= awaited.seq);
            if !stays {
                if let Some(since) = awaited.since {
                    sessions.counters().stages.acknowledge.record(us(turn.saturating_duration_since(since)));
                }
                if let (Some(trace), Some(tracer)) = (&awaited.trace, sessions.tracer()) {
                    tracer.acknowledged(trace);
                }
            }
            stays
        });
        if self.awaited.is_empty() {
            // A quiet connection owns no memory for this.
            self.awaited = Vec::new();
        }
    }
}
