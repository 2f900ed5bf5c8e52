//! A server small enough to see through, and phones that can be killed: whole conversations of real engines without a socket, a thread or a clock.

use super::super::{Command, Engine, Fetch, FetchAnswer, Input, Parts, Published};
use crate::builder::Registration;
use crate::fault::{FaultHook, FaultPoint};
use crate::model::{ConnectionState, StopReason};
use crate::server::ServerError;
use crate::start;
use crate::statements::{AccountHistory, Step, certificate_to_wire};
use crate::store::Store;
use kith_crypto::device::SignedCertificate;
use kith_crypto::device_list::SignedDeviceList;
use kith_crypto::identity::RecoveryKey;
use kith_crypto::{Secret, Slice};
use kith_proto::id::{AccountId, ConversationId, DeviceId};
use kith_proto::rest::{Bundle, Bundles, KeysState, PrekeyUpload};
use kith_proto::v1::{self, client_frame, server_frame};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::{mpsc, oneshot};

mod acts;
mod looks;

/// Counts down to a crash at one point; negative for never.
#[derive(Clone)]
pub(super) struct Bomb {
    pub(super) point: FaultPoint,
    left: Arc<AtomicI64>,
}

impl Bomb {
    pub(super) fn at(point: FaultPoint, nth: i64) -> Self {
        Self { point, left: Arc::new(AtomicI64::new(nth)) }
    }

    fn hook(&self) -> FaultHook {
        let bomb = self.clone();
        FaultHook::new(move |point| {
            if point == bomb.point && bomb.left.fetch_sub(1, Ordering::SeqCst) == 0 {
                std::panic::resume_unwind(Box::new("killed"));
            }
        })
    }
}

pub(super) struct Phone {
    pub(super) home: PathBuf,
    pub(super) engine: Option<Engine>,
    pub(super) published: Published,
    pub(super) account: AccountId,
    pub(super) device: DeviceId,
    pub(super) bomb: Option<Bomb>,
    /// Whether it is connected whenever it runs.
    pub(super) online: bool,
    connected: bool,
    pub(super) connection: u64,
    down: Option<mpsc::Receiver<v1::ClientFrame>>,
    inbox: VecDeque<Input>,
    counter: u64,
    stock: PrekeyUpload,
    highest_key: u32,
    history: AccountHistory,
    recovery: RecoveryKey,
    cursors: HashMap<ConversationId, u64>,
    _folder: tempfile::TempDir,
}

struct Row {
    deliver: v1::Deliver,
    slices: HashMap<(AccountId, DeviceId), bytes::Bytes>,
}

type Tamper = Box<dyn FnMut(&mut v1::Deliver) -> bool>;

#[derive(Default)]
pub(super) struct World {
    pub(super) phones: Vec<Phone>,
    log: HashMap<ConversationId, Vec<Row>>,
    reads: HashMap<(ConversationId, AccountId), u64>,
    pub(super) now: u64,
    /// Every slice ever sent, by (session, ratchet key, place): the same place must be the same bytes.
    slices: BTreeMap<(Vec<u8>, Vec<u8>, u32), Vec<u8>>,
    frames: HashMap<Vec<u8>, Vec<u8>>,
    /// Changes a delivery on its way; false drops it.
    pub(super) tamper: Option<Tamper>,
    /// Devices that the server claims are missing from every Send.
    pub(super) ghosts: Vec<v1::DeviceRef>,
    pub(super) sends: u64,
    pub(super) refuse: VecDeque<v1::Error>,
    /// Nothing can be read: pages are refused for now.
    pub(super) unreadable: bool,
    /// Pages asked for.
    pub(super) pages: u64,
    /// Ticks that are pushed are lost.
    pub(super) lose_ticks: bool,
    /// Acknowledgements are lost: the server could not write them.
    pub(super) lose_acks: bool,
    /// What the next acceptance says in the stead of its place.
    pub(super) misplaced: Option<u64>,
    /// Times that somebody has asked for ticks.
    pub(super) asked_for_ticks: u64,
    /// Retries of accepted messages, each of the very bytes of the first time.
    pub(super) identical_retries: u64,
    /// A store was copied back: what it holds is sent in other bytes.
    pub(super) copied_back: bool,
    broken_pipe: HashMap<(u64, ConversationId), bool>,
    /// Uploads of prekeys reach the server and their answers are lost.
    pub(super) lose_uploads: bool,
    /// Why each phone last gave up.
    pub(super) stopped_for: Vec<Option<StopReason>>,
    /// What each phone has told others through the server, in order.
    pub(super) told: Vec<(usize, &'static str)>,
    /// Lengths of every body and of every slice sent.
    pub(super) lengths: (BTreeSet<usize>, BTreeSet<usize>),
}

impl World {
    pub(super) fn with(names: &[&str]) -> Self {
        let mut world = Self { now: 1_800_000_000_000, ..Self::default() };
        for name in names {
            world.register(name);
        }
        world
    }

