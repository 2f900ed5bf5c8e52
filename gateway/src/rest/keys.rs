//! Prekeys: what is stored, topping up, handing out.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use kith_chat_core::{
    accounts::{Bundle, BundleRequest},
    domain::prekeys::Kind as PrekeyKind,
};
use kith_proto::{
    id::{AccountId, DeviceRef},
    rest::{Bundles, BundlesRequest, ErrorBody, KeysState, PrekeyUpload},
    v1::{self, ErrorCode, server_frame::Kind},
};

use super::{
    convert,
    extract::{Caller, Json, Segment},
};
use crate::{error::ApiError, state::AppState};

/// Devices that one request may name: what a list may.
const MAX_DEVICES: usize = kith_chat_core::domain::statement::MAX_DEVICES;

/// What is stored of the calling device's prekeys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", security(("access_token" = [])),
    responses((status = 200, body = KeysState), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn state(State(state): State<Arc<AppState>>, Caller(caller): Caller) -> Result<Answer<KeysState>, ApiError> {
    Ok(Answer(convert::keys_state(state.accounts.prekeys(caller).await?)))
}

/// Stores more prekeys of the calling device.
#[utoipa::path(post, path = "/v1/keys", tag = "keys", security(("access_token" = [])), request_body = PrekeyUpload,
    responses((status = 200, body = KeysState), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn upload(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Json(request): Json<PrekeyUpload>,
) -> Result<Answer<KeysState>, ApiError> {
    state.limits.change(caller).await?;
    let key = state.accounts.signing_key(caller).await?;
    let key = key.ok_or_else(|| ApiError::new(ErrorCode::DeviceRevoked, "the device is revoked"))?;
    let prekeys = convert::verified_prekeys(caller, key, request, false).await?;
    let stored = state.accounts.add_prekeys(prekeys, state.config.prekeys.caps()).await?;
    Ok(Answer(convert::keys_state(stored)))
}

/// One bundle per device of an account, each with one-time keys that nobody else gets.
#[utoipa::path(post, path = "/v1/accounts/{account}/bundles", tag = "keys", security(("access_token" = [])), params(("account" = AccountId, Path)),
    request_body = BundlesRequest, responses((status = 200, body = Bundles), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn bundles(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Segment(account): Segment<AccountId>,
    Json(request): Json<BundlesRequest>,
) -> Result<Answer<Bundles>, ApiError> {
    let now_ms = state.clock.now_ms();
    if request.devices.as_ref().is_some_and(|devices| devices.len() > MAX_DEVICES) {
        return Err(ApiError::new(ErrorCode::InvalidFrame, format!("at most {MAX_DEVICES} devices")));
    }
    state.limits.bundles(caller).await?;
    let (per_pair, per_target) = state.config.limits.one_time();
    let request = BundleRequest { caller, account, devices: request.devices, per_pair, per_target };
    let taken = state.accounts.take_bundles(request, now_ms).await?;
    for bundle in &taken.bundles {
        tell_if_low(&state, account, bundle);
    }
    let bundles = taken.bundles.into_iter().map(convert::bundle).collect::<Result<_, _>>()?;
    Ok(Answer(Bundles { account, list_version: taken.list_version, bundles }))
}

/// Asks the device for more keys when this bundle took one of the last.
fn tell_if_low(state: &AppState, account: AccountId, bundle: &Bundle) {
    let (one_time, one_time_kem) = bundle.left;
    let took = bundle.one_time.is_some() || bundle.kem.kind == PrekeyKind::OneTimeKem;
    if took && one_time.min(one_time_kem) < state.config.prekeys.low_below {
        let device = DeviceRef { account, device: bundle.device };
        state.sessions.tell_device(device, &Kind::KeysLow(v1::KeysLow { one_time, one_time_kem }));
    }
}
