//! A device as the generator plays it: takes frames, keeps every conversation in order, acknowledges once per batch, and sends from its outbox.
//! No input or output here: frames come in, frames go out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kith_meter::Meter;
use kith_proto::{
    id::{AccountId, ConversationId},
    v1::{self, client_frame, server_frame},
};

use super::{
    inbox::Inbox,
    outbox::{Outbox, Rejected, read_body},
};

/// A hole that lasts this long is asked for.
const HOLE: Duration = Duration::from_millis(300);
/// Requests for pages have this bit in their id; those of the outbox count from 1.
const PAGE_REQUEST: u64 = 1 << 62;
/// The largest page asked for.
const PAGE_LIMIT: u32 = 100;

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// A message was refused for good.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The server breaks the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server ends the connection.
    #[error("the server says goodbye: {0}")]
    Goodbye(&'static str),
    /// A request other than a message was refused.
    #[error("the server refused a request: {0}")]
    Refused(&'static str),
}

/// A device's side of the protocol.
#[derive(Debug)]
pub(super) struct Participant {
    account: AccountId,
    epoch: Instant,
    inboxes: HashMap<ConversationId, Inbox>,
    /// Conversations that have moved since the last acknowledgement.
    moved: Vec<ConversationId>,
    /// When the messages were due that this batch acknowledges.
    arrived: Vec<Instant>,
    hole_since: Option<Instant>,
    next_page: u64,
    /// When the server last said that nothing is missing any more, on this connection.
    pub(super) caught_up: Option<Instant>,
    /// What this device sends, if anything.
    pub(super) outbox: Option<Outbox>,
    /// A request to send next.
    pub(super) request: Option<client_frame::Kind>,
    /// Heads answered by `GetConversations`.
    pub(super) states: Vec<v1::ConversationState>,
}

impl Participant {
    /// A device of `account`. `epoch` is the zero of times in bodies.
    pub(super) fn new(account: AccountId, epoch: Instant, outbox: Option<Outbox>) -> Self {
        Self {
            account,
            epoch,
            inboxes: HashMap::new(),
            moved: Vec::new(),
            arrived: Vec::new(),
            hole_since: None,
            next_page: PAGE_REQUEST,
            caught_up: None,
            outbox,
            request: None,
            states: Vec::new(),
        }
    }

    /// What was received of a conversation.
    pub(super) fn inbox(&self, conversation: ConversationId) -> Option<&Inbox> {
        self.inboxes.get(&conversation)
    }

    /// Messages of peers received in order, in all conversations.
    pub(super) fn taken(&self) -> u64 {
        self.inboxes.values().map(Inbox::taken).sum()
    }

    /// Whether everything received has been acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.moved.is_empty() && self.arrived.is_empty()
    }

    /// The connection is another one: acknowledgements that may have been lost with the last one are said again, and so are messages without an answer.
    pub(super) fn reconnected(&mut self, now: Instant) {
        self.caught_up = None;
        self.moved = self.inboxes.keys().copied().collect();
        self.outbox.iter_mut().for_each(|outbox| outbox.reconnected(now));
    }

    /// Takes one frame.
    ///
    /// # Errors
    /// [`Fault`] if the run cannot go on.
    pub(super) fn take(&mut self, frame: v1::ServerFrame, now: Instant, meter: &mut Meter) -> Result<(), Fault> {
        use server_frame::Kind;
        match frame.kind.ok_or(Fault::Protocol("an empty frame"))? {
            Kind::Deliver(deliver) => self.take_entry(&deliver),
            Kind::Accepted(accepted) => self.take_accepted(frame.id, &accepted, now, meter),
            Kind::Error(error) => self.take_error(frame.id, &error, now),
            Kind::Absent(absent) => self.take_absent(&absent),
            Kind::Page(page) => {
                page.entries.iter().try_for_each(|entry| self.take_entry(entry))?;
                page.absent.iter().try_for_each(|absent| self.take_absent(absent))
            }
            Kind::Conversations(conversations) => {
                self.states = conversations.items;
                Ok(())
            }
            Kind::Goodbye(bye) => Err(Fault::Goodbye(bye.reason().as_str_name())),
            Kind::CaughtUp(_) => {
                self.caught_up = Some(now);
                Ok(())
            }
            Kind::Watermarks(_) | Kind::PeerTyping(_) | Kind::Presence(_) | Kind::KeysLow(_) | Kind::DeviceListChanged(_) => Ok(()),
            Kind::Welcome(_) | Kind::Done(_) | Kind::Pong(_) => Err(Fault::Protocol("an answer to nothing")),
        }
    }

    fn take_entry(&mut self, deliver: &v1::Deliver) -> Result<(), Fault> {
        let theirs = *deliver.sender_account != self.account.0 && deliver.absent() == v1::AbsentReason::Unspecified;
        let (number, due) = if theirs {
            let (number, due) = read_body(&deliver.body).ok_or(Fault::Protocol("a body that nobody sent"))?;
            (Some(number), Some(self.epoch + Duration::from_nanos(due)))
        } else {
            (None, None)
        };
        if self.note(&deliver.conversation, deliver.seq, number)? {
            self.arrived.extend(due);
        }
        Ok(())
    }

    fn take_absent(&mut self, absent: &v1::Absent) -> Result<(), Fault> {
        (absent.from_seq..=absent.to_seq).try_for_each(|seq| self.note(&absent.conversation, seq, None).map(|_| ()))
    }

    fn note(&mut self, conversation: &Bytes, seq: u64, number: Option<u64>) -> Result<bool, Fault> {
        let conversation = ConversationId::try_from(conversation.as_ref()).map_err(|_| Fault::Protocol("a conversation id of another length"))?;
        let inbox = self.inboxes.entry(conversation).or_default();
        let before = inbox.contiguous();
        let new = inbox.take(seq, number);
        if inbox.contiguous() != before && !self.moved.contains(&conversation) {
            self.moved.push(conversation);
        }
        Ok(new)
    }

    fn take_accepted(&mut self, request: u64, accepted: &v1::Accepted, now: Instant, meter: &mut Meter) -> Result<(), Fault> {
        let outbox = self.outbox.as_mut().ok_or(Fault::Protocol("accepted what was not sent"))?;
        let due = outbox.accepted_answer(request).ok_or(Fault::Protocol("accepted what was not sent"))?;
        let conversation = outbox.conversation().clone();
        meter.accepted(due, now);
        self.note(&conversation, accepted.seq, None)?;
        Ok(())
    }

    fn take_error(&mut self, request: u64, error: &v1::Error, now: Instant) -> Result<(), Fault> {
        let known = match &mut self.outbox {
            Some(outbox) => outbox.refused_answer(request, error, now)?,
            None => false,
        };
        if known { Ok(()) } else { Err(Fault::Refused(error.code().as_str_name())) }
    }

    /// Ends a batch: acknowledges what moved, asks for holes, sends what may go. `put` gets every frame.
    pub(super) fn turn(&mut self, now: Instant, mut put: impl FnMut(&v1::ClientFrame)) {
        if !self.moved.is_empty() {
            let cursor =
                |conversation: &ConversationId| v1::Cursor { conversation: conversation.to_bytes(), seq: self.inboxes[conversation].contiguous() };
            let cursors = self.moved.iter().map(cursor).collect();
            self.moved.clear();
            put(&v1::ClientFrame { id: 0, kind: Some(client_frame::Kind::Ack(v1::Ack { cursors })) });
            self.watch_holes(now);
        } else if !self.arrived.is_empty() || self.hole_since.is_some() {
            self.watch_holes(now);
        }
        if self.hole_since.is_some_and(|since| now >= since + HOLE) {
            self.ask_for_holes(&mut put);
            self.hole_since = Some(now);
        }
        if let Some(kind) = self.request.take() {
            put(&v1::ClientFrame { id: self.next_page, kind: Some(kind) });
            self.next_page += 1;
        }
        if let Some(outbox) = &mut self.outbox {
            outbox.fill(now, put);
        }
    }

    fn watch_holes(&mut self, now: Instant) {
        let hole = self.inboxes.values().any(Inbox::has_hole);
        self.hole_since = hole.then(|| self.hole_since.unwrap_or(now));
    }

    fn ask_for_holes(&mut self, put: &mut impl FnMut(&v1::ClientFrame)) {
        for (conversation, inbox) in self.inboxes.iter().filter(|(_, inbox)| inbox.has_hole()) {
            let page = v1::Page { conversation: conversation.to_bytes(), after_seq: inbox.contiguous(), limit: PAGE_LIMIT };
            put(&v1::ClientFrame { id: self.next_page, kind: Some(client_frame::Kind::Page(page)) });
            self.next_page += 1;
        }
    }

    /// The acknowledgements of the last [`Self::turn`] have been written.
    pub(super) fn written(&mut self, now: impl FnOnce() -> Instant, meter: &mut Meter) {
        if self.arrived.is_empty() {
            return;
        }
        let now = now();
        self.arrived.drain(..).for_each(|due| meter.delivered(due, now));
    }

    /// When something is to be done without any input.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let hole = self.hole_since.map(|since| since + HOLE);
        let outbox = self.outbox.as_ref().and_then(Outbox::wake_at);
        hole.into_iter().chain(outbox).min()
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::id::{DeviceId, DeviceRef};

    use super::*;

    const ALICE: AccountId = AccountId([1; 16]);
    const BOB: AccountId = AccountId([2; 16]);

    fn bob() -> (Participant, Instant) {
        let now = Instant::now();
        (Participant::new(BOB, now, None), now)
    }

    fn deliver(seq: u64, number: u64) -> v1::ServerFrame {
        let body = [number.to_be_bytes(), 0_u64.to_be_bytes()].concat();
        let deliver = v1::Deliver {
            conversation: ConversationId::direct(ALICE, BOB).to_bytes(),
            seq,
            sender_account: ALICE.to_bytes(),
            body: body.into(),
            ..Default::default()
        };
        v1::ServerFrame { id: 0, kind: Some(server_frame::Kind::Deliver(deliver)) }
    }

    fn turn(participant: &mut Participant, now: Instant) -> Vec<client_frame::Kind> {
        let mut out = Vec::new();
        participant.turn(now, |frame| out.extend(frame.kind.clone()));
        out
    }

    fn ack(seq: u64) -> client_frame::Kind {
        client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: ConversationId::direct(ALICE, BOB).to_bytes(), seq }] })
    }

    #[test]
    fn one_acknowledgement_covers_a_batch() {
        let (mut bob, now) = bob();
        let mut meter = Meter::default();
        meter.open(now, Duration::from_secs(1));
        for seq in 1..=3 {
            bob.take(deliver(seq, seq), now, &mut meter).unwrap();
        }
        assert!(!bob.is_acknowledged());
        assert_eq!(turn(&mut bob, now), [ack(3)]);
        assert_eq!(meter.delivered, 0, "delivered means that the acknowledgement was sent");
        bob.written(|| now, &mut meter);
        assert_eq!((meter.delivered, bob.is_acknowledged()), (3, true));
        assert_eq!(turn(&mut bob, now), []);
    }

    #[test]
    fn a_hole_is_asked_for_after_300_ms_and_never_acknowledged_over() {
        let (mut bob, now) = bob();
        let mut meter = Meter::default();
        bob.take(deliver(1, 1), now, &mut meter).unwrap();
        bob.take(deliver(3, 3), now, &mut meter).unwrap();
        assert_eq!(turn(&mut bob, now), [ack(1)]);
        assert_eq!(bob.wake_at(), Some(now + HOLE));
        let later = now + HOLE;
        let page = v1::Page { conversation: ConversationId::direct(ALICE, BOB).to_bytes(), after_seq: 1, limit: PAGE_LIMIT };
        assert_eq!(turn(&mut bob, later), [client_frame::Kind::Page(page)]);
        bob.take(deliver(2, 2), later, &mut meter).unwrap();
        assert_eq!(turn(&mut bob, later), [ack(3)]);
        assert_eq!(bob.wake_at(), None);
    }

    #[test]
    fn the_sender_acknowledges_its_own_entries() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        let peer = DeviceRef { account: BOB, device: DeviceId([3; 16]) };
        let mut outbox = Outbox::new(ConversationId::direct(ALICE, BOB), peer, 64, 1, [0; 8], now);
        outbox.keep_full(1);
        let mut alice = Participant::new(ALICE, now, Some(outbox));
        assert!(matches!(turn(&mut alice, now)[..], [client_frame::Kind::Send(_)]));
        let accepted = v1::Accepted { seq: 1, ..Default::default() };
        alice.take(v1::ServerFrame { id: 1, kind: Some(server_frame::Kind::Accepted(accepted)) }, now, &mut meter).unwrap();
        assert_eq!(turn(&mut alice, now), [ack(1)]);
        assert!(alice.outbox.unwrap().is_settled());
    }

    #[test]
    fn goodbye_and_nonsense_end_the_run() {
        let (mut bob, now) = bob();
        let mut meter = Meter::default();
        let bye = v1::Goodbye { reason: v1::ErrorCode::Draining.into(), reconnect_within_ms: 0 };
        let frames = [Some(server_frame::Kind::Goodbye(bye)), Some(server_frame::Kind::Accepted(v1::Accepted::default())), None];
        for kind in frames {
            assert!(bob.take(v1::ServerFrame { id: 7, kind }, now, &mut meter).is_err());
        }
    }
}
