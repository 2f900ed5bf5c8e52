//! One side of a conversation under load: sends numbered messages through every outage, receives, acknowledges, and keeps a journal.

mod flight;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kith_proto::{
    id::{ConversationId, DeviceRef},
    v1::{self, ClientFrame, Send, client_frame, server_frame},
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep, sleep_until, timeout},
};

use self::flight::Flight;
use crate::{
    doors::Doors,
    journal::{GHOST, Journal, body},
    person::{Person, ack},
    socket::{Event, SOON, Socket},
};

/// A hole that lasts this long is paged for (docs/protocol.md, section 6).
const HOLE: Duration = Duration::from_millis(300);
/// Connecting may take so long, of a peer that would rather wait than go elsewhere.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// What all peers of a load are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Send as fast as the settings allow.
    Send,
    /// Send nothing new; get an answer for everything.
    Settle,
    /// Receive everything there is, then end.
    Finish,
}

/// The manner of a peer.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Unanswered sends at one time.
    pub window: usize,
    /// Bytes of a body.
    pub size: usize,
    /// The longest pause between two new messages.
    pub pause: Duration,
    /// A peer that has no answer for so long goes elsewhere; others wait for as long as their connection stands.
    pub patience: Option<Duration>,
    /// How long a connection lasts at most before the device is killed and comes back somewhere; others never go by themselves.
    pub restless: Option<Duration>,
    /// After so long without a way to the server, or without anything at the end, the story has failed.
    pub give_up: Duration,
}

impl Settings {
    /// Sends as fast as it can, waits for as long as its connection stands, and comes back when it has ended.
    #[must_use]
    pub const fn new(window: usize, size: usize) -> Self {
        Self { window, size, pause: Duration::ZERO, patience: None, restless: None, give_up: Duration::from_secs(60) }
    }
}

/// How a load goes, for all to see.
#[derive(Debug, Default)]
pub struct Progress {
    /// Messages that were accepted.
    pub accepted: AtomicU64,
    /// Sends that were refused with a hint to try again.
    pub refused: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Messages sent to a server that may not handle them.
    pub ghosts: AtomicU64,
    /// Why the first peer failed.
    pub failure: Mutex<Option<String>>,
}

/// How one peer goes.
#[derive(Debug, Default)]
pub struct Status {
    /// What it saw.
    pub journal: Mutex<Journal>,
    /// Messages of its own that were accepted.
    pub accepted: AtomicU64,
    /// Messages that it has made.
    pub made: AtomicU64,
    /// Counts its connections; odd while there is one.
    pub connection: AtomicU64,
    /// Has answers for everything and makes nothing new.
    pub settled: AtomicBool,
}

/// One side.
#[derive(Debug)]
pub struct Peer {
    person: Person,
    other: DeviceRef,
    conversation: ConversationId,
    settings: Settings,
    doors: Arc<Doors>,
    door: usize,
    phase: watch::Receiver<Phase>,
    progress: Arc<Progress>,
    status: Arc<Status>,
    random: StdRng,
    /// Messages without `Accepted`, the oldest first, with their numbers.
    pending: VecDeque<(u64, Send)>,
    made: u64,
    /// The next message is made then.
    next_at: Instant,
}

/// How a session ended.
enum Ended {
    /// The connection did.
    Broken,
    /// Nothing is answered on it.
    Stalled(Box<Socket>),
    /// Everything is here.
    Done,
}

impl Peer {
    /// A peer that has sent nothing yet and connects to the `door`-th door first.
    #[must_use]
    pub fn new(
        person: Person,
        other: DeviceRef,
        settings: Settings,
        (doors, door): (Arc<Doors>, usize),
        phase: watch::Receiver<Phase>,
        progress: Arc<Progress>,
    ) -> Self {
        let conversation = person.conversation(other);
        let random = StdRng::seed_from_u64(door as u64);
        let (pending, status) = (VecDeque::new(), Arc::default());
        Self { person, other, conversation, settings, doors, door, phase, progress, status, random, pending, made: 0, next_at: Instant::now() }
    }

