//! Two processes over one database, at the same conversations at once.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use kith_proto::id::{ConversationId, DeviceRef};
use sqlx::Connection as _;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::*;
use crate::log::{
    Append, Outcome, PageLimit,
    conformance::{accepted, account, append_from, device},
};

pub(super) struct Gateway {
    pub(super) log: Arc<PostgresLog>,
    pub(super) resolved: mpsc::Receiver<Vec<Resolved>>,
}

pub(super) async fn gateway(url: &str, change: impl FnOnce(&mut Options)) -> Gateway {
    let postgres = Postgres::open(&postgres::Options::new(url)).await.unwrap();
    let mut options = options(&Arc::new(AtomicU64::new(START_MS)));
    change(&mut options);
    let (log, resolved) = PostgresLog::start(postgres, &options);
    Gateway { log, resolved }
}

impl Gateway {
    /// Submits everything, waiting where the queue is full, and returns the outcomes with their appends.
    pub(super) async fn send(&mut self, appends: Vec<Append>) -> Vec<(Append, Outcome)> {
        let count = appends.len();
        let mut outcomes = Vec::with_capacity(count);
        for mut append in appends {
            while let Err(back) = self.log.submit(append) {
                append = *back;
                self.receive(&mut outcomes).await;
            }
        }
        outcomes.extend(self.receive_many(count - outcomes.len()).await);
        outcomes
    }

    /// So many outcomes.
    pub(super) async fn receive_many(&mut self, count: usize) -> Vec<(Append, Outcome)> {
        let mut outcomes = Vec::with_capacity(count);
        while outcomes.len() < count {
            self.receive(&mut outcomes).await;
        }
        outcomes
    }

    async fn receive(&mut self, outcomes: &mut Vec<(Append, Outcome)>) {
        let batch = timeout(Duration::from_secs(60), self.resolved.recv()).await.expect("no answer").unwrap();
        outcomes.extend(batch.into_iter().map(|r| (r.append, r.outcome)));
    }
}

/// Everything in a conversation, as a device sees it that was there from the start.
pub(super) async fn all(log: &PostgresLog, reader: DeviceRef, conversation: ConversationId) -> Vec<(u64, DeviceRef, [u8; 16])> {
    let mut entries = Vec::new();
    loop {
        let page = log.page(reader, conversation, entries.len() as u64, PageLimit { entries: 500, bytes: usize::MAX }).await.unwrap();
        if page.entries.is_empty() {
            return entries;
        }
        entries.extend(page.entries.iter().map(|e| (e.seq, e.sender, e.client_msg_id.0)));
    }
}

/// Dense, nothing twice, and exactly what was accepted where it was accepted.
pub(super) fn check(stored: &[(u64, DeviceRef, [u8; 16])], accepted: &HashMap<(DeviceRef, [u8; 16]), u64>) {
    assert!(stored.iter().map(|(seq, ..)| *seq).eq(1..=stored.len() as u64), "not dense");
    let distinct: HashSet<_> = stored.iter().map(|(_, sender, id)| (*sender, *id)).collect();
    assert_eq!(distinct.len(), stored.len(), "something is there twice");
    let places: HashMap<_, _> = stored.iter().map(|(seq, sender, id)| ((*sender, *id), *seq)).collect();
    for (key, seq) in accepted {
        assert_eq!(places.get(key), Some(seq), "accepted and lost, or moved");
    }
}

const PEERS: u8 = 8;
/// For what a busy machine does in a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Appends from both sides of conversations between account 1 and others, through both gateways, every message through both of them (as a device that moves
/// and retries): each is stored once, both gateways name the same place, and nobody ever waits for somebody who waits for him.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_number_the_same_conversations() {
    let database = kith_harness::Postgres::shared().database().await;
    postgres::migrate(&database.url(), 0).await.unwrap();
    let gateways = [gateway(&database.url(), |_| {}).await, gateway(&database.url(), |_| {}).await];
    let postgres = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    for n in 1..=PEERS + 1 {
        link(&postgres, device(n, 1)).await;
    }
    let mut tasks = JoinSet::new();
    for (g, mut gateway) in gateways.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut places = HashMap::new();
            for round in 0..30_u32 {
                // Each gateway in another order, so that their locks meet.
                let mut appends: Vec<_> = (2..PEERS + 2)
                    .flat_map(|peer| {
                        let ids = round * 10..round * 10 + 10;
                        ids.flat_map(move |id| {
                            let there = append_from(device(1, 1), peer, id, &[device(peer, 1)]);
                            [there, append_from(device(peer, 1), 1, id, &[device(1, 1)])]
                        })
                    })
                    .collect();
                if g == 1 {
                    appends.reverse();
                }
                let mut highest = (0, between(1, 2));
                for (append, outcome) in gateway.send(appends).await {
                    let (seq, _) = accepted(&outcome);
                    highest = highest.max((seq, append.conversation));
                    places.insert((append.conversation, append.sender, append.client_msg_id.0), seq);
                }
                // Cursors move meanwhile. Those of the peers do not, so that nothing is deleted and every retry is known.
                gateway.log.acknowledge(device(1, 1), &[(highest.1, highest.0)]).await.unwrap();
            }
            (places, gateway)
        });
    }
    let done = timeout(Duration::from_secs(120), tasks.join_all()).await.expect("somebody waits for ever");
    let (one, two) = (&done[0].0, &done[1].0);
    assert!(one == two, "both gateways name the same places");
    for peer in 2..PEERS + 2 {
        let conversation = ConversationId::direct(account(1), account(peer));
        let stored = all(&done[0].1.log, device(peer, 1), conversation).await;
        assert_eq!(stored.len(), 600);
        check(&stored, &one.iter().filter(|(key, _)| key.0 == conversation).map(|(key, seq)| ((key.1, key.2), *seq)).collect());
    }
    assert_eq!(number(&postgres, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await, 0);
}

