//! The outbox: from queued to accepted, in order, once.
//!
//! A message goes through three stages, each durable before the next begins. *Queued*: its content is in the outbox. *Composed*: it is encrypted; ratchets,
//! k, device counter and the whole frame are in the store. *Accepted*: the server has it; the row is gone and its entry has a place. A composed message is
//! only ever sent as the very bytes that were stored, however often.
//!
//! One case looks like an exception and is none. When the server *refuses* a message because the device lists have changed, it says that it has not
//! accepted it and, by the pipeline rule, none after it. Those messages go back to *queued* and the sender's chain to where it was before the first of
//! them; then they are composed anew, with the slices that the new lists ask for, under the same client_msg_id, k and device counter. This repeats no
//! message key: the ratchets do not go back, so every new slice has a key and an r of its own, and the body has a new content key. It repeats a k, with
//! other bytes; that would be a fork only if the refused message had been accepted after all, that is if the server lied, and then a fork is what the
//! receivers should be told. A retry after an outcome that is *unknown* (a lost connection) is never composed anew; it sends the stored bytes.
//!
//! Refusals stop the pipeline: nothing more is sent in the conversation until every message under way is answered, then everything is sent again from the
//! oldest unresolved one, which carries `restart`.

use super::compose::Composed;
use super::conversation::{IN_FLIGHT, Item, MAX_SEQ, Out, Refusal};
use super::people::ME;
use super::{Engine, Pending, Result};
use crate::fault::FaultPoint;
use crate::model::{Blocked, NoticeKind};
use crate::store::PENDING;
use crate::store::records::OutboxRecord;
use kith_crypto::content::KIND_CHECKPOINT;
use kith_proto::v1::{self, client_frame};
use prost::Message as _;

const FIRST_BACK_OFF_MS: u64 = 100;
const LAST_BACK_OFF_MS: u64 = 30_000;
/// A conversation held back over device lists is tried again after this long.
const LISTS_AGAIN_MS: u64 = 60_000;

/// What is to be queued.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) kind: u8,
    pub(super) client_msg_id: [u8; 16],
    pub(super) body: Vec<u8>,
    pub(super) entry: i64,
    pub(super) renew: Vec<i64>,
    pub(super) only: Vec<i64>,
}

impl Engine {
    /// Puts a message into the outbox.
    pub(super) fn queue(&mut self, no: i64, draft: Draft) -> Result<()> {
        let Draft { kind, client_msg_id, body, entry, renew, only } = draft;
        let record =
            OutboxRecord { entry, kind: u32::from(kind), client_msg_id: client_msg_id.to_vec(), body, renew, only, ..OutboxRecord::default() };
        let row = self.store.add_outbox(no, &record)?;
        let out = Out { no: row, entry, kind, client_msg_id, composed: false, in_flight: false };
        self.conv(no)?.queue.push_back(out);
        self.awake.insert(no);
        Ok(())
    }

    fn may_send(&self, no: i64) -> bool {
        let Some(link) = &self.link else { return false };
        let Some(conv) = self.conversations.get(&no) else { return false };
        let free = link.sends_in_flight < link.max_sends && conv.in_flight() < IN_FLIGHT;
        let held = conv.refusal.is_some() || conv.hold_until > self.now || conv.asked_devices.is_some();
        let blocked = matches!(conv.blocked(), Some(Blocked::KeysChanged | Blocked::Refused));
        free && !held && !blocked && !self.me.rolled_back
    }

    /// Sends what can be sent in a conversation.
    pub(super) fn pump(&mut self, no: i64) -> Result<()> {
        let now = self.now;
        let conv = self.conv(no)?;
        if conv.hold_until <= now {
            conv.hold_until = 0;
        }
        self.check_asked_devices(no)?;
        while self.may_send(no) {
            let Some(at) = self.conv(no)?.queue.iter().position(|out| !out.in_flight) else { return Ok(()) };
            let out = self.conv(no)?.queue[at].clone();
            let record = self.store.outbox_record(out.no)?;
            let frame = if out.composed {
                record.frame
            } else {
                match self.compose(no, record)? {
                    Composed::Frame(frame) => frame,
                    Composed::Waits => return Ok(()),
                    Composed::Pointless => {
                        self.failed(no, out.no)?;
                        continue;
                    }
                }
            };
            self.transmit(no, at, &frame)?;
        }
        Ok(())
    }

