//! The part of a connection that others can reach: its inbox, and signals for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;
use kith_chat_core::log::Resolved;
use kith_proto::{id::DeviceRef, v1, v1::server_frame::Kind};
use parking_lot::Mutex;

use crate::connection::{LiveMessage, Signal};

/// What waits for a connection.
#[derive(Debug)]
pub enum Event {
    /// The answer to a send; never dropped, bounded by the sends in flight.
    Answer(Arc<Resolved>),
    /// A live delivery.
    Live(LiveMessage),
    /// Another push.
    Push(Box<Kind>),
}

/// Whether a push that found no room means catching up: a lost `Deliver` does, a lost receipt or typing notice does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Live deliveries are dropped; whether any was is noted.
    Dropping { dropped: bool },
    /// Live deliveries go in.
    Live,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct InboxLimit {
    /// Pushes.
    pub count: usize,
    /// Bytes of bodies and slices.
    pub bytes: usize,
}

#[derive(Debug)]
struct Inbox {
    events: Vec<Event>,
    pushes: u32,
    bytes: usize,
    mode: Mode,
    cut: Option<v1::ErrorCode>,
    keep_alive: bool,
    overflowed: bool,
    behind: bool,
    drain: bool,
    closed: bool,
}

/// What a connection finds in its inbox.
#[derive(Debug, Default)]
pub struct Taken {
    /// In the order in which they came.
    pub events: Vec<Event>,
    signals: Signals,
}

impl Taken {
    /// What it was told beside.
    pub fn signals(&self) -> impl Iterator<Item = Signal> + use<> {
        self.signals.into_iter().flatten()
    }
}

/// What came of putting a live delivery in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// It waits in the inbox; the connection must be woken.
    Wake,
    /// It waits in the inbox; the connection knows already.
    Queued,
    /// The connection is catching up from the log, and will see it there.
    LeftToLog,
    /// No room: from now on the connection must catch up from the log; it must be woken.
    Overflowed,
}

/// A connection that has said who it is.
#[derive(Debug)]
pub struct Session {
    id: u64,
    device: DeviceRef,
    epoch: AtomicU64,
    established: AtomicBool,
    token_until_ms: AtomicU64,
    pinged_ms: AtomicU64,
    delivered_ms: AtomicU64,
    checked_ms: AtomicU64,
    /// The heads are to be checked soon, however quiet it is.
    check_soon: AtomicBool,
    inbox: Mutex<Inbox>,
    waker: AtomicWaker,
}

impl Session {
    pub(super) fn new(id: u64, device: DeviceRef, token_until_ms: u64, running_ms: u64) -> Self {
        let inbox = Inbox {
            events: Vec::new(),
            pushes: 0,
            bytes: 0,
            mode: Mode::Dropping { dropped: false },
            cut: None,
            keep_alive: false,
            overflowed: false,
            behind: false,
            drain: false,
            closed: false,
        };
        Self {
            id,
            device,
            epoch: AtomicU64::new(0),
            established: AtomicBool::new(false),
            token_until_ms: AtomicU64::new(token_until_ms),
            pinged_ms: AtomicU64::new(running_ms),
            delivered_ms: AtomicU64::new(0),
            checked_ms: AtomicU64::new(running_ms),
            check_soon: AtomicBool::new(false),
            inbox: Mutex::new(inbox),
            waker: AtomicWaker::new(),
        }
    }

    /// The connection's number, as in [`kith_chat_core::log::Ticket`].
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose it is.
    #[must_use]
    pub fn device(&self) -> DeviceRef {
        self.device
    }

