//! A log whose old messages come from a replica: nothing is ever missing for that, nor told to be gone.

use kith_harness::{Postgres as Server, Standby};
use kith_proto::v1::AbsentReason;

use super::{gateways::Gateway, *};
use crate::{
    log::{
        Behind, PageLimit, Payload,
        conformance::{account, append, append_from, device},
    },
    postgres::{Answered, ReplicaOptions},
};

/// The suite as far as it reads, with a replica that is somewhere behind.
struct WithReplica(OnPostgres);

/// Longer than anything takes on a machine that is busy with other tests.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

async fn with_replica(database: &Database, standby: &Standby) -> Arc<Postgres> {
    let usual = ReplicaOptions::new(&database.url_through(standby.address()));
    let replica = Some(ReplicaOptions { acquire_within: PATIENCE, connect_within: PATIENCE, answer_within: PATIENCE, ..usual });
    let postgres = Postgres::open(&postgres::Options { replica, ..postgres::Options::new(&database.url()) }).await.unwrap();
    let mut serves = postgres.replica_serves().unwrap();
    tokio::time::timeout(PATIENCE, serves.wait_for(|serves| *serves)).await.expect("the replica serves").unwrap();
    postgres
}

#[async_trait]
impl Fixture for WithReplica {
    async fn new() -> Self {
        let database = Arc::new(Server::shared().database().await);
        postgres::migrate(&database.url(), 0).await.unwrap();
        Server::shared_standby().caught_up().await.unwrap();
        let postgres = with_replica(&database, Server::shared_standby()).await;
        let hand = Arc::new(AtomicU64::new(START_MS));
        let (log, resolved) = PostgresLog::start(Arc::clone(&postgres), &options(&hand));
        Self(OnPostgres { database, hand, postgres, log, resolved })
    }

    fn log(&self) -> Arc<dyn MessageLog> {
        self.0.log()
    }

    fn overdue(&self, after_ms: i64) -> Box<dyn Overdue> {
        self.0.overdue(after_ms)
    }

    async fn resolved(&mut self) -> Vec<Resolved> {
        self.0.resolved().await
    }

    async fn link(&mut self, device: DeviceRef) {
        self.0.link(device).await;
    }

    async fn revoke(&mut self, device: DeviceRef) {
        self.0.revoke(device).await;
    }

    fn set_clock(&mut self, now_ms: u64) {
        self.0.set_clock(now_ms);
    }

    async fn reopen(self, how: Reopen) -> Self {
        Self(self.0.reopen(how).await)
    }

    async fn fill_disk(&mut self, full: bool) {
        self.0.fill_disk(full).await;
    }
}

conformance_tests! { WithReplica;
    numbers_are_dense_and_in_order, a_page_holds_what_the_device_may_see, pages_are_contiguous_under_limits, a_page_is_for_members_only,
    mutual_once_both_have_sent, nothing_is_purged_that_one_device_lacks, the_purged_tail_keeps_its_numbers, retention_ends,
    a_revoked_device_holds_nothing, a_new_device_starts_at_the_head, a_new_device_is_addressed_at_once,
}

/// Accounts 1, 2 and 3 on a server of their own with a standby.
struct Pair {
    standby: Standby,
    postgres: Arc<Postgres>,
    gateway: Gateway,
    _database: Database,
    _server: Server,
}

impl Pair {
    async fn start() -> Self {
        let server = Server::start().await.unwrap();
        let standby = server.standby().await.unwrap();
        let database = server.database().await;
        postgres::migrate(&database.url(), 0).await.unwrap();
        standby.caught_up().await.unwrap();
        let postgres = with_replica(&database, &standby).await;
        for d in [device(1, 1), device(2, 1), device(3, 1)] {
            link(&postgres, d).await;
        }
        let (log, resolved) = PostgresLog::start(Arc::clone(&postgres), &options(&Arc::new(AtomicU64::new(START_MS))));
        Self { standby, postgres, gateway: Gateway { log, resolved }, _database: database, _server: server }
    }

    /// Ids `from..=to` from account 1 to account 2.
    async fn send(&mut self, from: u32, to: u32) {
        self.gateway.send((from..=to).map(append).collect()).await;
    }

    async fn behind(&self, device: DeviceRef) -> Behind {
        self.gateway.log.behind(&[device]).await.unwrap()[0]
    }

    /// What a device gets that comes back and is brought level, page by page as a session does it: each seq, with the reason if there is nothing.
    async fn comes_back(&self, device: DeviceRef) -> Vec<(u64, Option<AbsentReason>)> {
        let behind = self.behind(device).await;
        let (mut next, mut got) = (behind.cursor + 1, Vec::new());
        loop {
            let limit = PageLimit { entries: 7, bytes: usize::MAX };
            let page = self.gateway.log.catch_up(device, behind.conversation, next - 1, behind.head, limit).await.unwrap();
            let mut seen: Vec<_> = page.absent.iter().flat_map(|range| (range.from..=range.to).map(|seq| (seq, Some(range.reason)))).collect();
            seen.extend(page.entries.iter().map(|entry| match &entry.payload {
                Payload::Sealed { .. } => (entry.seq, None),
                Payload::Absent(reason) => (entry.seq, Some(*reason)),
            }));
            seen.sort_unstable_by_key(|(seq, _)| *seq);
            assert!(seen.iter().map(|(seq, _)| *seq).eq(next..next + seen.len() as u64), "a hole: {seen:?} after {}", next - 1);
            next += seen.len() as u64;
            got.extend(seen);
            if next > page.head {
                assert!(next > behind.head, "it is told that it is level, and is not");
                return got;
            }
        }
    }

