//! One message: from what the server delivered to what the user sees.

use super::calls::id16;
use super::control::{KIND_REPAIR, KIND_RESENT, is_silent};
use super::conversation::Item;
use super::people::ME;
use super::receive::Flow;
use super::{Engine, Result, Sessions};
use crate::model::{Blocked, Integrity, NoticeKind, Undecryptable};
use crate::store::codes::{self, REPAIR_IMPOSSIBLE, REPAIR_WAITING};
use crate::store::records::EntryRecord;
use crate::store::{NewEntry, Role, SessionRow};
use kith_crypto::chain::{ReceiverChain, Verdict, judge_earlier};
use kith_crypto::content::KIND_CHECKPOINT;
use kith_crypto::incoming::{self, Envelope, FirstContact, Incoming, IncomingError, OpenedMessage};
use kith_crypto::prekey::PrekeySecret;
use kith_crypto::session_set::{Pair, Route};
use kith_crypto::trusted_list::{ListError, TrustedList};
use kith_crypto::{AccountId, ClientMsgId, DeviceId, HandshakeError, ListVersions, OpenError, PrekeyIds, ResponderPrekeys, Slice};
use kith_proto::v1;
use rand::RngExt as _;
use std::sync::Arc;

/// Who sent a message, by row.
#[derive(Clone, Copy)]
pub(super) struct From {
    pub(super) no: i64,
    pub(super) seq: u64,
    pub(super) at_ms: u64,
    pub(super) account_no: i64,
    pub(super) device: DeviceId,
    pub(super) row: SessionRow,
    pub(super) message: ClientMsgId,
}

/// What came of opening.
enum Opened {
    Message(Box<Incoming>),
    Not(Undecryptable),
    /// A newer list is needed.
    Wait,
}

impl Engine {
    pub(super) fn open(&mut self, no: i64, deliver: Box<v1::Deliver>, account: AccountId) -> Result<Flow> {
        let (Some(device), Some(message)) = (id16(&deliver.sender_device), id16(&deliver.client_msg_id)) else { return Ok(Flow::Done) };
        let (device, message) = (DeviceId::from_bytes(device), ClientMsgId::from_bytes(message));
        let account_no = if account == self.account { ME } else { self.people.account(account) };
        let member = account_no == ME || account_no == self.conv(no)?.record.peer;
        let is_this = account_no == ME && device == self.keys.device_id();
        let row = SessionRow { conversation: no, device: 0 };
        let from = From { no, seq: deliver.seq, at_ms: deliver.at_ms, account_no, device, row, message };
        if !member || is_this {
            self.unreadable(from, Undecryptable::NotAMember)?;
            return self.done(from);
        }
        if !self.lists_reach(account_no, deliver.sender_list_version, deliver.recipient_list_version) {
            return Ok(Flow::Wait(Item::Deliver(deliver)));
        }
        let Some(list) = self.people.list(account_no).filter(|list| list.device(device).is_ok()) else {
            self.unreadable(from, Undecryptable::UnknownDevice)?;
            return self.done(from);
        };
        let from = From { row: SessionRow { conversation: no, device: self.people.device(account_no, device) }, ..from };
        match self.decrypt(from, &deliver, &list)? {
            Opened::Wait => return Ok(Flow::Wait(Item::Deliver(deliver))),
            Opened::Not(reason) => self.not_opened(from, reason)?,
            Opened::Message(incoming) => self.keep(from, &deliver, *incoming, &list)?,
        }
        self.done(from)
    }

    fn done(&mut self, from: From) -> Result<Flow> {
        self.advance(from.no, from.seq, Some((from.device, from.message)))?;
        Ok(Flow::Done)
    }

