//! What the message log on PostgreSQL costs: `cargo bench --workspace --bench log_postgres`.
//!
//! Each line tells messages per second, and microseconds of processor time (user and system) per message: of PostgreSQL with all its processes, and of this
//! process, which is the log's tasks and the little that makes the load. The server is a real one with everything that keeps data safe turned on.
//! `KITH_BENCH_WRITERS` is the number of connections that append.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kith_chat_core::{
    domain::Clock,
    log::{
        Admission, Append, Course, Gate, MessageLog as _, Outcome, PageLimit, Payload, Resolved, Ticket,
        postgres::{Options, PostgresLog, enroll},
    },
    postgres::{self, Failure, Postgres},
};
use kith_harness::{Postgres as Server, PostgresOptions};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};
use sqlx::PgConnection;
use tokio::{sync::mpsc, task::JoinSet};
use uuid::Uuid;

const BODY: usize = 256;
const SLICE: usize = 110;

/// What is sent, and how.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    pairs: u64,
    /// Messages under way at one time.
    window: u64,
    acknowledge: bool,
}

struct Bench {
    server: Server,
    log: Arc<PostgresLog>,
    resolved: mpsc::Receiver<Vec<Resolved>>,
    body: Bytes,
    slice: Bytes,
    sent: u64,
}

fn device(account: u64) -> DeviceRef {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&(account.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
    DeviceRef { account: AccountId(id), device: DeviceId(id) }
}

/// Processor time of this process.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(threads.sum())
}

/// One line.
struct Report {
    begun: Instant,
    own: Duration,
    server: Duration,
}

impl Report {
    fn begin(bench: &Bench) -> Self {
        Self { begun: Instant::now(), own: cpu(), server: bench.server.cpu().unwrap() }
    }

    fn end(self, bench: &Bench, name: &str, count: u64) {
        let n = f64::from(u32::try_from(count).unwrap());
        let each = |time: Duration| time.as_secs_f64() * 1e6 / n;
        println!(
            "{name:<52} {:>8.0}/s {:>7.2} us PostgreSQL {:>6.2} us log",
            n / self.begun.elapsed().as_secs_f64(),
            each(bench.server.cpu().unwrap().saturating_sub(self.server)),
            each(cpu() - self.own)
        );
    }
}

async fn register(postgres: &Postgres, accounts: std::ops::Range<u64>) {
    let registered = postgres.transaction("register", &accounts, async |db: &mut PgConnection, accounts: &std::ops::Range<u64>| {
        for device in accounts.clone().map(device) {
            let (account, id) = (Uuid::from_bytes(device.account.0), Uuid::from_bytes(device.device.0));
            let sql = "INSERT INTO account (id, username, aik, recovery, list_version, list_hash, created_ms) VALUES ($1, $2, '', '', 1, '', 0)";
            sqlx::query(sql).bind(account).bind(account.to_string()).execute(&mut *db).await?;
            let sql = "INSERT INTO device (id, account, ed25519, certificate_hash, linked_ms, list_since) VALUES ($1, $2, '', '', 0, 1)";
            sqlx::query(sql).bind(id).bind(account).execute(&mut *db).await?;
            enroll(db, device.account, &[device.device]).await?;
        }
        Ok::<_, Failure<()>>(())
    });
    registered.await.unwrap();
}