/// Holds a device of the log as a batch does that others wait for, until it is dropped.
async fn hold(url: &str, device: DeviceRef) -> PgConnection {
    let mut db = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut db).await.unwrap();
    let query = sqlx::query("SELECT FROM log_device WHERE device = $1 FOR NO KEY UPDATE").bind(Uuid::from_bytes(device.device.0));
    query.fetch_one(&mut db).await.unwrap();
    db
}

/// A batch that waits for a device holds none after it, also one in which retries raise no counter: or two of them would wait for each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_locked_in_one_order_also_with_retries() {
    let database = kith_harness::Postgres::shared().database().await;
    postgres::migrate(&database.url(), 0).await.unwrap();
    let postgres = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    let [low, high, other] = [device(1, 1), device(2, 1), device(3, 1)];
    for d in [low, high, other] {
        link(&postgres, d).await;
    }
    let mut gateway = gateway(&database.url(), |options| options.writers = 1).await;
    let again = || append_from(low, 2, 5, &[high]);
    for (_, outcome) in gateway.send(vec![again(), append_from(other, 1, 1, &[low])]).await {
        accepted(&outcome);
    }

    // What is held up first brings the two others together into one batch.
    let (first, second) = (hold(&database.url(), other).await, hold(&database.url(), low).await);
    let waiting =
        async || number(&postgres, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").await;
    let until_one_waits = async || {
        while waiting().await != 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    gateway.log.submit(append_from(other, 1, 2, &[low])).unwrap();
    timeout(PATIENCE, until_one_waits()).await.expect("nobody waits");
    for append in [again(), append_from(high, 1, 6, &[low])] {
        gateway.log.submit(append).unwrap();
    }
    drop(first);
    gateway.receive_many(1).await;
    timeout(PATIENCE, until_one_waits()).await.expect("nobody waits");
    let free = "SELECT count(*) FROM (SELECT FROM log_device ORDER BY device FOR NO KEY UPDATE SKIP LOCKED) l";
    assert_eq!(number(&postgres, free).await, 2, "only the one that is waited for is held");
    drop(second);
    let outcomes = gateway.receive_many(2).await;
    assert_eq!(outcomes.iter().map(|(_, outcome)| accepted(outcome).0).collect::<HashSet<_>>(), HashSet::from([1, 2]));
}

/// A device is linked and another revoked while both gateways append and delete: each message is for exactly the devices of its moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_change_under_appends() {
    let database = kith_harness::Postgres::shared().database().await;
    postgres::migrate(&database.url(), 0).await.unwrap();
    let postgres = Postgres::open(&postgres::Options::new(&database.url())).await.unwrap();
    for d in [device(1, 1), device(2, 1)] {
        link(&postgres, d).await;
    }
    let mut tasks = JoinSet::new();
    let (progress, mut appended) = tokio::sync::watch::channel(0);
    for g in 0..2_u32 {
        let mut gateway = gateway(&database.url(), |_| {}).await;
        let progress = progress.clone();
        tasks.spawn(async move {
            let (mut sent, mut to) = (0, vec![device(2, 1)]);
            let mut id = g * 1_000_000;
            while sent < 400 || to.len() < 3 {
                id += 1;
                let outcome = gateway.send(vec![append_from(device(1, 1), 2, id, &to)]).await.remove(0).1;
                match outcome {
                    Outcome::Accepted { .. } => {
                        sent += 1;
                        progress.send_modify(|all| *all += 1);
                    }
                    Outcome::Refused(crate::log::Refusal::DevicesChanged { missing, extra }) => {
                        to.retain(|d| !extra.contains(d));
                        to.extend(missing);
                    }
                    Outcome::Refused(refusal) => panic!("{refusal}"),
                }
                let _ = gateway.log.acknowledge(device(1, 1), &[(between(1, 2), sent / 2)]).await.unwrap();
            }
            gateway
        });
    }
    for n in 2..=6 {
        // In the middle of it.
        let before = *appended.borrow_and_update();
        appended.wait_for(|all| *all >= before + 20).await.unwrap();
        link(&postgres, device(2, n)).await;
        if n % 2 == 0 && n > 2 {
            revoke(&postgres, device(2, n - 1)).await;
        }
    }
    let gateways = timeout(Duration::from_secs(120), tasks.join_all()).await.expect("somebody waits for ever");
    let log = &gateways[0].log;
    let limit = PageLimit { entries: 10_000, bytes: usize::MAX };
    let head = log.states(device(1, 1), &[between(1, 2)]).await.unwrap()[0].head;
    for n in [1, 2, 4, 6] {
        let page = log.page(device(2, n), between(1, 2), 0, limit).await.unwrap();
        let before = page.absent.iter().map(|a| a.to).max().unwrap_or(0);
        assert_eq!(before + page.entries.len() as u64, head);
        assert!(page.entries.iter().all(|e| matches!(e.payload, crate::log::Payload::Sealed { .. })), "device {n} lacks a slice after it was linked");
    }
    assert_eq!(number(&postgres, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await, 0);
}
