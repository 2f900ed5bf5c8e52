//! The app's calls.

use super::command::{Enrolled, OwnAccount};
use super::control::KIND_CONTENT;
use super::conversation::Conv;
use super::people::ME;
use super::{Command, Engine, Pending, Result};
use crate::error::{CallError, RequestError};
use crate::fault::FaultPoint;
use crate::model::{Blocked, Conversation, EntryId, Presence, SafetyNumber, Typing};
use crate::statements::AccountHistory;
use crate::store::records::{AccountRecord, ConversationRecord, EntryRecord};
use crate::store::{NewEntry, PENDING, Role};
use kith_crypto::device::{CertificateRequest, SignedCertificate};
use kith_crypto::{AccountId, ClientMsgId, ConversationId, DeviceId};
use kith_proto::rest::{DevicePrekeys, PrekeyUpload, PublishListRequest};
use kith_proto::{id as wire, v1};
use prost::Message as _;
use rand::Rng as _;
use std::sync::Arc;

/// Messages that may wait in one conversation.
const MAX_QUEUED: usize = 10_000;
/// A peer's typing is forgotten after this long without a repeat.
const TYPING_MS: u64 = 10_000;

impl Engine {
    pub(super) fn call(&mut self, command: Command) -> Result<()> {
        match command {
            Command::SendText { conversation, text, reply } => {
                self.fault.at(FaultPoint::BeforeQueue);
                let queued = self.send_text(conversation, &text)?;
                self.reply(reply, queued);
            }
            Command::MarkRead { conversation, seq, reply } => {
                let marked = self.with(conversation, |engine, no| engine.mark_read(no, seq))?;
                self.reply(reply, marked);
            }
            Command::SetTyping { conversation, active, reply } => {
                let told = self.with(conversation, |engine, no| engine.tell_typing(no, active))?;
                self.reply(reply, told);
            }
            Command::Accept { conversation, reply } => {
                let accepted = self.with(conversation, Self::accept)?;
                self.reply(reply, accepted);
            }
            Command::SafetyNumber { conversation, reply } => {
                let number = self.safety_number(conversation);
                self.reply(reply, number);
            }
            Command::SetVerified { conversation, verified, reply } => {
                let done = self.with(conversation, |engine, no| engine.set_verified(no, verified))?;
                self.reply(reply, done);
            }
            Command::Meet { account, username, history, reply } => {
                let met = self.meet(crate::ids::account(account), username, &history)?;
                self.reply_request(reply, met);
            }
            Command::SignListWithout { device, reply } => {
                let list = self.sign_list_without(crate::ids::device(device))?;
                self.reply_request(reply, list);
            }
            Command::DescribeOwn { reply } => {
                let own = self.describe_own();
                self.reply_request(reply, own);
            }
            Command::SignListWith { request, prekeys, reply } => {
                let list = self.sign_list_with(&request, *prekeys)?;
                self.reply_request(reply, list);
            }
            Command::RefreshOwnList { reply } => {
                self.want_lists(ME);
                self.reply(reply, Ok(()));
            }
            Command::SetPresence { hidden, reply } => {
                let kind = v1::client_frame::Kind::SetPresence(v1::SetPresence { hidden });
                if self.link.is_some() {
                    let _ = self.request(kind, Pending::Presence(reply));
                } else {
                    self.reply_request(reply, Err(RequestError::Unreachable("there is no connection".to_owned())));
                }
            }
        }
        Ok(())
    }

    fn find(&self, conversation: wire::ConversationId) -> Option<i64> {
        self.of.get(&crate::ids::conversation(conversation)).copied()
    }

    fn with(&mut self, id: wire::ConversationId, call: impl FnOnce(&mut Self, i64) -> Result<()>) -> Result<Result<(), CallError>> {
        match self.find(id) {
            Some(no) => call(self, no).map(Ok),
            None => Ok(Err(CallError::UnknownConversation)),
        }
    }

