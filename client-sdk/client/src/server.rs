//! The server's REST side: accounts, lists, prekeys, and the access token that everything needs.

use crate::clock::Clock;
use crate::error::{RegisterError, RequestError};
use crate::model::OwnDevice;
use crate::statements::{AccountHistory, BadStatement};
use kith_crypto::device::DeviceKeys;
use kith_crypto::login::{LoginStatement, Origin};
use kith_proto::id::{AccountId, DeviceId};
use kith_proto::rest::{
    Base64Array, Bundles, BundlesRequest, ChallengeRequest, ChallengeResponse, Devices, ErrorBody, History, KeysState, LoginProof, LoginRequest,
    PrekeyUpload, PublishListRequest, PublishedList, RegisterRequest, RegisterResponse, Tokens, UserResponse,
};
use kith_proto::v1::{ErrorCode, Retry};
use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// No answer takes longer than this.
const DEADLINE: Duration = Duration::from_secs(15);
/// A token is renewed this long before it ends.
pub(crate) const RENEW_BEFORE_MS: u64 = 60_000;
/// Largest answer that is read, in bytes: ten devices' bundles, or a page of lists.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, Clone, Error)]
pub(crate) enum ServerError {
    #[error("unreachable: {0}")]
    Unreachable(String),
    #[error("refused: {code:?}")]
    Refused { code: ErrorCode, retry: Retry, after_ms: u64 },
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    #[error("the login was not signed: {0}")]
    Login(String),
}

impl From<reqwest::Error> for ServerError {
    fn from(error: reqwest::Error) -> Self {
        // The address would name the user that was looked up.
        Self::Unreachable(error.without_url().to_string())
    }
}

impl From<BadStatement> for ServerError {
    fn from(error: BadStatement) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<ServerError> for RequestError {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Unreachable(why) => Self::Unreachable(why),
            ServerError::Refused { code: ErrorCode::NotFound | ErrorCode::UnknownAccount, .. } => Self::NotFound,
            ServerError::Refused { code: ErrorCode::RateLimited, after_ms, .. } => Self::RateLimited { after_ms },
            ServerError::Refused { code, .. } => Self::Refused { code },
            ServerError::Malformed(why) | ServerError::Login(why) => Self::NotTrusted(why),
        }
    }
}

impl From<ServerError> for RegisterError {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Unreachable(why) => Self::Unreachable(why),
            ServerError::Refused { code, .. } => match code {
                ErrorCode::UsernameTaken => Self::UsernameTaken,
                ErrorCode::UsernameInvalid => Self::UsernameInvalid,
                ErrorCode::RegistrationClosed => Self::Closed,
                ErrorCode::InviteInvalid => Self::InviteInvalid,
                code => Self::Refused { code },
            },
            ServerError::Malformed(why) | ServerError::Login(why) => Self::Unreachable(why),
        }
    }
}

/// An access token and when it ends.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) text: Arc<Zeroizing<String>>,
    pub(crate) expires_ms: u64,
}

impl Token {
    fn of(tokens: Tokens) -> Self {
        Self { text: Arc::new(Zeroizing::new(tokens.access_token.0)), expires_ms: tokens.access_expires_ms }
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// The server as one device of one account sees it.
pub(crate) struct Server {
    http: reqwest::Client,
    origin: Origin,
    account: AccountId,
    keys: DeviceKeys,
    clock: Arc<dyn Clock>,
    token: Mutex<Option<Token>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    pub(crate) fn new(origin: Origin, account: AccountId, keys: DeviceKeys, clock: Arc<dyn Clock>) -> Result<Self, ServerError> {
        let http = reqwest::Client::builder()
            .timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("kith/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, origin, account, keys, clock, token: Mutex::new(None) })
    }

    pub(crate) const fn origin(&self) -> &Origin {
        &self.origin
    }

    fn device(&self) -> DeviceId {
        crate::ids::wire_device(self.keys.device_id())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.origin.as_str()))
    }

    /// Takes a challenge and signs it, for the origin dialled and for no other.
    async fn proof(&self) -> Result<LoginProof, ServerError> {
        let request = ChallengeRequest { account: self.account, device: self.device() };
        let challenge: ChallengeResponse = answer(self.request(Method::POST, "/v1/login/challenge").json(&request)).await?;
        let mut client_nonce = [0; 32];
        getrandom::fill(&mut client_nonce).map_err(|error| ServerError::Login(error.to_string()))?;
        let statement = LoginStatement {
            origin: self.origin.clone(),
            account_id: crate::ids::account(self.account),
            device_id: self.keys.device_id(),
            challenge: challenge.challenge.0,
            client_nonce,
            expires_ms: challenge.expires_ms,
        };
        // The server's clock counts here: a challenge lives for a minute of the server's time, whatever this device's clock shows.
        let now_ms = self.clock.now_ms().clamp(challenge.expires_ms.saturating_sub(60_000), challenge.expires_ms.saturating_sub(1));
        let signature = statement.sign(&self.keys, &self.origin, now_ms).map_err(|error| ServerError::Login(error.to_string()))?;
        Ok(LoginProof {
            challenge: challenge.challenge,
            client_nonce: Base64Array(client_nonce),
            origin: self.origin.as_str().to_owned(),
            signature: Base64Array(*signature.as_bytes()),
        })
    }

    /// Registers the account; the proof is added here. Safe to repeat.
    pub(crate) async fn register(&self, build: impl FnOnce(LoginProof) -> RegisterRequest) -> Result<(), ServerError> {
        let request = build(self.proof().await?);
        let made: RegisterResponse = answer(self.request(Method::POST, "/v1/accounts").json(&request)).await?;
        if made.account != self.account || made.device != self.device() {
            return Err(ServerError::Malformed("another account was registered".to_owned()));
        }
        *self.token.lock().await = Some(Token::of(made.tokens));
        Ok(())
    }

    /// A token that is good for at least another minute, by a fresh login if need be. There is no other way to get one: a refresh
    /// would save one round trip in ten minutes, and cost a secret that is good for 30 days without the device's key.
    pub(crate) async fn token(&self) -> Result<Token, ServerError> {
        let mut held = self.token.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.expires_ms > self.clock.now_ms().saturating_add(RENEW_BEFORE_MS)) {
            return Ok(token.clone());
        }
        let request = LoginRequest { account: self.account, device: self.device(), proof: self.proof().await? };
        let tokens: Tokens = answer(self.request(Method::POST, "/v1/login").json(&request)).await?;
        let token = Token::of(tokens);
        *held = Some(token.clone());
        Ok(token)
    }

