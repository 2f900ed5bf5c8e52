//! A conversation as the engine holds it: its record, and what lives only as long as the process.

use crate::model::Blocked;
use crate::store::codes;
use crate::store::records::{ConversationRecord, PeerRecord};
use kith_crypto::chain::{ChainOwner, SenderChain};
use kith_crypto::checkpoint::{CHECKPOINT_AFTER_MESSAGES, CHECKPOINT_AFTER_MS};
use kith_crypto::content::KIND_CHECKPOINT;
use kith_crypto::log_hash::LogView;
use kith_crypto::{ConversationId, Incarnation, StateError};
use kith_proto::v1;
use std::collections::{BTreeMap, VecDeque};

/// Messages of one conversation that may be unanswered at one time.
pub(crate) const IN_FLIGHT: usize = 64;
/// No log is as long; larger numbers would not fit the store.
pub(crate) const MAX_SEQ: u64 = i64::MAX as u64 / 2;
/// Entries of one conversation held in memory while one before them is missing. What does not fit is read again later.
const BUFFER: usize = 1_024;

/// A place of the log that has not been processed yet.
#[derive(Debug)]
pub(crate) enum Item {
    /// Pushed or paged.
    Deliver(Box<v1::Deliver>),
    /// A message of this device, known from its acceptance.
    Own { client_msg_id: [u8; 16] },
    /// A range that this device does not get.
    Absent { to: u64, reason: v1::AbsentReason },
}

impl Item {
    /// The last of its places, if this is the first.
    fn last(&self, first: u64) -> u64 {
        match self {
            Self::Absent { to, .. } => *to,
            Self::Deliver(_) | Self::Own { .. } => first,
        }
    }
}

/// A message on its way out.
#[derive(Debug, Clone)]
pub(crate) struct Out {
    pub(crate) no: i64,
    pub(crate) entry: i64,
    pub(crate) kind: u8,
    pub(crate) client_msg_id: [u8; 16],
    pub(crate) composed: bool,
    pub(crate) in_flight: bool,
}

/// Why the messages of a conversation stopped going out, until all unanswered ones are answered.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) out: i64,
    pub(crate) error: v1::Error,
}

/// A conversation.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) no: i64,
    pub(crate) id: ConversationId,
    pub(crate) record: ConversationRecord,
    pub(crate) dirty: bool,
    /// Entries beyond the next place.
    pub(crate) buffer: BTreeMap<u64, Item>,
    /// When to ask for what is missing.
    pub(crate) gap_at: Option<u64>,
    /// Answers in a row that did not hold the place that is lacking.
    pub(crate) gap_asked: u32,
    /// The last place without a hole when the server was asked.
    pub(crate) gap_from: u64,
    pub(crate) paging: bool,
    pub(crate) queue: VecDeque<Out>,
    pub(crate) refusal: Option<Refusal>,
    /// The next Send carries `restart`.
    pub(crate) restart: bool,
    /// Nothing is sent before this time.
    pub(crate) hold_until: u64,
    /// Refusals in a row, for the back-off.
    pub(crate) refusals: u32,
    /// Devices that the server asked for, to be found on the signed lists once those were fetched after this time.
    pub(crate) asked_devices: Option<(u64, Vec<v1::DeviceRef>)>,
    /// Another order of the log was reported and not resolved since.
    pub(crate) reorder_reported: bool,
    /// Acknowledged on this connection up to here, as far as the server has shown that it knows.
    pub(crate) acked: u64,
    /// When undecryptable messages are to be asked for.
    pub(crate) repair_at: Option<u64>,
}

impl Conv {
    pub(crate) fn new(no: i64, record: ConversationRecord) -> Result<Self, StateError> {
        let id = record.id.as_slice().try_into().map_err(|_| StateError::Damaged)?;
        Ok(Self {
            no,
            id: ConversationId::from_bytes(id),
            record,
            dirty: false,
            buffer: BTreeMap::new(),
            gap_at: None,
            gap_asked: 0,
            gap_from: 0,
            paging: false,
            queue: VecDeque::new(),
            refusal: None,
            restart: false,
            hold_until: 0,
            refusals: 0,
            asked_devices: None,
            reorder_reported: false,
            acked: 0,
            repair_at: None,
        })
    }

    pub(crate) fn blocked(&self) -> Option<Blocked> {
        codes::blocked(self.record.blocked)
    }

    pub(crate) fn set_blocked(&mut self, blocked: Option<Blocked>) {
        self.record.blocked = blocked.map_or(0, codes::blocked_code);
        self.dirty = true;
    }

