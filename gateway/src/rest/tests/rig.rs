//! The full router in this process over a fresh database, with a clock moved by hand and people who sign.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use kith_chat_core::{
    accounts::{Accounts, SqliteAccounts},
    domain::Clock,
    log::MessageLog,
    sqlite::{Database, Options},
};
use kith_proto::rest::{
    Base64Array, Certificate, DevicePrekeys, LoginProof, OneTimePrekey, PrekeyUpload, PublishListRequest, RegisterRequest, SignedPrekey,
    SignedStatement, Tokens,
};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::owner::{self, Device, Owner};
use crate::{
    challenge::Challenges,
    config::{Config, Origins},
    health::Health,
    limits::Limits,
    metrics::Metrics,
    peer::Peer,
    sessions::{Ports, SessionSettings, Sessions},
    state::AppState,
    token::TokenKey,
};

pub(super) const NOW: u64 = 1_790_000_000_000;
pub(super) const ORIGIN: &str = "http://127.0.0.1:7400";

pub(super) struct Rig {
    pub(super) state: Arc<AppState>,
    pub(super) clock: Arc<AtomicU64>,
    router: Router,
    end: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    /// The error code, or an empty text.
    pub(super) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(super) fn ok(self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.body
    }

    #[track_caller]
    pub(super) fn refused(&self, code: &str) {
        assert_eq!(self.code(), code, "{self:?}");
        assert!(!self.status.is_success());
        assert_eq!(self.body["after_ms"].is_u64(), self.headers.contains_key(header::RETRY_AFTER), "{self:?}");
    }
}

/// Somebody with an account.
pub(super) struct Person {
    pub(super) owner: Owner,
    pub(super) device: Device,
    pub(super) tokens: Tokens,
}

