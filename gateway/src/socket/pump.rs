//! Drives one connection: reads until the socket is empty, empties the inbox, runs one log operation, writes many frames and flushes once.
//!
//! Generic over the socket, so that a test drives it with channels and a paused clock. One task per connection, and no timer once it has said who it is.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, Stream};
use kith_chat_core::log::Append;
use kith_proto::{v1, v1::server_frame::Kind};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Inbound, SocketError, stages::Stages};
use crate::{
    connection::{Action, Connection, Done, Input, Now, Op, Outgoing, Signal},
    sessions::{Event, Permit, Session, Sessions, Taken, execute},
};

/// Frames taken in one go before other connections get their turn.
const FRAMES_AT_ONCE: u32 = 256;
/// How long a closing socket may take to send its last frames.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;
/// What the connection is told after a while.
type Later = Pin<Box<dyn Future<Output = Input> + Send>>;

/// A connection with its socket. The future ends when both are over.
pub struct Pump<S> {
    socket: S,
    sessions: Arc<Sessions>,
    connection: Connection,
    session: Option<Arc<Session>>,
    running: Option<Running>,
    /// For Hello, for a pause in reading, and for closing, of which only one can be at a time.
    later: Option<Later>,
    stages: Stages,
    read_over: bool,
    /// The socket took nothing more when it was last asked.
    blocked: bool,
    closing: bool,
    gone: bool,
    id: u64,
    /// See [`Sessions::era`].
    era: Option<u64>,
    /// Counts the connection for as long as it lives.
    permit: Permit,
}

