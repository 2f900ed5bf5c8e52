//! A connection as a pure state machine: frames, log results and signals go in, actions come out. No IO, no clock, no task.
//!
//! ```text
//! AwaitingHello --Hello--> Connecting --connected--> CatchingUp <--> Live
//!       \________________________\______________________\_____________\__> Closed
//! ```
//!
//! Every request gets exactly one answer while the connection lives. What is asked of the log runs one operation at a time; acknowledgements that
//! arrive meanwhile are merged. A connection that owes too many answers is not read until it has given some ([`Connection::wants_frames`]), so nothing
//! here grows beyond its bounds.

mod catch_up;
mod hello;
mod op;
mod outgoing;
pub(crate) mod refusal;
mod requests;
mod sends;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use kith_chat_core::log::{Append, Outcome, Resolved};
use kith_proto::{
    id::{ConversationId, DeviceRef},
    v1,
    v1::{client_frame, server_frame::Kind},
};

use self::{
    catch_up::{CatchUp, Flow, Progress},
    sends::{Checked, Rules, Sends},
};
pub use self::{
    op::{ConnectFailure, Done, Op},
    outgoing::{DeliverFields, LiveMessage, Outgoing},
};
use crate::{sessions::SessionSettings, token::TokenKey};

/// Requests that may wait for the log, per connection; with more the connection is not read.
const MAX_WAITING: usize = 32;
/// Conversations with a merged acknowledgement waiting; with more the connection is not read.
const MAX_ACKS: usize = 1_024;
/// The interval in which sends that bring nothing new are counted.
const BRAKE_MS: u64 = 1_000;
/// Clients that were too slow, or asked for too much, are asked to stay away for up to this long.
const COME_BACK_WITHIN_MS: u32 = 10_000;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// Limits and intervals.
    pub settings: SessionSettings,
    /// Checks access tokens.
    pub tokens: TokenKey,
}

/// The time, as far as a connection needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Unix milliseconds, which may jump: for tokens.
    pub unix_ms: u64,
    /// Milliseconds since some moment, never going back: for intervals.
    pub running_ms: u64,
}

/// Something that happened to a connection.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for one call; a box would cost an allocation per frame")]
pub enum Input {
    /// A frame came.
    Frame(v1::ClientFrame),
    /// A pong, a ping, or anything else that shows life.
    Heard,
    /// What came was no frame; the connection ends with this.
    Malformed(v1::ErrorCode),
    /// The first frame has not come in time.
    HelloOverdue,
    /// The peer has ended its direction: nothing more comes, but what it asked for is finished.
    PeerGone,
    /// The log has answered a send.
    Answer(Arc<Resolved>),
    /// The log's queue was full.
    Bounced(Box<Append>),
    /// A live delivery.
    Live(LiveMessage),
    /// Another push.
    Push(Box<Kind>),
    /// An operation is done.
    Done(Done),
    /// Something the hub wants to be seen to.
    Signal(Signal),
    /// The pause that was asked for is over.
    Resume,
}

/// What the hub tells a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The connection ends with this reason.
    Cut(v1::ErrorCode),
    /// A keep-alive interval has passed.
    KeepAlive,
    /// Live pushes were dropped; live delivery has ended.
    Overflowed,
    /// The log holds what this device may not have.
    Behind,
    /// The server is going away.
    Drain,
}

/// What is to be done.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "kept in a buffer that is reused; a box would cost an allocation per message")]
pub enum Action {
    /// Put this on the socket.
    Send(Outgoing),
    /// The connection belongs to this device, and its token lasts until then: make a session of it.
    Identify(DeviceRef, u64),
    /// The token was renewed.
    TokenUntil(u64),
    /// Hand this to the log; tell [`Input::Bounced`] if its queue is full.
    Submit(Append),
    /// Do this and tell [`Input::Done`].
    Run(Op),
    /// The connection is not read for so long; then tell [`Input::Resume`].
    Pause(Duration),
    /// Flush and close with this WebSocket code.
    Close(u16),
}

