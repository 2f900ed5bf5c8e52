//! A person who uses the SDK, in a process that can be killed: `sdk_actor SERVER HOME NAME PEER COUNT`.
//!
//! Registers as NAME or opens HOME, sends "NAME 1" to "NAME COUNT" to PEER, and shows what comes: each entry is one line of HOME/shown, written and synced
//! before the next one is asked for. However often it is killed and started again, it goes on where it was. Prints `done` when everything it sent was
//! delivered and COUNT texts of the peer were shown, and ends when its input does. `KITH_ACTOR_DIE_AT=Composed:2` kills it at the second passage of a fault
//! point.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use kith_client::{Arrival, Author, Client, ClientBuilder, ConversationId, FaultPoint, RegisterError, Registration, RequestError, Tick};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep},
};

/// Whoever has not finished by then has lost something.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

struct Actor {
    client: Client,
    conversation: ConversationId,
    name: String,
    count: u64,
    shown: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, home, name, peer, count] = <[String; 5]>::try_from(arguments).map_err(|_| anyhow::anyhow!("SERVER HOME NAME PEER COUNT"))?;
    let home = PathBuf::from(home);
    let client = open(with_fault(Client::builder(server).home(&home))?, &name).await?;
    let shown = Arc::new(AtomicU64::new(0));
    let showing = tokio::spawn(show(client.clone(), home.join("shown"), Arc::clone(&shown)));
    let conversation = meet(&client, &peer).await?;
    let actor = Actor { client: client.clone(), conversation, name, count: count.parse()?, shown };
    actor.send().await?;
    actor.finished().await?;
    #[expect(clippy::print_stdout, reason = "the story waits for this line")]
    {
        println!("done");
    }
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    client.shutdown().await;
    showing.abort();
    Ok(())
}

/// Dies at the fault point that the environment names.
fn with_fault(builder: ClientBuilder) -> anyhow::Result<ClientBuilder> {
    let Ok(text) = std::env::var("KITH_ACTOR_DIE_AT") else { return Ok(builder) };
    let (point, passage) = text.split_once(':').context("POINT:PASSAGE")?;
    let (point, passage) = (FaultPoint::from_name(point).context("no such fault point")?, passage.parse::<u64>()?);
    let passed = AtomicU64::new(0);
    Ok(builder.fault(move |at| {
        if at == point && passed.fetch_add(1, Ordering::Relaxed) + 1 == passage {
            die();
        }
    }))
}

#[expect(unsafe_code, reason = "a signal to oneself, so that death is exactly here and nothing is tidied up")]
fn die() {
    // SAFETY: raise has no preconditions.
    unsafe {
        libc::raise(libc::SIGKILL);
    }
}

async fn open(builder: ClientBuilder, name: &str) -> anyhow::Result<Client> {
    if builder.is_registered() {
        return Ok(builder.open().await?);
    }
    match builder.clone().register(Registration::new(name).without_recovery()).await {
        Ok(registered) => Ok(registered.client),
        Err(RegisterError::AlreadyRegistered) => Ok(builder.open().await?),
        Err(error) => Err(error.into()),
    }
}

/// The peer may not have registered yet.
async fn meet(client: &Client, peer: &str) -> anyhow::Result<ConversationId> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match client.start_conversation(peer).await {
            Ok(conversation) => return Ok(conversation),
            Err(RequestError::NotFound | RequestError::Unreachable(_) | RequestError::RateLimited { .. }) if Instant::now() < deadline => {
                sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes down what is shown, from behind the last line written.
async fn show(client: Client, path: PathBuf, shown: Arc<AtomicU64>) -> anyhow::Result<()> {
    let (last, lines) = written(&path)?;
    shown.store(lines, Ordering::Relaxed);
    let mut file = File::options().create(true).append(true).open(&path)?;
    let mut received = client.received(last);
    while let Some(entry) = received.next().await {
        let what = entry.text().map_or_else(|| format!("! {:?}", entry.body), str::to_owned);
        // In one piece: this process may be killed between any two calls.
        file.write_all(format!("{}\t{what}\n", entry.arrival.0).as_bytes())?;
        file.sync_data()?;
        shown.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn written(path: &Path) -> anyhow::Result<(Arrival, u64)> {
    let Ok(file) = File::open(path) else { return Ok((Arrival::default(), 0)) };
    let (mut last, mut lines) = (Arrival::default(), 0);
    for line in BufReader::new(file).lines() {
        last = Arrival(line?.split('\t').next().unwrap_or_default().parse()?);
        lines += 1;
    }
    Ok((last, lines))
}

impl Actor {
    /// Own texts, with how far they got.
    async fn own(&self) -> anyhow::Result<Vec<(u64, Option<Tick>)>> {
        let entries = self.client.history(self.conversation, None, 500).await?;
        let own = entries.iter().filter(|entry| entry.author == Author::Me).filter_map(|entry| {
            let number = entry.text()?.strip_prefix(&self.name)?.trim().parse().ok()?;
            Some((number, entry.tick))
        });
        Ok(own.collect())
    }

    /// Sends what the outbox has not taken yet.
    async fn send(&self) -> anyhow::Result<()> {
        let taken = self.own().await?.iter().map(|(number, _)| *number).max().unwrap_or(0);
        for number in taken + 1..=self.count {
            self.client.send_text(self.conversation, &format!("{} {number}", self.name)).await?;
        }
        Ok(())
    }

    async fn finished(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let own = self.own().await?;
            let in_order = own.iter().map(|(number, _)| *number).eq(1..=self.count);
            let delivered = own.iter().all(|(_, tick)| *tick >= Some(Tick::Delivered));
            let shown = self.shown.load(Ordering::Relaxed);
            if in_order && delivered && shown >= self.count {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{}: own {own:?}, shown {shown} of {}, {:?}", self.name, self.count, self.client.connection().next().await);
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