    fn register(&mut self, name: &str) {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        let mut store = Store::create(&home, None).unwrap();
        let registration = Registration::new(name);
        let prepared = start::prepare(&mut store, &registration, "http://127.0.0.1:7400".to_owned(), self.now).unwrap();
        let list = SignedDeviceList::from_bytes(&prepared.me.list).unwrap();
        let certificate = SignedCertificate::from_bytes(&prepared.me.certificate).unwrap();
        let _ = certificate_to_wire(&certificate);
        let history = AccountHistory { newest_version: 1, steps: vec![Step::List(list, vec![certificate])], leaves: Vec::new(), username: None };
        let (account, device) = (prepared.me.account.clone(), prepared.me.device.clone());
        let recovery = RecoveryKey::from_entropy(&Secret::from_bytes(prepared.me.recovery.clone().try_into().unwrap()));
        drop(start::confirm(store).unwrap());
        let highest_key = highest(&prepared.upload);
        self.stopped_for.push(None);
        self.phones.push(Phone {
            home,
            engine: None,
            published: Published::new(),
            account: AccountId(account.try_into().unwrap()),
            device: DeviceId(device.try_into().unwrap()),
            bomb: None,
            online: true,
            connected: false,
            connection: 0,
            down: None,
            inbox: VecDeque::new(),
            counter: 0,
            stock: prepared.upload,
            highest_key,
            history,
            recovery,
            cursors: HashMap::new(),
            _folder: folder,
        });
    }

    pub(super) fn conversation(&self, a: usize, b: usize) -> ConversationId {
        ConversationId::direct(self.phones[a].account, self.phones[b].account)
    }

    /// `a` looks `b` up, as the app does.
    pub(super) fn meet(&mut self, a: usize, b: usize) -> ConversationId {
        self.try_meet(a, b).unwrap()
    }

    pub(super) fn try_meet(&mut self, a: usize, b: usize) -> Result<ConversationId, crate::RequestError> {
        let (account, history) = (self.phones[b].account, self.phones[b].history.clone());
        let (reply, mut answer) = oneshot::channel();
        self.input(a, Input::Command(Command::Meet { account, username: format!("user{b}"), history, reply }));
        self.run();
        answer.try_recv().unwrap()
    }

    pub(super) fn input(&mut self, phone: usize, input: Input) {
        self.phones[phone].inbox.push_back(input);
    }

    pub(super) fn text(
        &mut self,
        phone: usize,
        conversation: ConversationId,
        text: &str,
    ) -> oneshot::Receiver<Result<crate::EntryId, crate::CallError>> {
        let (reply, answer) = oneshot::channel();
        let text = zeroize::Zeroizing::new(text.to_owned());
        self.input(phone, Input::Command(Command::SendText { conversation, text, reply }));
        answer
    }

    pub(super) fn say(&mut self, phone: usize, conversation: ConversationId, text: &str) {
        let mut answer = self.text(phone, conversation, text);
        self.run();
        answer.try_recv().unwrap().unwrap();
    }

    pub(super) fn accept(&mut self, phone: usize, conversation: ConversationId) {
        let (reply, _answer) = oneshot::channel();
        self.input(phone, Input::Command(Command::Accept { conversation, reply }));
        self.run();
    }

    /// Lets everything happen that happens by itself.
    pub(super) fn run(&mut self) {
        for _ in 0..2_000 {
            let moved: Vec<bool> = (0..self.phones.len()).map(|phone| self.step(phone)).collect();
            if !moved.contains(&true) {
                return;
            }
        }
        panic!("the world does not come to rest");
    }

    /// Time passes, in steps short enough for every timer.
    pub(super) fn pass(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(400).min(50) {
            self.now += ms.div_ceil(ms.div_ceil(400).min(50));
            self.run();
            // Timers fire on a round without input.
            for phone in 0..self.phones.len() {
                self.round(phone, Vec::new());
            }
            self.run();
        }
    }