    fn decrypt(&mut self, from: From, deliver: &v1::Deliver, list: &Arc<TrustedList>) -> Result<Opened> {
        let conversation = self.conv(from.no)?.id;
        let pair = Pair { conversation, account: list.account_id(), device: from.device };
        self.load_sessions(from.row, pair)?;
        let chains: Vec<ReceiverChain> = self.load_chains(from.row)?.iter().map(|(_, chain)| chain.clone()).collect();
        let Ok(slice) = Slice::parse(&deliver.slice) else { return Ok(Opened::Not(Undecryptable::Malformed)) };
        let Some(sessions) = self.sessions.get(&from.row) else { return Ok(Opened::Not(Undecryptable::NoSession)) };
        let prekeys = match sessions.set.route(&slice) {
            Route::Known => None,
            Route::Unknown => return Ok(Opened::Not(Undecryptable::NoSession)),
            Route::FirstContact(ids) => match self.prekeys_for(ids)? {
                Some(prekeys) => Some((prekeys, self.store.replay(from.row.device)?)),
                None => return Ok(Opened::Not(Undecryptable::PrekeyGone)),
            },
        };
        let Some(own) = self.people.list(ME) else { return Ok(Opened::Wait) };
        let versions = ListVersions { sender: deliver.sender_list_version, recipient: deliver.recipient_list_version };
        let envelope = Envelope {
            conversation,
            account: list.account_id(),
            device: from.device,
            client_msg_id: from.message,
            versions: Some(versions),
            slice: &deliver.slice,
            body: &deliver.body,
        };
        let first =
            prekeys.as_ref().map(|(prekeys, replay)| FirstContact { keys: &self.keys, own: &own, peer: list, prekeys: prekeys.borrow(), replay });
        let opened = incoming::open(&mut self.store.rng, &sessions.set, &chains, first, &envelope, self.now);
        Ok(match opened {
            Ok(incoming) => Opened::Message(Box::new(incoming)),
            Err(IncomingError::List(ListError::MissingVersions { .. })) => Opened::Not(Undecryptable::UnknownDevice),
            Err(error) => Opened::Not(why(&error)),
        })
    }

    fn prekeys_for(&self, ids: PrekeyIds) -> Result<Option<Prekeys>> {
        let (Some(signed), Some(kem)) = (self.store.prekey(ids.signed)?, self.store.prekey(ids.kem)?) else { return Ok(None) };
        let one_time = match ids.one_time {
            None => None,
            Some(id) => match self.store.prekey(id)? {
                None => return Ok(None),
                found => found,
            },
        };
        Ok(Some(Prekeys { signed, one_time, kem }))
    }

    fn load_chains(&mut self, row: SessionRow) -> Result<&mut Vec<(i64, ReceiverChain)>> {
        let chains = match self.chains.remove(&row) {
            Some(chains) => chains,
            None => self.store.chains(row)?,
        };
        Ok(self.chains.entry(row).or_insert(chains))
    }

    /// Commits what an opened message changes, and shows it.
    fn keep(&mut self, from: From, deliver: &v1::Deliver, incoming: Incoming, list: &TrustedList) -> Result<()> {
        let Incoming { sessions, skipped_changed, addressing, message, first_contact } = incoming;
        let before = self.sessions.get(&from.row).is_some_and(|sessions| sessions.skipped_dirty);
        self.sessions.insert(from.row, Sessions { set: sessions, dirty: true, skipped_dirty: before || skipped_changed });
        let first = first_contact.is_some();
        if let Some(first) = first_contact {
            // The device may be new in this round; its row must be there for the memory to have a place.
            self.people.flush(&mut self.store)?;
            self.store.set_replay(from.row.device, &first.replay)?;
            for id in first.used_up {
                self.store.delete_prekey(id)?;
            }
        }
        // A checkpoint is not answered by a checkpoint, unless it began a session that is to be confirmed.
        let checkpoint = message.as_ref().is_ok_and(|opened| opened.content.head.kind == KIND_CHECKPOINT);
        if first || !checkpoint {
            self.owe(from, first)?;
        }
        self.check_own_list(from, deliver, &addressing.list_hash)?;
        match message {
            Err(_) => self.not_opened(from, Undecryptable::BadBody),
            Ok(opened) => self.show(from, &opened, list),
        }
    }

    /// Notes that a checkpoint is owed to the device, unless something is sent to it before.
    fn owe(&mut self, from: From, first: bool) -> Result<()> {
        let jitter = self.store.rng.random_range(500..3_000);
        let now = self.now;
        let peer = self.conv(from.no)?.peer(from.row.device);
        if peer.unanswered == 0 {
            (peer.oldest_ms, peer.jitter_ms) = (now, jitter);
        }
        peer.unanswered = peer.unanswered.saturating_add(1);
        peer.first |= first;
        Ok(())
    }

    /// The sender says which list of this account it used. With the version this device has pinned there can be only one.
    fn check_own_list(&mut self, from: From, deliver: &v1::Deliver, used: &[u8; 32]) -> Result<()> {
        let Some(own) = self.people.list(ME) else { return Ok(()) };
        if from.account_no != ME && deliver.recipient_list_version == own.version() && used != own.hash() {
            self.notice(from.no, NoticeKind::OwnListForged)?;
        }
        Ok(())
    }

