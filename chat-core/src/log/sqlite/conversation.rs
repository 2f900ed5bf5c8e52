//! One conversation in memory, and its rules: pure.

use std::collections::VecDeque;

use kith_proto::id::{AccountId, ConversationId, DeviceId, DeviceRef};

use crate::log::{Behind, LogError, Moved, State};

/// A direct conversation. Everything except `draft` is committed, or an acknowledgement that is written behind.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    pub(super) no: i64,
    pub(super) id: ConversationId,
    /// The member with the lower account id, and the one with the higher.
    pub(super) members: [Member; 2],
    pub(super) head: u64,
    /// The newest entry that is no checkpoint.
    pub(super) shown: u64,
    /// When the head was accepted.
    pub(super) at_ms: u64,
    /// The oldest seq kept.
    pub(super) first: u64,
    /// Entries up to here are found through the table `kept`.
    pub(super) indexed: u64,
    /// Row numbers of the entries after `indexed`, without a hole.
    pub(super) recent: VecDeque<i64>,
    /// Retention is over up to here.
    pub(super) expired: u64,
    /// Bit per side.
    pub(super) sent: u8,
    pub(super) read: [u64; 2],
    pub(super) delivered: [u64; 2],
    /// The members' current devices.
    pub(super) cursors: Vec<Cursor>,
    /// What the writer's transaction will make of it.
    pub(super) draft: Draft,
    /// Differs from its summary in the database.
    pub(super) dirty: bool,
    /// Used since the last look for idle conversations.
    pub(super) touched: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub(super) no: i64,
    pub(super) account: AccountId,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) head: u64,
    pub(super) shown: u64,
    pub(super) at_ms: u64,
    pub(super) sent: u8,
    /// Part of the transaction under way.
    pub(super) open: bool,
}

/// Where a device stands.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    pub(super) device_no: i64,
    pub(super) device: DeviceId,
    pub(super) side: u8,
    /// The head when it was linked.
    pub(super) start: u64,
    pub(super) seq: u64,
    /// What the database holds.
    pub(super) stored: StoredCursor,
    /// The round in which the device was last listed as possibly behind here.
    pub(super) stirred: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredCursor {
    pub(super) seq: u64,
    pub(super) behind: bool,
}

impl Conversation {
    /// Which side an account is on.
    pub(super) fn side(&self, account: AccountId) -> Option<u8> {
        match self.members {
            [low, _] if low.account == account => Some(0),
            [_, high] if high.account == account => Some(1),
            _ => None,
        }
    }

    pub(super) fn is_mutual(&self) -> bool {
        self.sent == 0b11
    }

    /// Makes the draft equal to what is committed.
    pub(super) fn discard_draft(&mut self) {
        self.draft = Draft { head: self.head, shown: self.shown, at_ms: self.at_ms, sent: self.sent, open: false };
    }

    /// Makes the draft what is committed.
    pub(super) fn adopt_draft(&mut self) {
        (self.head, self.shown, self.at_ms, self.sent) = (self.draft.head, self.draft.shown, self.draft.at_ms, self.draft.sent);
        self.draft.open = false;
        self.touched = true;
    }

    /// The cursor of a current member device. A conversation whose first append is not committed does not exist yet.
    pub(super) fn cursor(&self, device: DeviceRef) -> Option<&Cursor> {
        self.position(device).map(|at| &self.cursors[at])
    }

    fn position(&self, device: DeviceRef) -> Option<usize> {
        let side = self.side(device.account)?;
        self.cursors.iter().position(|c| c.device == device.device && c.side == side).filter(|_| self.head > 0)
    }

    /// Whether `acknowledge` would be allowed.
    pub(super) fn check_acknowledge(&self, device: DeviceRef, seq: u64) -> Result<(), LogError> {
        self.position(device).ok_or(LogError::NotAMember)?;
        if seq > self.head { Err(LogError::BeyondHead) } else { Ok(()) }
    }

    /// Moves a cursor that was checked. Tells whether anything changed, and the watermark if that did.
    pub(super) fn acknowledge(&mut self, device: DeviceRef, seq: u64) -> (bool, Option<Moved>) {
        self.touched = true;
        let Some(at) = self.position(device) else { return (false, None) };
        let cursor = &mut self.cursors[at];
        if seq <= cursor.seq {
            return (false, None);
        }
        cursor.seq = seq;
        let side = usize::from(cursor.side);
        // A checkpoint is not seen by its recipient: whoever could have one acknowledged in silence could watch when a device is on.
        let delivered = seq.min(self.shown);
        let moved = delivered > self.delivered[side];
        self.delivered[side] = self.delivered[side].max(delivered);
        (true, moved.then(|| self.moved(side)))
    }

