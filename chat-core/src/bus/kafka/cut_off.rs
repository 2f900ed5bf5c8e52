//! Drivers that will not find back to Kafka by themselves, known by what they report.
//!
//! After one was told that nobody leads a partition it may never ask again who does (librdkafka, issue 5430), and when it was told that there are no brokers it forgets where they are (issue
//! 5301). When it is Kafka that is away, another driver does no harm. When it is one partition that has no leader for long (all its copies are away), the member gives up its other partitions
//! every 20 s and is dealt them again: they go on with pauses, and what was being worked on is worked on again.

use std::sync::atomic::{AtomicU32, Ordering};

use rdkafka::Statistics;
use tokio::sync::Notify;

/// So many reports in a row, one every 5 s, tell of a driver that it is cut off for good.
const REPORTS: u32 = 4;

/// What the reports of a member's driver say.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Those in a row by which it is cut off.
    in_a_row: AtomicU32,
    for_good: Notify,
}

impl Reports {
    /// Takes note of one. `topic` is the one that the member reads.
    pub(super) fn take(&self, statistics: &Statistics, topic: &str) {
        let in_a_row = if is_cut_off(statistics, topic) { self.in_a_row.load(Ordering::Relaxed) + 1 } else { 0 };
        self.in_a_row.store(in_a_row % REPORTS, Ordering::Relaxed);
        if in_a_row == REPORTS {
            self.for_good.notify_one();
        }
    }

    /// Returns when the driver is cut off for good.
    pub(super) async fn cut_off_for_good(&self) {
        self.for_good.notified().await;
    }
}

/// No broker is connected, not even as the group's coordinator; or there are brokers, and one of our partitions is none's.
fn is_cut_off(statistics: &Statistics, topic: &str) -> bool {
    let mut up = statistics.brokers.values().filter(|broker| broker.state == "UP").peekable();
    if up.peek().is_none() {
        return true;
    }
    let mut ours = statistics.topics.get(topic).into_iter().flat_map(|topic| topic.partitions.values());
    up.any(|broker| broker.nodeid >= 0) && ours.any(|partition| partition.partition >= 0 && partition.desired && partition.broker < 0)
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::{Broker, Partition, Topic};

    use super::*;

    const TOPIC: &str = "kith.sleeping";

    /// Brokers by number and state, and partitions of ours by number, whether we have it, and leader.
    fn report<const B: usize, const P: usize>(brokers: [(i32, &str); B], partitions: [(i32, bool, i32); P]) -> Statistics {
        let broker = |(nodeid, state): (i32, &str)| (format!("localhost/{nodeid}"), Broker { nodeid, state: state.to_owned(), ..Broker::default() });
        let partition = |(partition, desired, broker)| (partition, Partition { partition, desired, broker, ..Partition::default() });
        let topic = Topic { partitions: partitions.map(partition).into(), ..Topic::default() };
        Statistics { brokers: brokers.map(broker).into(), topics: [(TOPIC.to_owned(), topic)].into(), ..Statistics::default() }
    }

    #[test]
    fn without_a_connection_or_a_leader_it_is_cut_off() {
        let cut_off = |statistics: Statistics| is_cut_off(&statistics, TOPIC);
        // As it was seen after it had been told that there are no brokers.
        assert!(cut_off(report([(-1, "TRY_CONNECT")], [])));
        assert!(cut_off(report([], [])));
        assert!(cut_off(report([(1, "UP")], [(0, true, 1), (1, true, -1)])));

        assert!(!cut_off(report([(1, "UP"), (2, "DOWN")], [(0, true, 1)])));
        // Of what is another member's, and of the driver's own partition -1, nobody need know who leads it.
        assert!(!cut_off(report([(1, "UP")], [(0, true, 1), (1, false, -1), (-1, true, -1)])));
        // Nothing but the coordinator answers: leaders may be on brokers that are away.
        assert!(!cut_off(report([(-1, "UP"), (1, "CONNECT")], [(0, true, -1)])));
    }

    #[tokio::test]
    async fn only_reports_in_a_row_count() {
        let (good, bad) = (report([(1, "UP")], []), report([(1, "DOWN")], []));
        let reports = Reports::default();
        let is_for_good = async || tokio::time::timeout(std::time::Duration::ZERO, reports.cut_off_for_good()).await.is_ok();
        for statistics in [&bad, &bad, &bad, &good, &bad, &bad, &bad] {
            reports.take(statistics, TOPIC);
            assert!(!is_for_good().await);
        }
        reports.take(&bad, TOPIC);
        assert!(is_for_good().await);
        // A new row begins.
        reports.take(&bad, TOPIC);
        assert!(!is_for_good().await);
    }
}