    fn send_text(&mut self, conversation: wire::ConversationId, text: &str) -> Result<Result<EntryId, CallError>> {
        let Some(no) = self.find(conversation) else { return Ok(Err(CallError::UnknownConversation)) };
        let conv = self.conv(no)?;
        if conv.blocked() == Some(Blocked::KeysChanged) || conv.blocked() == Some(Blocked::Refused) {
            return Ok(Err(CallError::Blocked));
        }
        if conv.queue.len() >= MAX_QUEUED {
            return Ok(Err(CallError::OutboxFull));
        }
        let content = v1::Content { version: 1, kind: Some(v1::content::Kind::Text(v1::Text { text: text.to_owned() })) };
        let body = content.encode_to_vec();
        let mut client_msg_id = [0; 16];
        self.store.rng.fill_bytes(&mut client_msg_id);
        let record = EntryRecord {
            mine: true,
            device: self.me.device.clone(),
            client_msg_id: client_msg_id.to_vec(),
            at_ms: self.now,
            kind: u32::from(KIND_CONTENT),
            body: body.clone(),
            ..EntryRecord::default()
        };
        let new = NewEntry { conversation: no, pos: PENDING, role: Role::Mine, change: self.change(), arrival: None, place: None, broken: false };
        let entry = self.store.add_entry(new, &record)?;
        self.queue(no, super::send::Draft { kind: KIND_CONTENT, client_msg_id, body, entry, ..Default::default() })?;
        let now = self.now;
        let conv = self.conv(no)?;
        conv.record.accepted = true;
        conv.record.at_ms = now;
        conv.dirty = true;
        self.effects.points.push(FaultPoint::AfterQueue);
        Ok(Ok(EntryId(entry)))
    }

    fn mark_read(&mut self, no: i64, seq: u64) -> Result<()> {
        let conv = self.conv(no)?;
        let seq = seq.min(conv.record.seq);
        if seq <= conv.record.read {
            return Ok(());
        }
        let id = conv.id;
        let unread = self.store.count_unread(no, seq)?;
        let conv = self.conv(no)?;
        (conv.record.read, conv.record.unread, conv.dirty) = (seq, unread, true);
        if self.link.is_some() {
            self.send_frame(v1::client_frame::Kind::Read(v1::Read { conversation: bytes(id.as_bytes()), seq }));
        }
        Ok(())
    }

    fn tell_typing(&mut self, no: i64, active: bool) -> Result<()> {
        let conv = self.conv(no)?;
        let (id, peer) = (conv.id, conv.record.peer);
        let peer = self.people.accounts.get(&peer).map(|account| account.id);
        if let (Some(peer), true) = (peer, self.link.is_some()) {
            let typing = v1::Typing { conversation: bytes(id.as_bytes()), peer: bytes(peer.as_bytes()), active };
            self.send_frame(v1::client_frame::Kind::Typing(typing));
        }
        Ok(())
    }

    fn accept(&mut self, no: i64) -> Result<()> {
        let conv = self.conv(no)?;
        (conv.record.accepted, conv.dirty) = (true, true);
        self.awake.insert(no);
        self.watch_presence();
        Ok(())
    }

    fn safety_number(&self, conversation: wire::ConversationId) -> Result<SafetyNumber, CallError> {
        let no = self.find(conversation).ok_or(CallError::UnknownConversation)?;
        let peer = self.conversations.get(&no).map_or(0, |conv| conv.record.peer);
        let (own, peer) = (self.people.list(ME).ok_or(CallError::NoKeysYet)?, self.people.list(peer).ok_or(CallError::NoKeysYet)?);
        let digits = kith_crypto::safety_number::SafetyNumber::of(&own, &peer).digits();
        let groups: Vec<&str> = (0..digits.len() / 5).map(|at| &digits[at * 5..at * 5 + 5]).collect();
        Ok(SafetyNumber { digits: groups.join(" ") })
    }

    fn set_verified(&mut self, no: i64, verified: bool) -> Result<()> {
        let peer = self.conv(no)?.record.peer;
        if let Some(account) = self.people.accounts.get_mut(&peer) {
            (account.record.verified, account.dirty) = (verified, true);
        }
        let conv = self.conv(no)?;
        conv.dirty = true;
        if verified && conv.blocked().is_some_and(|blocked| blocked != Blocked::Refused) {
            conv.set_blocked(None);
        }
        self.awake.insert(no);
        Ok(())
    }