impl<S> std::fmt::Debug for Pump<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<S> Pump<S>
where
    S: Stream<Item = Result<Inbound, SocketError>> + Sink<Outgoing, Error = SocketError> + Unpin,
{
    /// A connection whose upgrade has been answered. `text`: under the JSON subprotocol.
    pub fn new(socket: S, sessions: Arc<Sessions>, permit: Permit, text: bool) -> Self {
        let (id, era) = (sessions.next_connection(), sessions.era());
        let connection = Connection::new(id, Arc::clone(sessions.shared()), text, sessions.now());
        let later = Some(hello(sessions.shared().settings.hello_within, sessions.draining().clone()));
        Self {
            socket,
            sessions,
            connection,
            session: None,
            running: None,
            later,
            stages: Stages::new(Instant::now().into_std()),
            read_over: false,
            blocked: false,
            closing: false,
            gone: false,
            id,
            era,
            permit,
        }
    }

    /// Hands one input to the connection and does what it says.
    fn handle(&mut self, input: Input, now: Now, actions: &mut Vec<Action>) {
        self.connection.handle(input, now, actions);
        while !actions.is_empty() {
            let mut inputs = Vec::new();
            for action in actions.drain(..) {
                inputs.extend(self.act(action));
            }
            for input in inputs {
                self.connection.handle(input, now, actions);
            }
        }
    }

    fn act(&mut self, action: Action) -> Option<Input> {
        match action {
            Action::Send(outgoing) => self.put(outgoing),
            Action::Identify(device, token_until_ms) => {
                self.later = None;
                self.permit.identified();
                self.session = Some(self.sessions.register(self.id, device, token_until_ms));
            }
            Action::TokenUntil(until_ms) => {
                if let Some(session) = &self.session {
                    self.sessions.renew(session, until_ms);
                }
            }
            Action::Submit(append) => return self.submit(append),
            Action::Run(op) => return self.run(op),
            Action::Close(code) => {
                self.put(Outgoing::Close(code));
                self.closing = true;
                self.later = Some(resume(CLOSE_WITHIN));
            }
            Action::Pause(pause) => {
                self.sessions.counters().slowed.one();
                self.later = Some(resume(pause));
            }
        }
        None
    }

    fn put(&mut self, outgoing: Outgoing) {
        match &outgoing {
            Outgoing::Frame(frame) => match &frame.kind {
                Some(Kind::Error(error)) => self.sessions.counters().refused(error.code),
                Some(Kind::Goodbye(goodbye)) => self.sessions.goodbye(self.id, goodbye.reason()),
                _ => {}
            },
            Outgoing::Entry(..) => self.sessions.counters().delivered_from_log.one(),
            _ => {}
        }
        if Pin::new(&mut self.socket).start_send(outgoing).is_err() {
            self.gone = true;
        }
    }

    fn submit(&mut self, mut append: Append) -> Option<Input> {
        self.stages.submitting(&mut append, &self.sessions);
        let bounced = self.sessions.submit(append).err()?;
        self.stages.bounced(bounced.ticket.request);
        Some(Input::Bounced(bounced))
    }

    fn run(&mut self, op: Op) -> Option<Input> {
        let session = self.session.as_ref()?;
        if let Op::GoLive { force } = op {
            // At once: between the change and its answer no overflow may come in.
            return Some(Input::Done(Done::Live { clean: self.sessions.go_live(session, force) }));
        }
        if let Op::Acknowledge { cursors, .. } = &op {
            self.stages.acknowledged(cursors, &self.sessions);
        }
        self.running = Some(execute(Arc::clone(&self.sessions), Arc::clone(session), op));
        None
    }

    fn event(&mut self, event: Event, now: Now, actions: &mut Vec<Action>) {
        let input = match event {
            Event::Answer(message) => {
                self.stages.answered(&message, &self.sessions);
                Input::Answer(message)
            }
            Event::Live(live) => {
                self.stages.delivering(&live, &self.sessions);
                Input::Live(live)
            }
            Event::Push(kind) => Input::Push(kind),
        };
        self.handle(input, now, actions);
    }

    fn inbox(&mut self, cx: &Context<'_>, now: Now, actions: &mut Vec<Action>) -> bool {
        let Some(session) = &self.session else { return false };
        session.register(cx.waker());
        let Some(taken) = session.take() else { return false };
        self.taken(taken, now, actions);
        true
    }

    fn taken(&mut self, taken: Taken, now: Now, actions: &mut Vec<Action>) {
        let signals = taken.signals();
        for event in taken.events {
            self.event(event, now, actions);
        }
        for signal in signals {
            self.handle(Input::Signal(signal), now, actions);
        }
    }

    /// While the socket takes nothing more: only signals are seen to.
    fn stalled(&mut self, cx: &Context<'_>, now: Now, actions: &mut Vec<Action>) {
        let Some(session) = &self.session else { return };
        session.register(cx.waker());
        for signal in session.take_signals() {
            self.handle(Input::Signal(signal), now, actions);
        }
    }

    fn operation(&mut self, cx: &mut Context<'_>, now: Now, actions: &mut Vec<Action>) -> bool {
        let Some(running) = &mut self.running else { return false };
        let Poll::Ready(done) = running.as_mut().poll(cx) else { return false };
        self.running = None;
        self.handle(Input::Done(done), now, actions);
        true
    }

    /// Reads until the socket is empty, the connection wants no more or its turn is over. Returns how many frames came.
    fn read(&mut self, cx: &mut Context<'_>, now: Now, actions: &mut Vec<Action>) -> u32 {
        let mut frames = 0;
        while !self.read_over && !self.closing && frames < FRAMES_AT_ONCE && self.connection.wants_frames() {
            let Poll::Ready(next) = Pin::new(&mut self.socket).poll_next(cx) else { break };
            frames += 1;
            let input = match next {
                Some(Ok(Inbound::Frame(frame))) => Input::Frame(frame),
                Some(Ok(Inbound::Heard)) => Input::Heard,
                Some(Err(fault)) => {
                    self.read_over = true;
                    match fault {
                        SocketError::Malformed => Input::Malformed(v1::ErrorCode::InvalidFrame),
                        SocketError::TooLarge => Input::Malformed(v1::ErrorCode::TooLarge),
                        SocketError::Io(_) => {
                            self.gone = true;
                            break;
                        }
                    }
                }
                None => {
                    self.read_over = true;
                    Input::PeerGone
                }
            };
            self.handle(input, now, actions);
        }
        frames
    }

    fn due(&mut self, cx: &mut Context<'_>) -> Option<Input> {
        let Poll::Ready(input) = self.later.as_mut()?.as_mut().poll(cx) else { return None };
        self.later = None;
        Some(input)
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unregister();
        if self.due(cx).is_some() {
            return Poll::Ready(());
        }
        Pin::new(&mut self.socket).poll_close(cx).map(|_| ())
    }

    /// One round over everything that may have something. `None` when the connection is over or closing.
    fn turn(&mut self, cx: &mut Context<'_>, actions: &mut Vec<Action>) -> Option<u32> {
        if self.sessions.era() != self.era {
            // This process was stopped, and the device may be connected elsewhere by now: nothing that came meanwhile is handled.
            self.gone = true;
            return None;
        }
        let begun = Instant::now();
        self.stages.turn(begun.into_std());
        let now = self.sessions.now_at(begun);
        if let Some(input) = self.due(cx) {
            self.handle(input, now, actions);
        }
        let mut progress = 0;
        let room = Pin::new(&mut self.socket).poll_ready(cx);
        self.blocked = room.is_pending();
        match room {
            Poll::Ready(Ok(())) => {
                progress += u32::from(self.inbox(cx, now, actions));
                progress += u32::from(self.operation(cx, now, actions));
                progress += self.read(cx, now, actions);
            }
            Poll::Ready(Err(_)) => self.gone = true,
            Poll::Pending => self.stalled(cx, now, actions),
        }
        (!self.closing).then_some(progress)
    }

    fn unregister(&mut self) {
        if let Some(session) = self.session.take() {
            self.sessions.unregister(&session);
        }
        self.running = None;
    }
}

/// A server that goes away does not wait for a Hello.
fn hello(within: Duration, draining: CancellationToken) -> Later {
    Box::pin(async move {
        match timeout(within, draining.cancelled()).await {
            Ok(()) => Input::Signal(Signal::Drain),
            Err(_) => Input::HelloOverdue,
        }
    })
}

fn resume(after: Duration) -> Later {
    Box::pin(async move {
        sleep(after).await;
        Input::Resume
    })
}

impl<S> Future for Pump<S>
where
    S: Stream<Item = Result<Inbound, SocketError>> + Sink<Outgoing, Error = SocketError> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut actions = Vec::new();
        let mut frames = 0;
        while !this.closing {
            let progress = this.turn(cx, &mut actions);
            if this.gone {
                this.unregister();
                return Poll::Ready(());
            }
            let Some(progress) = progress else { break };
            frames += progress;
            if progress > 0 && frames < FRAMES_AT_ONCE {
                continue;
            }
            // Nothing more to do, or others' turn.
            let flushed = Pin::new(&mut this.socket).poll_flush(cx);
            if matches!(flushed, Poll::Ready(Err(_))) {
                this.unregister();
                return Poll::Ready(());
            }
            if frames >= FRAMES_AT_ONCE {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !(this.blocked && flushed.is_ready()) {
                return Poll::Pending;
            }
        }
        this.poll_closing(cx)
    }
}

impl<S> Drop for Pump<S> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.sessions.unregister(&session);
        }
    }
}
