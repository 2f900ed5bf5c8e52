//! One side of a conversation under load: sends numbered messages through every outage, receives, acknowledges, and keeps a journal.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use kith_proto::{
    id::{ConversationId, DeviceRef},
    v1::{self, ClientFrame, Retry, Send, client_frame, server_frame},
};
use tokio::{
    sync::watch,
    time::{Instant, interval, sleep},
};

use crate::{
    journal::{Journal, body},
    person::{Person, ack},
    socket::{Event, SOON, Socket},
};

/// A hole that lasts this long is paged for (docs/protocol.md, section 6).
const HOLE: Duration = Duration::from_millis(300);
/// After this long without a way to the server a story has failed.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What all peers of a load are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Send as fast as the window allows.
    Send,
    /// Send nothing new; get an answer for everything.
    Settle,
    /// Receive everything there is, then end.
    Finish,
}

/// How a load goes, for all to see.
#[derive(Debug, Default)]
pub struct Progress {
    /// Messages that were accepted.
    pub accepted: AtomicU64,
    /// Sends that were refused with a hint to try again.
    pub refused: AtomicU64,
    /// Peers without an unanswered message, in the phases that follow sending.
    pub settled: AtomicUsize,
    /// Connections made.
    pub connections: AtomicU64,
}

/// One side.
#[derive(Debug)]
pub struct Peer {
    person: Person,
    other: DeviceRef,
    conversation: ConversationId,
    settings: Settings,
    phase: watch::Receiver<Phase>,
    progress: Arc<Progress>,
    /// Messages without `Accepted`, the oldest first, with their numbers.
    pending: VecDeque<(u64, Send)>,
    made: u64,
    settled: bool,
    journal: Journal,
}

/// The shape of a load.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Unanswered sends at one time.
    pub window: usize,
    /// Bytes of a body.
    pub size: usize,
}

/// What of `pending` is on its way on this connection.
#[derive(Debug, Default)]
struct InFlight {
    /// The first `unanswered` of `pending` were sent and not answered; ids are contiguous from `oldest_id`.
    unanswered: usize,
    oldest_id: u64,
    next_id: u64,
    /// A refusal has come: wait for the answers of what was sent behind it, then start again from the oldest at this time.
    again_at: Option<Instant>,
    restart: bool,
    acked: u64,
    hole_since: Option<Instant>,
}

/// A session ended; whether everything is done.
#[derive(Debug, PartialEq, Eq)]
enum Session {
    Broken,
    Done,
}

impl Peer {
    /// A peer that has sent nothing yet.
    #[must_use]
    pub fn new(person: Person, other: DeviceRef, settings: Settings, phase: watch::Receiver<Phase>, progress: Arc<Progress>) -> Self {
        let conversation = person.conversation(other);
        Self {
            person,
            other,
            conversation,
            settings,
            phase,
            progress,
            pending: VecDeque::new(),
            made: 0,
            settled: false,
            journal: Journal::default(),
        }
    }

