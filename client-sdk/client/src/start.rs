//! How a client comes up: keys, store, engine, connection.

use crate::builder::{ClientBuilder, Registered, Registration};
use crate::client::{Client, Inner};
use crate::engine::{self, Engine, EngineHandle, Parts, Published};
use crate::error::{OpenError, RegisterError};
use crate::model::{Me, NoticeKind, RecoveryWords};
use crate::server::Server;
use crate::statements::{certificate_to_wire, list_to_wire};
use crate::store::records::{AccountRecord, NoticeRecord, SelfRecord};
use crate::store::{self, Store, StoreError, codes};
use crate::transport::{self, Transport};
use kith_crypto::device::{DeviceKeys, SignedCertificate};
use kith_crypto::device_list::SignedDeviceList;
use kith_crypto::identity::{AccountIdentity, RecoveryKey};
use kith_crypto::login::Origin;
use kith_crypto::prekey::PrekeyId;
use kith_crypto::trusted_list::{Lineage, TrustedList};
use kith_crypto::{DeviceId, Incarnation, Secret};
use kith_proto::id::{AccountId, DeviceId as WireDeviceId};
use kith_proto::rest::{LoginProof, PrekeyUpload, RegisterRequest};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

/// Inputs that wait for the engine. It takes a few hundred per round.
const INPUTS: usize = 1_024;
const REGISTRATION: &str = "registration";

pub(crate) fn is_registered(home: &Path) -> bool {
    // A store is made with its account in it; a registration that the server has not confirmed yet is found out on opening.
    store::exists(home) && home.join("registered").exists()
}

/// Leaves the mark by which the folder is known, unopened, as that of an account. The store itself is the truth.
pub(crate) fn mark_registered(home: &Path) -> Result<(), OpenError> {
    std::fs::write(home.join("registered"), b"").map_err(|error| OpenError::Storage(error.to_string()))
}

/// `scheme://host:port` as it is signed. Only http and https: the WebSocket is beside them.
pub(crate) fn origin(server_url: &str) -> Result<Origin, OpenError> {
    let origin = Origin::parse(server_url).map_err(|_| OpenError::BadAddress)?;
    if origin.as_str().starts_with("http") { Ok(origin) } else { Err(OpenError::BadAddress) }
}

pub(crate) async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T, OpenError> + Send + 'static) -> Result<T, OpenError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| OpenError::Storage(error.to_string()))?
}

pub(crate) async fn open(builder: ClientBuilder) -> Result<Client, OpenError> {
    let dialled = origin(&builder.server_url)?;
    let at = builder.clone();
    let store = on_a_thread(move || Store::open(&at.home, at.passphrase.as_ref())).await?;
    let me = identity_of(&store)?;
    if !me.registered {
        return Err(OpenError::NotRegistered);
    }
    if me.origin != dialled.as_str() {
        return Err(OpenError::OtherServer);
    }
    run(builder, store, dialled, None).await
}

