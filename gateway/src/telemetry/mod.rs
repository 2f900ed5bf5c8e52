//! Traces: of one message in so many, where its time went on its way from the socket through the log and, if its receiver is there, through another gateway to
//! the acknowledgement. Told to an OpenTelemetry collector (`export.rs`), in batches and beside the way of messages.
//!
//! Off unless the configuration names a collector; then a message that is not followed costs one counter. A span has a name from a closed set, two times and
//! random ids. Nothing in it says who wrote to whom, or what.
//!
//! ```text
//! message                                        at the sender's gateway, until its receivers' connections have been given it
//! ├─ receive     from the socket to the log's queue
//! ├─ queue       in it
//! ├─ commit      the transaction
//! ├─ dispatch    to the connections that are here
//! ├─ route       to the link of another gateway   (only if the receiver is there)
//! │  └─ link     to that gateway                  (told by that gateway, like what follows)
//! └─ deliver     into the receiver's socket       (under `link` if it went through one)
//!    └─ acknowledge
//! ```
//!
//! What is read from the log instead (a device that was away, or too slow for live delivery) is not followed further.

mod export;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kith_chat_core::log::{Course, Trace};
use kith_proto::peer::v1 as peer;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub(crate) use self::export::Exporter;
pub use self::export::TelemetryError;
use crate::sessions::Counter;

/// Spans that may wait for the exporter; more are dropped and counted.
const MAX_WAITING: usize = 8_192;
/// So many waiting wake the exporter early.
const MANY: usize = 512;
/// The clocks are compared again when they have drifted apart by so much: the wall clock was set.
const DRIFT: Duration = Duration::from_millis(10);

/// One stage of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    trace: u128,
    id: u64,
    /// 0 for the first.
    parent: u64,
    /// The parent was told by another process.
    parent_is_remote: bool,
    stage: Stage,
    start: SystemTime,
    end: SystemTime,
}

/// What a span is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Message,
    Receive,
    Queue,
    Commit,
    Dispatch,
    Route,
    Link,
    Deliver,
    Acknowledge,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Receive => "receive",
            Self::Queue => "queue",
            Self::Commit => "commit",
            Self::Dispatch => "dispatch",
            Self::Route => "route",
            Self::Link => "link",
            Self::Deliver => "deliver",
            Self::Acknowledge => "acknowledge",
        }
    }
}

/// Chooses messages, and gathers what is told of them.
#[derive(Debug)]
pub struct Tracer {
    one_in: u64,
    sent: AtomicU64,
    clocks: RwLock<Clocks>,
    waiting: Mutex<Vec<Span>>,
    many: Notify,
    pub(crate) exported: Counter,
    pub(crate) dropped: Counter,
}

/// The same moment by both clocks.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    running: Instant,
    wall: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { running: Instant::now(), wall: SystemTime::now() }
    }

    fn wall(self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.running) {
            Some(since) => self.wall + since,
            None => self.wall - self.running.duration_since(at),
        }
    }
}

impl Tracer {
    /// Follows one message in `one_in`.
    #[must_use]
    pub fn new(one_in: u64) -> Self {
        Self {
            one_in: one_in.max(1),
            sent: AtomicU64::new(0),
            clocks: RwLock::new(Clocks::now()),
            waiting: Mutex::default(),
            many: Notify::new(),
            exported: Counter::default(),
            dropped: Counter::default(),
        }
    }