    fn meet(&mut self, account: AccountId, username: String, history: &AccountHistory) -> Result<Result<wire::ConversationId, RequestError>> {
        let no = self.people.account(account);
        if let Err(error) = self.believe(no, history, self.now)? {
            return Ok(Err(RequestError::NotTrusted(error.to_string())));
        }
        if let Some(found) = self.people.accounts.get_mut(&no) {
            (found.record.username, found.dirty) = (Some(username), true);
        }
        let conversation = self.direct_with(account, no)?;
        let id = self.conv(conversation)?.id;
        self.effects.conversations_changed = true;
        Ok(Ok(crate::ids::wire_conversation(id)))
    }

    /// The conversation with an account, made if there is none.
    pub(super) fn direct_with(&mut self, account: AccountId, account_no: i64) -> Result<i64> {
        let id = wire::ConversationId::direct(crate::ids::wire_account(self.account), crate::ids::wire_account(account));
        self.conversation(crate::ids::conversation(id), account_no)
    }

    /// The row of a conversation, made if there is none.
    pub(super) fn conversation(&mut self, id: ConversationId, peer: i64) -> Result<i64> {
        if let Some(no) = self.of.get(&id).copied() {
            let conv = self.conv(no)?;
            if conv.record.peer == 0 && peer != 0 {
                (conv.record.peer, conv.dirty) = (peer, true);
            }
            return Ok(no);
        }
        let no = self.conversations.keys().max().copied().unwrap_or(0) + 1;
        let record = ConversationRecord { id: id.as_bytes().to_vec(), peer, at_ms: self.now, ..ConversationRecord::default() };
        let mut conv = Conv::new(no, record)?;
        conv.dirty = true;
        self.conversations.insert(no, conv);
        self.of.insert(id, no);
        self.effects.rows_changed = true;
        Ok(no)
    }

    fn sign_list_without(&mut self, device: DeviceId) -> Result<Result<PublishListRequest, RequestError>> {
        let (Some(identity), Some(list)) = (&self.identity, self.people.list(ME)) else { return Ok(Err(RequestError::NotFirstDevice)) };
        if device == self.keys.device_id() {
            return Ok(Err(RequestError::Oneself));
        }
        if list.device(device).is_err() {
            return Ok(Err(RequestError::NotFound));
        }
        let Some(own) = self.people.accounts.get(&ME) else { return Ok(Err(RequestError::NotFirstDevice)) };
        let keep = |cert: &SignedCertificate| cert.certificate().device_id != device;
        let certificates: Vec<_> = own.certificates()?.into_iter().filter(keep).collect();
        let next = identity.sign_list(Some(&list), &certificates, self.now);
        let list = crate::statements::list_to_wire(&next);
        Ok(Ok(PublishListRequest { list, certificates: Vec::new(), prekeys: Vec::new() }))
    }

    /// What a new device of this account needs to ask for its certificate.
    fn describe_own(&self) -> Result<OwnAccount, RequestError> {
        let (Some(identity), Some(list)) = (&self.identity, self.people.list(ME)) else { return Err(RequestError::NotFirstDevice) };
        Ok(OwnAccount { account: self.account, identity: identity.public(), next_version: list.version() + 1 })
    }

