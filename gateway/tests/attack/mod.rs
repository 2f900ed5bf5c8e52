//! Sessions over a real message log whose reads can be held up, and clients whose sockets are channels that can be stalled.
#![allow(clippy::result_large_err, reason = "a frame that was not expected is the error, and tests may carry it")]

#[path = "../../src/sessions/tests/channel.rs"]
mod channel;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use kith_chat_core::{
    accounts::PresenceSetting,
    domain::Clock,
    log::{Admission, Append, Behind, ConnectError, Connected, LogError, MessageLog, Moved, Page, PageLimit, Purged, State},
    sqlite::{Database, Options},
};
use kith_gateway::{
    connection::Outgoing,
    sessions::{Ports, PresenceStore, SessionSettings, Sessions},
    socket::{Inbound, Pump, SocketError},
    token::TokenKey,
};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceId, DeviceRef},
    v1,
    v1::{client_frame, server_frame::Kind},
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender},
        watch,
    },
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::channel::DEADLINE;
pub(crate) use self::channel::until;

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

pub(crate) fn device(account: u8) -> DeviceRef {
    DeviceRef { account: AccountId([account; 16]), device: DeviceId([account; 16]) }
}

pub(crate) fn direct(a: DeviceRef, b: DeviceRef) -> ConversationId {
    ConversationId::direct(a.account, b.account)
}

/// Lets those who come by through, or holds them.
#[derive(Debug)]
pub(crate) struct Door {
    open: watch::Sender<bool>,
    held: AtomicUsize,
}

impl Default for Door {
    fn default() -> Self {
        Self { open: watch::Sender::new(true), held: AtomicUsize::new(0) }
    }
}

impl Door {
    pub(crate) fn shut(&self, shut: bool) {
        self.open.send_replace(!shut);
    }

    async fn pass(&self) {
        if !*self.open.borrow() {
            self.held.fetch_add(1, Ordering::AcqRel);
            let _ = self.open.subscribe().wait_for(|open| *open).await;
        }
    }

    /// Somebody has come to the shut door.
    pub(crate) async fn holds_somebody(&self) {
        until(|| self.held.load(Ordering::Acquire) > 0).await;
    }
}

#[derive(Debug)]
pub(crate) struct SlowLog {
    db: Arc<Database>,
    pub(crate) behind: Door,
    pub(crate) page: Door,
}

#[async_trait]
impl MessageLog for SlowLog {
    fn submit(&self, append: Append) -> Result<(), Box<Append>> {
        self.db.submit(append)
    }
    async fn connect(&self, device: DeviceRef, epoch: u64) -> Result<Connected, ConnectError> {
        MessageLog::connect(&*self.db, device, epoch).await
    }
    async fn behind(&self, devices: &[DeviceRef]) -> Result<Vec<Behind>, LogError> {
        self.behind.pass().await;
        self.db.behind(devices).await
    }
    async fn page(&self, device: DeviceRef, conversation: ConversationId, after: u64, limit: PageLimit) -> Result<Page, LogError> {
        // Read first: what is appended while the door is shut is not in it.
        let page = self.db.page(device, conversation, after, limit).await;
        self.page.pass().await;
        page
    }
    async fn acknowledge(&self, device: DeviceRef, cursors: &[(ConversationId, u64)]) -> Result<Vec<Moved>, LogError> {
        self.db.acknowledge(device, cursors).await
    }
    async fn mark_read(&self, device: DeviceRef, conversation: ConversationId, seq: u64) -> Result<Option<Moved>, LogError> {
        self.db.mark_read(device, conversation, seq).await
    }
    async fn states(&self, device: DeviceRef, conversations: &[ConversationId]) -> Result<Vec<State>, LogError> {
        self.db.states(device, conversations).await
    }
    async fn mutual(&self, account: AccountId, others: &[AccountId]) -> Result<Vec<AccountId>, LogError> {
        self.db.mutual(account, others).await
    }
    async fn mutual_of(&self, account: AccountId, limit: usize) -> Result<Vec<AccountId>, LogError> {
        self.db.mutual_of(account, limit).await
    }
    async fn purge(&self, now_ms: u64) -> Result<Purged, LogError> {
        self.db.purge(now_ms).await
    }
    async fn flush(&self) -> Result<(), LogError> {
        self.db.flush().await
    }
}