    /// Forgets a token that the server no longer takes.
    pub(crate) async fn forget_token(&self) {
        *self.token.lock().await = None;
    }

    /// Sends a request with the token; once more with a fresh one if that has ended meanwhile.
    async fn authorized<T: DeserializeOwned>(&self, build: impl Fn() -> RequestBuilder) -> Result<T, ServerError> {
        let token = self.token().await?;
        match answer(build().bearer_auth(token.text.as_str())).await {
            Err(ServerError::Refused { code: ErrorCode::TokenExpired | ErrorCode::Unauthenticated, .. }) => {
                self.forget_token().await;
                answer(build().bearer_auth(self.token().await?.text.as_str())).await
            }
            answered => answered,
        }
    }

    pub(crate) async fn find_user(&self, username: &str) -> Result<UserResponse, ServerError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
        if username.is_empty() || username.len() > 32 || !username.bytes().all(allowed) {
            return Err(ServerError::Refused { code: ErrorCode::NotFound, retry: Retry::Never, after_ms: 0 });
        }
        self.authorized(|| self.request(Method::GET, &format!("/v1/users/{username}"))).await
    }

    /// An account's statements above a version. At most a hundred pages, whatever the server says.
    pub(crate) async fn device_lists(&self, account: AccountId, since: u64) -> Result<AccountHistory, ServerError> {
        let mut pages: Vec<History> = Vec::new();
        let mut from = since;
        while pages.len() < 100 {
            let path = format!("/v1/accounts/{account}/devices?since_version={from}");
            let page: History = self.authorized(|| self.request(Method::GET, &path)).await?;
            let (more, read) = (page.more, page.statements.len());
            pages.push(page);
            if !more || read == 0 {
                break;
            }
            from = from.saturating_add(read as u64);
        }
        Ok(AccountHistory::from_pages(&pages)?)
    }

    pub(crate) async fn bundles(&self, account: AccountId, devices: Vec<DeviceId>) -> Result<Bundles, ServerError> {
        let request = BundlesRequest { devices: Some(devices) };
        self.authorized(|| self.request(Method::POST, &format!("/v1/accounts/{account}/bundles")).json(&request)).await
    }

    pub(crate) async fn keys(&self) -> Result<KeysState, ServerError> {
        self.authorized(|| self.request(Method::GET, "/v1/keys")).await
    }

    pub(crate) async fn upload_keys(&self, upload: &PrekeyUpload) -> Result<KeysState, ServerError> {
        self.authorized(|| self.request(Method::POST, "/v1/keys").json(upload)).await
    }

    pub(crate) async fn own_devices(&self) -> Result<Vec<OwnDevice>, ServerError> {
        let devices: Devices = self.authorized(|| self.request(Method::GET, "/v1/devices")).await?;
        let this = self.device();
        let own = |device: kith_proto::rest::OwnDevice| OwnDevice {
            device: device.device,
            this: device.device == this,
            linked_ms: device.linked_ms,
            last_seen_ms: (device.last_seen_ms != 0).then_some(device.last_seen_ms),
        };
        Ok(devices.devices.into_iter().map(own).collect())
    }

    pub(crate) async fn publish_list(&self, list: &PublishListRequest) -> Result<PublishedList, ServerError> {
        self.authorized(|| self.request(Method::POST, "/v1/devices/list").json(list)).await
    }
}

async fn answer<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, ServerError> {
    let mut response = request.send().await?;
    let status = response.status();
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(ServerError::Malformed("it is too large".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| ServerError::Malformed(error.to_string()));
    }
    let refused: ErrorBody = serde_json::from_slice(&body).map_err(|_| ServerError::Unreachable(format!("status {}", status.as_u16())))?;
    Err(ServerError::Refused { code: refused.code.0, retry: refused.retry.0, after_ms: refused.after_ms.unwrap_or(0) })
}