    fn transmit(&mut self, no: i64, at: usize, frame: &[u8]) -> Result<()> {
        let now = self.now;
        let conv = self.conv(no)?;
        let restart = std::mem::take(&mut conv.restart);
        let out = &mut conv.queue[at];
        (out.in_flight, out.composed) = (true, true);
        let pending = Pending::Send { conversation: no, out: out.no, since_ms: now };
        let send = v1::Send::decode(frame).map_err(|_| crate::store::StoreError::Malformed("outbox frame"))?;
        if let Some(link) = &mut self.link {
            link.sends_in_flight += 1;
        }
        let _ = self.request(client_frame::Kind::Send(v1::Send { restart, ..send }), pending);
        Ok(())
    }

    fn landed(&mut self) {
        if let Some(link) = &mut self.link {
            link.sends_in_flight = link.sends_in_flight.saturating_sub(1);
        }
        self.wake_senders();
    }

    /// A place in the window is free for whoever waits.
    fn wake_senders(&mut self) {
        let waiting = self.conversations.values().filter(|conv| conv.queue.iter().any(|out| !out.in_flight));
        self.awake.extend(waiting.map(|conv| conv.no));
    }

    fn drop_out(&mut self, no: i64, out: i64) -> Result<()> {
        self.store.delete_outbox(out)?;
        self.conv(no)?.queue.retain(|other| other.no != out);
        Ok(())
    }

    /// The server has it: one tick.
    pub(super) fn accepted(&mut self, no: i64, out: i64, accepted: &v1::Accepted) -> Result<()> {
        self.fault.at(FaultPoint::AcceptedArrived);
        if !(1..=MAX_SEQ).contains(&accepted.seq) {
            // No answer at all: over another connection the message is found in the log, or sent again.
            self.effects.drop_link = true;
            return Ok(());
        }
        self.landed();
        self.expect_ticks();
        let conv = self.conv(no)?;
        (conv.refusals, conv.hold_until) = (0, 0);
        let Some(found) = conv.queue.iter().find(|other| other.no == out).cloned() else { return Ok(()) };
        self.resolve(no, &found, accepted.seq, accepted.at_ms)?;
        self.conv(no)?.hold(accepted.seq, Item::Own { client_msg_id: found.client_msg_id });
        self.effects.points.push(FaultPoint::AcceptedWritten);
        self.awake.insert(no);
        self.settle(no)
    }

    /// Takes an accepted message out of the outbox and gives its entry its place.
    pub(super) fn resolve(&mut self, no: i64, out: &Out, seq: u64, at_ms: u64) -> Result<()> {
        let sent = self.store.outbox_record(out.no)?;
        self.drop_out(no, out.no)?;
        let conv = self.conv(no)?;
        conv.record.own_head = conv.record.own_head.max(seq);
        conv.record.at_ms = conv.record.at_ms.max(at_ms);
        conv.dirty = true;
        if out.entry == 0 {
            return Ok(());
        }
        let Some(mut entry) = self.store.entry(out.entry)? else { return Ok(()) };
        entry.record.at_ms = at_ms;
        (entry.record.head, entry.record.c_k) = (sent.head, sent.c_k);
        (entry.record.sender_list, entry.record.recipient_list) = (sent.sender_list, sent.recipient_list);
        let change = self.change();
        self.store.place_entry(out.entry, seq.cast_signed(), change, &entry.record)
    }

    /// The server has not accepted it.
    pub(super) fn refused(&mut self, no: i64, out: i64, error: v1::Error) -> Result<()> {
        self.landed();
        let conv = self.conv(no)?;
        if let Some(found) = conv.queue.iter_mut().find(|other| other.no == out) {
            found.in_flight = false;
        }
        if conv.refusal.is_none() {
            conv.refusal = Some(Refusal { out, error });
        }
        self.settle(no)
    }

    /// Deals with a refusal once everything under way is answered.
    fn settle(&mut self, no: i64) -> Result<()> {
        let now = self.now;
        let conv = self.conv(no)?;
        if conv.in_flight() > 0 {
            return Ok(());
        }
        let Some(Refusal { out, error }) = conv.refusal.take() else { return Ok(()) };
        conv.restart = true;
        conv.refusals += 1;
        let back_off = (FIRST_BACK_OFF_MS << conv.refusals.min(12)).min(LAST_BACK_OFF_MS);
        conv.hold_until = now + if conv.refusals > 1 { back_off } else { 0 };
        match (error.code(), error.retry()) {
            (v1::ErrorCode::DevicesChanged, _) => self.devices_changed(no, out, error.devices_changed.unwrap_or_default())?,
            (_, v1::Retry::After) => self.conv(no)?.hold_until = now + error.after_ms.max(1),
            // The token or the device is no longer good: the next connection begins with a login.
            (v1::ErrorCode::TokenExpired | v1::ErrorCode::Unauthenticated | v1::ErrorCode::DeviceRevoked, _) => self.effects.drop_link = true,
            (_, v1::Retry::Never) => self.failed(no, out)?,
            _ => {}
        }
        self.awake.insert(no);
        Ok(())
    }

