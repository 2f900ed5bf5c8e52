//! What a process answers that serves no clients: not yet, because it waits for what it needs, or never, because that is not its role.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::get,
};
use kith_proto::v1::ErrorCode;

use super::operations;
use crate::{
    config::{Config, Metrics as Allowed},
    error::ApiError,
    health::Health,
    metrics::{Metrics, Shown},
    peer::{Network, Peer},
};

/// Clients are asked to come back after this.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);

/// Why clients are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something is waited for.
    NotYet,
    /// Not the role of this process.
    NotHere,
}

impl Refusal {
    fn error(self) -> ApiError {
        match self {
            Self::NotYet => ApiError::come_back("the server is starting", COME_BACK_AFTER),
            Self::NotHere => ApiError::new(ErrorCode::NotFound, "this process serves no clients"),
        }
    }
}

/// Health, readiness and metrics; everything else is refused.
pub(crate) fn beside(config: &Config, health: Arc<Health>, metrics: Arc<Metrics>, refusal: Refusal) -> Router {
    let (allowed, trusted): (Allowed, Arc<[Network]>) = (config.http.metrics, config.http.trusted().into());
    let page = move |request: Request| {
        let page = show(allowed, &trusted, &metrics, &request);
        async { page }
    };
    Router::new()
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(move || async move { operations::readiness(&health) }))
        .route("/metrics", get(page))
        .fallback(move || async move { refusal.error() })
}

fn show(allowed: Allowed, trusted: &[Network], metrics: &Metrics, request: &Request) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.forwarded(request.headers(), trusted));
    match peer {
        Some(peer) if operations::may_see_metrics(allowed, &peer) => operations::page(metrics.render(&Shown::default())),
        _ => ApiError::new(ErrorCode::NotFound, "no such path").into_response(),
    }
}