    /// The sender says which list its own account has: what the server shows must be the same.
    fn check_their_list(&mut self, from: From, version: u64, hash: &[u8; 32], list: &TrustedList) -> Result<()> {
        if version > list.version() {
            self.want_lists_since(from.account_no, self.now);
        } else if version == list.version() && hash != list.hash() {
            self.integrity(from.no, from.seq, from.device, Integrity::Fork)?;
            if from.account_no != ME && self.conv(from.no)?.blocked().is_none() {
                self.conv(from.no)?.set_blocked(Some(Blocked::ListRefused));
                self.notice(from.no, NoticeKind::ListRefused)?;
            }
        }
        Ok(())
    }

    fn show(&mut self, from: From, opened: &OpenedMessage, list: &TrustedList) -> Result<()> {
        let head = opened.content.head;
        self.check_their_list(from, head.list_version, &head.list_hash, list)?;
        let (chain_no, known) = self.chain_row(from, opened)?;
        let Some(()) = self.judge(from, opened, chain_no, known)? else { return Ok(()) };
        if let Some(chain) = &opened.chain {
            self.store.set_chain(chain_no, chain)?;
            let chains = self.load_chains(from.row)?;
            match chains.iter_mut().find(|(no, _)| *no == chain_no) {
                Some((_, known)) => known.clone_from(chain),
                None => chains.push((chain_no, chain.clone())),
            }
        }
        self.compare_views(from.no, from.seq, from.device, head.view)?;
        match head.kind {
            KIND_CHECKPOINT => self.checkpoint_arrived(from, &opened.content.body),
            KIND_REPAIR => self.repair_asked(from, &opened.content.body),
            KIND_RESENT => self.resent(from, &opened.content.body),
            kind => {
                debug_assert!(!is_silent(kind));
                self.add_message(from, chain_no, opened)
            }
        }
    }

    /// The row of the sender's chain, and whether anything of it was known. A second incarnation of a device means that its store began anew.
    fn chain_row(&mut self, from: From, opened: &OpenedMessage) -> Result<(i64, bool)> {
        let chains = self.load_chains(from.row)?;
        if let Some((no, _)) = chains.iter().find(|(_, chain)| *chain.owner() == opened.owner) {
            return Ok((*no, true));
        }
        let restarted = !chains.is_empty();
        let Some(chain) = opened.chain.clone() else { return Ok((0, false)) };
        if restarted {
            self.integrity(from.no, from.seq, from.device, Integrity::SenderRestarted)?;
            self.notice(from.no, NoticeKind::ContactRestarted)?;
        }
        let no = self.store.new_chain_row(from.row)?;
        self.store.set_chain(no, &chain)?;
        self.load_chains(from.row)?.push((no, chain));
        Ok((no, false))
    }

    /// What the chain says of a message: `None` if it is not to be shown again.
    fn judge(&mut self, from: From, opened: &OpenedMessage, chain_no: i64, _known: bool) -> Result<Option<()>> {
        let k = opened.content.head.k;
        let verdict = if opened.verdict == Verdict::Earlier {
            let stored = self.store.received_at(chain_no, k)?;
            let c_k = stored.as_ref().and_then(|entry| <&[u8; 32]>::try_from(entry.record.c_k.as_slice()).ok());
            judge_earlier(c_k, &opened.c_k, k)
        } else {
            opened.verdict
        };
        let event = match verdict {
            Verdict::InOrder | Verdict::Anchored | Verdict::CheckpointAgrees | Verdict::CheckpointEarlier | Verdict::Earlier => None,
            // Late, not missing: it was reported as a gap when it was passed.
            Verdict::Gap { .. } if opened.verdict == Verdict::Earlier => None,
            Verdict::Gap { from: first, to } => self.unexplained(from, to.saturating_sub(first) + 1)?,
            Verdict::Replay => Some(Integrity::Replay),
            Verdict::Fork => Some(Integrity::Fork),
        };
        if let Some(event) = event {
            self.integrity(from.no, from.seq, from.device, event)?;
        }
        self.conv(from.no)?.peer(from.row.device).holes = 0;
        Ok((verdict != Verdict::Replay).then_some(()))
    }

    /// Messages of the chain that did not come. Those that came and could not be read are shown as such already.
    fn unexplained(&mut self, from: From, missing: u64) -> Result<Option<Integrity>> {
        let seen = u64::from(self.conv(from.no)?.peer(from.row.device).holes);
        Ok((missing > seen).then(|| Integrity::Gap { missing: missing - seen }))
    }

    fn add_message(&mut self, from: From, chain_no: i64, opened: &OpenedMessage) -> Result<()> {
        let record = EntryRecord {
            mine: from.account_no == ME,
            device: from.device.as_bytes().to_vec(),
            client_msg_id: from.message.as_bytes().to_vec(),
            at_ms: from.at_ms,
            kind: u32::from(opened.content.head.kind),
            body: opened.content.body.to_vec(),
            c_k: opened.c_k.to_vec(),
            ..EntryRecord::default()
        };
        let place = Some((chain_no, opened.content.head.k));
        self.add_received(from, &record, place, false)
    }