#[derive(Debug, Default)]
pub(crate) struct SlowPresence {
    hidden: Mutex<Vec<AccountId>>,
    pub(crate) door: Door,
}

#[async_trait]
impl PresenceStore for SlowPresence {
    async fn presence(&self, accounts: &[AccountId]) -> Result<Vec<PresenceSetting>, LogError> {
        self.door.pass().await;
        let hidden = self.hidden.lock();
        let setting = |account: &AccountId| PresenceSetting { account: *account, hidden: hidden.contains(account), last_seen_ms: 7 };
        Ok(accounts.iter().map(setting).collect())
    }
    async fn set_hidden(&self, account: AccountId, hide: bool) -> Result<(), LogError> {
        let mut hidden = self.hidden.lock();
        hidden.retain(|known| *known != account);
        if hide {
            hidden.push(account);
        }
        Ok(())
    }
    async fn seen(&self, _: &[(AccountId, u64)]) -> Result<(), LogError> {
        Ok(())
    }
}

/// A [`PresenceStore`] that the test holds as well.
#[derive(Debug)]
struct SharedPresence(Arc<SlowPresence>);

#[async_trait]
impl PresenceStore for SharedPresence {
    async fn presence(&self, accounts: &[AccountId]) -> Result<Vec<PresenceSetting>, LogError> {
        self.0.presence(accounts).await
    }
    async fn set_hidden(&self, account: AccountId, hidden: bool) -> Result<(), LogError> {
        self.0.set_hidden(account, hidden).await
    }
    async fn seen(&self, seen: &[(AccountId, u64)]) -> Result<(), LogError> {
        self.0.seen(seen).await
    }
}

pub(crate) struct Bed {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) log: Arc<SlowLog>,
    pub(crate) presence: Arc<SlowPresence>,
    pub(crate) clock: Arc<AtomicU64>,
    tokens: TokenKey,
    shutdown: CancellationToken,
    _folder: TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Bed {
    /// With accounts 1, 2 and 3 of one device each.
    pub(crate) async fn new(settings: SessionSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicU64::new(NOW_MS));
        let options = Options::new(Clock::Manual(Arc::clone(&clock)));
        let (db, resolved) = Database::open(&folder.path().join("kith.db"), options).unwrap();
        for n in 1..=3 {
            register(&db, device(n)).await;
        }
        let log = Arc::new(SlowLog { db, behind: Door::default(), page: Door::default() });
        let presence = Arc::new(SlowPresence::default());
        let tokens = TokenKey::new([7; 32]);
        let ports = Ports {
            log: Arc::clone(&log) as Arc<dyn MessageLog>,
            resolved,
            presence: Arc::new(SharedPresence(Arc::clone(&presence))),
            tokens: tokens.clone(),
            clock: Clock::Manual(Arc::clone(&clock)),
            admit_send: Box::new(|_| Admission::Admitted),
            cluster: None,
            sleepers: None,
            tracer: None,
        };
        let shutdown = CancellationToken::new();
        let sessions = Sessions::start(settings, ports, &shutdown, &TaskTracker::new());
        Self { sessions, log, presence, clock, tokens, shutdown, _folder: folder }
    }

    /// A connection that is level with the log.
    pub(crate) async fn level(&self, device: DeviceRef, epoch: u64) -> Client {
        let permit = self.sessions.admit(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("there is room");
        let (socket, ends) = channel::channel();
        self.sessions.spawn(Pump::new(socket, Arc::clone(&self.sessions), permit, false));
        let mut client = Client { me: device, to_server: Some(ends.to_server), from_server: ends.from_server, stall: ends.stall, next_id: 1 };
        let token = self.tokens.issue(device, NOW_MS + 600_000);
        client.request(client_frame::Kind::Hello(v1::Hello { token, version: 1, features: Vec::new(), epoch }));
        client.until(|kind| matches!(kind, Kind::CaughtUp(_))).await;
        client
    }

    /// The first and the second have both sent one message and have acknowledged both.
    pub(crate) async fn make_mutual(&self, a: &mut Client, b: &mut Client) {
        a.send_accepted(b.me, 1).await;
        b.send_accepted(a.me, 2).await;
        a.ack(direct(a.me, b.me), 2).await;
        b.ack(direct(a.me, b.me), 2).await;
    }
}

