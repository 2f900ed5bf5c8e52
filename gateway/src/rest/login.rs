//! Challenges, logins, tokens.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use kith_chat_core::{
    accounts::{NewLogin, Refresh},
    domain::{login::Login, statement::Bytes32},
};
use kith_proto::{
    id::DeviceRef,
    rest::{ChallengeRequest, ChallengeResponse, ErrorBody, LoginProof, LoginRequest, RefreshRequest, Tokens},
    v1::ErrorCode,
};
use sha2::{Digest as _, Sha256};

use super::extract::{From, Json};
use crate::{challenge::Challenges, error::ApiError, peer::Peer, state::AppState};

/// For so long after an exchange the refresh token before the newest may be exchanged again, since the answer may have been lost.
const REFRESH_GRACE_MS: u64 = 60_000;

/// A key that belongs to nobody, for the look of work: the base point.
const NOBODY: Bytes32 = {
    let mut key = [0x66; 32];
    key[0] = 0x58;
    key
};

/// Gives a challenge to sign. Answered alike whether or not the account and device exist.
#[utoipa::path(post, path = "/v1/login/challenge", tag = "accounts", request_body = ChallengeRequest,
    responses((status = 200, body = ChallengeResponse), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn challenge(
    State(state): State<Arc<AppState>>,
    From(peer): From,
    Json(request): Json<ChallengeRequest>,
) -> Result<Answer<ChallengeResponse>, ApiError> {
    let now_ms = state.clock.now_ms();
    state.limits.login(&peer).await?;
    let device = DeviceRef { account: request.account, device: request.device };
    let (challenge, expires_ms) = state.challenges.issue(device, rand::random(), now_ms);
    Ok(Answer(ChallengeResponse { challenge: challenge.into(), expires_ms }))
}

/// Logs a device in by its signature over a challenge.
#[utoipa::path(post, path = "/v1/login", tag = "accounts", request_body = LoginRequest,
    responses((status = 200, body = Tokens), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn login(
    State(state): State<Arc<AppState>>,
    From(peer): From,
    Json(request): Json<LoginRequest>,
) -> Result<Answer<Tokens>, ApiError> {
    state.limits.login(&peer).await?;
    let device = DeviceRef { account: request.account, device: request.device };
    check_challenge(&state, device, &request.proof)?;
    let key = state.accounts.signing_key(device).await?;
    // An unknown device costs what a wrong signature costs and looks like one.
    let verified = check_proof(&state, &peer, device, &key.unwrap_or(NOBODY), &request.proof).await;
    if key.is_none() {
        return Err(ApiError::new(ErrorCode::SignatureInvalid, "a signature does not hold"));
    }
    verified?;
    let minted = Minted::new(&state, device, &request.proof);
    state.accounts.login(device, minted.login, state.clock.now_ms()).await?;
    Ok(Answer(minted.tokens))
}

/// Exchanges a refresh token for new tokens.
#[utoipa::path(post, path = "/v1/token/refresh", tag = "accounts", request_body = RefreshRequest,
    responses((status = 200, body = Tokens), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn refresh(
    State(state): State<Arc<AppState>>,
    From(peer): From,
    Json(request): Json<RefreshRequest>,
) -> Result<Answer<Tokens>, ApiError> {
    let now_ms = state.clock.now_ms();
    state.limits.login(&peer).await?;
    let invalid = || ApiError::new(ErrorCode::Unauthenticated, "the refresh token is not valid");
    let presented = RefreshToken::parse(request.refresh_token.as_str()).ok_or_else(invalid)?;
    let next = RefreshToken { family: presented.family, secret: rand::random() };
    let expires_ms = now_ms + state.config.tokens.refresh_seconds * 1_000;
    let refresh = Refresh { family: presented.family, presented: presented.hash(), next: next.hash(), expires_ms, grace_ms: REFRESH_GRACE_MS };
    let device = state.accounts.refresh(refresh, now_ms).await?;
    Ok(Answer(tokens(&state, device, &next, now_ms, expires_ms)))
}

/// Checks what costs little, before anything that costs more: that the challenge is one for this device and the origin one of ours.
pub(super) fn check_challenge(state: &AppState, device: DeviceRef, proof: &LoginProof) -> Result<u64, ApiError> {
    let expires_ms = state.challenges.check(device, &proof.challenge.0, state.clock.now_ms())?;
    if !state.origins.contains(&proof.origin) {
        return Err(ApiError::new(ErrorCode::OriginMismatch, "the origin signed for is not one of this server's"));
    }
    Ok(expires_ms)
}

/// Checks the whole proof by the device's key. The challenge is used up by the login that is stored ([`Minted`]).
pub(super) async fn check_proof(state: &AppState, peer: &Peer, device: DeviceRef, key: &Bytes32, proof: &LoginProof) -> Result<(), ApiError> {
    let expires_ms = check_challenge(state, device, proof)?;
    let login = Login { origin: &proof.origin, device, challenge: &proof.challenge.0, client_nonce: &proof.client_nonce.0, expires_ms };
    login.verify(key, &proof.signature.0)?;
    Ok(state.limits.login_device(peer, device).await?)
}

/// A login to be stored, and the tokens of it.
pub(super) struct Minted {
    pub(super) login: NewLogin,
    pub(super) tokens: Tokens,
}

impl Minted {
    /// Of a proof that was checked.
    pub(super) fn new(state: &AppState, device: DeviceRef, proof: &LoginProof) -> Self {
        let now_ms = state.clock.now_ms();
        let token = RefreshToken { family: rand::random(), secret: rand::random() };
        let expires_ms = now_ms + state.config.tokens.refresh_seconds * 1_000;
        let login = NewLogin { family: token.family, token: token.hash(), expires_ms, challenge: Challenges::spent(&proof.challenge.0) };
        Self { login, tokens: tokens(state, device, &token, now_ms, expires_ms) }
    }
}

fn tokens(state: &AppState, device: DeviceRef, refresh: &RefreshToken, now_ms: u64, refresh_expires_ms: u64) -> Tokens {
    let access_expires_ms = now_ms + state.config.tokens.access_seconds * 1_000;
    Tokens {
        access_token: state.tokens.issue(device, access_expires_ms).into(),
        access_expires_ms,
        refresh_token: refresh.text().into(),
        refresh_expires_ms,
    }
}

/// base64url of family ‖ secret. The server keeps a hash of the secret.
struct RefreshToken {
    family: [u8; 16],
    secret: [u8; 32],
}

impl RefreshToken {
    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 48];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (family, secret) = bytes.split_first_chunk::<16>()?;
        let token = Self { family: *family, secret: secret.try_into().ok()? };
        (length == 48).then_some(token)
    }

    fn text(&self) -> String {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&self.family);
        bytes[16..].copy_from_slice(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn hash(&self) -> Bytes32 {
        Sha256::new().chain_update("kith/refresh").chain_update(self.secret).finalize().into()
    }
}