    fn step(&mut self, at: usize) -> bool {
        let phone = &mut self.phones[at];
        let mut started = false;
        if phone.engine.is_none() {
            self.start(at);
            started = true;
        }
        let phone = &mut self.phones[at];
        if phone.online && !phone.connected {
            self.connect(at);
        } else if !phone.online && phone.connected {
            phone.connected = false;
            phone.down = None;
            let connection = phone.connection;
            phone.inbox.push_back(Input::Disconnected { connection });
        }
        let inputs: Vec<Input> = self.phones[at].inbox.drain(..).collect();
        let idle = inputs.is_empty();
        self.round(at, inputs);
        let frames = self.frames_of(at);
        let quiet = frames.is_empty();
        for frame in frames {
            self.serve(at, frame);
        }
        started || !idle || !quiet
    }

    fn frames_of(&mut self, at: usize) -> Vec<v1::ClientFrame> {
        let Some(down) = &mut self.phones[at].down else { return Vec::new() };
        let mut frames = Vec::new();
        loop {
            match down.try_recv() {
                Ok(frame) => frames.push(frame),
                Err(mpsc::error::TryRecvError::Empty) => return frames,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    // The engine let go: dial again.
                    let phone = &mut self.phones[at];
                    (phone.connected, phone.down) = (false, None);
                    return frames;
                }
            }
        }
    }

    fn start(&mut self, at: usize) {
        let phone = &mut self.phones[at];
        let store = Store::open(&phone.home, None).unwrap();
        let fault = phone.bomb.as_ref().map_or_else(FaultHook::default, Bomb::hook);
        phone.published = Published::new();
        let parts = Parts { store, published: phone.published.clone(), fault, now_ms: self.now };
        phone.engine = Some(Engine::load(parts).unwrap());
        (phone.connected, phone.down) = (false, None);
    }

    fn round(&mut self, at: usize, inputs: Vec<Input>) {
        let (now, phone) = (self.now, &mut self.phones[at]);
        let Some(engine) = phone.engine.as_mut() else { return };
        match catch_unwind(AssertUnwindSafe(|| engine.round(inputs, now))) {
            Ok(fetches) => {
                if let ConnectionState::Stopped(reason) = *phone.published.connection.borrow() {
                    self.stopped_for[at] = Some(reason);
                }
                for fetch in fetches {
                    let answer = self.answer(at, &fetch);
                    self.phones[at].inbox.push_back(Input::Fetched { fetch, answer });
                }
            }
            Err(_) => self.kill(at),
        }
    }

    /// The process is gone; what was written and not committed goes with it.
    pub(super) fn kill(&mut self, at: usize) {
        let phone = &mut self.phones[at];
        phone.engine = None;
        phone.inbox.clear();
        (phone.connected, phone.down) = (false, None);
    }

    fn connect(&mut self, at: usize) {
        let (reply, mut epoch) = oneshot::channel();
        self.round(at, vec![Input::NextEpoch { reply }]);
        if epoch.try_recv().is_err() {
            return;
        }
        let phone = &mut self.phones[at];
        phone.connection += 1;
        let (frames, down) = mpsc::channel(10_000);
        (phone.down, phone.connected) = (Some(down), true);
        let welcome = v1::Welcome {
            account: phone.account.to_bytes(),
            device: phone.device.to_bytes(),
            device_counter: phone.counter,
            device_list_version: phone.history.newest_version,
            limits: Some(v1::Limits { max_sends_in_flight: 16, max_page: 100, ..v1::Limits::default() }),
            ..v1::Welcome::default()
        };
        let connection = phone.connection;
        phone.inbox.push_back(Input::Welcome { connection, welcome: Box::new(welcome), frames });
        self.catch_up(at);
        self.push(at, server_frame::Kind::CaughtUp(v1::CaughtUp {}));
    }

    fn catch_up(&mut self, at: usize) {
        let account = self.phones[at].account;
        let mine: Vec<ConversationId> = self.log.keys().copied().collect();
        for id in mine {
            let after = self.phones[at].cursors.get(&id).copied().unwrap_or(0);
            let member = (0..self.phones.len()).any(|other| other != at && ConversationId::direct(account, self.phones[other].account) == id);
            let rows = self.log[&id].len() as u64;
            for seq in (after + 1..=rows).filter(|_| member) {
                self.deliver(at, id, seq);
            }
        }
    }

    fn push(&mut self, at: usize, kind: server_frame::Kind) {
        self.answer_frame(at, 0, kind);
    }

