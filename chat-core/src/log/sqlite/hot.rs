//! The conversations in memory: shared by the writer, which publishes what it has committed, and by acknowledgements, which never wait for it.

use std::collections::VecDeque;

use kith_proto::id::{ConversationId, DeviceId, DeviceRef};

use super::conversation::Conversation;
use crate::{domain::IdMap, log::Behind};

/// Conversations that are kept in memory although idle.
const KEEP_IDLE: usize = 100_000;

/// A place in memory. Stays valid while the conversation is dirty or has an open draft.
pub(super) type Slot = usize;

#[derive(Debug, Default)]
pub(crate) struct Hot {
    slots: Vec<Option<Box<Conversation>>>,
    free: Vec<Slot>,
    by_id: IdMap<ConversationId, Slot>,
    /// Conversations that differ from their summary, each once.
    dirty: VecDeque<Slot>,
    /// For each device the conversations touched since the last round of summaries, and in the round that is being written.
    stirred: [IdMap<DeviceId, Vec<ConversationId>>; 2],
    round: u64,
    /// Changes whenever a conversation is forgotten or members' devices change: what a reader has loaded before may then be stale.
    epoch: u64,
}

impl Hot {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn invalidate_loads(&mut self) {
        self.epoch += 1;
    }

    pub(super) fn slot(&self, id: ConversationId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, id: ConversationId) -> Option<&Conversation> {
        self.slot(id).and_then(|slot| self.slots[slot].as_deref())
    }

    /// The conversation at a slot that the caller knows to be taken.
    pub(super) fn at(&mut self, slot: Slot) -> &mut Conversation {
        self.slots[slot].as_deref_mut().expect("a slot in use stays in use")
    }

    /// The conversation at a slot, if it is still there.
    pub(super) fn try_at(&mut self, slot: Slot) -> Option<&mut Conversation> {
        self.slots.get_mut(slot)?.as_deref_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Adds a conversation, or returns the slot of the one that is there.
    pub(super) fn insert(&mut self, conversation: Conversation) -> Slot {
        if let Some(slot) = self.slot(conversation.id) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.by_id.insert(conversation.id, slot);
        self.slots[slot] = Some(Box::new(conversation));
        slot
    }

    /// Adds what a reader has loaded, unless it may be stale by now.
    pub(super) fn insert_loaded(&mut self, conversation: Conversation, epoch: u64) -> bool {
        let fresh = epoch == self.epoch || self.by_id.contains_key(&conversation.id);
        if fresh {
            self.insert(conversation);
        }
        fresh
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(conversation) = self.slots[slot].take() {
            self.by_id.remove(&conversation.id);
            self.free.push(slot);
        }
        self.epoch += 1;
    }

    /// Notes that the summary is no longer what is in memory. True if it was the first to be noted.
    pub(super) fn mark_dirty(&mut self, slot: Slot) -> bool {
        let conversation = self.at(slot);
        if conversation.dirty {
            return false;
        }
        conversation.dirty = true;
        self.dirty.push_back(slot);
        self.dirty.len() == 1
    }

    pub(super) fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Starts a round of summaries: what is dirty now, in the order in which it became so.
    pub(super) fn start_round(&mut self) -> VecDeque<Slot> {
        self.round += 1;
        self.stirred[1] = std::mem::take(&mut self.stirred[0]);
        std::mem::take(&mut self.dirty)
    }

    /// The database tells by now what the round was about.
    pub(super) fn end_round(&mut self) {
        self.stirred[1] = IdMap::default();
    }

    /// Lists the devices that an append may have put behind.
    pub(super) fn stir(&mut self, slot: Slot) {
        let Some(conversation) = self.slots[slot].as_deref_mut() else { return };
        for cursor in &mut conversation.cursors {
            // Rounds count from 0, marks from 1.
            if cursor.stirred != self.round + 1 {
                cursor.stirred = self.round + 1;
                self.stirred[0].entry(cursor.device).or_default().push(conversation.id);
            }
        }
    }

    /// Where a device is behind, as far as memory knows more than the database.
    pub(super) fn stirred(&self, device: DeviceRef) -> Vec<Behind> {
        let lists = self.stirred.iter().filter_map(|stirred| stirred.get(&device.device));
        lists.flatten().filter_map(|id| self.get(*id)?.behind(device)).collect()
    }

    /// Forgets conversations not used since the last call; all idle ones if there are very many.
    pub(super) fn forget_idle(&mut self) {
        let crowded = self.by_id.len() > KEEP_IDLE;
        let idle: Vec<Slot> = (0..self.slots.len()).filter(|slot| self.is_forgettable(*slot, crowded)).collect();
        idle.into_iter().for_each(|slot| self.remove(slot));
        if self.by_id.len() * 4 < self.by_id.capacity() {
            self.by_id.shrink_to_fit();
        }
        while matches!(self.slots.last(), Some(None)) {
            self.slots.pop();
        }
        let len = self.slots.len();
        self.free.retain(|slot| *slot < len);
    }

    fn is_forgettable(&mut self, slot: Slot, crowded: bool) -> bool {
        let Some(conversation) = self.slots[slot].as_deref_mut() else { return false };
        let touched = std::mem::take(&mut conversation.touched);
        conversation.is_idle() && (crowded || !touched)
    }
}