    /// When something is to be done here although nothing comes in.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        let gap = self.gap_at.filter(|_| !self.paging);
        let held = Some(self.hold_until).filter(|at| *at > 0 && !self.queue.is_empty());
        let checkpoint = self.checkpoint_at().filter(|_| self.record.accepted && !self.checkpoint_queued());
        [gap, held, self.repair_at, checkpoint].into_iter().flatten().min()
    }

    pub(crate) fn checkpoint_queued(&self) -> bool {
        self.queue.iter().any(|out| out.kind == KIND_CHECKPOINT)
    }

    /// When the next checkpoint is due.
    fn checkpoint_at(&self) -> Option<u64> {
        let at = |peer: &PeerRecord| {
            let soon = peer.first || peer.unanswered >= CHECKPOINT_AFTER_MESSAGES;
            peer.oldest_ms + peer.jitter_ms + if soon { 0 } else { CHECKPOINT_AFTER_MS }
        };
        self.record.peers.iter().filter(|peer| peer.unanswered > 0).map(at).min()
    }

    /// How far the log was seen. `None` after a hole, when no hash over it is known.
    pub(crate) fn view(&self) -> Option<LogView> {
        if self.record.seq == 0 {
            return Some(LogView::empty(self.id));
        }
        let hash = self.record.log.as_slice().try_into().ok()?;
        Some(LogView { seq: self.record.seq, hash })
    }

    /// This device's chain in the incarnation.
    pub(crate) fn chain(&self, owner: ChainOwner) -> Result<SenderChain, StateError> {
        if self.record.chain.is_empty() {
            return Ok(SenderChain::new(owner));
        }
        SenderChain::from_bytes(&self.record.chain)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.queue.iter().filter(|out| out.in_flight).count()
    }

    /// Takes an entry that is not processed yet; what cannot be, is known or does not fit is dropped. What is known and comes all the same is acknowledged once more: the server does not know that it
    /// is here, since it could not write what it was told.
    pub(crate) fn hold(&mut self, seq: u64, item: Item) {
        if seq == 0 || item.last(seq) < seq || item.last(seq) > MAX_SEQ {
            return;
        }
        if seq <= self.record.seq && !matches!(item, Item::Absent { to, .. } if to > self.record.seq) {
            self.acked = self.acked.min(seq.saturating_sub(1));
            return;
        }
        if self.buffer.len() >= BUFFER {
            let last = self.buffer.last_key_value().map_or(0, |(last, _)| *last);
            if seq >= last {
                return;
            }
            self.buffer.pop_last();
        }
        self.buffer.entry(seq).or_insert(item);
    }

    /// The next entry in order, if it is here.
    pub(crate) fn take_next(&mut self) -> Option<(u64, Item)> {
        let next = self.record.seq + 1;
        let (&seq, _) = self.buffer.first_key_value()?;
        if seq > next {
            return None;
        }
        self.buffer.pop_first()
    }

    /// What is owed to a device here.
    pub(crate) fn peer(&mut self, device: i64) -> &mut PeerRecord {
        self.dirty = true;
        let at = self.record.peers.iter().position(|peer| peer.device == device).unwrap_or_else(|| {
            self.record.peers.push(PeerRecord { device, ..PeerRecord::default() });
            self.record.peers.len() - 1
        });
        &mut self.record.peers[at]
    }

    /// What a lost connection leaves: everything is resent in order on the next one.
    pub(crate) fn disconnected(&mut self) {
        for out in &mut self.queue {
            out.in_flight = false;
        }
        self.refusal = None;
        self.restart = false;
        self.paging = false;
        self.acked = 0;
    }

    /// A new life of the store: the chain begins anew.
    pub(crate) fn reincarnate(&mut self, _: Incarnation) {
        self.record.chain.clear();
        self.dirty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(seq: u64) -> Conv {
        let record = ConversationRecord { id: vec![1; 16], seq, ..ConversationRecord::default() };
        Conv::new(1, record).unwrap()
    }

    fn own() -> Item {
        Item::Own { client_msg_id: [0; 16] }
    }

    #[test]
    fn entries_leave_the_buffer_in_order_and_only_without_a_hole() {
        let mut conv = conv(3);
        conv.hold(3, own());
        conv.hold(5, own());
        assert!(conv.take_next().is_none());
        conv.hold(4, own());
        assert_eq!(conv.take_next().unwrap().0, 4);
        assert!(conv.take_next().is_none());
        conv.record.seq = 4;
        assert_eq!(conv.take_next().unwrap().0, 5);
    }

    #[test]
    fn a_full_buffer_keeps_the_lowest_places() {
        let mut conv = conv(0);
        for seq in (2..3_000).rev() {
            conv.hold(seq, own());
        }
        assert_eq!(conv.buffer.len(), BUFFER);
        assert_eq!(*conv.buffer.first_key_value().unwrap().0, 2);
        conv.hold(9_999, own());
        assert!(!conv.buffer.contains_key(&9_999));
    }
}