    /// Runs to the end of [`Phase::Finish`]; returns the journal and how many messages were sent.
    ///
    /// # Errors
    /// If the server breaks a promise, or stays away for too long.
    pub async fn run(mut self) -> anyhow::Result<(Journal, u64)> {
        let mut last_session = Instant::now();
        loop {
            if let Ok((socket, _)) = self.person.connect().await {
                self.progress.connections.fetch_add(1, Ordering::Relaxed);
                if self.session(socket).await? == Session::Done {
                    return Ok((self.journal, self.made));
                }
                last_session = Instant::now();
            }
            ensure!(last_session.elapsed() < GIVE_UP, "no connection for {GIVE_UP:?}");
            // Not to wait for anything: a client does not hammer a server that is away.
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn session(&mut self, mut socket: Socket) -> anyhow::Result<Session> {
        let mut flight = InFlight { next_id: 1_000, oldest_id: 1_000, ..InFlight::default() };
        let mut tick = interval(HOLE / 3);
        let mut head_asked = false;
        let finish_by = Instant::now() + GIVE_UP;
        loop {
            if self.fill(&mut socket, &mut flight).await.is_err() {
                return Ok(Session::Broken);
            }
            let phase = *self.phase.borrow_and_update();
            self.settle(phase);
            if phase == Phase::Finish && !head_asked {
                head_asked = true;
                if self.ask_head(&mut socket).await.is_err() {
                    return Ok(Session::Broken);
                }
            }
            let event = tokio::select! {
                event = socket.next_within(GIVE_UP) => event?,
                _ = self.phase.changed() => continue,
                _ = tick.tick() => {
                    ensure!(phase != Phase::Finish || Instant::now() < finish_by, "stands at {} and gets nothing more", self.journal.contiguous());
                    if self.page_for_hole(&mut socket, &mut flight).await.is_err() {
                        return Ok(Session::Broken);
                    }
                    head_asked = false;
                    continue;
                }
            };
            let Event::Frame(frame) = event else { return Ok(Session::Broken) };
            if self.take(frame, &mut flight)? {
                return Ok(Session::Done);
            }
        }
    }

    /// Makes and sends what the window allows.
    async fn fill(&mut self, socket: &mut Socket, flight: &mut InFlight) -> anyhow::Result<()> {
        if let Some(at) = flight.again_at {
            if flight.unanswered > 0 || Instant::now() < at {
                return Ok(());
            }
            (flight.again_at, flight.restart, flight.oldest_id) = (None, true, flight.next_id);
        }
        let mut fed = false;
        while flight.unanswered < self.settings.window {
            if flight.unanswered == self.pending.len() {
                if *self.phase.borrow() != Phase::Send {
                    break;
                }
                self.made += 1;
                let message = self.person.message(self.other, body(self.made, self.settings.size));
                self.pending.push_back((self.made, message));
            }
            let mut send = self.pending[flight.unanswered].1.clone();
            send.restart = std::mem::take(&mut flight.restart);
            socket.feed(&ClientFrame { id: flight.next_id, kind: Some(client_frame::Kind::Send(send)) }).await?;
            (flight.next_id, flight.unanswered, fed) = (flight.next_id + 1, flight.unanswered + 1, true);
        }
        let upto = self.journal.contiguous();
        if upto > flight.acked {
            flight.acked = upto;
            socket.feed(&ClientFrame { id: 0, kind: Some(ack(self.conversation, upto)) }).await?;
            fed = true;
        }
        if fed {
            tokio::time::timeout(SOON, socket.flush()).await.context("the server does not read")??;
        }
        Ok(())
    }

    fn settle(&mut self, phase: Phase) {
        if phase != Phase::Send && self.pending.is_empty() && !self.settled {
            self.settled = true;
            self.progress.settled.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn ask_head(&self, socket: &mut Socket) -> anyhow::Result<()> {
        let ask = v1::GetConversations { conversations: vec![self.conversation.to_bytes()] };
        socket.request(client_frame::Kind::GetConversations(ask)).await.map(drop)
    }

    async fn page_for_hole(&self, socket: &mut Socket, flight: &mut InFlight) -> anyhow::Result<()> {
        if !self.journal.has_hole() {
            flight.hole_since = None;
            return Ok(());
        }
        if flight.hole_since.get_or_insert_with(Instant::now).elapsed() < HOLE {
            return Ok(());
        }
        flight.hole_since = None;
        let page = v1::Page { conversation: self.conversation.to_bytes(), after_seq: self.journal.contiguous(), limit: 100 };
        socket.request(client_frame::Kind::Page(page)).await.map(drop)
    }

    /// Takes one frame; true when the head was named and everything up to it is here.
    fn take(&mut self, frame: v1::ServerFrame, flight: &mut InFlight) -> anyhow::Result<bool> {
        match frame.kind.context("a frame without a kind")? {
            server_frame::Kind::Accepted(accepted) => self.accepted(frame.id, &accepted, flight)?,
            server_frame::Kind::Error(error) => self.refused(frame.id, &error, flight)?,
            server_frame::Kind::Deliver(deliver) => self.journal.delivered(&deliver)?,
            server_frame::Kind::Absent(absent) => bail!("the server gave up on {}..{}: {:?}", absent.from_seq, absent.to_seq, absent.reason()),
            server_frame::Kind::Page(page) => page.entries.iter().try_for_each(|entry| self.journal.delivered(entry))?,
            server_frame::Kind::Conversations(answer) => {
                let head = answer.items.first().map_or(0, |item| item.head);
                return Ok(self.pending.is_empty() && head == self.journal.contiguous());
            }
            _ => {}
        }
        Ok(false)
    }

    fn accepted(&mut self, id: u64, accepted: &v1::Accepted, flight: &mut InFlight) -> anyhow::Result<()> {
        ensure!(flight.unanswered > 0 && id == flight.oldest_id, "an answer out of order: {id} instead of {}", flight.oldest_id);
        let (number, send) = self.pending.pop_front().context("an answer to nothing")?;
        ensure!(accepted.client_msg_id == send.client_msg_id, "Accepted names another message");
        flight.oldest_id += 1;
        flight.unanswered -= 1;
        self.progress.accepted.fetch_add(1, Ordering::Relaxed);
        self.journal.accepted(number, accepted)
    }

    fn refused(&mut self, id: u64, error: &v1::Error, flight: &mut InFlight) -> anyhow::Result<()> {
        ensure!(flight.unanswered > 0 && id == flight.oldest_id, "an error out of order: {error:?}");
        ensure!(error.retry() == Retry::Same || error.retry() == Retry::After, "refused for good: {error:?}");
        flight.oldest_id += 1;
        flight.unanswered -= 1;
        self.progress.refused.fetch_add(1, Ordering::Relaxed);
        let at = Instant::now() + Duration::from_millis(error.after_ms);
        flight.again_at = Some(flight.again_at.map_or(at, |known| known.max(at)));
        Ok(())
    }
}