async fn register(db: &Database, device: DeviceRef) {
    let (account, id) = (device.account.0, device.device.0);
    let registered = db.write("register", move |write| {
        let sql = "INSERT INTO account(id, username, aik, recovery, list_version, list_hash, created_ms) VALUES (?1, hex(?1), x'', x'', 1, x'', 0)";
        write.tx().execute(sql, (account,))?;
        let sql = "INSERT INTO device(account_no, id, ed25519, certificate_hash, linked_ms, list_since, one_time, one_time_kem)
            VALUES ((SELECT no FROM account WHERE id = ?), ?, x'', x'', 0, 1, 100, 100)";
        write.tx().execute(sql, (account, id)).map(|_| ())
    });
    registered.await.unwrap();
}

pub(crate) struct Client {
    pub(crate) me: DeviceRef,
    to_server: Option<UnboundedSender<Result<Inbound, SocketError>>>,
    from_server: UnboundedReceiver<Outgoing>,
    stall: Arc<channel::Stall>,
    next_id: u64,
}

impl Client {
    pub(crate) fn request(&mut self, kind: client_frame::Kind) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let frame = v1::ClientFrame { id, kind: Some(kind) };
        let _ = self.to_server.as_ref().map(|socket| socket.send(Ok(Inbound::Frame(frame))));
        id
    }

    /// Submits message `n` to `to`; the same `n` again is a retry.
    pub(crate) fn send(&mut self, to: DeviceRef, n: u64) {
        let mut client_msg_id = [0; 16];
        client_msg_id[..8].copy_from_slice(&n.to_be_bytes());
        let send = v1::Send {
            conversation: direct(self.me, to).to_bytes(),
            recipient: to.account.to_bytes(),
            client_msg_id: client_msg_id.to_vec().into(),
            body: format!("body {n}").into(),
            slices: vec![v1::Slice { device: to.device.to_bytes(), data: "slice".into() }],
            device_counter: n,
            ..v1::Send::default()
        };
        self.request(client_frame::Kind::Send(send));
    }

    pub(crate) async fn send_accepted(&mut self, to: DeviceRef, n: u64) {
        self.send(to, n);
        self.until(|kind| matches!(kind, Kind::Accepted(_))).await;
    }

    pub(crate) async fn ack(&mut self, conversation: ConversationId, seq: u64) {
        let cursors = vec![v1::Cursor { conversation: conversation.to_bytes(), seq }];
        let id = self.request(client_frame::Kind::Ack(v1::Ack { cursors }));
        self.done(id).await;
    }

    pub(crate) async fn done(&mut self, id: u64) {
        loop {
            let frame = self.next_frame().await.expect("not closed");
            if frame.id == id {
                assert!(matches!(frame.kind, Some(Kind::Done(_))), "{frame:?}");
                return;
            }
        }
    }

    pub(crate) fn stall(&self, full: bool) {
        self.stall.set(full);
    }

    /// Ends the socket.
    pub(crate) fn disconnect(&mut self) {
        self.to_server = None;
    }

    /// Ends the socket and waits until the server has.
    pub(crate) async fn leave(mut self) {
        self.to_server = None;
        while self.next_frame().await.is_some() {}
    }

    pub(crate) async fn next_frame(&mut self) -> Option<v1::ServerFrame> {
        loop {
            let outgoing = timeout(DEADLINE, self.from_server.recv()).await.expect("a frame comes")?;
            match outgoing {
                Outgoing::Ping => drop(self.to_server.as_ref().map(|socket| socket.send(Ok(Inbound::Heard)))),
                Outgoing::Close(_) => {}
                outgoing => return outgoing.to_frame(),
            }
        }
    }

    /// The first frame of which that holds.
    pub(crate) async fn until(&mut self, mut wanted: impl FnMut(&Kind) -> bool) -> Kind {
        loop {
            let kind = self.next_frame().await.expect("not closed").kind.expect("a kind");
            if wanted(&kind) {
                return kind;
            }
        }
    }
}
