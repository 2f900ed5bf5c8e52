//! REST under `/v1`, health and metrics: one router, one guard around it, one file per noun.

mod accounts;
mod beside;
mod convert;
mod devices;
mod extract;
mod guard;
mod keys;
mod limits;
mod login;
mod operations;
mod users;

use std::sync::Arc;

use axum::{Router, http::StatusCode, middleware, routing::get};
use kith_proto::v1::ErrorCode;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        RefOr,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::beside::{Refusal, beside};
use crate::{error::ApiError, state::AppState};

#[derive(OpenApi)]
#[openapi(
    info(title = "Kith", version = "1", description = "Accounts, devices, keys and tokens. Messages travel over the WebSocket at /v1/ws."),
    modifiers(&BearerToken),
    tags((name = "accounts"), (name = "devices"), (name = "keys"), (name = "operation"))
)]
struct Document;

struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The access token.")).build());
        openapi.components.get_or_insert_default().security_schemes.insert("access_token".to_owned(), scheme.into());
    }
}

/// The whole router, WebSocket included.
pub fn router(state: Arc<AppState>) -> Router {
    let (router, mut openapi) = documented().split_for_parts();
    describe_responses(&mut openapi);
    // Made once; a document of this shape always serialises.
    let document: Arc<str> = openapi.to_json().expect("the OpenAPI document serialises").into();
    let rest = router
        .route("/v1/openapi.json", get(move || async move { operations::openapi(&document) }))
        .fallback(|| async { ApiError::new(ErrorCode::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async { ApiError::new(ErrorCode::MethodNotAllowed, "this path does not answer that method") })
        .layer(middleware::from_fn_with_state(Arc::clone(&state), guard::guard));
    Router::new().route("/v1/ws", axum::routing::any(operations::upgrade)).merge(rest).with_state(state)
}

fn documented() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(accounts::register))
        .routes(routes!(accounts::rotate))
        .routes(routes!(login::challenge))
        .routes(routes!(login::login))
        .routes(routes!(login::refresh))
        .routes(routes!(users::find))
        .routes(routes!(devices::history))
        .routes(routes!(devices::publish))
        .routes(routes!(devices::revoke))
        .routes(routes!(devices::leave))
        .routes(routes!(devices::list))
        .routes(routes!(keys::state, keys::upload))
        .routes(routes!(keys::bundles))
        .routes(routes!(limits::limits))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics))
}

/// The OpenAPI document as it is served, for `xtask` and the documentation.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut openapi = documented().into_openapi();
    describe_responses(&mut openapi);
    openapi
}

/// OpenAPI requires a description of every response; where a handler gives none it is the reason phrase of the status.
fn describe_responses(openapi: &mut utoipa::openapi::OpenApi) {
    let operations = openapi.paths.paths.values_mut().flat_map(|path| [&mut path.get, &mut path.post, &mut path.delete]).flatten();
    for (status, response) in operations.flat_map(|operation| &mut operation.responses.responses) {
        let RefOr::T(response) = response else { continue };
        if response.description.is_empty() {
            response.description = match (status.parse::<StatusCode>(), status.as_str()) {
                (Ok(status), _) => status.canonical_reason().unwrap_or("An answer.").to_owned(),
                (Err(_), "4XX") => "The request is refused; `code` says why.".to_owned(),
                (Err(_), _) => "The server cannot answer now.".to_owned(),
            };
        }
    }
}

#[cfg(test)]
mod tests;
