//! Look-up by name.

use std::sync::Arc;

use axum::{Json as Answer, extract::State};
use kith_chat_core::domain::Username;
use kith_proto::{
    rest::{ErrorBody, UserResponse},
    v1::ErrorCode,
};

use super::extract::{Caller, Segment};
use crate::{error::ApiError, state::AppState};

/// Finds an account by its exact name.
#[utoipa::path(get, path = "/v1/users/{username}", tag = "accounts", params(("username" = String, Path)), security(("access_token" = [])),
    responses((status = 200, body = UserResponse), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn find(
    State(state): State<Arc<AppState>>,
    Caller(caller): Caller,
    Segment(name): Segment<String>,
) -> Result<Answer<UserResponse>, ApiError> {
    state.limits.lookup(caller).await?;
    let username = Username::parse(&name).map_err(|error| ApiError::new(ErrorCode::UsernameInvalid, error.to_string()))?;
    let found = state.accounts.user(caller, username.clone()).await?;
    let user = found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "nobody has this name"))?;
    Ok(Answer(UserResponse { account: user.account, username: username.as_str().into(), aik: user.aik.into(), list_version: user.list_version }))
}
