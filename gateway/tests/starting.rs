//! What a server needs may come after it: it waits, says what for, and becomes ready by itself. What waiting does not mend ends it with an error.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use kith_gateway::{Config, RunError, bind, config::Role, migrate, run};
use kith_harness::{Database, Kafka, Postgres, PostgresOptions, Redis};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Server {
    fn start(config: Config) -> Self {
        let listener = bind(&config).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        Self { address, running: tokio::spawn(run(config, listener, shutdown.clone())), shutdown }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{}{path}", self.address)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn readiness(&self) -> (u16, Value) {
        let (status, body) = self.get("/readyz").await;
        (status, serde_json::from_str(&body).unwrap())
    }

    /// Says that just this is missing, and serves nobody.
    async fn waits_for(&self, name: &str) {
        let waiting = (503, json!({"ready": false, "missing": [name]}));
        until(async || self.readiness().await == waiting).await;
        assert_eq!(self.get("/healthz").await, (200, "ok".to_owned()));
        let refused = reqwest::get(format!("http://{}/v1/limits", self.address)).await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
        assert_eq!(self.get("/metrics").await.0, 200);
    }

    async fn becomes_ready(&self) {
        until(async || self.readiness().await == (200, json!({"ready": true, "missing": []}))).await;
        assert_eq!(self.get("/v1/limits").await.0, 200);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.running).await.expect("it ends in time").unwrap().unwrap();
    }

    async fn fails(self) -> String {
        let error = timeout(DEADLINE, self.running).await.expect("it ends by itself").unwrap().unwrap_err();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}

async fn until(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn on(url: &str) -> Config {
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
    config.postgres.url = url.into();
    config
}

async fn migrated(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    migrate(&on(&database.url())).await.unwrap();
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_postgres() {
    let postgres = Postgres::start().await.unwrap();
    let database = migrated(&postgres).await;
    postgres.kill().await.unwrap();
    let server = Server::start(on(&database.url()));
    server.waits_for(&format!("postgres {}/{}", postgres.address(), database.name())).await;
    postgres.restart().await.unwrap();
    server.becomes_ready().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_redis() {
    let redis = Redis::start().await.unwrap();
    let database = migrated(Postgres::shared()).await;
    redis.kill().await.unwrap();
    let mut config = on(&database.url());
    config.redis.url = redis.url().as_str().into();
    let server = Server::start(config);
    server.waits_for(&format!("redis {}", redis.address())).await;
    redis.restart().await.unwrap();
    server.becomes_ready().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_kafka() {
    let kafka = Kafka::start().await.unwrap();
    let database = migrated(Postgres::shared()).await;
    kafka.kill().await.unwrap();
    let mut config = on(&database.url());
    config.kafka.brokers = kafka.address().to_string();
    let server = Server::start(config);
    server.waits_for(&format!("kafka {}", kafka.address())).await;
    kafka.restart().await.unwrap();
    server.becomes_ready().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_waits_can_be_stopped() {
    let server = Server::start(on("postgres://kith:secret@127.0.0.1:1/nowhere"));
    server.waits_for("postgres 127.0.0.1:1/nowhere").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waiting_does_not_mend_ends_it_and_is_named() {
    let shared = Postgres::shared();
    let empty = shared.database().await;
    let error = Server::start(on(&empty.url())).fails().await;
    assert!(error.contains("kith migrate"), "{error}");

    let database = migrated(shared).await;
    let (_, behind) = database.url().split_once('@').map(|(before, behind)| (before.to_owned(), behind.to_owned())).unwrap();
    let error = Server::start(on(&format!("postgres://kith:s3cret@{behind}"))).fails().await;
    assert!(error.contains(&shared.address().to_string()) && error.contains("password") && !error.contains("s3cret"), "{error}");

    let nowhere = database.url().replace(database.name(), "nowhere");
    let error = Server::start(on(&nowhere)).fails().await;
    assert!(error.contains("nowhere"), "{error}");

    let redis = Redis::start().await.unwrap();
    let mut config = on(&database.url());
    config.redis.url = format!("redis://:s3cret@{}", redis.address()).as_str().into();
    let error = Server::start(config.clone()).fails().await;
    assert!(error.contains(&redis.address().to_string()) && !error.contains("s3cret"), "{error}");

    config.redis.url = "redis-cluster://:s3cret@a:1?node=nowhere".into();
    let error = Server::start(config).fails().await;
    assert!(error.contains("URL of Redis") && !error.contains("s3cret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_loses_what_it_commits_is_refused() {
    let settings = vec![("fsync".to_owned(), "off".to_owned())];
    let postgres = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await.unwrap();
    let error = Server::start(on(&postgres.database().await.url())).fails().await;
    assert!(error.contains("fsync = off") && error.contains(&postgres.address().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_works_beside_and_serves_no_clients() {
    let database = migrated(Postgres::shared()).await;
    let relay = Server::start(Config { role: Role::Relay, ..on(&database.url()) });
    let gateway = Server::start(Config { role: Role::Gateway, ..on(&database.url()) });
    gateway.becomes_ready().await;
    until(async || relay.readiness().await.0 == 200).await;
    assert_eq!((relay.get("/v1/limits").await.0, relay.get("/v1/ws").await.0), (404, 404));
    // It looks at the outbox; a gateway does not.
    until(async || relay.get("/metrics").await.1.contains("kith_outbox_oldest_seconds")).await;
    assert!(!relay.get("/metrics").await.1.contains("kith_ws_connections"));
    relay.stop().await;
    gateway.stop().await;
}

#[test]
fn roles_are_refused_that_there_are_not() {
    let read = |settings: &[(&str, &str)]| {
        Config::from_parts(None, settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).map_err(|error| error.to_string())
    };
    for unknown in ["group", "media", "", "All"] {
        let error = read(&[("KITH_ROLE", unknown)]).unwrap_err();
        assert!(error.contains("all, gateway, relay"), "{error}");
    }
    let error = read(&[("KITH_ROLE", "relay")]).unwrap_err();
    assert!(error.contains("embedded database") && error.contains("only all"), "{error}");
    let config = read(&[("KITH_ROLE", "gateway"), ("KITH_POSTGRES_URL", "postgres://kith@db/kith")]).unwrap();
    assert_eq!(config.role, Role::Gateway);
    assert_eq!(read(&[]).unwrap().role, Role::All);
}