impl Person {
    pub(super) fn token(&self) -> &str {
        self.tokens.access_token.as_str()
    }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        config.validate().unwrap();
        let hand = Arc::new(AtomicU64::new(NOW));
        let clock = Clock::Manual(Arc::clone(&hand));
        let folder = tempfile::tempdir().unwrap();
        let (database, resolved) = Database::open(&folder.path().join("kith.db"), Options::new(clock.clone())).unwrap();
        let accounts: Arc<dyn Accounts> = Arc::new(SqliteAccounts::new(Arc::clone(&database)));
        let log: Arc<dyn MessageLog> = database;
        let tokens = TokenKey::new([7; 32]);
        let limits = Arc::new(Limits::new(&config.limits, &clock, None));
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let admit = Arc::clone(&limits);
        let ports = Ports {
            log: Arc::clone(&log),
            resolved,
            presence: Arc::new(Arc::clone(&accounts)),
            tokens: tokens.clone(),
            clock: clock.clone(),
            admit_send: Box::new(move |device| admit.send(device)),
            cluster: None,
            sleepers: None,
            tracer: None,
        };
        let sessions = Sessions::start(SessionSettings::default(), ports, &end, &tasks);
        let health = Arc::new(Health::new(&["database"]));
        health.present("database");
        health.begin();
        let state = Arc::new(AppState {
            log,
            accounts,
            sessions,
            cluster: None,
            tokens,
            challenges: Challenges::new([9; 32]),
            origins: Origins::new(&config, config.listen),
            trusted: config.http.trusted(),
            limits,
            clock,
            health,
            metrics: Arc::new(Metrics::start()),
            tracer: None,
            tasks,
            config,
        });
        Self { router: super::super::router(Arc::clone(&state)), state, clock: hand, end, _folder: folder }
    }

    pub(super) fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::AcqRel);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Sends any request, as from `address`.
    pub(super) async fn send_from(&self, address: &str, mut request: Request<Body>) -> Answer {
        let peer = Peer::direct(address.parse().unwrap(), &self.state.trusted);
        request.extensions_mut().insert(peer);
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(super) async fn post_from(&self, address: &str, path: &str, token: Option<&str>, body: &impl serde::Serialize) -> Answer {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send_from(address, request.body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, token: Option<&str>, body: &impl serde::Serialize) -> Answer {
        self.post_from("127.0.0.1", path, token, body).await
    }

    pub(super) async fn delete(&self, path: &str, token: &str, body: &impl serde::Serialize) -> Answer {
        let request = Request::delete(path).header(header::CONTENT_TYPE, "application/json").header(header::AUTHORIZATION, format!("Bearer {token}"));
        self.send_from("127.0.0.1", request.body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let mut request = Request::get(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.send_from("127.0.0.1", request.body(Body::empty()).unwrap()).await
    }

    /// A proof of a device's key over a fresh challenge.
    pub(super) async fn proof(&self, device: &Device, origin: &str) -> LoginProof {
        let (challenge, expires_ms) = self.challenge(device).await;
        proof(device, origin, challenge, expires_ms)
    }

    pub(super) async fn challenge(&self, device: &Device) -> ([u8; 32], u64) {
        let request = json!({"account": device.at.account, "device": device.at.device});
        let given = self.post("/v1/login/challenge", None, &request).await.ok();
        let challenge: Base64Array<32> = serde_json::from_value(given["challenge"].clone()).unwrap();
        (challenge.0, given["expires_ms"].as_u64().unwrap())
    }

    pub(super) async fn registration(&self, owner: &Owner, device: &Device, username: &str) -> RegisterRequest {
        let mut owner = Owner { version: 0, hash: [0; 32], ..owner.clone() };
        RegisterRequest {
            username: username.into(),
            aik: owner.aik_public().into(),
            recovery: owner.recovery_public().into(),
            certificate: certificate(owner.certificate(device)),
            list: statement(owner.next_list(&[device])),
            prekeys: first_keys(device, 2),
            proof: self.proof(device, ORIGIN).await,
            device_name: Some("phone".into()),
            invite_code: None,
        }
    }

    /// Registers somebody by this name.
    pub(super) async fn person(&self, name: &str) -> Person {
        let mut owner = Owner::new(name);
        let device = owner.device(name);
        let request = self.registration(&owner, &device, name).await;
        let answer = self.post("/v1/accounts", None, &request).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        owner.next_list(&[&device]);
        Person { tokens: serde_json::from_value(answer.body["tokens"].clone()).unwrap(), owner, device }
    }

    /// Logs a device in.
    pub(super) async fn login(&self, device: &Device) -> Answer {
        let proof = self.proof(device, ORIGIN).await;
        self.post("/v1/login", None, &json!({"account": device.at.account, "device": device.at.device, "proof": proof})).await
    }

    /// Publishes the owner's next list.
    pub(super) async fn publish(&self, person: &mut Person, devices: &[&Device], new: &[&Device]) -> Answer {
        let request = list_request(&mut person.owner, devices, new);
        self.post("/v1/devices/list", Some(person.token()), &request).await
    }
}

pub(super) fn list_request(owner: &mut Owner, devices: &[&Device], new: &[&Device]) -> PublishListRequest {
    PublishListRequest {
        list: statement(owner.next_list(devices)),
        certificates: new.iter().map(|d| certificate(owner.certificate(d))).collect(),
        prekeys: new.iter().map(|d| DevicePrekeys { device: d.at.device, name: None, prekeys: first_keys(d, 1) }).collect(),
    }
}

pub(super) fn proof(device: &Device, origin: &str, challenge: [u8; 32], expires_ms: u64) -> LoginProof {
    let nonce = [5; 32];
    LoginProof {
        challenge: challenge.into(),
        client_nonce: nonce.into(),
        origin: origin.to_owned(),
        signature: device.login(origin, &challenge, &nonce, expires_ms).into(),
    }
}

pub(super) fn statement(statement: owner::Statement) -> SignedStatement {
    SignedStatement { signed: statement.0.into(), signature: statement.1.into() }
}

pub(super) fn certificate(certificate: owner::Certificate) -> Certificate {
    Certificate { signed: certificate.0.into(), aik_signature: certificate.1.into(), accept_signature: certificate.2.into() }
}

pub(super) fn prekey(device: &Device, kind: u8, id: u32) -> SignedPrekey {
    let key = vec![9; if kind == 1 { 32 } else { 1_184 }];
    SignedPrekey { id, created_ms: NOW, signature: device.prekey(kind, id, NOW, &key).into(), key: key.into() }
}

/// Ids 1 and 2, then `count` of either one-time kind.
pub(super) fn first_keys(device: &Device, count: u32) -> PrekeyUpload {
    PrekeyUpload {
        signed: Some(prekey(device, 1, 1)),
        last_resort_kem: Some(prekey(device, 3, 2)),
        one_time: (3..3 + count).map(|id| OneTimePrekey { id, key: [8; 32].into() }).collect(),
        one_time_kem: (3 + count..3 + 2 * count).map(|id| prekey(device, 2, id)).collect(),
    }
}
