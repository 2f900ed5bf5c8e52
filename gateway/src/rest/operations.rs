//! Health, readiness, metrics, the OpenAPI document, and the way to the WebSocket.

use std::sync::Arc;

use axum::{
    Json as Answer,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use kith_proto::v1::ErrorCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{self, From};
use crate::{config, error::ApiError, health::Health, metrics::Shown, peer::Peer, socket, state::AppState};

/// What `/readyz` says.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// Whether to send traffic here.
    ready: bool,
    /// What is missing. After the server first was ready it stays so while something is.
    missing: Vec<String>,
}

/// The process runs.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// The server serves.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub(super) async fn readyz(State(state): State<Arc<AppState>>) -> (StatusCode, Answer<Ready>) {
    readiness(&state.health)
}

pub(super) fn readiness(health: &Health) -> (StatusCode, Answer<Ready>) {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Answer(Ready { ready: readiness.ready, missing: readiness.missing }))
}

/// Counts and latencies in Prometheus' text form; by default for local peers only.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, body = String, content_type = "text/plain"), (status = 404)))]
pub(super) async fn metrics(State(state): State<Arc<AppState>>, From(peer): From) -> Result<Response, ApiError> {
    if !may_see_metrics(state.config.http.metrics, &peer) {
        return Err(ApiError::new(ErrorCode::NotFound, "no such path"));
    }
    let shown = Shown {
        sessions: Some(state.sessions.counters()),
        cluster: state.cluster.as_deref(),
        limits: Some(&state.limits),
        tracer: state.tracer.as_deref(),
    };
    Ok(page(state.metrics.render(&shown)))
}

pub(super) fn may_see_metrics(allowed: config::Metrics, peer: &Peer) -> bool {
    match allowed {
        config::Metrics::All => true,
        config::Metrics::Loopback => peer.is_local,
        config::Metrics::Off => false,
    }
}

pub(super) fn page(page: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

pub(super) fn openapi(document: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.to_owned()).into_response()
}

/// `/v1/ws`. Outside the guard: nothing is waited for, and the connection's task answers for what comes after.
pub(super) async fn upgrade(State(state): State<Arc<AppState>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match extract::peer(&parts, &state) {
        Ok(peer) => socket::upgrade(&state.sessions, peer.address, Request::from_parts(parts, body)),
        Err(error) => error.into_response(),
    }
}