    fn answer_frame(&mut self, at: usize, id: u64, kind: server_frame::Kind) {
        let phone = &mut self.phones[at];
        if phone.connected {
            let connection = phone.connection;
            phone.inbox.push_back(Input::Frame { connection, frame: Box::new(v1::ServerFrame { id, kind: Some(kind) }) });
        }
    }

    fn row_for(&self, at: usize, id: ConversationId, seq: u64) -> v1::Deliver {
        let phone = &self.phones[at];
        let row = &self.log[&id][usize::try_from(seq).unwrap() - 1];
        let mut deliver = row.deliver.clone();
        match row.slices.get(&(phone.account, phone.device)) {
            Some(slice) => deliver.slice = slice.clone(),
            None => {
                let own = deliver.sender_device == phone.device.to_bytes() && deliver.sender_account == phone.account.to_bytes();
                deliver.body = bytes::Bytes::new();
                deliver.set_absent(if own { v1::AbsentReason::Own } else { v1::AbsentReason::NotAddressed });
            }
        }
        deliver
    }

    fn deliver(&mut self, at: usize, id: ConversationId, seq: u64) {
        let mut deliver = self.row_for(at, id, seq);
        if self.tamper.as_mut().is_none_or(|tamper| tamper(&mut deliver)) {
            self.push(at, server_frame::Kind::Deliver(deliver));
        }
    }

    fn answer(&mut self, at: usize, fetch: &Fetch) -> Result<FetchAnswer, ServerError> {
        Ok(match fetch {
            Fetch::Lists { id, .. } => {
                let id = crate::ids::wire_account(*id);
                let phone = self.phones.iter().find(|phone| phone.account == id);
                FetchAnswer::Lists(phone.map(|phone| phone.history.clone()).ok_or(ServerError::Unreachable("nobody".to_owned()))?)
            }
            Fetch::Bundles { id, devices, .. } => {
                let id = crate::ids::wire_account(*id);
                let phone = self.phones.iter_mut().find(|phone| phone.account == id).unwrap();
                assert_eq!(devices.len(), 1);
                let stock = &mut phone.stock;
                let one_time = (!stock.one_time.is_empty()).then(|| stock.one_time.remove(0));
                let one_time_kem = (!stock.one_time_kem.is_empty()).then(|| stock.one_time_kem.remove(0));
                let (kem_kind, kem) = one_time_kem.map_or_else(|| (3, stock.last_resort_kem.clone().unwrap()), |kem| (2, kem));
                let bundle = Bundle { device: phone.device, signed: stock.signed.clone().unwrap(), kem_kind, kem, one_time, limited: false };
                FetchAnswer::Bundles(Bundles { account: id, list_version: phone.history.newest_version, bundles: vec![bundle] })
            }
            Fetch::Keys => FetchAnswer::Keys(self.keys(at)),
            Fetch::Upload(upload) => {
                let phone = &mut self.phones[at];
                let ids = upload.one_time.iter().map(|key| key.id).chain(upload.one_time_kem.iter().map(|key| key.id));
                assert!(ids.min().is_none_or(|lowest| lowest > phone.highest_key), "a prekey id was used again");
                phone.highest_key = phone.highest_key.max(highest(upload));
                phone.stock.signed = upload.signed.clone().or(phone.stock.signed.take());
                phone.stock.last_resort_kem = upload.last_resort_kem.clone().or(phone.stock.last_resort_kem.take());
                phone.stock.one_time.extend(upload.one_time.iter().cloned());
                phone.stock.one_time_kem.extend(upload.one_time_kem.iter().cloned());
                if self.lose_uploads {
                    return Err(ServerError::Unreachable("the answer is lost".to_owned()));
                }
                FetchAnswer::Keys(self.keys(at))
            }
        })
    }

    fn keys(&self, at: usize) -> KeysState {
        let stock = &self.phones[at].stock;
        KeysState {
            one_time: u32::try_from(stock.one_time.len()).unwrap(),
            one_time_kem: u32::try_from(stock.one_time_kem.len()).unwrap(),
            signed_id: stock.signed.as_ref().unwrap().id,
            signed_created_ms: stock.signed.as_ref().unwrap().created_ms,
            last_resort_kem_id: stock.last_resort_kem.as_ref().unwrap().id,
            last_resort_kem_created_ms: 0,
            highest_id: self.phones[at].highest_key,
        }
    }

