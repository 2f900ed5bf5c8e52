//! Numbers under which closed sets are stored. A number is never used for anything else again.

use super::records::EntryRecord;
use crate::model::{Blocked, Integrity, NoticeKind, Repair, Undecryptable};

macro_rules! codes {
    ($to:ident, $from:ident, $type:ident { $($number:literal => $variant:ident),+ $(,)? }) => {
        pub(crate) const fn $to(value: $type) -> u32 {
            match value { $($type::$variant => $number),+ }
        }
        pub(crate) const fn $from(number: u32) -> Option<$type> {
            match number { $($number => Some($type::$variant),)+ _ => None }
        }
    };
}

codes!(undecryptable_code, undecryptable, Undecryptable {
    1 => NoSession, 2 => NotAuthentic, 3 => KeyGone, 4 => PrekeyGone, 5 => Replayed, 6 => UnknownDevice, 7 => NotAMember, 8 => Malformed, 9 => BadBody,
    10 => LostByRollback, 11 => BeforeLinked, 12 => Expired,
});
codes!(blocked_code, blocked, Blocked { 1 => KeysChanged, 2 => ListRefused, 3 => GhostDevice, 4 => Refused });
codes!(notice_code, notice, NoticeKind {
    1 => NewDevice, 2 => DeviceRemoved, 3 => KeysRotated, 4 => KeysChanged, 5 => ListRefused, 6 => GhostDevice, 7 => NoOneTimeKey, 8 => LastResortKey,
    9 => StoreRolledBack, 10 => ContactRestarted, 11 => OwnDeviceAdded, 12 => OwnDeviceRemoved, 13 => StoreKeyInFile, 14 => OwnListForged,
});

pub(crate) const fn integrity_code(event: Integrity) -> (u32, u64) {
    match event {
        Integrity::Gap { missing } => (1, missing),
        Integrity::Replay => (2, 0),
        Integrity::Fork => (3, 0),
        Integrity::Reorder => (4, 0),
        Integrity::SenderRestarted => (5, 0),
        Integrity::OwnRollback => (6, 0),
    }
}

pub(crate) const fn integrity(number: u32, extent: u64) -> Option<Integrity> {
    match number {
        1 => Some(Integrity::Gap { missing: extent }),
        2 => Some(Integrity::Replay),
        3 => Some(Integrity::Fork),
        4 => Some(Integrity::Reorder),
        5 => Some(Integrity::SenderRestarted),
        6 => Some(Integrity::OwnRollback),
        _ => None,
    }
}

/// Stages of a repair as stored.
pub(crate) const REPAIR_IMPOSSIBLE: u32 = 0;
pub(crate) const REPAIR_WAITING: u32 = 1;
pub(crate) const REPAIR_REQUESTED: u32 = 2;
pub(crate) const REPAIR_GIVEN_UP: u32 = 3;

pub(crate) const fn repair(record: &EntryRecord) -> Repair {
    match record.repair {
        REPAIR_WAITING => Repair::Waiting,
        REPAIR_REQUESTED => Repair::Requested { attempts: record.attempts },
        REPAIR_GIVEN_UP => Repair::GivenUp,
        _ => Repair::Impossible,
    }
}
