//! The log as it comes in: put in order, processed one place after the other, acknowledged.
//!
//! Nothing is processed out of order. What comes early is held in memory, unacknowledged; a hole that lasts 300 ms is asked for. A place is processed
//! exactly once: its entry, the ratchet, the chain and the cursor are one transaction, and the acknowledgement follows its commit. So a crash at any moment
//! neither loses nor repeats a message: what was not committed was not acknowledged and comes again.

use super::calls::{bytes, id16};
use super::conversation::{Conv, Item, MAX_SEQ};
use super::people::ME;
use super::{Engine, Pending, Result};
use crate::fault::FaultPoint;
use crate::model::{Integrity, Undecryptable};
use crate::store::codes;
use crate::store::records::EntryRecord;
use crate::store::{NewEntry, Role};
use kith_crypto::log_hash::LogView;
use kith_crypto::{AccountId, ClientMsgId, ConversationId, DeviceId};
use kith_proto::id as wire;
use kith_proto::v1::{self, AbsentReason, client_frame};

/// A hole may close by itself within this time.
const GAP_MS: u64 = 300;
const PAGE: u32 = 200;
/// A place that the server does not give after so many times is taken for gone.
const GAP_ATTEMPTS: u32 = 5;

/// Whether an entry was dealt with.
pub(super) enum Flow {
    Done,
    /// Something has to be fetched first.
    Wait(Item),
}

impl Engine {
    pub(super) fn delivered(&mut self, deliver: v1::Deliver) -> Result<()> {
        self.fault.at(FaultPoint::DeliverArrived);
        let Some(no) = self.conversation_of(&deliver)? else { return Ok(()) };
        let seq = deliver.seq;
        self.conv(no)?.hold(seq, Item::Deliver(Box::new(deliver)));
        self.awake.insert(no);
        Ok(())
    }

    pub(super) fn absent(&mut self, absent: &v1::Absent) -> Result<()> {
        let Some(no) = id16(&absent.conversation).and_then(|id| self.of.get(&ConversationId::from_bytes(id))).copied() else { return Ok(()) };
        self.conv(no)?.hold(absent.from_seq, Item::Absent { to: absent.to_seq, reason: absent.reason() });
        self.awake.insert(no);
        Ok(())
    }

