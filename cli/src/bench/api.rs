//! The REST calls that the generator needs: real accounts, real signatures, real logins.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use kith_crypto::{
    device::{DeviceKeys, SignedCertificate},
    device_list::SignedDeviceList,
    id as crypto_id,
    identity::AccountIdentity,
    login::{LoginStatement, Origin},
    prekey::{PrekeyId, PrekeySecret, SignedPrekey},
    sign::{Label, SIGNATURE_LEN, signed_string},
};
use kith_proto::{
    id::{AccountId, DeviceId, DeviceRef},
    rest,
};
use rand::rngs::StdRng;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::sleep;

/// Every call must be answered by then.
const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// How often a call that the server says may be repeated is repeated.
const ATTEMPTS: u32 = 20;

/// A registered account with its one device.
#[derive(Debug)]
pub(super) struct Account {
    /// Who it is.
    pub(super) device: DeviceRef,
    /// Its access token.
    pub(super) token: String,
    /// The epoch of its last connection.
    pub(super) epoch: u64,
    keys: DeviceKeys,
}

/// The REST side of a server.
#[derive(Debug, Clone)]
pub(super) struct Api {
    http: reqwest::Client,
    base: String,
    origin: Origin,
    invite: Option<String>,
}

impl Api {
    /// For the server at `base`, `http://host:port`, which its clients know as `origin`.
    ///
    /// # Errors
    /// If an address is none.
    pub(super) fn new(base: &str, origin: &str, invite: Option<String>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(CALL_DEADLINE).tcp_nodelay(true).build()?;
        let origin = Origin::parse(origin).context("the server's address is no origin")?;
        Ok(Self { http, base: base.trim_end_matches('/').to_owned(), origin, invite })
    }

    async fn post<Q: Serialize + Sync, A: DeserializeOwned>(&self, path: &str, body: &Q) -> anyhow::Result<A> {
        for _ in 0..ATTEMPTS {
            let answer = self.http.post(format!("{}{path}", self.base)).json(body).send().await.with_context(|| format!("POST {path}"))?;
            if answer.status().is_success() {
                return Ok(answer.json().await?);
            }
            let status = answer.status();
            let error: rest::ErrorBody = answer.json().await.with_context(|| format!("POST {path} was answered {status} in a form unknown"))?;
            match error.after_ms {
                // A bench that waits for minutes on a limit measures the limit.
                Some(after) if after <= 5_000 => sleep(Duration::from_millis(after)).await,
                _ => bail!("POST {path} was refused: {} ({})", error.code.0.as_str_name(), error.message),
            }
        }
        bail!("POST {path} was refused {ATTEMPTS} times")
    }

    async fn prove(&self, keys: &DeviceKeys, device: DeviceRef) -> anyhow::Result<rest::LoginProof> {
        let request = rest::ChallengeRequest { account: device.account, device: device.device };
        let challenge: rest::ChallengeResponse = self.post("/v1/login/challenge", &request).await?;
        let statement = LoginStatement {
            origin: self.origin.clone(),
            account_id: crypto_id::AccountId::from_bytes(device.account.0),
            device_id: crypto_id::DeviceId::from_bytes(device.device.0),
            challenge: challenge.challenge.0,
            client_nonce: rand::random(),
            expires_ms: challenge.expires_ms,
        };
        let signature = statement.sign(keys, &self.origin, now_ms()).context("the server's challenge cannot be signed")?;
        Ok(rest::LoginProof {
            challenge: challenge.challenge,
            client_nonce: statement.client_nonce.into(),
            origin: self.origin.as_str().to_owned(),
            signature: (*signature.as_bytes()).into(),
        })
    }

    /// Registers an account with one device and the fewest prekeys the server takes.
    ///
    /// # Errors
    /// If the server refuses or cannot be reached.
    pub(super) async fn register(&self, username: String, rng: &mut StdRng) -> anyhow::Result<Account> {
        let now = now_ms();
        let identity = AccountIdentity::create(rng, None);
        let keys = DeviceKeys::random(rng, crypto_id::DeviceId::from_bytes(rand::random()));
        let account = identity.account_id();
        let certificate = identity.certify(&keys.request_certificate(account, identity.public(), 1)).context("own certificate")?;
        let list = identity.sign_list(None, &[certificate], now);
        let signed = PrekeySecret::signed(rng, PrekeyId::FIRST, now);
        let last_resort = PrekeySecret::kem_last_resort(rng, PrekeyId::FIRST.next()?, now);
        let device = DeviceRef { account: AccountId(account.to_bytes()), device: DeviceId(keys.device_id().to_bytes()) };
        let request = rest::RegisterRequest {
            username: username.into(),
            aik: (*identity.public().as_bytes()).into(),
            recovery: [0; 32].into(),
            certificate: certificate_body(&certificate),
            list: list_body(&list),
            prekeys: rest::PrekeyUpload {
                signed: signed.signed_public(account, &keys).as_ref().map(prekey_body),
                last_resort_kem: last_resort.signed_public(account, &keys).as_ref().map(prekey_body),
                ..Default::default()
            },
            proof: self.prove(&keys, device).await?,
            device_name: None,
            invite_code: self.invite.clone().map(Into::into),
        };
        let answer: rest::RegisterResponse = self.post("/v1/accounts", &request).await?;
        Ok(Account { device, token: answer.tokens.access_token.0, epoch: 0, keys })
    }

    /// Logs in by challenge and signature.
    ///
    /// # Errors
    /// If the server refuses or cannot be reached.
    pub(super) async fn log_in(&self, account: &Account) -> anyhow::Result<rest::Tokens> {
        let proof = self.prove(&account.keys, account.device).await?;
        let request = rest::LoginRequest { account: account.device.account, device: account.device.device, proof };
        self.post("/v1/login", &request).await
    }
}

fn certificate_body(certificate: &SignedCertificate) -> rest::Certificate {
    let bytes = certificate.to_bytes();
    let (fields, signatures) = bytes.split_at(bytes.len() - 2 * SIGNATURE_LEN);
    let (by_account, by_device) = signatures.split_at(SIGNATURE_LEN);
    rest::Certificate {
        signed: signed_string(Label::Device, &[fields]).into(),
        aik_signature: signature_body(by_account),
        accept_signature: signature_body(by_device),
    }
}

fn list_body(list: &SignedDeviceList) -> rest::SignedStatement {
    let bytes = list.to_bytes();
    let (fields, signature) = bytes.split_at(bytes.len() - SIGNATURE_LEN);
    rest::SignedStatement { signed: signed_string(Label::Devices, &[fields]).into(), signature: signature_body(signature) }
}

fn signature_body(bytes: &[u8]) -> rest::Base64Array<SIGNATURE_LEN> {
    rest::Base64Array(bytes.try_into().expect("split at the length of a signature"))
}

fn prekey_body(prekey: &SignedPrekey) -> rest::SignedPrekey {
    rest::SignedPrekey {
        id: prekey.id().get(),
        created_ms: prekey.created_ms(),
        key: prekey.key().into(),
        signature: (*prekey.signature().as_bytes()).into(),
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
