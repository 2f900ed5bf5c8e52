//! The assembled server over real sockets: starting, serving, refusing, draining.

#[path = "../../chat-core/tests/support/owner.rs"]
mod owner;

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use kith_gateway::{Config, RunError, StorageError, bind, config::RegistrationPolicy, create_invites, migrate, run};
use kith_harness::{Database, Postgres};
use kith_proto::rest::{Base64Array, Certificate, LoginProof, PrekeyUpload, RegisterRequest, SignedPrekey, SignedStatement};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::owner::{Device, Owner};

const DEADLINE: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

impl Server {
    fn start(data: &Path, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config { data: data.join("kith-data"), listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
        change(&mut config);
        let listener = bind(&config).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        Self { address, running: tokio::spawn(run(config, listener, shutdown.clone())), shutdown }
    }

    /// Waits until everything it needs is there.
    async fn ready(self) -> Self {
        until(async || reqwest::get(format!("http://{}/readyz", self.address)).await.is_ok_and(|answer| answer.status() == 200)).await;
        self
    }

    async fn stop(self) {
        self.shutdown.cancel();
        timeout(DEADLINE, self.running).await.expect("the server drains in time").unwrap().unwrap();
    }

    async fn post(&self, path: &str, body: &impl serde::Serialize) -> (u16, Value) {
        let answer = reqwest::Client::new().post(format!("http://{}{path}", self.address)).json(body).timeout(DEADLINE).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Reads until the other side closes.
async fn rest_of(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the server closes in time");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_on_an_empty_folder_serves_and_drains() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), |_| {}).ready().await;
    let ready = reqwest::get(format!("http://{}/readyz", server.address)).await.unwrap();
    assert_eq!(ready.status(), 200);
    let other = Config { data: folder.path().join("kith-data"), listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
    let listener = bind(&other).unwrap();
    let second = run(other, listener, CancellationToken::new()).await;
    assert!(matches!(second, Err(RunError::Storage(StorageError::Embedded(_)))), "one process per folder");
    let address = server.address;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    Server::start(folder.path(), |_| {}).stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_let_in_and_told_to_go_when_draining() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), |_| {}).ready().await;
    let mut stream = server.connect().await;
    let request = "GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: kith.v1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(DEADLINE, stream.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    server.shutdown.cancel();
    rest_of(&mut stream).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_trickles_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), |c| c.http.header_timeout_ms = 200);
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /healthz HT").await.unwrap();
    assert!(!rest_of(&mut slow).await.contains("200 OK"));
    rest_of(&mut silent).await;
    let mut endless = server.connect().await;
    let _ = endless.write_all(&[b'A'; 64 * 1024]).await;
    rest_of(&mut endless).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), |c| (c.http.max_connections, c.http.header_timeout_ms) = (8, 1_000));
    // Both kept open until the server gives them up.
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        timeout(DEADLINE, stream.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        held.push(stream);
    }
    let mut ninth = server.connect().await;
    let _ = ninth.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(rest_of(&mut ninth).await, "", "turned away");
    for stream in &mut held {
        rest_of(stream).await;
    }
    let again = reqwest::get(format!("http://{}/healthz", server.address)).await.unwrap();
    assert_eq!(again.status(), 200, "there is room again");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls() {
    let folder = tempfile::tempdir().unwrap();
    let pem = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name);
    let server = Server::start(folder.path(), |c| (c.tls.certificate, c.tls.key) = (pem("certificate.pem"), pem("key.pem")));
    let root = reqwest::Certificate::from_pem(&std::fs::read(pem("certificate.pem")).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let answer = client.get(format!("https://localhost:{}/healthz", server.address.port())).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    // Whoever speaks no TLS gets nothing and stops nobody.
    let mut plain = server.connect().await;
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert!(!rest_of(&mut plain).await.contains("200 OK"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_are_made_beside_a_running_server_and_registrations_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let by_invite = |c: &mut Config| c.registration.policy = RegistrationPolicy::Invite;
    let server = Server::start(folder.path(), by_invite).ready().await;
    let alice = Owner::new("alice");
    let device = alice.device("alice");
    let refused = server.post("/v1/accounts", &registration(&server, &alice, &device, None).await).await;
    assert_eq!((refused.0, &refused.1["code"]), (403, &json!("INVITE_INVALID")));
    let config = Config { data: folder.path().join("kith-data"), ..Config::default() };
    let codes = create_invites(&config, 2, 7).await.unwrap();
    assert_ne!(codes[0], codes[1]);
    let registered = server.post("/v1/accounts", &registration(&server, &alice, &device, Some(&codes[0])).await).await;
    assert_eq!(registered.0, 201, "{registered:?}");
    server.stop().await;
    let server = Server::start(folder.path(), by_invite).ready().await;
    let token = registered.1["tokens"]["access_token"].as_str().unwrap();
    let devices = reqwest::Client::new().get(format!("http://{}/v1/devices", server.address)).bearer_auth(token);
    assert_eq!(devices.send().await.unwrap().status(), 200, "tokens are good beyond a restart");
    let again = server.post("/v1/accounts", &registration(&server, &alice, &device, Some(&codes[0])).await).await;
    assert_eq!(again.0, 200);
    server.stop().await;
}

/// Settings of a server that keeps everything there.
fn on(database: &Database) -> impl Fn(&mut Config) + '_ {
    |c| c.postgres.url = database.url().as_str().into()
}

async fn migrated(postgres: &Postgres) -> Database {
    let database = postgres.database().await;
    let mut config = Config::default();
    on(&database)(&mut config);
    assert!(!migrate(&config).await.unwrap().unwrap().is_empty());
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_postgres_are_one_service() {
    let folder = tempfile::tempdir().unwrap();
    let database = migrated(Postgres::shared()).await;
    let by_invite = |c: &mut Config| {
        on(&database)(c);
        c.registration.policy = RegistrationPolicy::Invite;
    };
    let (one, other) = (Server::start(folder.path(), by_invite).ready().await, Server::start(folder.path(), by_invite).ready().await);
    let mut config = Config::default();
    by_invite(&mut config);
    let codes = create_invites(&config, 1, 7).await.unwrap();
    let alice = Owner::new("alice");
    let device = alice.device("alice");
    let registered = one.post("/v1/accounts", &registration(&one, &alice, &device, Some(&codes[0])).await).await;
    assert_eq!(registered.0, 201, "{registered:?}");
    let again = other.post("/v1/accounts", &registration(&other, &alice, &device, Some(&codes[0])).await).await;
    assert_eq!(again.0, 200, "{again:?}");
    let token = registered.1["tokens"]["access_token"].as_str().unwrap();
    let devices = reqwest::Client::new().get(format!("http://{}/v1/devices", other.address)).bearer_auth(token);
    assert_eq!(devices.send().await.unwrap().status(), 200, "a token of one is good at the other");
    assert!(!folder.path().join("kith-data").exists(), "nothing is kept here");
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_postgres_is_named_with_its_address_and_mends_itself() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().await.unwrap();
    let database = migrated(&postgres).await;
    let server = Server::start(folder.path(), on(&database)).ready().await;
    let missing = async || {
        let answer = reqwest::get(format!("http://{}/readyz", server.address)).await.unwrap();
        assert_eq!(answer.status(), 200, "once ready it stays in the balancer");
        answer.json::<Value>().await.unwrap()["missing"].clone()
    };
    assert_eq!(missing().await, json!([]));
    postgres.kill().await.unwrap();
    let service = format!("postgres {}/{}", postgres.address(), database.name());
    until(async || missing().await == json!([service])).await;
    let alice = Owner::new("alice");
    let refused = server.post("/v1/accounts", &registration(&server, &alice, &alice.device("alice"), None).await).await;
    assert_eq!((refused.0, &refused.1["code"]), (503, &json!("STORAGE_UNAVAILABLE")), "{refused:?}");
    postgres.restart().await.unwrap();
    until(async || missing().await == json!([])).await;
    let registered = server.post("/v1/accounts", &registration(&server, &alice, &alice.device("alice"), None).await).await;
    assert_eq!(registered.0, 201, "{registered:?}");
    server.stop().await;
}

async fn until(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited for too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn registration(server: &Server, alice: &Owner, device: &Device, invite: Option<&str>) -> RegisterRequest {
    let mut alice = alice.clone();
    let asked = json!({"account": device.at.account, "device": device.at.device});
    let given = server.post("/v1/login/challenge", &asked).await.1;
    let challenge: Base64Array<32> = serde_json::from_value(given["challenge"].clone()).unwrap();
    let origin = format!("http://{}", server.address);
    let signature = device.login(&origin, &challenge.0, &[1; 32], given["expires_ms"].as_u64().unwrap());
    let prekey = |kind: u8, id: u32, length: usize| {
        let key = vec![1; length];
        SignedPrekey { id, created_ms: 1, signature: device.prekey(kind, id, 1, &key).into(), key: key.into() }
    };
    let certificate = alice.certificate(device);
    let list = alice.next_list(&[device]);
    RegisterRequest {
        username: "alice".into(),
        aik: alice.aik_public().into(),
        recovery: alice.recovery_public().into(),
        certificate: Certificate { signed: certificate.0.into(), aik_signature: certificate.1.into(), accept_signature: certificate.2.into() },
        list: SignedStatement { signed: list.0.into(), signature: list.1.into() },
        prekeys: PrekeyUpload { signed: Some(prekey(1, 1, 32)), last_resort_kem: Some(prekey(3, 2, 1_184)), ..PrekeyUpload::default() },
        proof: LoginProof { challenge, client_nonce: [1; 32].into(), origin, signature: signature.into() },
        device_name: None,
        invite_code: invite.map(Into::into),
    }
}
