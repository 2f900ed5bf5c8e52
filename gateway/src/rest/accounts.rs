//! Registration and rotation.

use std::sync::Arc;

use axum::{Json as Answer, extract::State, http::StatusCode};
use kith_chat_core::{
    accounts::{NewDevice, Publication, Registered, Registration},
    domain::{
        Username,
        device_list::{self, VerifiedList},
        statement::Bytes32,
    },
};
use kith_proto::{
    id::{AccountId, DeviceRef},
    rest::{ErrorBody, RegisterRequest, RegisterResponse, RotateRequest, Tokens},
    v1::ErrorCode,
};

use super::{
    convert, devices,
    extract::{From, Json, Segment},
    login::{Minted, check_challenge, check_proof},
};
use crate::{config::RegistrationPolicy, error::ApiError, invites::invite_hash, state::AppState};

/// Makes an account with its first device.
#[utoipa::path(post, path = "/v1/accounts", tag = "accounts", request_body = RegisterRequest,
    responses((status = 201, body = RegisterResponse), (status = 200, description = "The very same registration was made before.", body = RegisterResponse),
        (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn register(
    State(state): State<Arc<AppState>>,
    From(peer): From,
    Json(request): Json<RegisterRequest>,
) -> Result<(StatusCode, Answer<RegisterResponse>), ApiError> {
    state.limits.register(&peer).await?;
    let invite = invite(&state, &request)?;
    let username = Username::parse(request.username.as_str()).map_err(|e| ApiError::new(ErrorCode::UsernameInvalid, e.to_string()))?;
    let name = convert::device_name(request.device_name)?;
    let certificate = convert::signed_certificate(request.certificate);
    let says = certificate.parse()?;
    let device = DeviceRef { account: says.account, device: says.device };
    // What costs little first: without a challenge of ours nobody makes us verify anything.
    check_challenge(&state, device, &request.proof)?;
    let list = device_list::first(convert::signed(request.list), vec![certificate])?;
    if list.list().entries.len() != 1 || list.list().aik != request.aik.0 || list.list().recovery != request.recovery.0 {
        return Err(ApiError::new(ErrorCode::InvalidFrame, "the first list is of these keys and names one device"));
    }
    check_proof(&state, &peer, device, &says.ed25519, &request.proof).await?;
    let prekeys = convert::verified_prekeys(device, says.ed25519, request.prekeys, true).await?;
    let minted = Minted::new(&state, device, &request.proof);
    let registration = Registration { username, list, first: NewDevice { prekeys, name }, invite, login: minted.login };
    let status = match state.accounts.register(registration, state.clock.now_ms()).await? {
        Registered::New => StatusCode::CREATED,
        Registered::Again => StatusCode::OK,
    };
    Ok((status, Answer(RegisterResponse { account: device.account, device: device.device, tokens: minted.tokens })))
}

/// The hash of the invite code where one is needed.
fn invite(state: &AppState, request: &RegisterRequest) -> Result<Option<Bytes32>, ApiError> {
    match state.config.registration_policy() {
        RegistrationPolicy::Closed => Err(ApiError::new(ErrorCode::RegistrationClosed, "registration is closed")),
        RegistrationPolicy::Invite => match &request.invite_code {
            Some(code) => Ok(Some(invite_hash(code.as_str()))),
            None => Err(ApiError::new(ErrorCode::InviteInvalid, "registration is by invite code")),
        },
        RegistrationPolicy::Open | RegistrationPolicy::Auto => Ok(None),
    }
}

/// Replaces the identity key by the recovery key, with the first list of the new one.
#[utoipa::path(post, path = "/v1/accounts/{account}/rotate", tag = "accounts", params(("account" = AccountId, Path)), request_body = RotateRequest,
    responses((status = 200, body = Tokens), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn rotate(
    State(state): State<Arc<AppState>>,
    From(peer): From,
    Segment(account): Segment<AccountId>,
    Json(request): Json<RotateRequest>,
) -> Result<Answer<Tokens>, ApiError> {
    state.limits.login(&peer).await?;
    let device = DeviceRef { account, device: request.device };
    check_challenge(&state, device, &request.proof)?;
    let base = state.accounts.state(account).await?.ok_or_else(|| ApiError::new(ErrorCode::UnknownAccount, "no such account"))?;
    let rotation = convert::signed(request.rotate);
    let after = device_list::rotate(&base, &rotation)?;
    let certificates = request.certificates.into_iter().map(convert::signed_certificate).collect();
    let list = device_list::next(&after, convert::signed(request.list), certificates)?;
    let key = key_on(&list, device).ok_or_else(|| ApiError::new(ErrorCode::InvalidFrame, "the device that asks is not on the list"))?;
    check_proof(&state, &peer, device, &key, &request.proof).await?;
    let new_devices = devices::new_devices(&list, request.prekeys).await?;
    let version = list.list().version;
    let minted = Minted::new(&state, device, &request.proof);
    let publication = Publication::new(base, Some(rotation), list, new_devices)?.with_login(device, minted.login);
    devices::commit(&state, None, account, version, publication).await?;
    Ok(Answer(minted.tokens))
}

/// The signing key of a device that the list certifies. After a rotation it certifies all of them.
fn key_on(list: &VerifiedList, device: DeviceRef) -> Option<Bytes32> {
    list.certified().iter().find(|c| c.certificate.device == device.device).map(|c| c.certificate.ed25519)
}
