//! Device lists: read, publish, leave.

use std::sync::Arc;

use axum::{Json as Answer, extract::State, http::StatusCode};
use kith_chat_core::{
    accounts::{NewDevice, Publication},
    domain::device_list::{self, VerifiedList},
};
use kith_proto::{
    id::{AccountId, DeviceId, DeviceRef},
    rest::{DevicePrekeys, Devices, ErrorBody, History, OwnDevice, PublishListRequest, PublishedList, SignedStatement},
    v1::{self, ErrorCode, server_frame::Kind},
};
use serde::Deserialize;

use super::{
    convert,
    extract::{Caller, Json, Parameters, Segment},
};
use crate::{error::ApiError, state::AppState};

/// Versions in one answer: at ten certificates each well below a megabyte.
const HISTORY_PAGE: usize = 50;
/// Peers that are told of a change; the rest learn of it from `DEVICES_CHANGED` when they send.
const PEERS_TOLD: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Since {
    #[serde(default)]
    since_version: u64,
}

/// Every signed version of an account after one that is known.
#[utoipa::path(get, path = "/v1/accounts/{account}/devices", tag = "devices", security(("access_token" = [])),
    params(("account" = AccountId, Path), ("since_version" = Option<u64>, Query, description = "0, or absent, for all")),
    responses((status = 200, body = History), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn history(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Segment(account): Segment<AccountId>,
    Parameters(since): Parameters<Since>,
) -> Result<Answer<History>, ApiError> {
    let found = state.accounts.history(caller, account, since.since_version, HISTORY_PAGE).await?;
    let history = found.ok_or_else(|| ApiError::new(ErrorCode::UnknownAccount, "no such account"))?;
    Ok(Answer(convert::history(account, history)))
}

/// Publishes the next version of the caller's device list. Devices that are missing from it are revoked and cut.
#[utoipa::path(post, path = "/v1/devices/list", tag = "devices", security(("access_token" = [])), request_body = PublishListRequest,
    responses((status = 200, body = PublishedList), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn publish(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Json(request): Json<PublishListRequest>,
) -> Result<Answer<PublishedList>, ApiError> {
    publish_list(&state, caller, request, None).await
}

/// Revokes a device by the next version of the caller's list, which must not name it.
#[utoipa::path(delete, path = "/v1/devices/{device}", tag = "devices", security(("access_token" = [])), params(("device" = DeviceId, Path)),
    request_body = PublishListRequest,
    responses((status = 200, body = PublishedList), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn revoke(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Segment(device): Segment<DeviceId>,
    Json(request): Json<PublishListRequest>,
) -> Result<Answer<PublishedList>, ApiError> {
    publish_list(&state, caller, request, Some(device)).await
}

async fn publish_list(
    state: &Arc<AppState>,
    caller: DeviceRef,
    request: PublishListRequest,
    without: Option<DeviceId>,
) -> Result<Answer<PublishedList>, ApiError> {
    state.limits.change(caller).await?;
    let base = state.accounts.state(caller.account).await?.ok_or_else(revoked)?;
    let certificates = request.certificates.into_iter().map(convert::signed_certificate).collect();
    let list = device_list::next(&base, convert::signed(request.list), certificates)?;
    if without.is_some_and(|gone| list.list().entries.iter().any(|(device, _)| *device == gone)) {
        return Err(ApiError::new(ErrorCode::InvalidFrame, "the list names the device that is to go"));
    }
    let new_devices = new_devices(&list, request.prekeys).await?;
    let version = list.list().version;
    let publication = Publication::new(base, None, list, new_devices)?;
    commit(state, Some(caller), caller.account, version, publication).await?;
    Ok(Answer(PublishedList { version }))
}

/// Publishes a list and tells who has to know, in one piece: a client that hangs up in between must not keep a revoked device connected.
pub(super) async fn commit(
    state: &Arc<AppState>,
    caller: Option<DeviceRef>,
    account: AccountId,
    version: u64,
    publication: Publication,
) -> Result<(), ApiError> {
    let owned = Arc::clone(state);
    let work = async move {
        let revoked = owned.accounts.publish(caller, publication, owned.clock.now_ms()).await?;
        announce(&owned, account, version, &revoked);
        Ok(())
    };
    to_the_end(state, work).await
}

/// Runs work to its end although the request may end before: when a client hangs up, or the request's deadline is over, its future is dropped.
async fn to_the_end(state: &AppState, work: impl Future<Output = Result<(), ApiError>> + Send + 'static) -> Result<(), ApiError> {
    match state.tasks.spawn(work).await {
        Ok(outcome) => outcome,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(ApiError::new(ErrorCode::Draining, "the server goes away")),
        },
    }
}

/// Takes the calling device off its account by its own signature.
#[utoipa::path(post, path = "/v1/devices/leave", tag = "devices", security(("access_token" = [])), request_body = SignedStatement,
    responses((status = 204), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn leave(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Json(request): Json<SignedStatement>,
) -> Result<StatusCode, ApiError> {
    state.limits.change(caller).await?;
    let base = state.accounts.state(caller.account).await?.ok_or_else(revoked)?;
    if base.devices.iter().all(|known| known.device != caller.device) {
        return Err(revoked());
    }
    let signed = convert::signed(request);
    let leave = device_list::leave(&base, caller, &signed)?;
    let owned = Arc::clone(&state);
    let work = async move {
        owned.accounts.leave(caller, leave.version, signed, owned.clock.now_ms()).await?;
        announce(&owned, caller.account, leave.version, &[caller]);
        Ok(())
    };
    to_the_end(&state, work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's account's current devices.
#[utoipa::path(get, path = "/v1/devices", tag = "devices", security(("access_token" = [])),
    responses((status = 200, body = Devices), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn list(State(state): State<Arc<AppState>>, Caller(caller): Caller) -> Result<Answer<Devices>, ApiError> {
    let (version, devices) = state.accounts.devices(caller).await?;
    let own = devices.into_iter().map(|device| OwnDevice {
        own: device.device == caller.device,
        device: device.device,
        name: device.name.map(Into::into),
        linked_ms: device.linked_ms,
        last_seen_ms: device.last_seen_ms,
    });
    Ok(Answer(Devices { version, devices: own.collect() }))
}

fn revoked() -> ApiError {
    ApiError::new(ErrorCode::DeviceRevoked, "the device is revoked")
}

/// Verifies the prekeys of each device that is new on a list.
pub(super) async fn new_devices(list: &VerifiedList, uploads: Vec<DevicePrekeys>) -> Result<Vec<NewDevice>, ApiError> {
    let mut new_devices = Vec::with_capacity(uploads.len());
    for upload in uploads {
        let new = list.new_devices().find(|(device, _)| device.device == upload.device);
        let (device, key) = new.ok_or_else(|| ApiError::new(ErrorCode::PrekeyInvalid, "prekeys for a device that is not new"))?;
        let prekeys = convert::verified_prekeys(device, *key, upload.prekeys, true).await?;
        new_devices.push(NewDevice { prekeys, name: convert::device_name(upload.name)? });
    }
    Ok(new_devices)
}

/// After the change has committed: cuts who was revoked, then tells the account's own devices and, in a task of its own, its peers.
fn announce(state: &Arc<AppState>, account: AccountId, version: u64, revoked: &[DeviceRef]) {
    for device in revoked {
        state.sessions.cut(*device, ErrorCode::DeviceRevoked);
    }
    let changed = Kind::DeviceListChanged(v1::DeviceListChanged { account: account.to_bytes(), version });
    state.sessions.tell(account, &changed);
    let state = Arc::clone(state);
    state.tasks.clone().spawn(async move {
        // A hint: if the log does not answer, peers learn of it when they send.
        for peer in state.log.mutual_of(account, PEERS_TOLD).await.unwrap_or_default() {
            state.sessions.tell(peer, &changed);
        }
    });
}
