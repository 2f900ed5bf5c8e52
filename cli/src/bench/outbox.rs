//! What one device sends into one conversation: numbered messages, at most a window of them unanswered, resent in order after a refusal.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes};
use kith_proto::{
    id::{ConversationId, DeviceRef},
    v1,
};

/// The smallest body: the number and the time it was due.
pub(super) const MIN_BODY: usize = 16;
/// The length of a slice of an established session.
const SLICE_LEN: usize = 190;

/// When messages come into being.
#[derive(Debug)]
enum Source {
    /// As soon as the window has room; at most this many more.
    Closed(u64),
    /// At times set from outside.
    Open(VecDeque<Instant>),
}

/// How the server takes our messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Messages flow.
    Open,
    /// One was refused; the answers to those behind it are still to come. All are sent again after this long.
    Refused(Duration),
    /// All have been answered; they are sent again at this time.
    Waiting(Instant),
}

#[derive(Debug)]
struct Unresolved {
    number: u64,
    due: Instant,
    request: u64,
    answered: bool,
}

/// The server refused a message for a reason that sending it again does not mend.
#[derive(Debug, thiserror::Error)]
#[error("the server refused a message: {code} ({message})")]
pub(super) struct Rejected {
    code: &'static str,
    message: String,
}

/// A sender's side of a direct conversation.
#[derive(Debug)]
pub(super) struct Outbox {
    conversation: Bytes,
    peer: DeviceRef,
    filler: Vec<u8>,
    slice: Bytes,
    tag: [u8; 8],
    epoch: Instant,
    window: usize,
    source: Source,
    flow: Flow,
    unresolved: VecDeque<Unresolved>,
    next_number: u64,
    next_request: u64,
    accepted: u64,
    refusals: u64,
}

impl Outbox {
    /// An outbox to `peer` whose bodies have `size` bytes. `tag` makes the message ids this run's own; `epoch` is the zero of times in bodies.
    pub(super) fn new(conversation: ConversationId, peer: DeviceRef, size: usize, window: usize, tag: [u8; 8], epoch: Instant) -> Self {
        // Something that neither compresses nor repeats within a body.
        let filler = (0..size.max(MIN_BODY)).map(|i| noise(i) ^ tag[i % 8]).collect();
        let slice = (0..SLICE_LEN).map(|i| noise(i + size) ^ tag[i % 8]).collect();
        Self {
            conversation: conversation.to_bytes(),
            peer,
            filler,
            slice,
            tag,
            epoch,
            window,
            source: Source::Closed(0),
            flow: Flow::Open,
            unresolved: VecDeque::new(),
            next_number: 1,
            next_request: 1,
            accepted: 0,
            refusals: 0,
        }
    }

    /// From now on the window is kept full until `count` more messages have been made.
    pub(super) fn keep_full(&mut self, count: u64) {
        self.source = Source::Closed(count);
    }

    /// A message is due at `at` (now, or in the past if the generator is late).
    pub(super) fn offer(&mut self, at: Instant) {
        match &mut self.source {
            Source::Open(due) => due.push_back(at),
            Source::Closed(_) => self.source = Source::Open(VecDeque::from([at])),
        }
    }

    /// Makes no more messages; those made are still seen through.
    pub(super) fn stop(&mut self) {
        self.source = Source::Closed(0);
    }

    /// The conversation sent into.
    pub(super) fn conversation(&self) -> &Bytes {
        &self.conversation
    }

    /// Unanswered messages it may have under way.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Whether every message made has been accepted.
    pub(super) fn is_settled(&self) -> bool {
        let idle = match &self.source {
            Source::Closed(left) => *left == 0,
            Source::Open(due) => due.is_empty(),
        };
        idle && self.unresolved.is_empty()
    }

    /// Messages made and not accepted.
    pub(super) fn unresolved(&self) -> u64 {
        self.unresolved.len() as u64
    }

    /// Messages 1 to this have been accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Refusals met.
    pub(super) fn refusals(&self) -> u64 {
        self.refusals
    }

    /// The connection is another one: what has no answer is sent again, from the oldest on.
    pub(super) fn reconnected(&mut self, now: Instant) {
        self.flow = if self.unresolved.is_empty() { Flow::Open } else { Flow::Waiting(now) };
    }

