//! What this server allows.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use kith_chat_core::domain::statement::MAX_DEVICES;
use kith_proto::rest::{ErrorBody, LimitsResponse};

use super::extract::{From, MaybeCaller};
use crate::{config::RegistrationPolicy, error::ApiError, state::AppState};

/// The numbers this server uses, and with a token what is left of the caller's own.
#[utoipa::path(get, path = "/v1/limits", tag = "operation", security((), ("access_token" = [])),
    responses((status = 200, body = LimitsResponse), (status = "4XX", body = ErrorBody)))]
pub(super) async fn limits(
    State(state): State<Arc<AppState>>,
    From(peer): From,
    MaybeCaller(caller): MaybeCaller,
) -> Result<Answer<LimitsResponse>, ApiError> {
    let config = &state.config;
    let registration = match config.registration_policy() {
        RegistrationPolicy::Open | RegistrationPolicy::Auto => "open",
        RegistrationPolicy::Invite => "invite",
        RegistrationPolicy::Closed => "closed",
    };
    Ok(Answer(LimitsResponse {
        max_frame_bytes: config.sessions.max_frame_bytes as u64,
        max_body_bytes: config.http.max_body_bytes as u64,
        max_devices: u32::try_from(MAX_DEVICES).unwrap_or(u32::MAX),
        max_one_time_prekeys: config.prekeys.max_one_time,
        max_one_time_kem_prekeys: config.prekeys.max_one_time_kem,
        retention_ms: config.retention.ms(),
        access_token_ms: config.tokens.access_seconds * 1_000,
        refresh_token_ms: config.tokens.refresh_seconds * 1_000,
        registration: registration.to_owned(),
        buckets: state.limits.states(&peer, caller).await,
    }))
}
