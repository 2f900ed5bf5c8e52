//! What one user sends to another: numbered messages, at most a window of them not yet handled by the server.

use std::{
    collections::VecDeque,
    io::Write as _,
    time::{Duration, Instant},
};

use crate::xmpp::{Body, SM};

/// When messages come into being.
#[derive(Debug)]
enum Source {
    /// As soon as the window has room; at most this many more.
    Closed(u64),
    /// At times set from outside.
    Open(VecDeque<Instant>),
}

/// A sender's side.
#[derive(Debug)]
pub(crate) struct Outbox {
    to: String,
    size: usize,
    window: usize,
    epoch: Instant,
    source: Source,
    /// When each message was due that the server has not handled.
    open: VecDeque<Instant>,
    sent: u64,
}

impl Outbox {
    /// An outbox to the address `to`, with bodies of `size` bytes; `epoch` is the zero of times in bodies. It sends nothing yet.
    pub(crate) fn new(to: String, size: usize, window: usize, epoch: Instant) -> Self {
        Self { to, size, window, epoch, source: Source::Closed(0), open: VecDeque::new(), sent: 0 }
    }

    /// From now on the window is kept full until `count` more messages have been made.
    pub(crate) fn keep_full(&mut self, count: u64) {
        self.source = Source::Closed(count);
    }

    /// A message is due at `at`, which may be past.
    pub(crate) fn offer(&mut self, at: Instant) {
        match &mut self.source {
            Source::Open(due) => due.push_back(at),
            Source::Closed(_) => self.source = Source::Open(VecDeque::from([at])),
        }
    }

    /// Makes no more messages.
    pub(crate) fn stop(&mut self) {
        self.source = Source::Closed(0);
    }

    /// Messages sent and not handled by the server.
    pub(crate) fn unanswered(&self) -> u64 {
        self.open.len() as u64
    }

    /// Messages that the server has handled.
    pub(crate) fn accepted(&self) -> u64 {
        self.sent - self.unanswered()
    }

    /// Writes every message that may go now, and a request for acknowledgement behind the last of them.
    pub(crate) fn fill(&mut self, now: Instant, out: &mut Vec<u8>) {
        let before = self.sent;
        while self.open.len() < self.window {
            let Some(due) = self.next_due(now) else { break };
            self.sent += 1;
            self.open.push_back(due);
            self.write(due, out);
        }
        if self.sent > before {
            write!(out, "<r xmlns='{SM}'/>").expect("memory takes everything");
        }
    }

    fn next_due(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.source {
            Source::Closed(0) => None,
            Source::Closed(left) => {
                *left -= 1;
                Some(now)
            }
            Source::Open(due) => due.pop_front(),
        }
    }

    fn write(&self, due: Instant, out: &mut Vec<u8>) {
        let since = due.saturating_duration_since(self.epoch);
        let body = Body { number: self.sent, due: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX) };
        write!(out, "<message type='chat' to='{}' id='m{}'><body>", self.to, self.sent).expect("memory takes everything");
        body.write(self.size, out);
        out.extend_from_slice(b"</body></message>");
    }

    /// The server has handled so many in all: hands out when each new one of them was due. False if that is more than was sent.
    pub(crate) fn handled(&mut self, total: u32, mut accepted: impl FnMut(Instant)) -> bool {
        let new = u64::from(total).saturating_sub(self.accepted());
        if new > self.unanswered() {
            return false;
        }
        (0..new).filter_map(|_| self.open.pop_front()).for_each(&mut accepted);
        true
    }
}

/// The moment that a body's `due` means.
pub(crate) fn due(epoch: Instant, body: Body) -> Instant {
    epoch + Duration::from_nanos(body.due)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(outbox: &mut Outbox, now: Instant) -> (usize, usize) {
        let mut out = Vec::new();
        outbox.fill(now, &mut out);
        let text = String::from_utf8(out).unwrap();
        (text.matches("<message ").count(), text.matches("<r ").count())
    }

    #[test]
    fn the_window_is_kept_full_and_one_request_follows_each_batch() {
        let now = Instant::now();
        let mut outbox = Outbox::new("b@peer".to_owned(), 256, 3, now);
        assert_eq!(fill(&mut outbox, now), (0, 0));
        outbox.keep_full(5);
        assert_eq!(fill(&mut outbox, now), (3, 1));
        assert_eq!(fill(&mut outbox, now), (0, 0));
        let mut dues = Vec::new();
        assert!(outbox.handled(2, |due| dues.push(due)));
        assert_eq!((dues.len(), outbox.accepted(), outbox.unanswered()), (2, 2, 1));
        assert_eq!(fill(&mut outbox, now), (2, 1));
        assert!(outbox.handled(2, |_| panic!("nothing new")));
        assert!(!outbox.handled(6, |_| ()), "more than was sent");
        assert!(outbox.handled(5, |_| ()));
        assert_eq!((fill(&mut outbox, now), outbox.accepted()), ((0, 0), 5));
    }

    #[test]
    fn what_is_offered_keeps_the_time_it_was_due() {
        let now = Instant::now();
        let mut outbox = Outbox::new("b@peer".to_owned(), 256, 1, now);
        let early = now + Duration::from_millis(1);
        [early, early + Duration::from_millis(1)].into_iter().for_each(|at| outbox.offer(at));
        assert_eq!(fill(&mut outbox, now + Duration::from_secs(1)), (1, 1));
        let mut dues = Vec::new();
        assert!(outbox.handled(1, |due| dues.push(due)));
        assert_eq!(dues, [early]);
        outbox.stop();
        assert_eq!(fill(&mut outbox, now), (0, 0));
    }
}