    /// Whether the log has let it in.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.established.load(Ordering::Acquire)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn establish(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
        self.established.store(true, Ordering::Release);
    }

    pub(super) fn token_until_ms(&self) -> u64 {
        self.token_until_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_token_until(&self, until_ms: u64) {
        self.token_until_ms.store(until_ms, Ordering::Relaxed);
    }

    pub(super) fn pinged_ms(&self) -> u64 {
        self.pinged_ms.load(Ordering::Relaxed)
    }

    pub(super) fn delivered_ms(&self) -> u64 {
        self.delivered_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_delivered(&self, running_ms: u64) {
        self.delivered_ms.store(running_ms, Ordering::Relaxed);
    }

    pub(super) fn checked_ms(&self) -> u64 {
        self.checked_ms.load(Ordering::Relaxed)
    }

    pub(super) fn set_checked(&self, running_ms: u64) {
        self.checked_ms.store(running_ms, Ordering::Relaxed);
        self.check_soon.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_to_be_checked_soon(&self) -> bool {
        self.check_soon.load(Ordering::Relaxed)
    }

    /// Has the heads checked by the next round.
    pub(super) fn check_soon(&self) {
        self.check_soon.store(true, Ordering::Relaxed);
    }

    /// Whether live deliveries go in at present.
    pub(super) fn is_live(&self) -> bool {
        self.inbox.lock().mode == Mode::Live
    }

    /// Puts an answer in. Returns whether the connection must be woken.
    pub(super) fn answer(&self, message: Arc<Resolved>) -> bool {
        let mut inbox = self.inbox.lock();
        let wake = inbox.put();
        if !inbox.closed {
            inbox.events.push(Event::Answer(message));
        }
        wake
    }

    /// Puts a live delivery in, if there is room.
    pub(super) fn deliver(&self, live: LiveMessage, limit: InboxLimit) -> Delivered {
        let mut inbox = self.inbox.lock();
        match &mut inbox.mode {
            Mode::Dropping { dropped } => {
                *dropped = true;
                return Delivered::LeftToLog;
            }
            Mode::Live => {}
        }
        let wake = inbox.put();
        if inbox.pushes as usize >= limit.count || inbox.bytes + live.len() > limit.bytes {
            inbox.overflowed = true;
            // The heads may have been read before this one was accepted: they must be read once more after the connection has noticed.
            inbox.mode = Mode::Dropping { dropped: true };
            return Delivered::Overflowed;
        }
        inbox.pushes += 1;
        inbox.bytes += live.len();
        if !inbox.closed {
            inbox.events.push(Event::Live(live));
        }
        if wake { Delivered::Wake } else { Delivered::Queued }
    }

    /// Puts another push in; without room it is dropped, since the client can ask for what it says. Returns whether the connection must be woken.
    pub(super) fn push(&self, kind: Kind, limit: InboxLimit) -> bool {
        let mut inbox = self.inbox.lock();
        let bytes = memory(&kind);
        let full = inbox.pushes as usize >= limit.count || inbox.bytes + bytes > limit.bytes;
        if !self.is_established() || full || inbox.closed {
            return false;
        }
        let wake = inbox.put();
        inbox.pushes += 1;
        inbox.bytes += bytes;
        inbox.events.push(Event::Push(Box::new(kind)));
        wake
    }

    /// Something may have been on its way here and was lost: a connection that catches up will read the heads once more. Returns whether it is live, so that
    /// it has to be told instead.
    pub(super) fn note_missed(&self) -> bool {
        match &mut self.inbox.lock().mode {
            Mode::Dropping { dropped } => {
                *dropped = true;
                false
            }
            Mode::Live => true,
        }
    }

    /// Tells the connection something and wakes it.
    pub(super) fn signal(&self, signal: Signal) {
        {
            let mut inbox = self.inbox.lock();
            match signal {
                Signal::Cut(code) => inbox.cut = inbox.cut.or(Some(code)),
                Signal::KeepAlive => inbox.keep_alive = true,
                Signal::Overflowed => inbox.overflowed = true,
                Signal::Behind => inbox.behind = true,
                Signal::Drain => inbox.drain = true,
            }
        }
        self.wake();
    }

    /// Notes when the keep-alive was due.
    pub(super) fn keep_alive(&self, running_ms: u64) {
        self.pinged_ms.store(running_ms, Ordering::Relaxed);
        self.signal(Signal::KeepAlive);
    }

    /// Lets live deliveries in, if none was dropped since this was last asked, or with `force`. Returns whether none was.
    pub(super) fn go_live(&self, force: bool) -> bool {
        let mut inbox = self.inbox.lock();
        let clean = inbox.mode != Mode::Dropping { dropped: true };
        inbox.mode = if clean || force { Mode::Live } else { Mode::Dropping { dropped: false } };
        clean
    }

    /// Whether the connection has been told to end.
    pub(super) fn cut_reason(&self) -> Option<v1::ErrorCode> {
        self.inbox.lock().cut
    }

    /// Empties the inbox; its memory goes with what was in it.
    #[must_use]
    pub fn take(&self) -> Option<Taken> {
        let mut inbox = self.inbox.lock();
        let signals = inbox.take_signals();
        if inbox.events.is_empty() && signals.is_none() {
            return None;
        }
        (inbox.pushes, inbox.bytes) = (0, 0);
        Some(Taken { events: std::mem::take(&mut inbox.events), signals: signals.unwrap_or_default() })
    }

    /// Only what it was told; for a connection whose socket takes nothing more.
    pub fn take_signals(&self) -> impl Iterator<Item = Signal> + use<> {
        self.inbox.lock().take_signals().unwrap_or_default().into_iter().flatten()
    }

    /// The connection is over: nothing more goes in.
    pub(super) fn close(&self) {
        let mut inbox = self.inbox.lock();
        inbox.closed = true;
        inbox.events = Vec::new();
    }

    /// Who is to be woken when something comes in.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Wakes the connection.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

/// Bytes that a push holds while it waits, roughly. Watermarks come by the hundred.
fn memory(kind: &Kind) -> usize {
    const EACH: usize = 128;
    match kind {
        Kind::Watermarks(watermarks) => EACH * watermarks.items.len().max(1),
        _ => EACH,
    }
}

type Signals = [Option<Signal>; 5];

impl Inbox {
    /// Whether something that is put in now is the first, so that a wake is needed.
    fn put(&self) -> bool {
        self.events.is_empty() && !self.closed
    }

    fn take_signals(&mut self) -> Option<Signals> {
        if self.cut.is_none() && !self.keep_alive && !self.overflowed && !self.behind && !self.drain {
            return None;
        }
        Some([
            std::mem::take(&mut self.overflowed).then_some(Signal::Overflowed),
            std::mem::take(&mut self.behind).then_some(Signal::Behind),
            std::mem::take(&mut self.keep_alive).then_some(Signal::KeepAlive),
            std::mem::take(&mut self.drain).then_some(Signal::Drain),
            self.cut.map(Signal::Cut),
        ])
    }
}