impl Bench {
    async fn new(accounts: u64) -> Self {
        let settings = [("shared_buffers", "512MB"), ("max_wal_size", "4GB")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let server = Server::start_with(PostgresOptions { settings: settings.to_vec(), ..PostgresOptions::default() }).await.unwrap();
        let url = server.database().await.url();
        postgres::migrate(&url, 0).await.unwrap();
        let postgres = Postgres::open(&postgres::Options::new(&url)).await.unwrap();
        for from in (0..accounts).step_by(500) {
            register(&postgres, from..(from + 500).min(accounts)).await;
        }
        let writers = std::env::var("KITH_BENCH_WRITERS").ok().and_then(|n| n.parse().ok());
        let mut options = Options::new(Clock::System);
        options.writers = writers.unwrap_or(options.writers);
        let (log, resolved) = PostgresLog::start(postgres, &options);
        Self { server, log, resolved, body: Bytes::from(vec![1; BODY]), slice: Bytes::from(vec![2; SLICE]), sent: 0 }
    }

    fn append(&mut self, pairs: u64) -> Append {
        let pair = self.sent % pairs;
        self.sent += 1;
        let (sender, recipient) = (device(2 * pair), device(2 * pair + 1));
        let mut id = [0; 16];
        // As random as what clients choose.
        id[..8].copy_from_slice(&self.sent.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let slice = v1::Slice { device: recipient.device.to_bytes(), data: self.slice.clone() };
        Append {
            ticket: Ticket { connection: pair, request: self.sent },
            conversation: ConversationId::direct(sender.account, recipient.account),
            sender,
            recipient: recipient.account,
            epoch: u64::MAX,
            client_msg_id: ClientMsgId(id),
            device_counter: self.sent,
            checkpoint: false,
            restart: false,
            sender_list_version: 1,
            recipient_list_version: 1,
            body: self.body.clone(),
            slices: vec![slice],
            own_slices: Vec::new(),
            gate: Arc::new(Gate::default()),
            admission: Admission::Admitted,
            course: Course::default(),
        }
    }

    /// Keeps a window of messages under way. Each device acknowledges in a task of its own making, the newest of what it got while the last answer was
    /// under way.
    async fn run(&mut self, count: u64, shape: Shape) {
        let (mut submitted, mut done) = (0, 0);
        let mut acknowledgements = JoinSet::new();
        let mut newest: HashMap<DeviceRef, (ConversationId, u64)> = HashMap::new();
        while done < count {
            while submitted < count && submitted - done < shape.window {
                let append = self.append(shape.pairs);
                self.log.submit(append).unwrap();
                submitted += 1;
            }
            for Resolved { append, outcome } in self.resolved.recv().await.unwrap() {
                let Outcome::Accepted { seq, .. } = outcome else { panic!("{outcome:?}") };
                done += 1;
                if shape.acknowledge {
                    for device in [append.sender, DeviceRef { account: append.recipient, device: DeviceId(append.recipient.0) }] {
                        newest.insert(device, (append.conversation, seq));
                    }
                }
            }
            while acknowledgements.try_join_next().is_some() {}
            if acknowledgements.len() < 256 {
                for (device, cursor) in newest.drain() {
                    let log = Arc::clone(&self.log);
                    acknowledgements.spawn(async move { log.acknowledge(device, &[cursor]).await.unwrap() });
                }
            }
        }
        acknowledgements.join_all().await;
    }
}

async fn appends(count: u64, shape: Shape) -> Bench {
    let mut bench = Bench::new(2 * shape.pairs).await;
    bench.run(count / 4, shape).await;
    let report = Report::begin(&bench);
    bench.run(count, shape).await;
    report.end(&bench, shape.name, count);
    bench
}

async fn pages(bench: &Bench, count: u64) {
    let reader = device(1);
    let conversation = ConversationId::direct(reader.account, device(0).account);
    let limit = PageLimit { entries: 500, bytes: 1 << 20 };
    let (report, mut after) = (Report::begin(bench), 0);
    while after < count {
        let page = bench.log.page(reader, conversation, after, limit).await.unwrap();
        assert!(page.entries.iter().all(|e| matches!(e.payload, Payload::Sealed { .. })));
        after = page.entries.last().unwrap().seq;
    }
    report.end(bench, "page through one conversation, 500 at a time", count);
}

async fn connects(bench: &Bench, count: u64, pairs: u64) {
    let report = Report::begin(bench);
    let mut tasks = JoinSet::new();
    for worker in 0..64 {
        let log = Arc::clone(&bench.log);
        tasks.spawn(async move {
            for n in 0..count / 64 {
                let device = device((n * 64 + worker) % (2 * pairs));
                log.connect(device, 1 + n).await.unwrap();
                assert!(log.behind(&[device]).await.unwrap().len() <= 1);
            }
        });
    }
    tasks.join_all().await;
    report.end(bench, "connect and ask what was missed, 64 at once", count);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo test` runs this too, without the flag: then it is only shown to work.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let scale = if measured { 1 } else { 200 };
    let count = 400_000 / scale;
    let shape = |name, pairs, window, acknowledge| Shape { name, pairs, window, acknowledge };
    let bench = appends(count, shape("append; 500 pairs, window 10", 500, 5_000, false)).await;
    connects(&bench, 64 * 500 / scale, 500).await;
    drop(bench);
    drop(appends(count, shape("append, acknowledge, purge; 500 pairs, window 10", 500, 5_000, true)).await);
    drop(appends(count / 4, shape("append, acknowledge, purge; 500 pairs, window 1", 500, 500, true)).await);
    drop(appends(count, shape("append, acknowledge, purge; 5,000 pairs, window 1", 5_000, 5_000, true)).await);
    drop(appends(count / 16, shape("append; 16 pairs, window 1", 16, 16, false)).await);
    let bench = appends(80_000 / scale, shape("append; 1 pair, window 5,000", 1, 5_000, false)).await;
    pages(&bench, 80_000 / scale).await;
}
