//! REST as a stranger would call it.

use std::time::Duration;

use anyhow::Context as _;
use kith_proto::{
    id::AccountId,
    rest::{
        Bundles, BundlesRequest, ChallengeRequest, ChallengeResponse, ErrorBody, LoginProof, LoginRequest, PublishListRequest, PublishedList,
        RefreshRequest, RegisterRequest, RegisterResponse, Tokens, UserResponse,
    },
    v1::ErrorCode,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde::{Serialize, de::DeserializeOwned};

use crate::identity::{Device, Identity, random};

/// The longest any answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A server's REST interface.
#[derive(Debug, Clone)]
pub struct Rest {
    http: reqwest::Client,
    /// `http://host:port`, which is dialled.
    pub origin: String,
    /// What a login signs: the same, unless the server is reached through something.
    pub public: String,
}

/// An answer that was no 2xx.
#[derive(Debug, thiserror::Error)]
#[error("{status}: {body:?}")]
pub struct Refused {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The error.
    pub body: ErrorBody,
}

/// Why a call brought no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server said no.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// The server was not there, or went away, or spoke nonsense.
    #[error(transparent)]
    Broken(#[from] anyhow::Error),
}

impl CallError {
    /// The code of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refused) => Some(refused.body.code.0),
            Self::Broken(_) => None,
        }
    }
}

/// What a call gives.
pub type Answer<T> = Result<T, CallError>;

impl Rest {
    /// For the server at `origin`.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(origin: &str) -> anyhow::Result<Self> {
        Self::behind(origin, origin)
    }

    /// For a server that is reached at `origin` and believes to be dialled as `public`.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn behind(origin: &str, public: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).no_proxy().build()?;
        Ok(Self { http, origin: origin.to_owned(), public: public.to_owned() })
    }

    /// Any call at all: status, headers and body as they come.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Vec<u8>>,
    ) -> anyhow::Result<(StatusCode, HeaderMap, Vec<u8>)> {
        let mut request = self.http.request(method, format!("{}{path}", self.origin));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok((status, headers, response.bytes().await?.to_vec()))
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, token: Option<&str>, body: Option<&(impl Serialize + Sync)>) -> Answer<T> {
        let body = body.map(serde_json::to_vec).transpose().map_err(anyhow::Error::from)?;
        let (status, headers, bytes) = self.raw(method, path, token, body).await?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&bytes).context("an answer of another shape")?);
        }
        let body = serde_json::from_slice(&bytes).with_context(|| format!("{status} without an error body: {}", String::from_utf8_lossy(&bytes)))?;
        Err(CallError::Refused(Box::new(Refused { status, headers, body })))
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, token: Option<&str>, body: &(impl Serialize + Sync)) -> Answer<T> {
        self.call(Method::POST, path, token, Some(body)).await
    }

    /// `GET path`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str, token: Option<&str>) -> Answer<T> {
        self.call(Method::GET, path, token, None::<&()>).await
    }

    /// A challenge, signed.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn prove(&self, account: AccountId, device: &Device) -> Answer<LoginProof> {
        let given: ChallengeResponse = self.post("/v1/login/challenge", None, &ChallengeRequest { account, device: device.id }).await?;
        let nonce = random();
        Ok(LoginProof {
            challenge: given.challenge,
            client_nonce: nonce.into(),
            origin: self.public.clone(),
            signature: device.sign_login(account, &self.public, &given.challenge.0, &nonce, given.expires_ms),
        })
    }

    /// Registers an account with its first device.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn register(&self, username: &str, identity: &mut Identity, device: &mut Device, one_time: usize) -> Answer<RegisterResponse> {
        let certificate = identity.certify(device, 1);
        let request = RegisterRequest {
            username: username.into(),
            aik: identity.aik().into(),
            recovery: [0; 32].into(),
            list: identity.sign_list(&[(device, &certificate)]),
            certificate,
            prekeys: device.prekeys(identity.account, one_time),
            proof: self.prove(identity.account, device).await?,
            device_name: None,
            invite_code: None,
        };
        self.post("/v1/accounts", None, &request).await
    }

    /// Logs in by challenge.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn login(&self, account: AccountId, device: &Device) -> Answer<Tokens> {
        let proof = self.prove(account, device).await?;
        self.post("/v1/login", None, &LoginRequest { account, device: device.id, proof }).await
    }

    /// New tokens for a refresh token.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn refresh(&self, refresh_token: &str) -> Answer<Tokens> {
        self.post("/v1/token/refresh", None, &RefreshRequest { refresh_token: refresh_token.into() }).await
    }

    /// Looks a user up.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn user(&self, token: &str, username: &str) -> Answer<UserResponse> {
        self.get(&format!("/v1/users/{username}"), Some(token)).await
    }

    /// Publishes the next device list.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn publish(&self, token: &str, request: &PublishListRequest) -> Answer<PublishedList> {
        self.post("/v1/devices/list", Some(token), request).await
    }

    /// Bundles of all devices of an account.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn bundles(&self, token: &str, account: AccountId) -> Answer<Bundles> {
        self.post(&format!("/v1/accounts/{account}/bundles"), Some(token), &BundlesRequest::default()).await
    }
}