    /// Certifies a device and signs the list that names it too.
    fn sign_list_with(&mut self, request: &CertificateRequest, prekeys: PrekeyUpload) -> Result<Result<Enrolled, RequestError>> {
        let known = self.people.known_devices();
        let own = self.people.accounts.get(&ME).and_then(|own| Some((own.certificates(), own.list.clone()?, own.record.clone())));
        let (Some(identity), Some((certificates, list, record))) = (&self.identity, own) else { return Ok(Err(RequestError::NotFirstDevice)) };
        let untrusted = |error: &dyn std::fmt::Display| Ok(Err(RequestError::NotTrusted(error.to_string())));
        let certificate = match identity.certify(request) {
            Ok(certificate) => certificate,
            Err(error) => return untrusted(&error),
        };
        let mut certificates = certificates?;
        certificates.push(certificate);
        let next = identity.sign_list(Some(&list), &certificates, self.now);
        let trusted = match list.advance(&next, &certificates, &|device: &DeviceId| known.get(device).copied()) {
            Ok(advance) => advance.list,
            Err(error) => return untrusted(&error),
        };
        let device = crate::ids::wire_device(request.certificate().device_id);
        let publication = PublishListRequest {
            list: crate::statements::list_to_wire(&next),
            certificates: vec![crate::statements::certificate_to_wire(&certificate)],
            prekeys: vec![DevicePrekeys { device, name: None, prekeys }],
        };
        let certificates = certificates.iter().map(|certificate| certificate.to_bytes().to_vec()).collect();
        let record = AccountRecord { list: trusted.to_bytes().to_vec(), certificates, ..record };
        Ok(Ok(Enrolled { publication, record }))
    }

    /// Everything the app sees of its conversations, the most recently active first.
    pub(super) fn all_conversations(&self) -> Arc<[Conversation]> {
        let mut all: Vec<Conversation> = self.conversations.values().filter_map(|conv| self.shown(conv)).collect();
        all.sort_by_key(|conversation| (std::cmp::Reverse(conversation.at_ms), conversation.id));
        all.into()
    }

    fn shown(&self, conv: &Conv) -> Option<Conversation> {
        let peer = self.people.accounts.get(&conv.record.peer)?;
        let record = &conv.record;
        Some(Conversation {
            id: crate::ids::wire_conversation(conv.id),
            peer: crate::ids::wire_account(peer.id),
            username: peer.record.username.clone(),
            accepted: record.accepted,
            unread: record.unread,
            head: record.seq,
            read: record.read,
            peer_delivered: record.peer_delivered,
            peer_read: record.peer_read,
            proved: record.proved,
            verified: peer.record.verified,
            blocked: conv.blocked(),
            at_ms: record.at_ms,
        })
    }

    pub(super) fn typed(&mut self, frame: &v1::PeerTyping) {
        let (Some(conversation), Some(account)) = (id16(&frame.conversation), id16(&frame.account)) else { return };
        let Some(no) = self.of.get(&ConversationId::from_bytes(conversation)).copied() else { return };
        let key = (no, AccountId::from_bytes(account));
        let peer = self.conversations.get(&no).map_or(0, |conv| conv.record.peer);
        if self.people.account_of.get(&key.1) != Some(&peer) {
            return;
        }
        self.effects.typing_changed =
            if frame.active { self.typing.insert(key, self.now + TYPING_MS).is_none() } else { self.typing.remove(&key).is_some() };
    }

    pub(super) fn forget_typing(&mut self) {
        let before = self.typing.len();
        let now = self.now;
        self.typing.retain(|_, until| *until > now);
        self.effects.typing_changed |= self.typing.len() != before;
    }

    pub(super) fn all_typing(&self) -> Arc<[Typing]> {
        let typing = |(no, account): &(i64, AccountId)| {
            let conversation = crate::ids::wire_conversation(self.conversations.get(no)?.id);
            Some(Typing { conversation, account: crate::ids::wire_account(*account) })
        };
        self.typing.keys().filter_map(typing).collect()
    }

    pub(super) fn present(&mut self, frame: &v1::Presence) {
        let Some(account) = id16(&frame.account).map(AccountId::from_bytes) else { return };
        if !self.people.account_of.contains_key(&account) {
            return;
        }
        let last_seen_ms = (frame.last_seen_ms != 0).then_some(frame.last_seen_ms);
        let presence = Presence { account: crate::ids::wire_account(account), online: frame.online, last_seen_ms };
        self.presence.insert(account, presence);
        self.effects.presence_changed = true;
    }
}

pub(super) fn bytes<B: From<Vec<u8>>>(bytes: &[u8]) -> B {
    B::from(bytes.to_vec())
}

/// 16 bytes of a frame.
pub(super) fn id16(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

/// A fresh name for a message.
pub(super) fn fresh_message_id(rng: &mut rand::rngs::StdRng) -> ClientMsgId {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    ClientMsgId::from_bytes(id)
}