    fn serve(&mut self, at: usize, frame: v1::ClientFrame) {
        match frame.kind.as_ref().unwrap() {
            client_frame::Kind::Send(_) => self.told.push((at, "send")),
            client_frame::Kind::Ack(_) => self.told.push((at, "ack")),
            client_frame::Kind::Read(_) => self.told.push((at, "read")),
            client_frame::Kind::Typing(_) => self.told.push((at, "typing")),
            _ => {}
        }
        match frame.kind.unwrap() {
            client_frame::Kind::Send(send) => self.append(at, frame.id, send),
            client_frame::Kind::Ack(_) if self.lose_acks => {}
            client_frame::Kind::Ack(ack) => {
                for cursor in ack.cursors {
                    let id = ConversationId::try_from(cursor.conversation.as_ref()).unwrap();
                    assert!(cursor.seq <= self.log[&id].len() as u64, "acknowledged beyond the head");
                    let known = self.phones[at].cursors.entry(id).or_default();
                    *known = (*known).max(cursor.seq);
                    self.tell_marks(at, id);
                }
            }
            client_frame::Kind::Read(read) => {
                let id = ConversationId::try_from(read.conversation.as_ref()).unwrap();
                let account = self.phones[at].account;
                self.reads.insert((id, account), read.seq);
                self.tell_marks(at, id);
            }
            client_frame::Kind::Page(_) if self.unreadable => {
                self.pages += 1;
                let mut error = v1::Error::default();
                error.set_code(v1::ErrorCode::StorageUnavailable);
                error.set_retry(v1::Retry::After);
                self.answer_frame(at, frame.id, server_frame::Kind::Error(error));
            }
            client_frame::Kind::Page(page) => {
                self.pages += 1;
                let id = ConversationId::try_from(page.conversation.as_ref()).unwrap();
                let head = self.log[&id].len() as u64;
                let last = head.min(page.after_seq + u64::from(page.limit));
                let entries = (page.after_seq + 1..=last).map(|seq| self.row_for(at, id, seq)).collect();
                let page = v1::PageResult { conversation: page.conversation, entries, absent: Vec::new(), head };
                self.answer_frame(at, frame.id, server_frame::Kind::Page(page));
            }
            client_frame::Kind::GetConversations(get) => {
                self.asked_for_ticks += 1;
                let items = get.conversations.iter().filter_map(|id| self.state(at, ConversationId::try_from(id.as_ref()).unwrap())).collect();
                self.answer_frame(at, frame.id, server_frame::Kind::Conversations(v1::Conversations { items }));
            }
            client_frame::Kind::WatchPresence(_) => self.answer_frame(at, frame.id, server_frame::Kind::Done(v1::Done {})),
            _ => {}
        }
    }

    fn state(&self, at: usize, id: ConversationId) -> Option<v1::ConversationState> {
        let peer = (0..self.phones.len()).find(|other| *other != at && self.conversation(at, *other) == id)?;
        let own_read = self.reads.get(&(id, self.phones[at].account)).copied().unwrap_or(0);
        Some(v1::ConversationState { conversation: id.to_bytes(), own_read, peer: Some(self.mark(peer, id)), ..v1::ConversationState::default() })
    }

    fn mark(&self, at: usize, id: ConversationId) -> v1::Watermark {
        let account = self.phones[at].account;
        let delivered = self.phones[at].cursors.get(&id).copied().unwrap_or(0);
        let read = self.reads.get(&(id, account)).copied().unwrap_or(0);
        v1::Watermark { conversation: id.to_bytes(), account: account.to_bytes(), delivered, read }
    }

    fn tell_marks(&mut self, at: usize, id: ConversationId) {
        if self.lose_ticks {
            return;
        }
        let mark = self.mark(at, id);
        for other in (0..self.phones.len()).filter(|other| *other != at) {
            if self.conversation(at, other) == id {
                self.push(other, server_frame::Kind::Watermarks(v1::Watermarks { items: vec![mark.clone()] }));
            }
        }
    }

