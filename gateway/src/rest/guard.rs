//! What surrounds every request: a deadline, a net for panics, a measurement.

use std::{panic::AssertUnwindSafe, sync::Arc, sync::atomic::Ordering, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use kith_proto::v1::ErrorCode;
use tokio::time::timeout;

use crate::{config, error::ApiError, metrics::Metrics, state::AppState};

/// Runs the request. The deadline covers the reading of its body, so that a sender that trickles holds nothing for long.
pub(super) async fn guard(State(state): State<Arc<AppState>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known(request.method());
    let handling = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match timeout(config::ms(state.config.http.request_timeout_ms), handling).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            state.metrics.panics.fetch_add(1, Ordering::Relaxed);
            // The panic hook has said where.
            tracing::error!(route = route.as_ref().map_or("none", MatchedPath::as_str), "a handler panicked");
            ApiError::new(ErrorCode::Internal, "a fault of the server").into_response()
        }
        Err(_) => ApiError::new(ErrorCode::Internal, "the request took too long").into_response(),
    };
    Metrics::answered(route.as_ref().map_or("none", MatchedPath::as_str), method, response.status().as_u16(), started.elapsed());
    response
}

/// Methods are the client's to invent; labels are not.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