/// Tells a wrong key from a damaged store: the first value read decides.
fn identity_of(store: &Store) -> Result<SelfRecord, OpenError> {
    match store.self_record() {
        Ok(Some(me)) => Ok(me),
        Ok(None) => Err(OpenError::NotRegistered),
        Err(StoreError::Sealed(..)) => Err(OpenError::WrongKey),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn register(builder: ClientBuilder, registration: Registration) -> Result<Registered, RegisterError> {
    let dialled = origin(&builder.server_url)?;
    let (at, wanted, origin_text) = (builder.clone(), registration.clone(), dialled.as_str().to_owned());
    let (store, prepared) = on_a_thread(move || {
        let mut store = Store::create(&at.home, at.passphrase.as_ref())?;
        let prepared = prepare(&mut store, &wanted, origin_text, at.clock.now_ms())?;
        Ok((store, prepared))
    })
    .await?;
    let Prepared { me, keys, upload, recovery } = prepared;
    if me.registered {
        mark_registered(&builder.home)?;
        return Err(RegisterError::AlreadyRegistered);
    }
    let account = AccountId(id("account", &me.account)?);
    let server = Server::new(dialled.clone(), account, keys, Arc::clone(&builder.clock))?;
    let request = registration_request(&me, registration, upload)?;
    server.register(|proof| RegisterRequest { proof, ..request }).await?;
    let store = on_a_thread(move || confirm(store)).await?;
    mark_registered(&builder.home)?;
    let client = run(builder, store, dialled, Some(server)).await?;
    Ok(Registered { client, recovery })
}

/// What a registration is made of; the same again when it is repeated.
pub(crate) struct Prepared {
    pub(crate) me: SelfRecord,
    pub(crate) keys: DeviceKeys,
    pub(crate) upload: PrekeyUpload,
    pub(crate) recovery: Option<RecoveryWords>,
}

fn id<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], OpenError> {
    bytes.try_into().map_err(|_| StoreError::Malformed(what).into())
}

fn words(entropy: &[u8]) -> Result<Option<RecoveryWords>, OpenError> {
    if entropy.is_empty() {
        return Ok(None);
    }
    let mnemonic = bip39::Mnemonic::from_entropy(entropy).map_err(|_| StoreError::Malformed("recovery key"))?;
    Ok(Some(RecoveryWords(Zeroizing::new(mnemonic.to_string()))))
}

/// Makes all keys and stores them, or finds those of an attempt that did not get through.
pub(crate) fn prepare(store: &mut Store, registration: &Registration, origin: String, now_ms: u64) -> Result<Prepared, OpenError> {
    if let Some(mut me) = store.self_record().map_err(|_| OpenError::WrongKey)? {
        let keys = store.meta("device")?.ok_or(StoreError::Malformed("device keys"))?;
        let keys = DeviceKeys::from_bytes(&keys).map_err(StoreError::from)?;
        let upload = store.meta(REGISTRATION)?;
        let upload = upload.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|_| StoreError::Malformed("registration"))?;
        // The name may be another one than in the attempt before: the server has not taken it.
        me.username.clone_from(&registration.username);
        store.set_self_record(&me)?;
        store.commit()?;
        let recovery = words(&me.recovery)?;
        return Ok(Prepared { me, keys, upload: upload.unwrap_or_default(), recovery });
    }
    let rng = &mut store.rng;
    let recovery = registration.recovery.then(|| RecoveryKey::random(rng));
    let identity = AccountIdentity::create(rng, recovery.as_ref().map(RecoveryKey::public));
    let device = DeviceId::random(rng);
    let keys = DeviceKeys::random(rng, device);
    let request = keys.request_certificate(identity.account_id(), identity.public(), 1);
    let certificate = identity.certify(&request).map_err(|_| StoreError::Malformed("certificate"))?;
    let list = identity.sign_list(None, &[certificate], now_ms);
    let none = |_: &DeviceId| None;
    let trusted = TrustedList::first_contact(&Lineage::unrotated(&list), &list, &[certificate], &none);
    let trusted = trusted.map_err(|_| StoreError::Malformed("device list"))?;
    let wanted = engine::Wanted { signed: true, last_resort: true, one_time: engine::BATCH };
    let made = engine::make_prekeys(rng, &keys, identity.account_id(), PrekeyId::FIRST, wanted, now_ms);
    let (secrets, upload, next) = made.map_err(|_| StoreError::Malformed("prekey id"))?;
    let me = SelfRecord {
        account: identity.account_id().as_bytes().to_vec(),
        device: device.as_bytes().to_vec(),
        username: registration.username.clone(),
        origin,
        registered: false,
        incarnation: Incarnation::random(rng).as_bytes().to_vec(),
        next_prekey: next.get(),
        certificate: certificate.to_bytes().to_vec(),
        list: list.to_bytes(),
        recovery: recovery.as_ref().map_or_else(Vec::new, |key| key.entropy().expose().to_vec()),
        ..SelfRecord::default()
    };
    let own = AccountRecord {
        id: me.account.clone(),
        username: Some(me.username.clone()),
        list: trusted.to_bytes().to_vec(),
        certificates: vec![me.certificate.clone()],
        verified: true,
    };
    store.set_account(1, &own)?;
    store.set_meta("identity", &identity.to_bytes())?;
    store.set_meta("device", &keys.to_bytes())?;
    let upload_bytes = serde_json::to_vec(&upload).map_err(|_| StoreError::Malformed("registration"))?;
    store.set_meta(REGISTRATION, &upload_bytes)?;
    for secret in &secrets {
        store.add_prekey(secret)?;
    }
    store.set_self_record(&me)?;
    store.commit()?;
    let recovery = words(&me.recovery)?;
    Ok(Prepared { me, keys, upload, recovery })
}