    fn answered(&self) -> (u64, u64) {
        (self.postgres.answered(Answered::Replica), self.postgres.answered(Answered::AfterReplica))
    }
}

fn all_there(seqs: std::ops::RangeInclusive<u64>) -> Vec<(u64, Option<AbsentReason>)> {
    seqs.map(|seq| (seq, None)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_yet_on_the_replica_comes_from_the_primary_without_a_hole() {
    let mut pair = Pair::start().await;
    pair.send(1, 30).await;
    pair.standby.caught_up().await.unwrap();
    assert_eq!(pair.comes_back(device(2, 1)).await, all_there(1..=30));
    assert_eq!(pair.answered(), (5, 0), "a replica that has everything is all it takes");

    pair.standby.pause_replay().await.unwrap();
    pair.send(31, 60).await;
    assert_eq!(pair.comes_back(device(2, 1)).await, all_there(1..=60));
    let (replica, primary) = pair.answered();
    assert!(replica >= 5 + 4 && primary >= 1, "{replica} from the replica, {primary} after it");

    // Further on than the replica has come at all.
    pair.gateway.log.acknowledge(device(2, 1), &[(between(1, 2), 45)]).await.unwrap();
    assert_eq!(pair.comes_back(device(2, 1)).await, all_there(46..=60));
    // A conversation that the replica does not know.
    pair.gateway.send((1..=20).map(|id| append_from(device(1, 1), 3, id, &[device(3, 1)])).collect()).await;
    assert_eq!(pair.comes_back(device(3, 1)).await, all_there(1..=20));
    assert_eq!(pair.answered().0, replica, "nothing of that was there");

    pair.standby.resume_replay().await.unwrap();
    pair.standby.caught_up().await.unwrap();
    assert_eq!(pair.comes_back(device(3, 1)).await, all_there(1..=20));
    assert_eq!(pair.answered().0, replica + 3);
}

/// A device that was linked a moment ago starts at the head, and the replica knows nothing of it; one that was revoked is nobody any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_came_while_the_replica_stood_still_see_what_the_primary_says() {
    let mut pair = Pair::start().await;
    pair.send(1, 10).await;
    pair.standby.caught_up().await.unwrap();
    pair.standby.pause_replay().await.unwrap();
    let new = device(2, 2);
    link(&pair.postgres, new).await;
    let both = [device(2, 1), new];
    pair.gateway.send((11..=15).map(|id| append_from(device(1, 1), 2, id, &both)).collect()).await;
    assert_eq!(pair.comes_back(new).await, all_there(11..=15), "nothing from before it was linked, and all since");
    let page = pair.gateway.log.catch_up(new, between(1, 2), 0, 15, PageLimit { entries: 100, bytes: usize::MAX }).await.unwrap();
    assert_eq!((page.absent[0].from, page.absent[0].to, page.absent[0].reason), (1, 10, AbsentReason::BeforeLinked));
    assert_eq!(pair.answered().0, 0);
}

/// What is purged on the primary may be there on the replica for a while; what is purged on both, only the primary may say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_primary_says_that_a_message_is_gone() {
    let mut pair = Pair::start().await;
    pair.send(1, 20).await;
    pair.standby.caught_up().await.unwrap();
    for d in [device(1, 1), device(2, 1)] {
        pair.gateway.log.acknowledge(d, &[(between(1, 2), 10)]).await.unwrap();
    }
    pair.gateway.log.purge(START_MS).await.unwrap();
    pair.standby.caught_up().await.unwrap();
    let before = pair.answered();
    let limit = PageLimit { entries: 100, bytes: usize::MAX };
    let page = pair.gateway.log.catch_up(device(2, 1), between(1, 2), 0, 20, limit).await.unwrap();
    assert_eq!((page.absent[0].from, page.absent[0].to, page.absent[0].reason), (1, 10, AbsentReason::Expired));
    assert_eq!(page.entries.len(), 10);
    assert_eq!(pair.answered(), (before.0, before.1 + 1));
}

/// That two have both written is true for ever, and may have become so just now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_ones_own_counts_at_once() {
    let mut pair = Pair::start().await;
    pair.send(1, 1).await;
    pair.standby.caught_up().await.unwrap();
    pair.standby.pause_replay().await.unwrap();
    pair.gateway.send(vec![append_from(device(2, 1), 1, 2, &[device(1, 1)])]).await;
    let mutual = pair.gateway.log.mutual(account(2), &[account(1)]).await.unwrap();
    assert_eq!((mutual, pair.answered()), (vec![account(1)], (0, 1)));
    pair.standby.resume_replay().await.unwrap();
    pair.standby.caught_up().await.unwrap();
    let mutual = pair.gateway.log.mutual(account(2), &[account(1)]).await.unwrap();
    assert_eq!((mutual, pair.answered()), (vec![account(1)], (1, 1)));
}