    /// Refused for good: the user sees it failed; what came after it is composed anew, so that no place of the chain stays empty.
    fn failed(&mut self, no: i64, out: i64) -> Result<()> {
        let at = self.conv(no)?.queue.iter().position(|other| other.no == out);
        let Some(at) = at else { return Ok(()) };
        self.uncompose(no, at)?;
        let entry = self.conv(no)?.queue[at].entry;
        self.drop_out(no, out)?;
        if entry == 0 {
            return Ok(());
        }
        if let Some(mut stored) = self.store.entry(entry)? {
            stored.record.failed = true;
            let change = self.change();
            self.store.place_entry(entry, PENDING, change, &stored.record)?;
        }
        Ok(())
    }

    /// Sends composed messages from a place in the queue on back to the stage before, and the chain with them. Only for messages that are known not to
    /// have been accepted, or after a rollback.
    pub(super) fn uncompose(&mut self, no: i64, from: usize) -> Result<()> {
        let rows: Vec<i64> = self.conv(no)?.queue.iter().skip(from).filter(|out| out.composed).map(|out| out.no).collect();
        let mut chain = None;
        for row in rows {
            let mut record = self.store.outbox_record(row)?;
            chain.get_or_insert(std::mem::take(&mut record.chain_before));
            record.frame.clear();
            self.store.set_outbox(row, &record)?;
        }
        let conv = self.conv(no)?;
        for out in conv.queue.iter_mut().skip(from) {
            (out.composed, out.in_flight) = (false, false);
        }
        if let Some(chain) = chain {
            (conv.record.chain, conv.dirty) = (chain, true);
        }
        Ok(())
    }

    fn devices_changed(&mut self, no: i64, out: i64, changed: v1::DevicesChanged) -> Result<()> {
        let at = self.conv(no)?.queue.iter().position(|other| other.no == out).unwrap_or(0);
        self.uncompose(no, at)?;
        let now = self.now;
        let conv = self.conv(no)?;
        conv.asked_devices = Some((now, changed.missing));
        let peer = conv.record.peer;
        self.want_lists(peer);
        self.want_lists(ME);
        Ok(())
    }

    /// Once the lists are here: is every device that the server asked for on one of them? A device that is not gets nothing; the conversation waits, and
    /// the user is told that somebody may be listening in (A23).
    fn check_asked_devices(&mut self, no: i64) -> Result<()> {
        let (peer, Some((since, asked))) = ({ self.conv(no)?.record.peer }, self.conv(no)?.asked_devices.clone()) else { return Ok(()) };
        let fetched = |people: &super::people::People, account: i64| people.accounts.get(&account).is_some_and(|a| a.fetched_ms >= since);
        let old: Vec<i64> = [peer, ME].into_iter().filter(|account| !fetched(&self.people, *account)).collect();
        if !old.is_empty() {
            // An answer to a question from before the refusal does not count: the device may have been linked in between.
            old.into_iter().for_each(|account| self.want_lists(account));
            return Ok(());
        }
        let ghost = asked.iter().any(|device| !self.is_listed(device));
        let now = self.now;
        let conv = self.conv(no)?;
        conv.asked_devices = None;
        if ghost {
            conv.hold_until = now + LISTS_AGAIN_MS;
            if conv.blocked().is_none() {
                conv.set_blocked(Some(Blocked::GhostDevice));
                self.notice(no, NoticeKind::GhostDevice)?;
            }
        } else if conv.blocked() == Some(Blocked::GhostDevice) {
            conv.set_blocked(None);
        }
        Ok(())
    }

    fn is_listed(&self, device: &v1::DeviceRef) -> bool {
        let (Some(account), Some(id)) = (super::calls::id16(&device.account), super::calls::id16(&device.device)) else { return false };
        let account = self.people.account_of.get(&kith_crypto::AccountId::from_bytes(account));
        let list = account.and_then(|no| self.people.list(*no));
        list.is_some_and(|list| list.device(kith_crypto::DeviceId::from_bytes(id)).is_ok())
    }
}

/// Whether a Send of this kind is marked as a checkpoint in the clear.
pub(super) const fn rings_nothing(kind: u8) -> bool {
    kind == KIND_CHECKPOINT || super::control::is_silent(kind)
}
