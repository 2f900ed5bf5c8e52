//! Two clients and a real server in one process: the whole path, over sockets.

use kith_client::{Client, ConnectionState, ConversationId, Entry, EntryBody, Registration, Subscription, Tick};
use kith_gateway::Config;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

struct Server {
    url: String,
    config: Config,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Server {
    /// Returns when it serves.
    async fn start(data: &Path, port: u16) -> Self {
        let config = Config { data: data.to_owned(), listen: ([127, 0, 0, 1], port).into(), ..Config::default() };
        let listener = kith_gateway::bind(&config).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let config = Config { listen: listener.local_addr().unwrap(), ..config };
        let stop = CancellationToken::new();
        let (serve, end) = (config.clone(), stop.clone());
        let running = tokio::spawn(async move { kith_gateway::run(serve, listener, end).await.unwrap() });
        let ready = async {
            while !reqwest::get(format!("{url}/readyz")).await.is_ok_and(|answer| answer.status() == 200) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the server gets ready");
        Self { url, config, stop, running }
    }

    async fn stop(self) -> Config {
        self.stop.cancel();
        self.running.await.unwrap();
        self.config
    }
}

async fn register(server: &Server, folder: &Path, name: &str) -> Client {
    let builder = Client::builder(server.url.as_str()).home(folder.join(name));
    let registered = builder.register(Registration::new(name)).await.unwrap();
    assert_eq!(registered.recovery.unwrap().as_str().split(' ').count(), 24);
    registered.client
}

/// Waits until a subscription gives what is wanted.
async fn until<T: Send + 'static, R>(mut subscription: Subscription<T>, mut wanted: impl FnMut(T) -> Option<R>) -> R {
    let found = async {
        loop {
            if let Some(found) = wanted(subscription.next().await.expect("the client is running")) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("it did not happen in time")
}

async fn online(client: &Client) {
    until(client.connection(), |state| (state == ConnectionState::Online).then_some(())).await;
}

async fn texts(client: &Client, count: usize) -> Vec<Entry> {
    let mut got = Vec::new();
    until(client.received(Default::default()), |entry| {
        got.push(entry);
        (got.len() == count).then(|| got.clone())
    })
    .await
}

async fn ticked(client: &Client, chat: ConversationId, text: &str, tick: Tick) {
    let reached = |entry: &Entry| entry.text() == Some(text) && entry.tick >= Some(tick);
    // What is older than the first batch of the timeline is in the history.
    let mut timeline = client.timeline(chat);
    let found = async {
        while !client.history(chat, None, 500).await.unwrap().iter().any(reached) {
            timeline.next().await.expect("the client is running");
        }
    };
    tokio::time::timeout(DEADLINE, found).await.expect("the tick did not come in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_talk_through_restarts_of_everything() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"), 0).await;
    let alice = register(&server, folder.path(), "alice").await;
    let bob = register(&server, folder.path(), "bob").await;
    bob.shutdown().await;
    drop(bob);

    // A first message while bob is away.
    let chat = alice.start_conversation("bob").await.unwrap();
    alice.send_text(chat, "hello bob").await.unwrap();
    ticked(&alice, chat, "hello bob", Tick::Sent).await;
    let builder = Client::builder(server.url.as_str()).home(folder.path().join("bob"));
    assert!(builder.is_registered());
    let bob = builder.open().await.unwrap();
    assert_eq!(texts(&bob, 1).await[0].text(), Some("hello bob"));
    bob.send_text(chat, "hello alice").await.unwrap();
    assert_eq!(texts(&alice, 1).await[0].text(), Some("hello alice"));
    ticked(&alice, chat, "hello bob", Tick::Delivered).await;
    bob.mark_read(chat, 1).await.unwrap();
    ticked(&alice, chat, "hello bob", Tick::Read).await;
    assert_eq!(alice.safety_number(chat).await.unwrap(), bob.safety_number(chat).await.unwrap());

    // The server goes away and comes back, while both go on writing.
    let config = server.stop().await;
    for n in 0..100 {
        alice.send_text(chat, &format!("a{n}")).await.unwrap();
        bob.send_text(chat, &format!("b{n}")).await.unwrap();
    }
    let server = Server::start(&config.data, config.listen.port()).await;
    online(&alice).await;
    online(&bob).await;
    let from_alice: Vec<_> = texts(&bob, 101).await.into_iter().skip(1).map(|entry| entry.text().unwrap().to_owned()).collect();
    let from_bob: Vec<_> = texts(&alice, 101).await.into_iter().skip(1).map(|entry| entry.text().unwrap().to_owned()).collect();
    assert_eq!(from_alice, (0..100).map(|n| format!("a{n}")).collect::<Vec<_>>());
    assert_eq!(from_bob, (0..100).map(|n| format!("b{n}")).collect::<Vec<_>>());

    // Both have the same log, and nothing in it is anything but text.
    ticked(&alice, chat, "a99", Tick::Delivered).await;
    ticked(&bob, chat, "b99", Tick::Delivered).await;
    let log = |entries: Vec<Entry>| entries.into_iter().map(|entry| (entry.seq, entry.body)).collect::<Vec<_>>();
    let (a, b) = (alice.history(chat, None, 500).await.unwrap(), bob.history(chat, None, 500).await.unwrap());
    assert!(a.iter().all(|entry| matches!(entry.body, EntryBody::Text(_))));
    assert_eq!(log(a), log(b));
    alice.shutdown().await;
    bob.shutdown().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a19_a_second_process_on_the_same_folder_is_refused_and_a_passphrase_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"), 0).await;
    let builder = Client::builder(server.url.as_str()).home(folder.path().join("carol"));
    let client = builder.clone().passphrase(Some("open sesame")).register(Registration::new("carol").without_recovery()).await.unwrap().client;
    assert!(matches!(builder.clone().passphrase(Some("open sesame")).open().await, Err(kith_client::OpenError::InUse)));
    client.shutdown().await;
    drop(client);
    assert!(matches!(builder.clone().open().await, Err(kith_client::OpenError::PassphraseNeeded)));
    assert!(matches!(builder.clone().passphrase(Some("wrong")).open().await, Err(kith_client::OpenError::WrongKey)));
    let client = builder.passphrase(Some("open sesame")).open().await.unwrap();
    online(&client).await;
    assert_eq!(client.devices().await.unwrap().len(), 1);
    client.shutdown().await;
    server.stop().await;
}