    fn append(&mut self, at: usize, request: u64, send: v1::Send) {
        self.sends += 1;
        let id = ConversationId::try_from(send.conversation.as_ref()).unwrap();
        self.remember_slices(&send);
        self.lengths.0.insert(send.body.len());
        self.lengths.1.extend(send.slices.iter().map(|slice| slice.data.len()));
        let rows = self.log.entry(id).or_default();
        let sender = self.phones[at].device.to_bytes();
        let same = |row: &Row| row.deliver.client_msg_id == send.client_msg_id && row.deliver.sender_device == sender;
        if let Some(row) = rows.iter().find(|row| same(row)) {
            let original = &self.frames[&send.client_msg_id.to_vec()];
            if !self.copied_back {
                assert_eq!(*original, bytes_of(&send), "a retry must send the identical bytes");
                self.identical_retries += 1;
            }
            let counter = original.last_chunk().map(|bytes| u64::from_be_bytes(*bytes)).unwrap();
            assert!(send.device_counter <= counter, "the server looks for a retry from its counter on");
            let accepted = v1::Accepted { client_msg_id: send.client_msg_id, seq: row.deliver.seq, at_ms: row.deliver.at_ms, duplicate: true };
            return self.answer_frame(at, request, server_frame::Kind::Accepted(accepted));
        }
        let pipe = (self.phones[at].connection, id);
        if self.broken_pipe.get(&pipe) == Some(&true) && !send.restart {
            let mut error = v1::Error::default();
            error.set_code(v1::ErrorCode::EarlierRefused);
            return self.answer_frame(at, request, server_frame::Kind::Error(error));
        }
        self.broken_pipe.insert(pipe, false);
        let mut refusal = self.refuse.pop_front();
        if refusal.is_none() && !self.ghosts.is_empty() {
            let mut error =
                v1::Error { devices_changed: Some(v1::DevicesChanged { missing: self.ghosts.clone(), extra: Vec::new() }), ..Default::default() };
            error.set_code(v1::ErrorCode::DevicesChanged);
            error.set_retry(v1::Retry::Refresh);
            refusal = Some(error);
        }
        if let Some(error) = refusal {
            self.broken_pipe.insert(pipe, true);
            return self.answer_frame(at, request, server_frame::Kind::Error(error));
        }
        self.frames.insert(send.client_msg_id.to_vec(), bytes_of(&send));
        assert!(self.copied_back || send.device_counter > self.phones[at].counter, "the device counter went back");
        self.phones[at].counter = self.phones[at].counter.max(send.device_counter);
        let seq = self.log[&id].len() as u64 + 1;
        let recipient = AccountId::try_from(send.recipient.as_ref()).unwrap();
        let deliver = v1::Deliver {
            conversation: send.conversation,
            seq,
            at_ms: self.now,
            sender_account: self.phones[at].account.to_bytes(),
            sender_device: sender,
            client_msg_id: send.client_msg_id.clone(),
            checkpoint: send.checkpoint,
            sender_list_version: send.sender_list_version,
            recipient_list_version: send.recipient_list_version,
            body: send.body,
            ..v1::Deliver::default()
        };
        let slice = |slice: v1::Slice| ((recipient, DeviceId::try_from(slice.device.as_ref()).unwrap()), slice.data);
        let slices = send.slices.into_iter().map(slice).collect();
        self.log.get_mut(&id).unwrap().push(Row { deliver, slices });
        let said = self.misplaced.take().unwrap_or(seq);
        let accepted = v1::Accepted { client_msg_id: send.client_msg_id, seq: said, at_ms: self.now, duplicate: false };
        self.answer_frame(at, request, server_frame::Kind::Accepted(accepted));
        for other in (0..self.phones.len()).filter(|other| *other != at) {
            if self.phones[other].account == recipient {
                self.deliver(other, id, seq);
            }
        }
    }

    /// A18: the same message key never seals two plaintexts. A place in a chain that is seen twice must be the same bytes, unless a fresh r made the key
    /// another one (a restored backup).
    fn remember_slices(&mut self, send: &v1::Send) {
        for slice in &send.slices {
            let parsed = Slice::parse(&slice.data).unwrap();
            let header = parsed.header();
            let place = (header.session_id.as_bytes().to_vec(), header.dh.as_bytes().to_vec(), header.n);
            if let Some(before) = self.slices.insert(place, slice.data.to_vec()) {
                let r = |bytes: &[u8]| Slice::parse(bytes).unwrap().header().r;
                assert!(before == slice.data || r(&before) != r(&slice.data), "a message key was used twice");
            }
        }
    }
}

fn bytes_of(send: &v1::Send) -> Vec<u8> {
    let slices = send.slices.iter().flat_map(|slice| slice.data.to_vec());
    send.body.iter().copied().chain(slices).chain(send.device_counter.to_be_bytes()).collect()
}

fn highest(upload: &PrekeyUpload) -> u32 {
    let signed = [&upload.signed, &upload.last_resort_kem].into_iter().flatten().map(|key| key.id);
    let rest = upload.one_time.iter().map(|key| key.id).chain(upload.one_time_kem.iter().map(|key| key.id));
    signed.chain(rest).max().unwrap_or(0)
}
