//! People who use the SDK, with a store on disk: what they write is shown to the other one once and in order, whatever happens between.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use kith_client::{Arrival, Client, ConversationId, Entry, Registration};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use crate::{identity::random, wait};

/// Between two texts of one person.
const PAUSE: Duration = Duration::from_millis(400);

/// Some pairs who write to one another.
#[derive(Debug)]
pub(super) struct People {
    writing: watch::Sender<bool>,
    talks: Vec<[Person; 2]>,
    _homes: TempDir,
}

#[derive(Debug)]
struct Person {
    name: String,
    client: Client,
    conversation: ConversationId,
    written: Arc<AtomicU64>,
    shown: Arc<Mutex<Vec<String>>>,
    tasks: [JoinHandle<()>; 2],
}

impl People {
    /// Registers them and lets them write.
    ///
    /// # Errors
    /// If a registration fails.
    pub(super) async fn start(origin: &str, pairs: usize) -> anyhow::Result<Self> {
        let homes = tempfile::tempdir()?;
        let writing = watch::Sender::new(true);
        let mut talks = Vec::new();
        for _ in 0..pairs {
            let names = ["anna", "bert"].map(|name| format!("{name}-{}", hex::encode(random::<6>())));
            let clients = [register(origin, homes.path(), &names[0]).await?, register(origin, homes.path(), &names[1]).await?];
            let conversations = [clients[0].start_conversation(&names[1]).await?, clients[1].start_conversation(&names[0]).await?];
            let [anna, bert] = clients;
            talks.push([
                Person::begin(&names[0], anna, conversations[0], writing.subscribe()),
                Person::begin(&names[1], bert, conversations[1], writing.subscribe()),
            ]);
        }
        Ok(Self { writing, talks, _homes: homes })
    }

    /// Nobody writes any more, or everybody does again.
    pub(super) fn write(&self, on: bool) {
        self.writing.send_replace(on);
    }

    /// After nobody writes any more: waits until everything written was shown to the other one. Returns how many texts they were shown in all.
    ///
    /// # Errors
    /// If something is not shown within `within`, or something else is.
    pub(super) async fn heard(&self, within: Duration) -> anyhow::Result<u64> {
        for [anna, bert] in &self.talks {
            for (to, from) in [(anna, bert), (bert, anna)] {
                let heard = wait::until("everything written is shown", within, async || to.has_heard(from).transpose()).await;
                if let Err(error) = heard.and_then(|heard| heard) {
                    let texts = format!("{} of {} texts are shown", to.shown.lock().len(), from.written.load(Ordering::SeqCst));
                    return Err(error.context(format!("{texts}\n{}\n{}", from.page().await?, to.page().await?)));
                }
            }
        }
        Ok(self.talks.iter().flatten().map(|person| person.shown.lock().len() as u64).sum())
    }
}

async fn register(origin: &str, homes: &Path, name: &str) -> anyhow::Result<Client> {
    let builder = Client::builder(origin).home(homes.join(name));
    Ok(builder.register(Registration::new(name).without_recovery()).await?.client)
}

impl Person {
    fn begin(name: &str, client: Client, conversation: ConversationId, writing: watch::Receiver<bool>) -> Self {
        let (written, shown) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<String>>>::default());
        let writer = write(client.clone(), conversation, name.to_owned(), Arc::clone(&written), writing);
        let reader = read(client.clone(), Arc::clone(&shown));
        Self { name: name.to_owned(), client, conversation, written, shown, tasks: [tokio::spawn(writer), tokio::spawn(reader)] }
    }

    /// The end of the conversation as this side has it, for whoever looks for a fault.
    async fn page(&self) -> anyhow::Result<String> {
        let entries = self.client.history(self.conversation, None, 40).await?;
        let line = |entry: &Entry| format!("  {:?} {:?} {:?} {:?} {:?}", entry.seq, entry.arrival, entry.author, entry.tick, entry.body);
        Ok(format!("{} has:\n{}", self.name, entries.iter().map(line).collect::<Vec<_>>().join("\n")))
    }

    /// Whether everything was shown, once and in order.
    fn has_heard(&self, from: &Self) -> anyhow::Result<Option<()>> {
        let shown = self.shown.lock();
        let written = from.written.load(Ordering::SeqCst);
        for (text, number) in shown.iter().zip(1..) {
            ensure!(*text == format!("{} {number}", from.name), "{} is shown {text:?} instead of text {number}", self.name);
        }
        ensure!(shown.len() as u64 <= written, "{} is shown more than was written", self.name);
        Ok((shown.len() as u64 == written).then_some(()))
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        // The client ends with its last handle.
        let _ = &self.client;
    }
}

async fn write(client: Client, conversation: ConversationId, name: String, written: Arc<AtomicU64>, mut writing: watch::Receiver<bool>) {
    let mut number = 0;
    while writing.wait_for(|on| *on).await.is_ok() {
        number += 1;
        // Before, so that whoever looks after writing was stopped misses nothing that is on its way into the outbox.
        written.store(number, Ordering::SeqCst);
        if client.send_text(conversation, &format!("{name} {number}")).await.is_err() {
            return;
        }
        sleep(PAUSE).await;
    }
}

async fn read(client: Client, shown: Arc<Mutex<Vec<String>>>) {
    let mut received = client.received(Arrival::default());
    while let Some(entry) = received.next().await {
        let text = entry.text().map_or_else(|| format!("{:?}", entry.body), str::to_owned);
        shown.lock().push(text);
    }
}