    /// The conversation of a message. One that is not known yet must be the direct one with its sender, whatever the server calls it.
    fn conversation_of(&mut self, deliver: &v1::Deliver) -> Result<Option<i64>> {
        let (Some(id), Some(sender)) = (id16(&deliver.conversation), id16(&deliver.sender_account)) else { return Ok(None) };
        let (id, sender) = (ConversationId::from_bytes(id), AccountId::from_bytes(sender));
        if !(1..=MAX_SEQ).contains(&deliver.seq) {
            return Ok(None);
        }
        let direct = wire::ConversationId::direct(crate::ids::wire_account(self.account), crate::ids::wire_account(sender));
        if crate::ids::conversation(direct) == id && sender != self.account {
            let peer = self.people.account(sender);
            return self.conversation(id, peer).map(Some);
        }
        match self.of.get(&id).copied() {
            Some(no) => Ok(Some(no)),
            // An own device wrote to somebody this one has not met: the peer becomes known with the first message of theirs.
            None if sender == self.account => self.conversation(id, 0).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn paged(&mut self, no: i64, page: v1::PageResult) -> Result<()> {
        let conv = self.conv(no)?;
        conv.paging = false;
        for absent in &page.absent {
            conv.hold(absent.from_seq, Item::Absent { to: absent.to_seq, reason: absent.reason() });
        }
        let id = conv.id;
        for deliver in page.entries.into_iter().filter(|deliver| deliver.conversation.as_ref() == id.as_bytes()) {
            conv.hold(deliver.seq, Item::Deliver(Box::new(deliver)));
        }
        self.drain(no)?;
        let now = self.now;
        let conv = self.conv(no)?;
        // Only an answer counts, and only if nothing has come since it was asked for: while the server cannot read, or the connection is dead, nothing is known
        // about the place.
        conv.gap_asked = if conv.record.seq > conv.gap_from { 0 } else { conv.gap_asked + 1 };
        if page.head > conv.record.seq && conv.gap_at.is_none() && !conv.buffer.is_empty() {
            conv.gap_at = Some(now);
        }
        Ok(())
    }

    /// Processes what follows on the last place without a hole.
    pub(super) fn drain(&mut self, no: i64) -> Result<()> {
        let me = self.account;
        let mut peer_wrote = false;
        while let Some((seq, item)) = self.conv(no)?.take_next() {
            peer_wrote |= matches!(&item, Item::Deliver(deliver) if deliver.sender_account.as_ref() != me.as_bytes());
            if let Flow::Wait(item) = self.process(no, seq, item)? {
                self.conv(no)?.buffer.insert(seq, item);
                return Ok(());
            }
            self.effects.points.push(FaultPoint::DeliverWritten);
        }
        let now = self.now;
        let conv = self.conv(no)?;
        let hole = conv.buffer.first_key_value().is_some_and(|(first, _)| *first > conv.record.seq + 1);
        conv.gap_at = if hole { conv.gap_at.or(Some(now + GAP_MS)) } else { None };
        if !hole {
            conv.gap_asked = 0;
        }
        if peer_wrote && conv.record.own_head > 0 && conv.record.peer_delivered == 0 {
            // By now both have written, and marks flow; those that moved before were told to nobody.
            let id = conv.id;
            self.ask_states_of(&[id]);
        }
        Ok(())
    }

    pub(super) fn ask_for_gap(&mut self, no: i64) -> Result<()> {
        let now = self.now;
        let linked = self.link.is_some();
        let conv = self.conv(no)?;
        if conv.paging || !linked || conv.gap_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        if conv.gap_asked >= GAP_ATTEMPTS {
            // The server has later places and never gives this one: it is gone, and that is said.
            let first = conv.buffer.first_key_value().map_or(0, |(first, _)| *first);
            let next = conv.record.seq + 1;
            conv.hold(next, Item::Absent { to: first.saturating_sub(1), reason: AbsentReason::Expired });
            return self.drain(no);
        }
        (conv.paging, conv.gap_at, conv.gap_from) = (true, Some(now + 1_000), conv.record.seq);
        let page = v1::Page { conversation: bytes(conv.id.as_bytes()), after_seq: conv.record.seq, limit: PAGE };
        let _ = self.request(client_frame::Kind::Page(page), Pending::Page { conversation: no });
        Ok(())
    }

    fn process(&mut self, no: i64, seq: u64, item: Item) -> Result<Flow> {
        match item {
            Item::Own { client_msg_id } => {
                let device = self.keys.device_id();
                self.advance(no, seq, Some((device, ClientMsgId::from_bytes(client_msg_id))))?;
                Ok(Flow::Done)
            }
            Item::Absent { to, reason } => {
                self.missing(no, seq, to, reason)?;
                Ok(Flow::Done)
            }
            Item::Deliver(deliver) => self.process_deliver(no, deliver),
        }
    }

    fn process_deliver(&mut self, no: i64, deliver: Box<v1::Deliver>) -> Result<Flow> {
        let ids = (id16(&deliver.sender_account), id16(&deliver.sender_device), id16(&deliver.client_msg_id));
        let (Some(account), Some(device), Some(message)) = ids else {
            let reason = if deliver.absent() == AbsentReason::Unspecified { Undecryptable::Malformed } else { reason(deliver.absent()) };
            self.add_missing(no, deliver.seq, deliver.seq, reason)?;
            self.skip_to(no, deliver.seq)?;
            return Ok(Flow::Done);
        };
        let place = (DeviceId::from_bytes(device), ClientMsgId::from_bytes(message));
        match deliver.absent() {
            AbsentReason::Unspecified => return self.open(no, deliver, AccountId::from_bytes(account)),
            AbsentReason::Own => self.own(no, &deliver, message)?,
            AbsentReason::NotAddressed => {}
            absent => self.add_missing(no, deliver.seq, deliver.seq, reason(absent))?,
        }
        self.advance(no, deliver.seq, Some(place))?;
        Ok(Flow::Done)
    }

    /// A message of this device, as the log shows it. Its answer may have been lost; or it was sent before the store was rolled back.
    fn own(&mut self, no: i64, deliver: &v1::Deliver, message: [u8; 16]) -> Result<()> {
        let queued = self.conv(no)?.queue.iter().find(|out| out.client_msg_id == message).cloned();
        if let Some(out) = queued {
            return self.resolve(no, &out, deliver.seq, deliver.at_ms);
        }
        if deliver.checkpoint || self.store.own_at(no, deliver.seq)?.is_some() {
            return Ok(());
        }
        let record = EntryRecord {
            mine: true,
            device: deliver.sender_device.to_vec(),
            client_msg_id: message.to_vec(),
            at_ms: deliver.at_ms,
            undecryptable: codes::undecryptable_code(Undecryptable::LostByRollback),
            ..EntryRecord::default()
        };
        let change = self.change();
        let pos = deliver.seq.cast_signed();
        self.store.add_entry(NewEntry { conversation: no, pos, role: Role::Mine, change, arrival: None, place: None, broken: false }, &record)?;
        let conv = self.conv(no)?;
        conv.record.own_head = conv.record.own_head.max(deliver.seq);
        Ok(())
    }

    fn missing(&mut self, no: i64, from: u64, to: u64, absent: AbsentReason) -> Result<()> {
        let from = from.max(self.conv(no)?.record.seq + 1);
        if absent != AbsentReason::NotAddressed && absent != AbsentReason::Own {
            self.add_missing(no, from, to, reason(absent))?;
        }
        self.skip_to(no, to)
    }

    fn add_missing(&mut self, no: i64, from: u64, to: u64, why: Undecryptable) -> Result<()> {
        let record = EntryRecord { at_ms: self.now, undecryptable: codes::undecryptable_code(why), extent: to.max(1), ..EntryRecord::default() };
        self.add_event(no, from, &record)
    }

    /// Goes past places of which the log hash cannot be known; it begins anew with the next message that says what its sender saw.
    fn skip_to(&mut self, no: i64, to: u64) -> Result<()> {
        let conv = self.conv(no)?;
        if to > conv.record.seq {
            conv.record.seq = to;
            conv.record.log.clear();
            conv.dirty = true;
        }
        Ok(())
    }

    /// Moves the cursor past a place and the log hash with it.
    pub(super) fn advance(&mut self, no: i64, seq: u64, place: Option<(DeviceId, ClientMsgId)>) -> Result<()> {
        let conv = self.conv(no)?;
        let next = conv.view().zip(place).and_then(|(view, (device, message))| view.append(seq, device, message).ok());
        conv.record.seq = seq;
        conv.record.log = next.map_or_else(Vec::new, |view| view.hash.to_vec());
        conv.dirty = true;
        if let Some(view) = next {
            self.store.add_log_hash(no, view.seq, &view.hash)?;
        }
        Ok(())
    }

    /// Compares what a sender saw of the log with what this device saw (§4). A difference is reported once until it is resolved.
    pub(super) fn compare_views(&mut self, no: i64, seq: u64, device: DeviceId, theirs: LogView) -> Result<Option<bool>> {
        if theirs.seq == 0 {
            return Ok(None);
        }
        let conv = self.conv(no)?;
        let known = if theirs.seq == conv.record.seq {
            if conv.record.log.is_empty() {
                // After a hole: begin anew from what the sender saw, unverified.
                (conv.record.log, conv.dirty) = (theirs.hash.to_vec(), true);
                return Ok(None);
            }
            conv.view().map(|view| view.hash)
        } else {
            self.store.log_hash(no, theirs.seq)?
        };
        let agrees = if theirs.seq >= seq { Some(false) } else { known.map(|hash| hash == theirs.hash) };
        let conv = self.conv(no)?;
        match agrees {
            Some(false) if !std::mem::replace(&mut conv.reorder_reported, true) => self.integrity(no, seq, device, Integrity::Reorder)?,
            Some(true) => conv.reorder_reported = false,
            _ => {}
        }
        Ok(agrees)
    }

    /// Acknowledges what this round made durable, everything in one frame.
    pub(super) fn acknowledge(&mut self) {
        if self.link.is_none() {
            return;
        }
        let behind = |conv: &&mut Conv| conv.record.seq > conv.acked;
        let mut cursors = Vec::new();
        for conv in self.conversations.values_mut().filter(behind) {
            conv.acked = conv.record.seq;
            cursors.push(v1::Cursor { conversation: bytes(conv.id.as_bytes()), seq: conv.record.seq });
        }
        let max = self.link.as_ref().map_or(1, |link| link.max_page);
        for cursors in cursors.chunks(max) {
            self.send_frame(client_frame::Kind::Ack(v1::Ack { cursors: cursors.to_vec() }));
        }
    }

    /// The lists of both sides are as new as a message needs them, as far as that can be had.
    pub(super) fn lists_reach(&mut self, account: i64, sender: u64, recipient: u64) -> bool {
        let theirs = self.reach(account, sender);
        let own = account == ME || self.reach(ME, recipient);
        theirs && own
    }
}

/// Why a place is empty, to the user.
const fn reason(absent: AbsentReason) -> Undecryptable {
    match absent {
        AbsentReason::BeforeLinked => Undecryptable::BeforeLinked,
        AbsentReason::Own => Undecryptable::LostByRollback,
        _ => Undecryptable::Expired,
    }
}
