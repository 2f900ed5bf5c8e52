//! Counts of what gateways say to one another, for `/metrics`. Labels are closed sets.

use super::wire::Sort;
use crate::sessions::{Counter, Latency};

/// Items by kind.
#[derive(Debug, Default)]
pub(crate) struct Items {
    pub(crate) deliver: Counter,
    pub(crate) behind: Counter,
    pub(crate) tell: Counter,
    pub(crate) cut: Counter,
    pub(crate) presence: Counter,
    pub(crate) unknown: Counter,
}

impl Items {
    fn of(&self, sort: Sort) -> &Counter {
        match sort {
            Sort::Deliver => &self.deliver,
            Sort::Behind => &self.behind,
            Sort::Tell => &self.tell,
            Sort::Cut => &self.cut,
            Sort::Presence => &self.presence,
            Sort::Unknown => &self.unknown,
        }
    }

    /// Each kind with its name.
    pub(crate) fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("deliver", self.deliver.value()),
            ("behind", self.behind.value()),
            ("tell", self.tell.value()),
            ("cut", self.cut.value()),
            ("presence", self.presence.value()),
            ("unknown", self.unknown.value()),
        ]
    }
}

/// Everything that the links and the look-ups count.
#[derive(Debug, Default)]
pub struct ClusterCounters {
    /// Put into frames.
    pub(crate) sent: Items,
    /// Taken out of frames.
    pub(crate) received: Items,
    /// Without room, or without a link.
    pub(crate) dropped: Items,
    /// Jobs that were dropped before they had become items: no room, or the directory was away.
    pub(crate) unrouted: Counter,
    /// Accounts whose places were found in the cache.
    pub(crate) cached: Counter,
    /// Accounts that the directory was asked for.
    pub(crate) looked_up: Counter,
    /// Calls of the directory that failed.
    pub(crate) failed: Counter,
    /// Links that came up.
    pub(crate) connects: Counter,
    /// Links refused: a bad proof, or too many.
    pub(crate) refused: Counter,
    /// Times that the heads of all connected devices were checked.
    pub(crate) rechecks: Counter,
    /// From the moment a gateway learnt that a message was accepted until it was given to the connections of another, by their clocks.
    pub(crate) latency: Latency,
}

impl ClusterCounters {
    pub(super) fn sent(&self, sort: Sort) {
        self.sent.of(sort).one();
    }

    pub(super) fn received(&self, sort: Sort) {
        self.received.of(sort).one();
    }

    pub(super) fn dropped(&self, sort: Sort) {
        self.dropped.of(sort).one();
    }
}