    /// When something is to be done without any input.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        if let Flow::Waiting(at) = self.flow { Some(at) } else { None }
    }

    /// Hands every frame that may go now to `send`.
    pub(super) fn fill(&mut self, now: Instant, mut send: impl FnMut(&v1::ClientFrame)) {
        match self.flow {
            Flow::Refused(_) => return,
            Flow::Waiting(at) if at > now => return,
            Flow::Waiting(_) => self.send_again(&mut send),
            Flow::Open => {}
        }
        while self.unresolved.len() < self.window {
            let due = match &mut self.source {
                Source::Closed(0) => return,
                Source::Closed(left) => {
                    *left -= 1;
                    now
                }
                Source::Open(due) => match due.pop_front() {
                    Some(at) => at,
                    None => return,
                },
            };
            let message = Unresolved { number: self.next_number, due, request: self.next_request, answered: false };
            (self.next_number, self.next_request) = (self.next_number + 1, self.next_request + 1);
            send(&self.frame(&message, false));
            self.unresolved.push_back(message);
        }
    }

    fn send_again(&mut self, send: &mut impl FnMut(&v1::ClientFrame)) {
        let mut unresolved = std::mem::take(&mut self.unresolved);
        for (at, message) in unresolved.iter_mut().enumerate() {
            (message.request, message.answered) = (self.next_request, false);
            self.next_request += 1;
            send(&self.frame(message, at == 0));
        }
        self.unresolved = unresolved;
        self.flow = Flow::Open;
    }

    fn frame(&self, message: &Unresolved, restart: bool) -> v1::ClientFrame {
        let mut body = Vec::with_capacity(self.filler.len());
        body.put_u64(message.number);
        body.put_u64(u64::try_from(message.due.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX));
        body.extend_from_slice(&self.filler[MIN_BODY..]);
        let mut client_msg_id = Vec::with_capacity(16);
        client_msg_id.extend_from_slice(&self.tag);
        client_msg_id.put_u64(message.number);
        let send = v1::Send {
            conversation: self.conversation.clone(),
            recipient: self.peer.account.to_bytes(),
            client_msg_id: client_msg_id.into(),
            body: body.into(),
            slices: vec![v1::Slice { device: self.peer.device.to_bytes(), data: self.slice.clone() }],
            own_slices: Vec::new(),
            device_counter: message.number,
            sender_list_version: 1,
            recipient_list_version: 1,
            checkpoint: false,
            restart,
        };
        v1::ClientFrame { id: message.request, kind: Some(v1::client_frame::Kind::Send(send)) }
    }

    /// A request was answered by `Accepted`: returns when its message was due. `None` if no such request is open.
    pub(super) fn accepted_answer(&mut self, request: u64) -> Option<Instant> {
        let at = self.unresolved.iter().position(|message| message.request == request)?;
        let message = self.unresolved.remove(at)?;
        // Answers of one conversation come in order, so this is the oldest unless something was refused on the way.
        self.accepted = self.accepted.max(message.number);
        self.wait_if_all_answered(Instant::now);
        Some(message.due)
    }

    /// A request was answered by an error. `Ok(false)` if no such request is open.
    ///
    /// # Errors
    /// [`Rejected`] if it can never succeed as it is.
    pub(super) fn refused_answer(&mut self, request: u64, error: &v1::Error, now: Instant) -> Result<bool, Rejected> {
        let Some(message) = self.unresolved.iter_mut().find(|message| message.request == request) else { return Ok(false) };
        message.answered = true;
        self.refusals += 1;
        if matches!(error.retry(), v1::Retry::Never | v1::Retry::Refresh) && error.code() != v1::ErrorCode::EarlierRefused {
            return Err(Rejected { code: error.code().as_str_name(), message: error.message.clone() });
        }
        let after = Duration::from_millis(error.after_ms.max(1));
        self.flow = match self.flow {
            Flow::Open => Flow::Refused(after),
            Flow::Refused(before) => Flow::Refused(before.max(after)),
            waiting @ Flow::Waiting(_) => waiting,
        };
        self.wait_if_all_answered(|| now);
        Ok(true)
    }

    fn wait_if_all_answered(&mut self, now: impl FnOnce() -> Instant) {
        if let Flow::Refused(after) = self.flow
            && self.unresolved.iter().all(|message| message.answered)
        {
            self.flow = Flow::Waiting(now() + after);
        }
    }
}