    /// What others may see of it.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Runs to the end of [`Phase::Finish`].
    ///
    /// # Errors
    /// If the server breaks a promise, or stays away for too long.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut last_session = Instant::now();
        loop {
            self.person.rest = self.doors.rest(self.door);
            let connected = timeout(self.settings.patience.unwrap_or(CONNECT_WITHIN), self.person.connect()).await;
            if let Ok(Ok((socket, _))) = connected {
                self.progress.connections.fetch_add(1, Ordering::Relaxed);
                self.status.connection.fetch_add(1, Ordering::SeqCst);
                let ended = self.session(socket).await?;
                self.status.connection.fetch_add(1, Ordering::SeqCst);
                match ended {
                    Ended::Done => return Ok(()),
                    Ended::Stalled(socket) => self.haunt(*socket).await,
                    Ended::Broken => {}
                }
                last_session = Instant::now();
            }
            ensure!(last_session.elapsed() < self.settings.give_up, "no connection for {:?}", self.settings.give_up);
            self.door = (self.door + 1) % self.doors.count();
            // Not to wait for anything: a client does not hammer a server that is away.
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// At a server that cannot have read anything since it was interrupted for longer than its lease, leaves a message that it must not read later either.
    async fn haunt(&mut self, mut socket: Socket) {
        if !self.doors.is_haunted(self.door) {
            return;
        }
        let mut send = self.person.message(self.other, body(GHOST, self.settings.size));
        send.restart = true;
        if socket.request(client_frame::Kind::Send(send)).await.is_ok() {
            self.progress.ghosts.fetch_add(1, Ordering::Relaxed);
        }
        // The connection stays open until the server ends it: its end must not take the message along.
        tokio::spawn(async move { socket.ending(Duration::from_secs(120)).await });
    }

    async fn session(&mut self, mut socket: Socket) -> anyhow::Result<Ended> {
        let mut flight = Flight::default();
        let mut tick = interval(HOLE / 3);
        let mut head_asked = false;
        let begun = Instant::now();
        let life = self.settings.restless.map(|most| most.mul_f64(self.random.random_range(0.1..1.0)));
        let mut finish_by = None;
        loop {
            if self.fill(&mut socket, &mut flight).await.is_err() {
                return Ok(Ended::Broken);
            }
            let phase = *self.phase.borrow_and_update();
            if phase != Phase::Send && self.pending.is_empty() {
                self.status.settled.store(true, Ordering::SeqCst);
            }
            if phase == Phase::Finish && !head_asked {
                head_asked = true;
                if self.ask_head(&mut socket).await.is_err() {
                    return Ok(Ended::Broken);
                }
            }
            let (next_at, may_make) = (self.next_at, self.may_make(&flight));
            let event = tokio::select! {
                event = socket.next_within(self.settings.give_up) => event?,
                _ = self.phase.changed() => continue,
                () = sleep_until(next_at), if may_make && next_at > Instant::now() => continue,
                _ = tick.tick() => {
                    if phase == Phase::Finish {
                        let by = *finish_by.get_or_insert_with(|| Instant::now() + self.settings.give_up);
                        ensure!(Instant::now() < by, "stands at {} and gets nothing more", self.status.journal.lock().contiguous());
                    }
                    if flight.is_stalled(self.settings.patience) {
                        return Ok(Ended::Stalled(Box::new(socket)));
                    }
                    if phase == Phase::Send && life.is_some_and(|life| begun.elapsed() > life) {
                        self.door = self.random.random_range(0..self.doors.count());
                        return Ok(Ended::Broken);
                    }
                    if self.page_for_hole(&mut socket, &mut flight).await.is_err() {
                        return Ok(Ended::Broken);
                    }
                    head_asked = false;
                    continue;
                }
            };
            let Event::Frame(frame) = event else { return Ok(Ended::Broken) };
            if self.take(frame, &mut flight)? {
                return Ok(Ended::Done);
            }
        }
    }

    fn may_make(&self, flight: &Flight) -> bool {
        let room = flight.unanswered == self.pending.len() && flight.unanswered < self.settings.window;
        room && flight.again_at.is_none() && *self.phase.borrow() == Phase::Send
    }

    /// The next message, if it is time for one.
    fn make(&mut self) -> bool {
        if Instant::now() < self.next_at {
            return false;
        }
        // In this order: whoever has changed the phase and then sees the flag can be sure that nothing more is made.
        self.status.settled.store(false, Ordering::SeqCst);
        if *self.phase.borrow() != Phase::Send {
            return false;
        }
        self.next_at = Instant::now() + self.settings.pause.mul_f64(self.random.random_range(0.1..1.0));
        self.made += 1;
        self.status.made.store(self.made, Ordering::SeqCst);
        let message = self.person.message(self.other, body(self.made, self.settings.size));
        self.pending.push_back((self.made, message));
        true
    }

    /// Makes and sends what the window allows.
    async fn fill(&mut self, socket: &mut Socket, flight: &mut Flight) -> anyhow::Result<()> {
        if !flight.may_send() {
            return Ok(());
        }
        let mut fed = false;
        while flight.unanswered < self.settings.window {
            if flight.unanswered == self.pending.len() && !self.make() {
                break;
            }
            let mut send = self.pending[flight.unanswered].1.clone();
            let (id, restart) = flight.sent();
            send.restart = restart;
            socket.feed(&ClientFrame { id, kind: Some(client_frame::Kind::Send(send)) }).await?;
            fed = true;
        }
        let upto = self.status.journal.lock().contiguous();
        if upto > flight.acked {
            flight.acked = upto;
            socket.feed(&ClientFrame { id: 0, kind: Some(ack(self.conversation, upto)) }).await?;
            fed = true;
        }
        if fed {
            timeout(SOON, socket.flush()).await.context("the server does not read")??;
        }
        Ok(())
    }

    async fn ask_head(&self, socket: &mut Socket) -> anyhow::Result<()> {
        let ask = v1::GetConversations { conversations: vec![self.conversation.to_bytes()] };
        socket.request(client_frame::Kind::GetConversations(ask)).await.map(drop)
    }

    async fn page_for_hole(&self, socket: &mut Socket, flight: &mut Flight) -> anyhow::Result<()> {
        let (has_hole, after_seq) = {
            let journal = self.status.journal.lock();
            (journal.has_hole(), journal.contiguous())
        };
        if !flight.hole_is_old(has_hole, HOLE) {
            return Ok(());
        }
        let page = v1::Page { conversation: self.conversation.to_bytes(), after_seq, limit: 100 };
        socket.request(client_frame::Kind::Page(page)).await.map(drop)
    }

    /// Takes one frame; true when the head was named and everything up to it is here.
    fn take(&mut self, frame: v1::ServerFrame, flight: &mut Flight) -> anyhow::Result<bool> {
        match frame.kind.context("a frame without a kind")? {
            server_frame::Kind::Accepted(accepted) => self.accepted(frame.id, &accepted, flight)?,
            // A page that cannot be read just now is asked for again while the hole is there.
            server_frame::Kind::Error(error) if Flight::is_send(frame.id) => {
                self.progress.refused.fetch_add(1, Ordering::Relaxed);
                flight.refused(frame.id, &error)?;
            }
            server_frame::Kind::Deliver(deliver) => self.status.journal.lock().delivered(&deliver)?,
            server_frame::Kind::Absent(absent) => {
                // What was acknowledged on an earlier connection may be deleted before this one has caught up: it is here.
                let here = self.status.journal.lock().contiguous();
                let v1::Absent { from_seq, to_seq, .. } = absent;
                ensure!(to_seq <= here, "the server gave up on {from_seq}..{to_seq} ({:?}), and up to {here} is here", absent.reason());
            }
            server_frame::Kind::Page(page) => {
                let mut journal = self.status.journal.lock();
                page.entries.iter().try_for_each(|entry| journal.delivered(entry))?;
            }
            server_frame::Kind::Conversations(answer) => {
                let head = answer.items.first().map_or(0, |item| item.head);
                return Ok(self.pending.is_empty() && head == self.status.journal.lock().contiguous());
            }
            _ => {}
        }
        Ok(false)
    }

    fn accepted(&mut self, id: u64, accepted: &v1::Accepted, flight: &mut Flight) -> anyhow::Result<()> {
        flight.answered(id)?;
        let (number, send) = self.pending.pop_front().context("an answer to nothing")?;
        ensure!(accepted.client_msg_id == send.client_msg_id, "Accepted names another message");
        self.status.journal.lock().accepted(number, accepted)?;
        self.progress.accepted.fetch_add(1, Ordering::Relaxed);
        self.status.accepted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