fn registration_request(me: &SelfRecord, registration: Registration, prekeys: PrekeyUpload) -> Result<RegisterRequest, OpenError> {
    let certificate = SignedCertificate::from_bytes(&me.certificate).map_err(|_| StoreError::Malformed("certificate"))?;
    let list = SignedDeviceList::from_bytes(&me.list).map_err(|_| StoreError::Malformed("device list"))?;
    let recovery = if me.recovery.is_empty() {
        [0; 32]
    } else {
        *RecoveryKey::from_entropy(&Secret::from_bytes(id("recovery key", &me.recovery)?)).public().as_bytes()
    };
    Ok(RegisterRequest {
        username: registration.username.into(),
        aik: (*certificate.certificate().identity.as_bytes()).into(),
        recovery: recovery.into(),
        certificate: certificate_to_wire(&certificate),
        list: list_to_wire(&list),
        prekeys,
        proof: LoginProof { challenge: [0; 32].into(), client_nonce: [0; 32].into(), origin: String::new(), signature: [0; 64].into() },
        device_name: None,
        invite_code: registration.invite.map(Into::into),
    })
}

/// The server has the account: what was kept for a repetition goes, the recovery key first.
pub(crate) fn confirm(mut store: Store) -> Result<Store, OpenError> {
    let mut me = identity_of(&store)?;
    me.registered = true;
    let mut entropy = Zeroizing::new(std::mem::take(&mut me.recovery));
    entropy.clear();
    me.certificate.clear();
    me.list.clear();
    store.set_self_record(&me)?;
    store.set_meta(REGISTRATION, b"{}")?;
    store.commit()?;
    store.truncate_wal();
    Ok(store)
}

/// Starts the engine and the connection.
pub(crate) async fn run(builder: ClientBuilder, mut store: Store, origin: Origin, server: Option<Server>) -> Result<Client, OpenError> {
    // Whatever else this process links, TLS has one provider. That it was installed before is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let me = identity_of(&store)?;
    if store::is_bare(&builder.home) && store.newest_notice()? == 0 {
        let kind = codes::notice_code(NoticeKind::StoreKeyInFile);
        store.add_notice(&NoticeRecord { at_ms: builder.clock.now_ms(), conversation: 0, kind })?;
        store.commit()?;
    }
    let (account, device) = (AccountId(id("account", &me.account)?), WireDeviceId(id("device", &me.device)?));
    let server = match server {
        Some(server) => server,
        None => {
            let keys = store.meta("device")?.ok_or(StoreError::Malformed("device keys"))?;
            let keys = DeviceKeys::from_bytes(&keys).map_err(StoreError::from)?;
            Server::new(origin, account, keys, Arc::clone(&builder.clock)).map_err(|error| OpenError::Storage(error.to_string()))?
        }
    };
    let (server, published) = (Arc::new(server), Published::new());
    let (inputs, waiting) = mpsc::channel(INPUTS);
    let (fetches, wanted) = mpsc::unbounded_channel();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let reader = store.reader()?;
    let parts = Parts { store, published: published.clone(), fault: builder.fault.clone(), now_ms: builder.clock.now_ms() };
    let engine = on_a_thread(move || Engine::load(parts)).await?;
    let (clock, stopped) = (Arc::clone(&builder.clock), stop.clone());
    let thread = std::thread::Builder::new().name("kith-engine".to_owned());
    thread.spawn(move || engine.run(waiting, &*clock, &fetches, &stopped)).map_err(|error| OpenError::Storage(error.to_string()))?;
    tasks.spawn(transport::fetch_all(Arc::clone(&server), wanted, inputs.clone(), tasks.clone(), stop.clone()));
    let transport = Transport {
        server: Arc::clone(&server),
        engine: inputs.clone(),
        published: published.clone(),
        clock: builder.clock,
        fault: builder.fault,
        stop: stop.clone(),
    };
    tasks.spawn(transport.run());
    let ended = published.ended.subscribe();
    Ok(Client::from_inner(Inner {
        me: Me { account, device, username: me.username },
        engine: EngineHandle::new(inputs, ended),
        published,
        reader,
        server,
        stop,
        tasks,
    }))
}