    /// Whether the message that is just sent is to be followed.
    pub(crate) fn chooses(&self) -> bool {
        self.sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.one_in)
    }

    /// Begins with a message that came from a socket.
    pub(crate) fn begin(received: Instant, submitted: Instant) -> Box<Trace> {
        Box::new(Trace { id: u128::from(new_id()) << 64 | u128::from(new_id()), span: new_id(), received, submitted })
    }

    /// The log has resolved it and the connections here have been given it.
    pub(crate) fn accepted(&self, course: &Course) {
        let (Some(trace), Some(commit)) = (course.trace.as_deref(), course.commit) else { return };
        let now = Instant::now();
        self.tell(Span { id: trace.span, parent: 0, ..self.span(trace, Stage::Message, trace.received, now) });
        let stages = [
            (Stage::Receive, trace.received, trace.submitted),
            (Stage::Queue, trace.submitted, commit.taken),
            (Stage::Commit, commit.taken, commit.committed),
            (Stage::Dispatch, commit.committed, now),
        ];
        for (stage, start, end) in stages {
            self.tell(self.span(trace, stage, start, end));
        }
    }

    /// It goes into the link to another gateway; returns what travels with it.
    pub(crate) fn routed(&self, course: &Course) -> Option<peer::Trace> {
        let trace = course.trace.as_deref()?;
        let start = course.commit.map_or(trace.submitted, |commit| commit.committed);
        let span = self.span(trace, Stage::Route, start, Instant::now());
        self.tell(span);
        let (id_high, id_low) = halves(trace.id);
        Some(peer::Trace { id_high, id_low, span: span.id, sent_us: unix_us(span.end) })
    }

    /// It came from another gateway.
    pub(crate) fn arrived(&self, from: &peer::Trace) -> Option<Box<Trace>> {
        let id = u128::from(from.id_high) << 64 | u128::from(from.id_low);
        let start = UNIX_EPOCH.checked_add(Duration::from_micros(from.sent_us))?;
        if id == 0 || from.span == 0 {
            return None;
        }
        let now = Instant::now();
        let mut trace = Box::new(Trace { id, span: from.span, received: now, submitted: now });
        let link = self.span(&trace, Stage::Link, now, now);
        // The clocks of two machines differ; nothing ends before it began.
        self.tell(Span { start: start.min(link.end), parent_is_remote: true, ..link });
        trace.span = link.id;
        Some(trace)
    }

    /// It is put into a receiver's socket. The trace that is returned waits for the acknowledgement.
    pub(crate) fn delivered(&self, course: &Course) -> Option<Trace> {
        let trace = course.trace.as_deref()?;
        let now = Instant::now();
        let start = course.commit.map_or(trace.submitted, |commit| commit.committed);
        let span = self.span(trace, Stage::Deliver, start, now);
        self.tell(span);
        Some(Trace { span: span.id, submitted: now, ..*trace })
    }

    /// The receiver has acknowledged it.
    pub(crate) fn acknowledged(&self, delivered: &Trace) {
        self.tell(self.span(delivered, Stage::Acknowledge, delivered.submitted, Instant::now()));
    }

    fn span(&self, trace: &Trace, stage: Stage, start: Instant, end: Instant) -> Span {
        let clocks = *self.clocks.read();
        let (start, end) = (clocks.wall(start), clocks.wall(end.max(start)));
        Span { trace: trace.id, id: new_id(), parent: trace.span, parent_is_remote: false, stage, start, end }
    }

    fn tell(&self, span: Span) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            drop(waiting);
            return self.dropped.one();
        }
        waiting.push(span);
        if waiting.len() == MANY {
            self.many.notify_one();
        }
    }

    /// Everything that waits, at most `most`.
    fn take(&self, most: usize) -> Vec<Span> {
        let mut waiting = self.waiting.lock();
        let most = waiting.len().min(most);
        waiting.drain(..most).collect()
    }

    /// The wall clock may have been set.
    fn compare_clocks(&self) {
        let now = Clocks::now();
        let expected = self.clocks.read().wall(now.running);
        let apart = now.wall.duration_since(expected).unwrap_or_else(|earlier| earlier.duration());
        if apart > DRIFT {
            *self.clocks.write() = now;
        }
    }
}

/// Random, and never the 0 that means none.
fn new_id() -> u64 {
    rand::random::<u64>().max(1)
}

fn halves(id: u128) -> (u64, u64) {
    let low = u64::try_from(id & u128::from(u64::MAX)).unwrap_or_default();
    (u64::try_from(id >> 64).unwrap_or_default(), low)
}

fn unix_us(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use kith_chat_core::log::CommitTimes;

    use super::*;

    fn course() -> Course {
        let now = Instant::now();
        let commit = CommitTimes { taken: now, committed: now };
        Course { commit: Some(commit), trace: Some(Tracer::begin(now, now)) }
    }

    #[test]
    fn one_message_in_so_many_is_followed() {
        let tracer = Tracer::new(3);
        let chosen: Vec<_> = (0..7).map(|_| tracer.chooses()).collect();
        assert_eq!(chosen, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn the_spans_of_two_gateways_are_one_tree() {
        let (here, there) = (Tracer::new(1), Tracer::new(1));
        let sent = course();
        here.accepted(&sent);
        let travels = here.routed(&sent).unwrap();
        let arrived = Course { commit: None, trace: there.arrived(&travels) };
        there.acknowledged(&there.delivered(&arrived).unwrap());
        let (here, there) = (here.take(100), there.take(100));
        let stages = |spans: &[Span]| spans.iter().map(|span| span.stage.name()).collect::<Vec<_>>();
        assert_eq!(stages(&here), ["message", "receive", "queue", "commit", "dispatch", "route"]);
        assert_eq!(stages(&there), ["link", "deliver", "acknowledge"]);
        assert!(here.iter().chain(&there).all(|span| span.trace == here[0].trace && span.start <= span.end));
        assert!(here[1..].iter().all(|span| span.parent == here[0].id) && here[0].parent == 0);
        assert_eq!((there[0].parent, there[1].parent, there[2].parent), (here[5].id, there[0].id, there[1].id));
        assert!(there[0].parent_is_remote && !there[1].parent_is_remote);
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let tracer = Tracer::new(1);
        let sent = course();
        for _ in 0..MAX_WAITING {
            tracer.routed(&sent);
        }
        tracer.accepted(&sent);
        assert_eq!(tracer.dropped.value(), 5);
        assert_eq!(tracer.take(10).len(), 10);
    }

    #[test]
    fn what_another_gateway_says_without_sense_is_not_followed() {
        let tracer = Tracer::new(1);
        assert!(tracer.arrived(&peer::Trace::default()).is_none());
        assert!(
            tracer.arrived(&peer::Trace { id_high: 1, id_low: 1, span: 1, sent_us: u64::MAX }).is_some(),
            "from the future, by a clock that is wrong"
        );
    }
}
