//! A message log in memory, whose answers a test can hold back. It checks no device lists.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use kith_chat_core::log::{
    Admission, Append, Behind, ConnectError, Connected, Entry, LogError, MessageLog, Moved, Outcome, Page, PageLimit, Payload, Purged, Refusal,
    Resolved, State,
};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceRef},
    v1,
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

#[derive(Debug)]
struct Kept {
    entry: Entry,
    slices: Vec<v1::Slice>,
    body: bytes::Bytes,
}

#[derive(Debug, Default)]
struct Conversation {
    members: Vec<AccountId>,
    kept: Vec<Kept>,
    cursors: HashMap<DeviceRef, u64>,
    read: HashMap<AccountId, u64>,
    senders: HashSet<AccountId>,
}

impl Conversation {
    fn head(&self) -> u64 {
        self.kept.len() as u64
    }

    fn delivered(&self, account: AccountId) -> u64 {
        self.cursors.iter().filter(|(device, _)| device.account == account).map(|(_, seq)| *seq).max().unwrap_or(0)
    }

    fn moved(&self, conversation: ConversationId, account: AccountId) -> Moved {
        let peer = self.members.iter().copied().find(|m| *m != account).unwrap_or(account);
        let read = self.read.get(&account).copied().unwrap_or(0);
        Moved { conversation, account, peer, delivered: self.delivered(account), read, mutual: self.senders.len() == 2 }
    }
}

#[derive(Debug, Default)]
struct Inner {
    conversations: HashMap<ConversationId, Conversation>,
    epochs: HashMap<DeviceRef, u64>,
    held: VecDeque<Append>,
    holding: bool,
    full: bool,
    refuse_next: Option<Refusal>,
    pages: usize,
}

#[derive(Debug)]
pub(crate) struct FakeLog {
    inner: Arc<Mutex<Inner>>,
    resolved: mpsc::Sender<Vec<Resolved>>,
}

impl FakeLog {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Vec<Resolved>>) {
        let (resolved, receiver) = mpsc::channel(100_000);
        (Self { inner: Arc::default(), resolved }, receiver)
    }

    /// The same log for another process.
    pub(crate) fn beside(&self) -> (Self, mpsc::Receiver<Vec<Resolved>>) {
        let (resolved, receiver) = mpsc::channel(100_000);
        (Self { inner: Arc::clone(&self.inner), resolved }, receiver)
    }

    /// Appends wait until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.inner.lock().holding = true;
    }

    pub(crate) fn release(&self) {
        let mut inner = self.inner.lock();
        inner.holding = false;
        let held: Vec<_> = inner.held.drain(..).collect();
        let batch: Vec<_> = held.into_iter().map(|append| inner.resolve(append)).collect();
        self.resolved.try_send(batch).unwrap();
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.inner.lock().full = full;
    }

    /// Refuses the next append that is no duplicate.
    pub(crate) fn refuse_next(&self, refusal: Refusal) {
        self.inner.lock().refuse_next = Some(refusal);
    }

    pub(crate) fn cursor(&self, device: DeviceRef, conversation: ConversationId) -> u64 {
        self.inner.lock().conversations.get(&conversation).and_then(|c| c.cursors.get(&device)).copied().unwrap_or(0)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.inner.lock().held.len()
    }

    pub(crate) fn pages(&self) -> usize {
        self.inner.lock().pages
    }
}

impl Inner {
    fn resolve(&mut self, append: Append) -> Resolved {
        let outcome = self.decide(&append);
        if matches!(outcome, Outcome::Refused(_)) {
            append.gate.shut();
        }
        Resolved { append, outcome }
    }

    fn decide(&mut self, append: &Append) -> Outcome {
        let conversation = self.conversations.entry(append.conversation).or_default();
        let known = conversation.kept.iter().find(|k| k.entry.sender == append.sender && k.entry.client_msg_id == append.client_msg_id);
        if let Some(known) = known {
            let mutual = conversation.senders.len() == 2;
            return Outcome::Accepted { seq: known.entry.seq, at_ms: known.entry.at_ms, duplicate: true, mutual };
        }
        if append.restart {
            append.gate.open();
        } else if append.gate.is_shut() {
            return Outcome::Refused(Refusal::EarlierRefused);
        }
        if let Admission::DuplicateOnly(refusal) = &append.admission {
            return Outcome::Refused(refusal.clone());
        }
        if let Some(refusal) = self.refuse_next.take() {
            return Outcome::Refused(refusal);
        }
        conversation.members = vec![append.sender.account, append.recipient];
        conversation.senders.insert(append.sender.account);
        let seq = conversation.head() + 1;
        let entry = Entry {
            seq,
            at_ms: seq,
            sender: append.sender,
            client_msg_id: append.client_msg_id,
            checkpoint: append.checkpoint,
            sender_list_version: append.sender_list_version,
            recipient_list_version: append.recipient_list_version,
            payload: Payload::Absent(v1::AbsentReason::NotAddressed),
        };
        let slices = append.slices.iter().chain(&append.own_slices).cloned().collect();
        conversation.kept.push(Kept { entry, slices, body: append.body.clone() });
        Outcome::Accepted { seq, at_ms: seq, duplicate: false, mutual: conversation.senders.len() == 2 }
    }
}