#[derive(Debug)]
enum State {
    AwaitingHello,
    Connecting,
    CatchingUp(Box<CatchUp>),
    Live,
    Closed,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    shared: Arc<Shared>,
    state: State,
    me: Option<DeviceRef>,
    /// From `Hello`.
    epoch: u64,
    token_until_ms: u64,
    heard_ms: u64,
    busy: bool,
    draining: bool,
    peer_gone: bool,
    text: bool,
    sends: Sends,
    flow: Flow,
    waiting: VecDeque<Op>,
    acks: Vec<(ConversationId, u64)>,
    typing_since_ms: u64,
    typing_count: u32,
    /// Sends that brought nothing new since then.
    old_since_ms: u64,
    old_count: u32,
    paused: bool,
}

/// What a connection keeps for its peer.
#[cfg(fuzzing)]
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Requests that wait for the log.
    pub waiting: usize,
    /// Merged acknowledgements that wait for it.
    pub acks: usize,
    /// Conversations with unanswered or refused sends.
    pub lanes: usize,
    /// Unanswered sends.
    pub unanswered: u32,
    /// Entries and ranges sent from the log and not acknowledged.
    pub catch_up_items: u64,
    /// Their bytes.
    pub catch_up_bytes: u64,
}

impl Connection {
    /// A connection whose upgrade has just been answered. `text`: under the JSON subprotocol.
    #[must_use]
    pub fn new(id: u64, shared: Arc<Shared>, text: bool, now: Now) -> Self {
        Self {
            id,
            shared,
            state: State::AwaitingHello,
            me: None,
            epoch: 0,
            token_until_ms: u64::MAX,
            heard_ms: now.running_ms,
            busy: false,
            draining: false,
            peer_gone: false,
            text,
            sends: Sends::default(),
            flow: Flow::default(),
            waiting: VecDeque::new(),
            acks: Vec::new(),
            typing_since_ms: 0,
            typing_count: 0,
            old_since_ms: 0,
            old_count: 0,
            paused: false,
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether the first frame is still to come.
    #[must_use]
    pub fn awaits_hello(&self) -> bool {
        matches!(self.state, State::AwaitingHello)
    }

    /// Whether more frames may be read: not while connecting or paused, nor while too many answers are owed.
    #[must_use]
    pub fn wants_frames(&self) -> bool {
        let ready = !matches!(self.state, State::Connecting | State::Closed) && !self.draining && !self.paused;
        let owed = self.sends.unanswered() < 2 * self.shared.settings.max_sends_in_flight;
        ready && owed && self.waiting.len() < MAX_WAITING && self.acks.len() < MAX_ACKS
    }

    /// How much is kept for the peer at this moment.
    #[cfg(fuzzing)]
    #[must_use]
    pub fn held(&self) -> Held {
        let (catch_up_items, catch_up_bytes) = self.flow.unacknowledged();
        Held {
            waiting: self.waiting.len(),
            acks: self.acks.len(),
            lanes: self.sends.lanes(),
            unanswered: self.sends.unanswered(),
            catch_up_items,
            catch_up_bytes,
        }
    }

    /// Takes one input and puts what is to be done at the end of `out`.
    pub fn handle(&mut self, input: Input, now: Now, out: &mut Vec<Action>) {
        if self.is_closed() {
            return;
        }
        match input {
            Input::Frame(frame) => self.frame(frame, now, out),
            Input::Heard => self.heard_ms = now.running_ms,
            Input::Malformed(code) => self.goodbye(code, out),
            Input::HelloOverdue => self.hello_overdue(out),
            Input::PeerGone => (self.draining, self.peer_gone) = (true, true),
            Input::Answer(message) => self.answer(&message, now, out),
            Input::Bounced(append) => self.bounced(&append, out),
            Input::Live(live) => out.push(Action::Send(Outgoing::Live(live))),
            Input::Push(kind) => out.push(Action::Send(Outgoing::push(*kind))),
            Input::Done(done) => self.done(done, now, out),
            Input::Signal(signal) => self.signal(signal, now, out),
            Input::Resume => self.paused = false,
        }
        self.go_on(out);
    }

    fn frame(&mut self, frame: v1::ClientFrame, now: Now, out: &mut Vec<Action>) {
        self.heard_ms = now.running_ms;
        let id = frame.id;
        let Some(kind) = frame.kind else { return self.goodbye(v1::ErrorCode::InvalidFrame, out) };
        let Some(me) = self.me else { return self.first_frame(id, kind, now, out) };
        if now.unix_ms >= self.token_until_ms && !matches!(kind, client_frame::Kind::Renew(_)) {
            return self.goodbye(v1::ErrorCode::TokenExpired, out);
        }
        let may_be_notice = matches!(kind, client_frame::Kind::Ack(_) | client_frame::Kind::Read(_) | client_frame::Kind::Typing(_));
        if id == 0 && !may_be_notice {
            return self.goodbye(v1::ErrorCode::InvalidFrame, out);
        }
        match kind {
            client_frame::Kind::Send(send) => self.send(id, send, me, out),
            client_frame::Kind::Ack(ack) => self.ack(id, &ack, out),
            other => self.request(id, other, me, now, out),
        }
    }

    fn send(&mut self, id: u64, send: v1::Send, me: DeviceRef, out: &mut Vec<Action>) {
        let settings = &self.shared.settings;
        let (max_in_flight, max_frame_bytes) = (settings.max_sends_in_flight, settings.max_frame_bytes);
        let rules = Rules { me, epoch: self.epoch, connection: self.id, max_in_flight, max_frame_bytes };
        match self.sends.take(id, send, &rules) {
            Checked::Submit(append) => out.push(Action::Submit(append)),
            Checked::Answer(error) => out.push(Action::Send(Outgoing::answer(id, Kind::Error(*error)))),
            Checked::Later => {}
            Checked::Cut => self.goodbye(v1::ErrorCode::Overloaded, out),
        }
    }

    fn bounced(&mut self, append: &Append, out: &mut Vec<Action>) {
        let id = append.ticket.request;
        if let Some(error) = self.sends.bounced(append.conversation, id) {
            out.push(Action::Send(Outgoing::answer(id, Kind::Error(*error))));
        }
    }

    fn answer(&mut self, message: &Resolved, now: Now, out: &mut Vec<Action>) {
        let id = message.append.ticket.request;
        if !matches!(message.outcome, Outcome::Accepted { duplicate: false, .. }) {
            self.brake(now, out);
        }
        out.push(Action::Send(match &message.outcome {
            Outcome::Accepted { seq, at_ms, duplicate, .. } => {
                Outgoing::Accepted { id, client_msg_id: message.append.client_msg_id, seq: *seq, at_ms: *at_ms, duplicate: *duplicate }
            }
            Outcome::Refused(refusal) => Outgoing::answer(id, Kind::Error(refusal::of_refusal(refusal))),
        }));
        self.sends.answered(message.append.conversation, id, |id, error| out.push(Action::Send(Outgoing::answer(id, Kind::Error(*error)))));
    }

    /// A duplicate is always answered, before any limit, and so is whatever a limit refuses: each costs the log a look. Whoever sends many of them is read
    /// more slowly, so that they wait in the socket instead.
    fn brake(&mut self, now: Now, out: &mut Vec<Action>) {
        if now.running_ms.saturating_sub(self.old_since_ms) >= BRAKE_MS {
            (self.old_since_ms, self.old_count) = (now.running_ms, 0);
        }
        self.old_count = self.old_count.saturating_add(1);
        if self.old_count > self.shared.settings.old_sends_per_second && !self.paused {
            self.paused = true;
            let left_ms = (self.old_since_ms + BRAKE_MS).saturating_sub(now.running_ms).max(1);
            out.push(Action::Pause(Duration::from_millis(left_ms)));
        }
    }

    fn signal(&mut self, signal: Signal, now: Now, out: &mut Vec<Action>) {
        match signal {
            Signal::Cut(code) => self.goodbye(code, out),
            Signal::KeepAlive => self.keep_alive(now, out),
            Signal::Drain => self.draining = true,
            Signal::Overflowed => match &mut self.state {
                State::CatchingUp(catch_up) => catch_up.overflowed(),
                State::Live => self.state = State::CatchingUp(Box::new(CatchUp::after_overflow())),
                _ => {}
            },
            Signal::Behind => {
                if matches!(self.state, State::Live) {
                    self.state = State::CatchingUp(Box::new(CatchUp::while_live()));
                }
            }
        }
    }

    fn keep_alive(&mut self, now: Now, out: &mut Vec<Action>) {
        let silent_ms = now.running_ms.saturating_sub(self.heard_ms);
        if u128::from(silent_ms) >= 2 * self.shared.settings.keep_alive.as_millis() {
            return self.goodbye(v1::ErrorCode::TooSlow, out);
        }
        if let State::CatchingUp(catch_up) = &mut self.state
            && !self.busy
        {
            catch_up.look_again(&self.flow, &self.shared.settings);
        }
        out.push(Action::Send(Outgoing::Ping));
    }

    /// Starts what can be started, and says goodbye when draining is done.
    fn go_on(&mut self, out: &mut Vec<Action>) {
        if self.is_closed() {
            return;
        }
        if !self.busy
            && let Some(op) = self.next_op()
        {
            self.busy = true;
            out.push(Action::Run(op));
        }
        let done = !self.busy && self.sends.unanswered() == 0;
        match self.draining && done {
            true if self.peer_gone => self.close(NORMAL_CLOSURE, out),
            true => self.goodbye(v1::ErrorCode::Draining, out),
            false => {}
        }
    }

    fn next_op(&mut self) -> Option<Op> {
        if self.acks.is_empty() {
            if let Some(op) = self.waiting.pop_front() {
                if self.waiting.is_empty() {
                    self.waiting = VecDeque::new();
                }
                return Some(op);
            }
        } else {
            return Some(Op::Acknowledge { request: 0, cursors: requests::highest(std::mem::take(&mut self.acks)) });
        }
        match &self.state {
            State::CatchingUp(catch_up) if !self.draining => catch_up.next(&self.flow, &self.shared.settings),
            _ => None,
        }
    }

    fn level(&mut self, out: &mut Vec<Action>) {
        if let State::CatchingUp(catch_up) = &self.state
            && catch_up.announces()
        {
            out.push(Action::Send(Outgoing::push(Kind::CaughtUp(v1::CaughtUp {}))));
        }
        self.state = State::Live;
    }

    fn progress(&mut self, progress: Option<Progress>, out: &mut Vec<Action>) {
        if progress == Some(Progress::Level) {
            self.level(out);
        }
    }

    /// Ends the connection with a last frame.
    fn goodbye(&mut self, reason: v1::ErrorCode, out: &mut Vec<Action>) {
        let reconnect_within_ms = match reason {
            v1::ErrorCode::Draining => u32::try_from(self.shared.settings.drain_spread.as_millis()).unwrap_or(u32::MAX).max(1),
            v1::ErrorCode::TooSlow | v1::ErrorCode::Overloaded | v1::ErrorCode::Internal | v1::ErrorCode::StorageUnavailable => COME_BACK_WITHIN_MS,
            _ => 0,
        };
        out.push(Action::Send(Outgoing::push(Kind::Goodbye(v1::Goodbye { reason: reason.into(), reconnect_within_ms }))));
        self.close(close_code(reason), out);
    }

    fn close(&mut self, code: u16, out: &mut Vec<Action>) {
        out.push(Action::Close(code));
        self.state = State::Closed;
        self.waiting = VecDeque::new();
        self.acks = Vec::new();
    }
}

/// RFC 6455 section 7.4.1.
const NORMAL_CLOSURE: u16 = 1000;

/// RFC 6455 section 7.4.1: going away, protocol error, message too big, policy violation.
fn close_code(reason: v1::ErrorCode) -> u16 {
    match reason {
        v1::ErrorCode::Draining => 1001,
        v1::ErrorCode::InvalidFrame | v1::ErrorCode::HelloRequired => 1002,
        v1::ErrorCode::TooLarge => 1009,
        _ => 1008,
    }
}
