//! A connected participant, driven by one small task: read a batch, take a turn, write once.

use std::{
    cell::RefCell,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use kith_meter::Meter;
use kith_proto::v1;
use tokio::{
    task::JoinHandle,
    time::{Sleep, sleep_until},
};

use super::{
    link::{Link, LinkError},
    participant::{Fault, Participant},
};

/// Why a connection's task ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    /// The connection is gone.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The participant cannot go on.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What all connections of a run share. Everything runs on one thread.
#[derive(Debug)]
pub(super) struct Shared {
    /// What is measured.
    pub(super) meter: RefCell<Meter>,
    /// The buffer that input passes through.
    pub(super) scratch: RefCell<BytesMut>,
    /// The first thing that went wrong.
    pub(super) failure: RefCell<Option<String>>,
    /// The zero of times in message bodies.
    pub(super) epoch: Instant,
}

impl Shared {
    /// For one run.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self { meter: RefCell::new(Meter::default()), scratch: RefCell::default(), failure: RefCell::default(), epoch: Instant::now() })
    }

    /// # Errors
    /// With the first thing that went wrong on any connection, if anything did.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.failure.borrow().as_ref().map_or(Ok(()), |failure| Err(anyhow::anyhow!("{failure}")))
    }

    /// Waits until `done` holds; returns false if it does not within `deadline`.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) async fn wait(&self, deadline: Duration, mut done: impl FnMut() -> bool) -> anyhow::Result<bool> {
        let end = Instant::now() + deadline;
        loop {
            self.check()?;
            if done() {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A participant with its connection. Its task ends when it is dropped.
pub(super) struct Peer {
    handle: Rc<Handle>,
    task: JoinHandle<()>,
}

struct Handle {
    participant: RefCell<Participant>,
    waker: RefCell<Option<Waker>>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").finish_non_exhaustive()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Peer {
    /// Starts the task of a connection that `Welcome` has answered. Must be called within a `LocalSet`.
    pub(super) fn start(link: Link, participant: Participant, shared: Rc<Shared>) -> Self {
        Self::start_with(link, participant, shared, async |error| Err(error))
    }

    /// The same; `again` gives another connection in the place of one that failed, or an error that ends the run.
    pub(super) fn start_with(
        link: Link,
        participant: Participant,
        shared: Rc<Shared>,
        mut again: impl AsyncFnMut(PeerError) -> Result<Link, PeerError> + 'static,
    ) -> Self {
        let handle = Rc::new(Handle { participant: RefCell::new(participant), waker: RefCell::default() });
        let mut pump = Pump { link, handle: Rc::clone(&handle), shared: Rc::clone(&shared), timer: None };
        let task = tokio::task::spawn_local(async move {
            loop {
                let Err(error) = poll_fn(|cx| pump.poll(cx)).await;
                match again(error).await {
                    Ok(link) => {
                        pump.link = link;
                        pump.handle.participant.borrow_mut().reconnected(Instant::now());
                    }
                    Err(error) => {
                        shared.failure.borrow_mut().get_or_insert(error.to_string());
                        return;
                    }
                }
            }
        });
        Self { handle, task }
    }

    /// Looks at the participant.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Participant) -> T) -> T {
        look(&self.handle.participant.borrow())
    }

    /// Waits until `done` holds, looking after every batch; gives up when nothing has arrived for as long as makes a message lost.
    ///
    /// # Errors
    /// If something went wrong on any connection.
    pub(super) async fn settled(&self, done: impl Fn(&Participant) -> bool, shared: &Shared) -> anyhow::Result<()> {
        loop {
            let before = self.look(Participant::taken);
            // A millisecond late at most, which is nothing beside what is measured.
            let end = Instant::now() + super::LOST_AFTER;
            while Instant::now() < end {
                shared.check()?;
                if self.look(&done) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if self.look(Participant::taken) == before {
                return Ok(());
            }
        }
    }

    /// Changes the participant and lets its task act on it.
    pub(super) fn change(&self, change: impl FnOnce(&mut Participant)) {
        change(&mut self.handle.participant.borrow_mut());
        if let Some(waker) = self.handle.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

struct Pump {
    link: Link,
    handle: Rc<Handle>,
    shared: Rc<Shared>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<std::convert::Infallible, PeerError>> {
        loop {
            let read = self.poll_batch(cx)?;
            let mut participant = self.handle.participant.borrow_mut();
            participant.turn(Instant::now(), |frame| self.link.put(frame));
            if self.link.poll_flush(cx)?.is_ready() {
                participant.written(Instant::now, &mut self.shared.meter.borrow_mut());
            }
            if read.is_pending() {
                let wake_at = participant.wake_at();
                drop(participant);
                if self.poll_timer(cx, wake_at).is_pending() {
                    self.remember_waker(cx);
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, PeerError> {
        let mut fault = None;
        let mut participant = self.handle.participant.borrow_mut();
        let mut meter = self.shared.meter.borrow_mut();
        let mut now = None;
        let take = |frame: v1::ServerFrame| {
            fault = participant.take(frame, *now.get_or_insert_with(Instant::now), &mut meter).err();
            fault.is_none()
        };
        let read = self.link.poll_read(cx, &mut self.shared.scratch.borrow_mut(), take);
        match (fault, read) {
            (Some(fault), _) => Err(fault.into()),
            (None, Poll::Ready(Err(error))) => Err(error.into()),
            (None, Poll::Ready(Ok(()))) => Ok(Poll::Ready(())),
            (None, Poll::Pending) => Ok(Poll::Pending),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, wake_at: Option<Instant>) -> Poll<()> {
        let Some(at) = wake_at else {
            self.timer = None;
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        if timer.deadline() != at.into() {
            timer.as_mut().reset(at.into());
        }
        timer.as_mut().poll(cx)
    }

    fn remember_waker(&self, cx: &Context<'_>) {
        let mut waker = self.handle.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}
