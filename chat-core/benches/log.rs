//! What the message log on the embedded database costs: `cargo bench -p kith-chat-core --bench log`.
//!
//! Not a benchmark of criterion's kind, because processor time is what bounds the server: each line tells rows per second and microseconds of processor
//! time (user and system, of the whole process: the log's threads and the little that makes the load) per row. The disk syncs every commit.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use kith_chat_core::{
    domain::Clock,
    log::{Admission, Append, Course, Gate, MessageLog as _, Outcome, PageLimit, Payload, Resolved, Ticket},
    sqlite::{Database, Options},
};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};
use tokio::sync::mpsc;

const PAIRS: u64 = 500;
const BODY: usize = 256;
const SLICE: usize = 190;
/// Messages under way at one time.
const WINDOW: u64 = 5_000;

struct Bench {
    db: Arc<Database>,
    resolved: mpsc::Receiver<Vec<Resolved>>,
    body: Bytes,
    slice: Bytes,
    sent: u64,
    _folder: tempfile::TempDir,
}

fn device(account: u64) -> DeviceRef {
    let mut id = [7; 16];
    id[..8].copy_from_slice(&account.to_le_bytes());
    DeviceRef { account: AccountId(id), device: DeviceId(id) }
}

/// Processor time of this process's threads, in seconds.
fn cpu() -> f64 {
    let own = std::fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    own.sum::<f64>() / 1e9
}

fn report(name: &str, count: u64, wall: f64, cpu: f64) {
    let n = f64::from(u32::try_from(count).unwrap());
    println!("{name:<44} {:>9.0}/s {:>7.2} us of processor time each", n / wall, cpu * 1e6 / n);
}

impl Bench {
    async fn new(accounts: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (db, resolved) = Database::open(&folder.path().join("kith.db"), Options::new(Clock::System)).unwrap();
        db.write("accounts", move |write| {
            for n in 0..accounts {
                let id = device(n).account.0;
                write.tx().execute(
                    "INSERT INTO account(id, username, aik, recovery, list_version, list_hash, created_ms) VALUES (?, ?, x'', x'', 1, x'', 0)",
                    (id, n.to_string()),
                )?;
                let no = write.tx().last_insert_rowid();
                write.tx().execute(
                    "INSERT INTO device(account_no, id, ed25519, certificate_hash, linked_ms, list_since) VALUES (?, ?, x'', x'', 0, 1)",
                    (no, id),
                )?;
                write.devices_changed(device(n).account);
            }
            Ok::<_, rusqlite::Error>(())
        })
        .await
        .unwrap();
        let (body, slice) = (Bytes::from(vec![1; BODY]), Bytes::from(vec![2; SLICE]));
        Self { db, resolved, body, slice, sent: 0, _folder: folder }
    }

    fn append(&mut self, pairs: u64) -> Append {
        let pair = self.sent % pairs;
        self.sent += 1;
        let (sender, recipient) = (device(2 * pair), device(2 * pair + 1));
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.sent.to_le_bytes());
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

    /// Keeps a window of messages under way; acknowledges each as both devices would.
    async fn run(&mut self, count: u64, pairs: u64, acknowledge: bool) {
        let (mut submitted, mut done) = (0, 0);
        while done < count {
            while submitted < count && submitted - done < WINDOW {
                let append = self.append(pairs);
                self.db.submit(append).unwrap();
                submitted += 1;
            }
            for Resolved { append, outcome } in self.resolved.recv().await.unwrap() {
                let Outcome::Accepted { seq, .. } = outcome else { panic!("{outcome:?}") };
                done += 1;
                if acknowledge {
                    for device in [append.sender, DeviceRef { account: append.recipient, device: DeviceId(append.recipient.0) }] {
                        self.db.acknowledge(device, &[(append.conversation, seq)]).await.unwrap();
                    }
                }
            }
        }
    }
}

/// The load alone: what of the figures is not the log's.
fn overhead(bench: &mut Bench, count: u64) {
    let (begun, before) = (Instant::now(), cpu());
    for _ in 0..count {
        std::hint::black_box(bench.append(PAIRS));
    }
    report("(making the appends)", count, begun.elapsed().as_secs_f64(), cpu() - before);
}

async fn appends(name: &str, count: u64, pairs: u64, acknowledge: bool) -> Bench {
    let mut bench = Bench::new(2 * pairs).await;
    bench.run(count / 4, pairs, acknowledge).await;
    let (begun, before) = (Instant::now(), cpu());
    bench.run(count, pairs, acknowledge).await;
    report(name, count, begun.elapsed().as_secs_f64(), cpu() - before);
    bench
}

async fn pages(bench: &Bench, count: u64) {
    let device = device(1);
    let conversation = ConversationId::direct(device.account, self::device(0).account);
    let limit = PageLimit { entries: 500, bytes: 1 << 20 };
    let (begun, before, mut after) = (Instant::now(), cpu(), 0);
    while after < count {
        let page = bench.db.page(device, conversation, after, limit).await.unwrap();
        assert!(page.entries.iter().all(|e| matches!(e.payload, Payload::Sealed { .. })));
        after = page.entries.last().unwrap().seq;
    }
    report("page through one conversation, 500 at a time", count, begun.elapsed().as_secs_f64(), cpu() - before);
}

async fn connects(bench: &Bench, count: u64) {
    let (begun, before) = (Instant::now(), cpu());
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..64 {
        let db = Arc::clone(&bench.db);
        tasks.spawn(async move {
            for n in 0..count / 64 {
                let device = device((n * 64 + worker) % (2 * PAIRS));
                db.connect(device, 1 + n).await.unwrap();
                assert!(db.behind(&[device]).await.unwrap().len() <= 1);
            }
        });
    }
    tasks.join_all().await;
    report("connect and ask what was missed, 64 at once", count, begun.elapsed().as_secs_f64(), cpu() - before);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo test` runs this too, without the flag: then it is only shown to work.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let scale = if measured { 1 } else { 200 };
    let count = 400_000 / scale;
    let mut bench = appends("append, acknowledge, purge; 500 pairs", count, PAIRS, true).await;
    overhead(&mut bench, count);
    connects(&bench, 64 * 1000 / scale).await;
    drop(bench);
    drop(appends("append, acknowledge, purge; 5,000 pairs", count, 5_000, true).await);
    drop(appends("append, nobody there; 500 pairs", count, PAIRS, false).await);
    let bench = appends("append, nobody there; 1 pair", 80_000 / scale, 1, false).await;
    pages(&bench, 100_000 / scale).await;
    bench.db.flush().await.unwrap();
    pages(&bench, 100_000 / scale).await;
}