    /// Moves the read watermark of the device's account.
    pub(super) fn mark_read(&mut self, device: DeviceRef, seq: u64) -> Result<Option<Moved>, LogError> {
        self.touched = true;
        let at = self.position(device).ok_or(LogError::NotAMember)?;
        if seq > self.head {
            return Err(LogError::BeyondHead);
        }
        let side = usize::from(self.cursors[at].side);
        if seq <= self.read[side] {
            return Ok(None);
        }
        self.read[side] = seq;
        Ok(Some(self.moved(side)))
    }

    fn moved(&self, side: usize) -> Moved {
        Moved {
            conversation: self.id,
            account: self.members[side].account,
            peer: self.members[1 - side].account,
            delivered: self.delivered[side],
            read: self.read[side],
            mutual: self.is_mutual(),
        }
    }

    /// What every current device has acknowledged; everything if there is no device left.
    pub(super) fn delivered_to_all(&self) -> u64 {
        self.cursors.iter().map(|c| c.seq).min().unwrap_or(self.head)
    }

    /// Whether something can be deleted.
    pub(super) fn has_removable(&self) -> bool {
        self.first <= self.head && self.delivered_to_all().max(self.expired) >= self.first
    }

    /// Equal to its summary with nothing to delete, and in no transaction: may be forgotten.
    pub(super) fn is_idle(&self) -> bool {
        !self.dirty && !self.draft.open && self.recent.is_empty()
    }

    pub(super) fn state(&self, device: DeviceRef) -> Option<State> {
        let cursor = self.cursor(device)?;
        let (own, peer) = (usize::from(cursor.side), 1 - usize::from(cursor.side));
        Some(State {
            conversation: self.id,
            head: self.head,
            first: self.first,
            cursor: cursor.seq,
            own_read: self.read[own],
            peer: self.members[peer].account,
            peer_delivered: self.delivered[peer],
            peer_read: self.read[peer],
            mutual: self.is_mutual(),
        })
    }

    /// What the device has to fetch here, if anything.
    pub(super) fn behind(&self, device: DeviceRef) -> Option<Behind> {
        let cursor = self.cursor(device)?.seq;
        (cursor < self.head).then_some(Behind { device, conversation: self.id, cursor, head: self.head })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        let member = |n: u8| Member { no: i64::from(n), account: AccountId([n; 16]) };
        let cursor = |n: u8, side| Cursor {
            device_no: i64::from(n),
            device: DeviceId([n; 16]),
            side,
            start: 0,
            seq: 0,
            stored: StoredCursor { seq: 0, behind: false },
            stirred: 0,
        };
        Conversation {
            no: 1,
            id: ConversationId([9; 16]),
            members: [member(1), member(2)],
            head: 5,
            shown: 5,
            at_ms: 0,
            first: 1,
            indexed: 5,
            recent: VecDeque::new(),
            expired: 0,
            sent: 1,
            read: [0; 2],
            delivered: [0; 2],
            cursors: vec![cursor(11, 0), cursor(12, 0), cursor(21, 1)],
            draft: Draft::default(),
            dirty: false,
            touched: false,
        }
    }

    fn device(account: u8, device: u8) -> DeviceRef {
        DeviceRef { account: AccountId([account; 16]), device: DeviceId([device; 16]) }
    }

    #[test]
    fn cursors_move_by_maximum_and_watermarks_are_the_furthest_device() {
        let mut c = conversation();
        assert_eq!(c.acknowledge(device(1, 11), 3).1.unwrap().delivered, 3);
        assert_eq!(c.acknowledge(device(1, 12), 2), (true, None));
        assert_eq!(c.acknowledge(device(1, 11), 1), (false, None));
        assert_eq!(c.delivered_to_all(), 0);
        c.acknowledge(device(2, 21), 5);
        assert_eq!(c.delivered_to_all(), 2);
    }

    #[test]
    fn a_checkpoint_moves_the_cursor_and_no_watermark() {
        let mut c = Conversation { shown: 3, ..conversation() };
        assert_eq!(c.acknowledge(device(2, 21), 5).1.unwrap().delivered, 3);
        assert_eq!((c.cursors[2].seq, c.delivered[1]), (5, 3));
        (c.head, c.shown) = (7, 6);
        assert_eq!(c.acknowledge(device(2, 21), 7).1.unwrap().delivered, 6);
    }

    #[test]
    fn a_device_of_one_account_is_no_device_of_the_other() {
        let c = conversation();
        assert!(matches!(c.check_acknowledge(device(2, 11), 1), Err(LogError::NotAMember)));
        assert!(matches!(c.check_acknowledge(device(1, 11), 6), Err(LogError::BeyondHead)));
    }
}
