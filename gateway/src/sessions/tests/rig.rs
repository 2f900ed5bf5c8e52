//! Sessions over a log, and clients whose sockets are channels.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use kith_chat_core::{
    accounts::PresenceSetting,
    domain::Clock,
    log::{Admission, LogError, MessageLog, Resolved},
};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceId, DeviceRef},
    v1,
    v1::{client_frame, server_frame::Kind},
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::{
        Ports, PresenceStore, SessionSettings, Sessions,
        sleepers::{Sleepers, Told},
    },
    channel::{self, DEADLINE},
};
use crate::{
    cluster::Cluster,
    connection::Outgoing,
    socket::{Inbound, Pump, SocketError},
    token::TokenKey,
};

pub(crate) const UNIX_MS: u64 = 1_000_000;
const TOKEN_UNTIL_MS: u64 = UNIX_MS + 600_000;

pub(crate) fn device(account: u8, device: u8) -> DeviceRef {
    DeviceRef { account: AccountId([account; 16]), device: DeviceId([device; 16]) }
}

pub(crate) fn direct(a: DeviceRef, b: DeviceRef) -> ConversationId {
    ConversationId::direct(a.account, b.account)
}

pub(crate) fn text_to(from: DeviceRef, to: DeviceRef, n: u64) -> v1::Send {
    let mut client_msg_id = [0; 16];
    client_msg_id[..8].copy_from_slice(&n.to_be_bytes());
    v1::Send {
        conversation: direct(from, to).to_bytes(),
        recipient: to.account.to_bytes(),
        client_msg_id: client_msg_id.to_vec().into(),
        body: format!("body {n}").into(),
        slices: vec![v1::Slice { device: to.device.to_bytes(), data: "slice".into() }],
        device_counter: n.max(1),
        ..v1::Send::default()
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakePresence(Mutex<HashMap<AccountId, PresenceSetting>>);

impl FakePresence {
    fn change(&self, account: AccountId, change: impl FnOnce(&mut PresenceSetting)) {
        change(self.0.lock().entry(account).or_insert(PresenceSetting { account, hidden: false, last_seen_ms: 0 }));
    }
}

#[async_trait]
impl PresenceStore for FakePresence {
    async fn presence(&self, accounts: &[AccountId]) -> Result<Vec<PresenceSetting>, LogError> {
        let known = self.0.lock();
        Ok(accounts.iter().filter_map(|account| known.get(account).copied()).collect())
    }

    async fn set_hidden(&self, account: AccountId, hidden: bool) -> Result<(), LogError> {
        self.change(account, |stored| stored.hidden = hidden);
        Ok(())
    }

    async fn seen(&self, seen: &[(AccountId, u64)]) -> Result<(), LogError> {
        seen.iter().for_each(|(account, at)| self.change(*account, |stored| stored.last_seen_ms = *at));
        Ok(())
    }
}

pub(crate) struct Rig {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) clock: Arc<AtomicU64>,
    tokens: TokenKey,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tracker: TaskTracker,
    /// What a server that is alone says of sleepers.
    pub(crate) told: mpsc::Receiver<Told>,
}

impl Rig {
    pub(crate) fn start(settings: SessionSettings, log: Arc<dyn MessageLog>, resolved: mpsc::Receiver<Vec<Resolved>>) -> Self {
        Self::start_among(settings, log, resolved, Arc::new(FakePresence::default()), None)
    }

    /// One of several, if there is a cluster.
    pub(crate) fn start_among(
        settings: SessionSettings,
        log: Arc<dyn MessageLog>,
        resolved: mpsc::Receiver<Vec<Resolved>>,
        presence: Arc<dyn PresenceStore>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        let clock = Arc::new(AtomicU64::new(UNIX_MS));
        let tokens = TokenKey::new([7; 32]);
        let (sleepers, told) = Sleepers::new();
        let ports = Ports {
            log,
            resolved,
            presence,
            tokens: tokens.clone(),
            clock: Clock::Manual(Arc::clone(&clock)),
            admit_send: Box::new(|_| Admission::Admitted),
            cluster,
            sleepers: Some(sleepers),
            tracer: None,
        };
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let sessions = Sessions::start(settings, ports, &shutdown, &tracker);
        Self { sessions, clock, tokens, shutdown, tracker, told }
    }

    pub(crate) fn token(&self, device: DeviceRef) -> String {
        self.tokens.issue(device, TOKEN_UNTIL_MS)
    }

    pub(crate) fn token_until(&self, device: DeviceRef, until_ms: u64) -> String {
        self.tokens.issue(device, until_ms)
    }

    /// A socket whose upgrade has been answered.
    pub(crate) fn open(&self) -> Client {
        let permit = self.sessions.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("there is room");
        let (socket, ends) = channel::channel();
        self.sessions.spawn(Pump::new(socket, Arc::clone(&self.sessions), permit, false));
        Client { ends, next_id: 1 }
    }

    pub(crate) async fn connect(&self, device: DeviceRef, epoch: u64) -> Client {
        let mut client = self.open();
        client.hello(self.token(device), epoch);
        assert!(matches!(client.next().await, Some(Kind::Welcome(_))));
        client
    }

    /// Connected, and nothing is missing any more.
    pub(crate) async fn level(&self, device: DeviceRef, epoch: u64) -> Client {
        let mut client = self.connect(device, epoch).await;
        assert!(matches!(client.next().await, Some(Kind::CaughtUp(_))));
        client
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        timeout(DEADLINE, self.tracker.wait()).await.expect("all tasks end");
    }
}

pub(crate) struct Client {
    ends: channel::Ends,
    next_id: u64,
}

impl Client {
    /// Sends a request; returns its id.
    pub(crate) fn request(&mut self, kind: client_frame::Kind) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.frame(v1::ClientFrame { id, kind: Some(kind) });
        id
    }

    pub(crate) fn notice(&self, kind: client_frame::Kind) {
        self.frame(v1::ClientFrame { id: 0, kind: Some(kind) });
    }

    fn frame(&self, frame: v1::ClientFrame) {
        // Nobody listens any more if the server has closed; what it said before is in the other channel.
        let _ = self.ends.to_server.send(Ok(Inbound::Frame(frame)));
    }

    pub(crate) fn pong(&self) {
        let _ = self.ends.to_server.send(Ok(Inbound::Heard));
    }

    pub(crate) fn garbage(&self, fault: SocketError) {
        let _ = self.ends.to_server.send(Err(fault));
    }

    pub(crate) fn hello(&mut self, token: String, epoch: u64) -> u64 {
        self.request(client_frame::Kind::Hello(v1::Hello { token, version: 1, features: Vec::new(), epoch }))
    }

    pub(crate) fn send(&mut self, send: v1::Send) -> u64 {
        self.request(client_frame::Kind::Send(send))
    }

    pub(crate) fn ack(&self, conversation: ConversationId, seq: u64) {
        self.notice(client_frame::Kind::Ack(v1::Ack { cursors: vec![v1::Cursor { conversation: conversation.to_bytes(), seq }] }));
    }

    /// The socket takes nothing more, or takes again.
    pub(crate) fn stall(&self, full: bool) {
        self.ends.stall.set(full);
    }

    /// The next frame with its id; `None` when the server has closed. Pings are answered.
    pub(crate) async fn next_frame(&mut self) -> Option<v1::ServerFrame> {
        loop {
            let outgoing = timeout(DEADLINE, self.ends.from_server.recv()).await.expect("a frame comes")?;
            match outgoing {
                Outgoing::Ping => self.pong(),
                Outgoing::Close(_) => {}
                outgoing => return outgoing.to_frame(),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Kind> {
        self.next_frame().await.and_then(|frame| frame.kind)
    }

    /// Nothing more comes within `quiet`.
    pub(crate) async fn is_quiet(&mut self, quiet: Duration) -> bool {
        timeout(quiet, self.next_frame()).await.is_err()
    }

    /// The seqs of the next `n` deliveries.
    pub(crate) async fn deliveries(&mut self, n: usize) -> Vec<u64> {
        let mut seqs = Vec::new();
        while seqs.len() < n {
            match self.next().await {
                Some(Kind::Deliver(deliver)) => seqs.push(deliver.seq),
                Some(_) => {}
                None => panic!("closed after {seqs:?}"),
            }
        }
        seqs
    }

    /// The server said goodbye with this reason and closed.
    pub(crate) async fn goodbye(&mut self) -> v1::ErrorCode {
        loop {
            match self.next().await {
                Some(Kind::Goodbye(goodbye)) => {
                    assert_eq!(self.next_frame().await, None, "goodbye is the last frame");
                    return goodbye.reason();
                }
                Some(_) => {}
                None => panic!("closed without goodbye"),
            }
        }
    }
}