    fn add_received(&mut self, from: From, record: &EntryRecord, place: Option<(i64, u64)>, broken: bool) -> Result<()> {
        let mine = from.account_no == ME;
        let role = if mine { Role::Mine } else { Role::Peer };
        let (change, arrival) = (self.change(), (!mine).then(|| self.arrival()));
        let new = NewEntry { conversation: from.no, pos: from.seq.cast_signed(), role, change, arrival, place, broken };
        self.store.add_entry(new, record)?;
        let conv = self.conv(from.no)?;
        conv.record.at_ms = conv.record.at_ms.max(from.at_ms);
        conv.dirty = true;
        if mine {
            conv.record.own_head = conv.record.own_head.max(from.seq);
            // The user wrote here, on another device.
            conv.record.accepted = true;
        } else if from.seq > conv.record.read {
            conv.record.unread += 1;
        }
        Ok(())
    }

    /// Shows a message that could not be read, and sees to its repair if there can be one.
    fn not_opened(&mut self, from: From, reason: Undecryptable) -> Result<()> {
        if matches!(reason, Undecryptable::Replayed | Undecryptable::KeyGone | Undecryptable::PrekeyGone) && self.is_known(from)? {
            // Its own message, shown a second time under another place: the key was used for the first.
            return self.integrity(from.no, from.seq, from.device, Integrity::Replay);
        }
        let peer = self.conv(from.no)?.peer(from.row.device);
        peer.holes = peer.holes.saturating_add(1);
        if reason != Undecryptable::Replayed {
            let now = self.now;
            let conv = self.conv(from.no)?;
            conv.repair_at = conv.repair_at.or(Some(now + 1_000));
        }
        self.unreadable(from, reason)
    }

    fn unreadable(&mut self, from: From, reason: Undecryptable) -> Result<()> {
        use Undecryptable as U;
        let repairable = matches!(reason, U::NoSession | U::NotAuthentic | U::KeyGone | U::PrekeyGone | U::BadBody | U::Malformed);
        let repairable = repairable && from.row.device != 0;
        let record = EntryRecord {
            mine: from.account_no == ME,
            device: from.device.as_bytes().to_vec(),
            client_msg_id: from.message.as_bytes().to_vec(),
            at_ms: from.at_ms,
            undecryptable: codes::undecryptable_code(reason),
            repair: if repairable { REPAIR_WAITING } else { REPAIR_IMPOSSIBLE },
            ..EntryRecord::default()
        };
        self.add_received(from, &record, None, repairable)
    }

    /// Whether a message of this name of this device is here already.
    fn is_known(&self, from: From) -> Result<bool> {
        const LOOKED_AT: i64 = 2_000;
        let role = if from.account_no == ME { Role::Mine } else { Role::Peer };
        let entries = self.store.newest_of(from.no, role, LOOKED_AT)?;
        let same = |record: &EntryRecord| record.device == from.device.as_bytes() && record.client_msg_id == from.message.as_bytes();
        Ok(entries.iter().any(|entry| same(&entry.record)))
    }
}

/// The private prekeys of a first message.
struct Prekeys {
    signed: PrekeySecret,
    one_time: Option<PrekeySecret>,
    kem: PrekeySecret,
}

impl Prekeys {
    const fn borrow(&self) -> ResponderPrekeys<'_> {
        ResponderPrekeys { signed: &self.signed, one_time: self.one_time.as_ref(), kem: &self.kem }
    }
}

const fn why(error: &IncomingError) -> Undecryptable {
    match error {
        IncomingError::Malformed(_) | IncomingError::SenderMismatch | IncomingError::NeedsVersions => Undecryptable::Malformed,
        IncomingError::NeedsPrekeys => Undecryptable::PrekeyGone,
        IncomingError::List(_) => Undecryptable::UnknownDevice,
        IncomingError::Handshake(error) => match error {
            HandshakeError::Replayed | HandshakeError::ReplayMemoryFull => Undecryptable::Replayed,
            HandshakeError::MissingPrekey => Undecryptable::PrekeyGone,
            _ => Undecryptable::NotAuthentic,
        },
        IncomingError::Open(error) => match error {
            OpenError::UnknownSession => Undecryptable::NoSession,
            OpenError::KeyGone => Undecryptable::KeyGone,
            _ => Undecryptable::NotAuthentic,
        },
        IncomingError::FirstBody(_) => Undecryptable::BadBody,
    }
}