/// A byte of something that looks random enough.
fn noise(at: usize) -> u8 {
    at.wrapping_mul(0x9e37_79b9).to_be_bytes()[5]
}

/// The number and due time (nanoseconds since the run's epoch) that a body carries.
pub(super) fn read_body(body: &[u8]) -> Option<(u64, u64)> {
    let number = u64::from_be_bytes(body.get(..8)?.try_into().ok()?);
    let due = u64::from_be_bytes(body.get(8..16)?.try_into().ok()?);
    Some((number, due))
}

#[cfg(test)]
mod tests {
    use kith_proto::id::{AccountId, DeviceId};

    use super::*;

    fn outbox(window: usize) -> (Outbox, Instant) {
        let now = Instant::now();
        let peer = DeviceRef { account: AccountId([1; 16]), device: DeviceId([2; 16]) };
        (Outbox::new(ConversationId([3; 16]), peer, 256, window, [4; 8], now), now)
    }

    fn fill(outbox: &mut Outbox, now: Instant) -> Vec<(u64, u64, bool)> {
        let mut sent = Vec::new();
        outbox.fill(now, |frame| {
            let Some(v1::client_frame::Kind::Send(send)) = &frame.kind else { panic!("no send") };
            assert_eq!((send.body.len(), send.slices[0].data.len()), (256, SLICE_LEN));
            sent.push((frame.id, read_body(&send.body).unwrap().0, send.restart));
        });
        sent
    }

    fn error(code: v1::ErrorCode, retry: v1::Retry, after_ms: u64) -> v1::Error {
        v1::Error { code: code.into(), retry: retry.into(), after_ms, ..Default::default() }
    }

    #[test]
    fn keeps_the_window_full_until_the_count_is_reached() {
        let (mut outbox, now) = outbox(2);
        outbox.keep_full(3);
        assert_eq!(fill(&mut outbox, now), [(1, 1, false), (2, 2, false)]);
        assert_eq!(fill(&mut outbox, now), []);
        assert_eq!(outbox.accepted_answer(1), Some(now));
        assert_eq!(fill(&mut outbox, now), [(3, 3, false)]);
        assert_eq!((outbox.accepted_answer(2), outbox.accepted_answer(3), outbox.accepted_answer(3)), (Some(now), Some(now), None));
        assert!(outbox.is_settled());
        assert_eq!(outbox.accepted(), 3);
    }

    #[test]
    fn a_message_offered_keeps_the_time_it_was_due() {
        let (mut outbox, now) = outbox(1);
        let due = now + Duration::from_micros(500);
        outbox.offer(due);
        outbox.offer(due);
        assert_eq!(fill(&mut outbox, now + Duration::from_millis(3)), [(1, 1, false)]);
        assert_eq!(outbox.accepted_answer(1), Some(due));
        assert!(!outbox.is_settled());
    }

    #[test]
    fn after_a_refusal_everything_unresolved_is_sent_again_in_order() {
        let (mut outbox, now) = outbox(3);
        outbox.keep_full(4);
        fill(&mut outbox, now);
        assert!(outbox.accepted_answer(1).is_some());
        assert!(outbox.refused_answer(2, &error(v1::ErrorCode::Overloaded, v1::Retry::After, 20), now).unwrap());
        assert_eq!(fill(&mut outbox, now), [], "nothing goes before all are answered");
        assert!(outbox.refused_answer(3, &error(v1::ErrorCode::EarlierRefused, v1::Retry::Same, 0), now).unwrap());
        assert_eq!(outbox.wake_at(), Some(now + Duration::from_millis(20)));
        assert_eq!(fill(&mut outbox, now), [], "nor before the time asked for");
        let later = now + Duration::from_millis(20);
        assert_eq!(fill(&mut outbox, later), [(4, 2, true), (5, 3, false), (6, 4, false)]);
        assert_eq!(outbox.refusals(), 2);
    }

    #[test]
    fn a_refusal_for_good_is_an_error() {
        let (mut outbox, now) = outbox(1);
        outbox.keep_full(1);
        fill(&mut outbox, now);
        let error = outbox.refused_answer(1, &error(v1::ErrorCode::DevicesChanged, v1::Retry::Refresh, 0), now).unwrap_err();
        assert!(error.to_string().contains("DEVICES_CHANGED"));
        assert!(!outbox.refused_answer(9, &v1::Error::default(), now).unwrap());
    }
}
