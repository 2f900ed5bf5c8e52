//! Frames over a WebSocket.

use futures_util::{SinkExt as _, StreamExt as _};
use kith_crypto::login::Origin;
use kith_proto::v1;
use prost::Message as _;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

const DIAL_WITHIN: Duration = Duration::from_secs(15);
/// A write that takes longer means that the other side is gone.
const WRITE_WITHIN: Duration = Duration::from_secs(20);
/// Servers may raise their frame limit; nothing sensible is above this.
const MAX_FRAME: usize = 1024 * 1024;

/// The connection is of no use any more.
#[derive(Debug)]
pub(super) struct Broken;

/// A WebSocket that carries the protocol's binary frames.
pub(super) struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Connects to the server at an origin, by TLS if that says https.
    pub(super) async fn dial(origin: &Origin) -> Result<Self, Broken> {
        let address = format!("ws{}/v1/ws", origin.as_str().trim_start_matches("http"));
        let mut request = address.into_client_request().map_err(|_| Broken)?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(kith_proto::SUBPROTOCOL_BINARY));
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .write_buffer_size(16 * 1024)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        // Nagle would hold small frames back while earlier ones are unacknowledged.
        let dialled = timeout(DIAL_WITHIN, connect_async_with_config(request, Some(config), true)).await;
        let (socket, _) = dialled.map_err(|_| Broken)?.map_err(|_| Broken)?;
        Ok(Self(socket))
    }

    /// The next frame. WebSocket pings are answered underneath, and count as life.
    pub(super) async fn receive(&mut self) -> Result<v1::ServerFrame, Broken> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return v1::ServerFrame::decode(bytes).map_err(|_| Broken),
                // A frame without a kind: it tells the caller that the server lives.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(v1::ServerFrame::default()),
                Some(Ok(Message::Frame(_))) => {}
                Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => return Err(Broken),
            }
        }
    }

    pub(super) async fn feed(&mut self, frame: v1::ClientFrame) -> Result<(), Broken> {
        self.write(Message::Binary(Bytes::from(frame.encode_to_vec()))).await
    }

    async fn write(&mut self, message: Message) -> Result<(), Broken> {
        timeout(WRITE_WITHIN, self.0.feed(message)).await.map_err(|_| Broken)?.map_err(|_| Broken)
    }

    pub(super) async fn flush(&mut self) -> Result<(), Broken> {
        timeout(WRITE_WITHIN, self.0.flush()).await.map_err(|_| Broken)?.map_err(|_| Broken)
    }

    pub(super) async fn send(&mut self, frame: v1::ClientFrame) -> Result<(), Broken> {
        self.feed(frame).await?;
        self.flush().await
    }

    pub(super) async fn ping(&mut self) -> Result<(), Broken> {
        self.write(Message::Ping(Bytes::new())).await?;
        self.flush().await
    }
}
