//! What handlers take from a request: who calls, from where, with what body.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{HeaderMap, header, request::Parts},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use kith_proto::{id::DeviceRef, v1::ErrorCode};
use serde::de::DeserializeOwned;

use crate::{error::ApiError, peer::Peer, state::AppState};

/// The device whose access token came with the request. Counts against its account's requests.
pub(super) struct Caller(pub(super) DeviceRef);

impl FromRequestParts<Arc<AppState>> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let caller = bearer(parts, state)?.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated, "an access token is needed"))?;
        state.limits.request(caller)?;
        Ok(Self(caller))
    }
}

/// The same where a token is not needed. A bad one is refused all the same.
pub(super) struct MaybeCaller(pub(super) Option<DeviceRef>);

impl FromRequestParts<Arc<AppState>> for MaybeCaller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        bearer(parts, state).map(Self)
    }
}

fn bearer(parts: &Parts, state: &AppState) -> Result<Option<DeviceRef>, ApiError> {
    let Some(value) = parts.headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(ApiError::new(ErrorCode::Unauthenticated, "the scheme is Bearer"));
    }
    Ok(Some(state.tokens.verify(token.trim(), state.clock.now_ms())?.device))
}

/// Where the request comes from.
pub(super) struct From(pub(super) Peer);

impl FromRequestParts<Arc<AppState>> for From {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        peer(parts, state).map(Self)
    }
}

/// The peer as the socket and, where they are trusted, the headers say.
pub(super) fn peer(parts: &Parts, state: &AppState) -> Result<Peer, ApiError> {
    // The accept loop puts it in; a router that is driven otherwise must as well.
    let peer = parts.extensions.get::<Peer>().ok_or_else(|| ApiError::new(ErrorCode::Internal, "no peer address"))?;
    Ok(peer.forwarded(&parts.headers, &state.trusted))
}

/// A JSON body of limited size. Refused by its announced length before a byte of it is read.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let most = state.config.http.max_body_bytes;
        check_head(request.headers(), most)?;
        let body = Limited::new(request.into_body(), most).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { too_large(most) } else { ApiError::new(ErrorCode::InvalidFrame, "the body broke off") }
        })?;
        let value = serde_json::from_slice(&body.to_bytes()).map_err(|error| ApiError::new(ErrorCode::InvalidFrame, error.to_string()))?;
        Ok(Self(value))
    }
}

fn check_head(headers: &HeaderMap, most: usize) -> Result<(), ApiError> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let media_type = header(header::CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(ErrorCode::InvalidFrame, "the body must be application/json"));
    }
    if header(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > most as u64) {
        return Err(too_large(most));
    }
    Ok(())
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("a body is at most {most} bytes"))
}

/// A part of the path. An id that is none names nothing.
pub(super) struct Segment<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<AppState>> for Segment<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let Path(value) = Path::from_request_parts(parts, state).await.map_err(|_| ApiError::new(ErrorCode::NotFound, "no such path"))?;
        Ok(Self(value))
    }
}

/// The query of the address.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<AppState>> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<AppState>) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        let Query(value) = query.map_err(|error| ApiError::new(ErrorCode::InvalidFrame, error.body_text()))?;
        Ok(Self(value))
    }
}
