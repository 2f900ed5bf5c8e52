//! `GET /v1/ws`: the handshake of RFC 6455, answered by hand so that the socket gets our buffers.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Codec, Pump, WebSocket};
use crate::sessions::Sessions;

/// Seconds after which a client that was turned away may try again.
const TRY_AGAIN_S: &str = "5";

/// Answers an upgrade request from `address` and serves the connection in a task of its own.
pub fn upgrade(sessions: &Arc<Sessions>, address: IpAddr, mut request: Request) -> Response {
    let (codec, key) = match check(sessions, request.method(), request.headers()) {
        Ok(checked) => checked,
        Err((status, message)) => return (status, message).into_response(),
    };
    let Some(permit) = sessions.admit(address) else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, TRY_AGAIN_S)], "too many connections").into_response();
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let serving = Arc::clone(sessions);
    sessions.spawn(async move {
        // If the client has gone in the meantime there is nobody to tell.
        if let Ok(io) = upgraded.await {
            let socket = WebSocket::new(TokioIo::new(io), codec, serving.shared().settings.max_frame_bytes);
            Pump::new(socket, serving, permit, codec.is_text()).await;
        }
    });
    switching(codec, &key)
}

fn check(sessions: &Sessions, method: &Method, headers: &HeaderMap) -> Result<(Codec, HeaderValue), (StatusCode, &'static str)> {
    if method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "an upgrade is a GET"));
    }
    let upgrade = has_token(headers, header::CONNECTION, "upgrade") && has_token(headers, header::UPGRADE, "websocket");
    if !upgrade || headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken here"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24).cloned();
    let key = key.ok_or((StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"))?;
    if let Some(origin) = headers.get(header::ORIGIN) {
        let allowed = &sessions.shared().settings.allowed_origins;
        if !allowed.iter().any(|known| known == "*" || known.as_bytes() == origin.as_bytes()) {
            return Err((StatusCode::FORBIDDEN, "this origin is not allowed"));
        }
    }
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let codec = Codec::negotiate(offered.flat_map(|value| value.split(',')));
    Ok((codec.ok_or((StatusCode::BAD_REQUEST, "offer the subprotocol kith.v1 or kith.v1.json"))?, key))
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn switching(codec: Codec, key: &HeaderValue) -> Response {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key.as_bytes()))
        .header(header::SEC_WEBSOCKET_PROTOCOL, codec.subprotocol())
        .body(Body::empty())
        .expect("a status and four valid headers")
}
