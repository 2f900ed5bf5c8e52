//! The handshake over a real socket.

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, extract::Request, routing::any};
use futures_util::{SinkExt as _, StreamExt as _};
use kith_proto::{v1, v1::server_frame::Kind};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderValue},
};

use crate::{
    sessions::{
        SessionSettings,
        tests::{FakeLog, Rig, device},
    },
    socket::upgrade,
};

async fn serve(settings: SessionSettings) -> (SocketAddr, Rig) {
    let (log, resolved) = FakeLog::new();
    let rig = Rig::start(settings, Arc::new(log), resolved);
    let sessions = Arc::clone(&rig.sessions);
    let handler = move |request: Request| {
        let sessions = Arc::clone(&sessions);
        async move { upgrade(&sessions, std::net::Ipv4Addr::LOCALHOST.into(), request) }
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    rig.sessions.spawn(async move {
        let _ = axum::serve(listener, Router::new().route("/v1/ws", any(handler))).await;
    });
    (address, rig)
}

async fn status(address: SocketAddr, headers: &[(&'static str, &'static str)]) -> u16 {
    let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    match connect_async(request).await {
        Ok((_, response)) => response.status().as_u16(),
        Err(Error::Http(response)) => response.status().as_u16(),
        // The client wants a subprotocol answered with one of its own.
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn subprotocol_and_origin_are_checked() {
    let settings = SessionSettings { allowed_origins: vec!["https://chat.example".to_owned()], ..SessionSettings::default() };
    let (address, _rig) = serve(settings).await;
    assert_eq!(status(address, &[]).await, 400);
    assert_eq!(status(address, &[("sec-websocket-protocol", "mqtt")]).await, 400);
    assert_eq!(status(address, &[("sec-websocket-protocol", "kith.v1")]).await, 101);
    assert_eq!(status(address, &[("sec-websocket-protocol", "kith.v1.json")]).await, 101);
    assert_eq!(status(address, &[("sec-websocket-protocol", "kith.v1"), ("origin", "https://chat.example")]).await, 101);
    assert_eq!(status(address, &[("sec-websocket-protocol", "kith.v1"), ("origin", "https://evil.example")]).await, 403);
    assert_eq!(reqwest::get(format!("http://{address}/v1/ws")).await.unwrap().status(), 426);
}

#[tokio::test]
async fn too_many_silent_sockets_are_turned_away() {
    let (address, rig) = serve(SessionSettings { max_unauthenticated_per_address: 2, ..SessionSettings::default() }).await;
    let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("kith.v1"));
    let _one = connect_async(request.clone()).await.unwrap();
    let _two = connect_async(request.clone()).await.unwrap();
    let Err(Error::Http(response)) = connect_async(request).await else { panic!("let in") };
    assert_eq!((response.status().as_u16(), response.headers().contains_key("retry-after")), (503, true));
    assert_eq!(rig.sessions.counters().turned_away.value(), 1);
}

#[tokio::test]
async fn a_client_connects_in_either_encoding() {
    let (address, rig) = serve(SessionSettings::default()).await;
    for (epoch, subprotocol) in [(1, "kith.v1"), (2, "kith.v1.json")] {
        let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(subprotocol));
        let (mut socket, response) = connect_async(request).await.unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], subprotocol);
        let hello = v1::Hello { token: rig.token(device(1, 11)), version: 1, features: Vec::new(), epoch };
        let frame = v1::ClientFrame { id: 1, kind: Some(v1::client_frame::Kind::Hello(hello)) };
        let json = epoch == 2;
        socket.send(if json { Message::text(serde_json::to_string(&frame).unwrap()) } else { Message::binary(frame.encode_to_vec()) }).await.unwrap();
        let answer: v1::ServerFrame = match socket.next().await.unwrap().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            Message::Binary(bytes) => v1::ServerFrame::decode(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(answer, v1::ServerFrame { id: 1, kind: Some(Kind::Welcome(_)) }));
        // Garbage: the last frame says so, and the socket closes.
        socket.send(if json { Message::text("{") } else { Message::binary(vec![0xff; 9]) }).await.unwrap();
        let mut last = None;
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(_) | Message::Binary(_) = message {
                last = Some(message);
            }
        }
        let last: v1::ServerFrame = match last {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            Some(Message::Binary(bytes)) => v1::ServerFrame::decode(bytes).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(last.kind, Some(Kind::Goodbye(goodbye)) if goodbye.reason() == v1::ErrorCode::InvalidFrame));
    }
}