#[async_trait]
impl MessageLog for FakeLog {
    fn submit(&self, append: Append) -> Result<(), Box<Append>> {
        let mut inner = self.inner.lock();
        if inner.full {
            return Err(Box::new(append));
        }
        if inner.holding {
            inner.held.push_back(append);
            return Ok(());
        }
        let resolved = inner.resolve(append);
        self.resolved.try_send(vec![resolved]).unwrap();
        Ok(())
    }

    async fn connect(&self, device: DeviceRef, epoch: u64) -> Result<Connected, ConnectError> {
        let mut inner = self.inner.lock();
        let known = inner.epochs.entry(device).or_default();
        if epoch <= *known {
            return Err(ConnectError::StaleStore { known: *known });
        }
        let previous_epoch = std::mem::replace(known, epoch);
        Ok(Connected { device_counter: 0, previous_epoch, device_list_version: 1, one_time_left: (100, 100) })
    }

    async fn behind(&self, devices: &[DeviceRef]) -> Result<Vec<Behind>, LogError> {
        let inner = self.inner.lock();
        let mut behind = Vec::new();
        for (id, conversation) in &inner.conversations {
            for device in devices.iter().filter(|d| conversation.members.contains(&d.account)) {
                let cursor = conversation.cursors.get(device).copied().unwrap_or(0);
                if cursor < conversation.head() {
                    behind.push(Behind { device: *device, conversation: *id, cursor, head: conversation.head() });
                }
            }
        }
        Ok(behind)
    }

    async fn page(&self, device: DeviceRef, conversation: ConversationId, after: u64, limit: PageLimit) -> Result<Page, LogError> {
        let mut inner = self.inner.lock();
        inner.pages += 1;
        let conversation = inner.conversations.get(&conversation).filter(|c| c.members.contains(&device.account)).ok_or(LogError::NotAMember)?;
        let seen = |kept: &Kept| {
            let slice = kept.slices.iter().find(|s| s.device[..] == device.device.0);
            let payload = match slice {
                Some(slice) => Payload::Sealed { body: kept.body.clone(), slice: slice.data.clone() },
                None if kept.entry.sender == device => Payload::Absent(v1::AbsentReason::Own),
                None => Payload::Absent(v1::AbsentReason::NotAddressed),
            };
            Entry { payload, ..kept.entry.clone() }
        };
        let entries = conversation.kept.iter().skip(usize::try_from(after).unwrap()).take(limit.entries).map(seen).collect();
        Ok(Page { absent: Vec::new(), entries, head: conversation.head() })
    }

    async fn acknowledge(&self, device: DeviceRef, cursors: &[(ConversationId, u64)]) -> Result<Vec<Moved>, LogError> {
        let mut inner = self.inner.lock();
        for (id, seq) in cursors {
            let conversation = inner.conversations.get(id).filter(|c| c.members.contains(&device.account)).ok_or(LogError::NotAMember)?;
            if *seq > conversation.head() {
                return Err(LogError::BeyondHead);
            }
        }
        let mut moved = Vec::new();
        for (id, seq) in cursors {
            let conversation = inner.conversations.entry(*id).or_default();
            let cursor = conversation.cursors.entry(device).or_default();
            if *seq > *cursor {
                *cursor = *seq;
                moved.push(conversation.moved(*id, device.account));
            }
        }
        Ok(moved)
    }

    async fn mark_read(&self, device: DeviceRef, conversation: ConversationId, seq: u64) -> Result<Option<Moved>, LogError> {
        let mut inner = self.inner.lock();
        let id = conversation;
        let conversation = inner.conversations.get_mut(&id).filter(|c| c.members.contains(&device.account)).ok_or(LogError::NotAMember)?;
        if seq > conversation.head() {
            return Err(LogError::BeyondHead);
        }
        let read = conversation.read.entry(device.account).or_default();
        *read = seq.max(*read);
        Ok(Some(conversation.moved(id, device.account)))
    }

    async fn states(&self, device: DeviceRef, conversations: &[ConversationId]) -> Result<Vec<State>, LogError> {
        let inner = self.inner.lock();
        let found = conversations.iter().filter_map(|id| Some((*id, inner.conversations.get(id)?)));
        let found = found.filter(|(_, c)| c.members.contains(&device.account));
        let state = |(id, c): (ConversationId, &Conversation)| {
            let own = c.moved(id, device.account);
            let peer = c.moved(id, own.peer);
            State {
                conversation: id,
                head: c.head(),
                first: 1,
                cursor: c.cursors.get(&device).copied().unwrap_or(0),
                own_read: own.read,
                peer: own.peer,
                peer_delivered: peer.delivered,
                peer_read: peer.read,
                mutual: own.mutual,
            }
        };
        Ok(found.map(state).collect())
    }

    async fn mutual(&self, account: AccountId, others: &[AccountId]) -> Result<Vec<AccountId>, LogError> {
        let inner = self.inner.lock();
        let mutual = |other: &AccountId| {
            let conversation = inner.conversations.get(&ConversationId::direct(account, *other));
            conversation.is_some_and(|c| c.senders.len() == 2)
        };
        Ok(others.iter().copied().filter(mutual).collect())
    }

    async fn mutual_of(&self, _: AccountId, _: usize) -> Result<Vec<AccountId>, LogError> {
        Ok(Vec::new())
    }

    async fn purge(&self, _: u64) -> Result<Purged, LogError> {
        Ok(Purged::default())
    }

    async fn flush(&self) -> Result<(), LogError> {
        Ok(())
    }
}
