//! One WebSocket: whole frames in, whole frames out, and, for those who mean harm, whatever bytes they like.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use kith_proto::v1::{ClientFrame, ErrorCode, Goodbye, Hello, ServerFrame, Welcome, client_frame, server_frame};
use prost::Message as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, protocol::CloseFrame},
};

/// The longest anything that the server owes at once may take, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// A WebSocket under one of the subprotocols.
#[derive(Debug)]
pub struct Socket {
    stream: WebSocketStream<TcpStream>,
    json: bool,
    last_id: u64,
}

/// How a connection ended.
#[derive(Debug)]
pub struct Ending {
    /// The last frame, if there was one.
    pub goodbye: Option<Goodbye>,
    /// The close frame, if there was one.
    pub close: Option<CloseFrame>,
}

impl Ending {
    /// Why, if the server said so.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorCode> {
        self.goodbye.as_ref().map(Goodbye::reason)
    }
}

/// Something came, or the connection is over.
#[derive(Debug)]
pub enum Event {
    /// A frame.
    Frame(ServerFrame),
    /// The end.
    Closed(Ending),
}

impl Socket {
    /// Opens a socket to `origin` (`http://host:port`) under `kith.v1`.
    ///
    /// # Errors
    /// If the server is not there or refuses the upgrade.
    pub async fn open(origin: &str) -> anyhow::Result<Self> {
        Self::open_as(origin, "kith.v1").await
    }

    /// Opens a socket under the subprotocol named.
    ///
    /// # Errors
    /// If the server is not there or refuses the upgrade.
    pub async fn open_as(origin: &str, subprotocol: &str) -> anyhow::Result<Self> {
        Self::open_from(Ipv4Addr::LOCALHOST, origin, subprotocol).await
    }

    /// Opens a socket from one of this machine's addresses; all of 127.0.0.0/8 are.
    ///
    /// # Errors
    /// If the server is not there or refuses the upgrade.
    pub async fn open_from(source: Ipv4Addr, origin: &str, subprotocol: &str) -> anyhow::Result<Self> {
        let authority = origin.strip_prefix("http://").context("tests speak plain HTTP")?;
        let mut request = format!("ws://{authority}/v1/ws").into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", subprotocol.parse()?);
        let opening = async {
            let stream = connect_from(source, authority).await?;
            stream.set_nodelay(true)?;
            anyhow::Ok(client_async(request, stream).await?.0)
        };
        let stream = tokio::time::timeout(SOON, opening).await.context("no answer to the upgrade")??;
        Ok(Self { stream, json: subprotocol.ends_with(".json"), last_id: 0 })
    }

    /// Opens a socket and says hello; fails on anything but `Welcome`.
    ///
    /// # Errors
    /// If `Hello` is refused; [`Refusal`] then is the error.
    pub async fn hello(origin: &str, token: &str, epoch: u64) -> anyhow::Result<(Self, Welcome)> {
        let mut socket = Self::open(origin).await?;
        let hello = Hello { token: token.to_owned(), version: 1, features: Vec::new(), epoch };
        match socket.ask(client_frame::Kind::Hello(hello)).await? {
            server_frame::Kind::Welcome(welcome) => Ok((socket, welcome)),
            server_frame::Kind::Error(error) => Err(Refusal(error.code()).into()),
            other => bail!("hello was answered by {other:?}"),
        }
    }

    /// Sends a frame with an id of its own and returns that id.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn request(&mut self, kind: client_frame::Kind) -> anyhow::Result<u64> {
        self.last_id += 1;
        self.send(&ClientFrame { id: self.last_id, kind: Some(kind) }).await?;
        Ok(self.last_id)
    }

    /// Sends a notice.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn notice(&mut self, kind: client_frame::Kind) -> anyhow::Result<()> {
        self.send(&ClientFrame { id: 0, kind: Some(kind) }).await
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send(&mut self, frame: &ClientFrame) -> anyhow::Result<()> {
        let message = if self.json { Message::text(serde_json::to_string(frame)?) } else { Message::binary(frame.encode_to_vec()) };
        self.send_message(message).await
    }

    /// Sends any WebSocket message.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send_message(&mut self, message: Message) -> anyhow::Result<()> {
        Ok(tokio::time::timeout(SOON, self.stream.send(message)).await.context("the server does not read")??)
    }

    /// Writes a frame without flushing it, for pipelining.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn feed(&mut self, frame: &ClientFrame) -> anyhow::Result<()> {
        Ok(self.stream.feed(Message::binary(frame.encode_to_vec())).await?)
    }

    /// Sends what was fed.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.flush().await?)
    }

    /// The next frame or the end. Pings are answered on the way.
    ///
    /// # Errors
    /// If nothing comes within `within`, or what comes is no frame.
    pub async fn next_within(&mut self, within: Duration) -> anyhow::Result<Event> {
        tokio::time::timeout(within, self.next_event()).await.with_context(|| format!("nothing came within {within:?}"))?
    }

    async fn next_event(&mut self) -> anyhow::Result<Event> {
        loop {
            let frame = match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) if !self.json => ServerFrame::decode(bytes)?,
                Some(Ok(Message::Text(text))) if self.json => serde_json::from_str(&text)?,
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(close))) => return Ok(Event::Closed(Ending { goodbye: None, close })),
                None | Some(Err(Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_))) => {
                    return Ok(Event::Closed(Ending { goodbye: None, close: None }));
                }
                Some(Ok(other)) => bail!("a message of the wrong kind: {other:?}"),
                Some(Err(error)) => return Err(error.into()),
            };
            return Ok(Event::Frame(frame));
        }
    }

    /// Asks and waits for the answer, dropping pushes that come before it.
    ///
    /// # Errors
    /// If the connection ends first.
    pub async fn ask(&mut self, kind: client_frame::Kind) -> anyhow::Result<server_frame::Kind> {
        let id = self.request(kind).await?;
        self.answer(id).await
    }

    /// Waits for the answer to a request, dropping whatever else comes.
    ///
    /// # Errors
    /// If the connection ends first.
    pub async fn answer(&mut self, id: u64) -> anyhow::Result<server_frame::Kind> {
        loop {
            match self.next_within(SOON).await? {
                Event::Frame(frame) if frame.id == id => return frame.kind.context("an answer without a kind"),
                Event::Frame(_) => {}
                Event::Closed(ending) => bail!("the connection ended before the answer: {ending:?}"),
            }
        }
    }

    /// Reads until a frame is what is looked for.
    ///
    /// # Errors
    /// If it does not come within `within`, or the connection ends.
    pub async fn find<T>(&mut self, what: &str, within: Duration, mut wanted: impl FnMut(ServerFrame) -> Option<T>) -> anyhow::Result<T> {
        let search = async {
            loop {
                match self.next_event().await? {
                    Event::Frame(frame) => {
                        if let Some(found) = wanted(frame) {
                            return Ok(found);
                        }
                    }
                    Event::Closed(ending) => bail!("the connection ended before {what}: {ending:?}"),
                }
            }
        };
        tokio::time::timeout(within, search).await.with_context(|| format!("not within {within:?}: {what}"))?
    }

    /// Reads to the end of the connection.
    ///
    /// # Errors
    /// If it does not end within `within`.
    pub async fn ending(&mut self, within: Duration) -> anyhow::Result<Ending> {
        let mut goodbye = None;
        let reading = async {
            loop {
                match self.next_event().await? {
                    Event::Frame(ServerFrame { kind: Some(server_frame::Kind::Goodbye(said)), .. }) => goodbye = Some(said),
                    Event::Frame(_) => {}
                    Event::Closed(Ending { close, .. }) => return anyhow::Ok(close),
                }
            }
        };
        let close = tokio::time::timeout(within, reading).await.with_context(|| format!("the connection did not end within {within:?}"))??;
        Ok(Ending { goodbye, close })
    }

    /// Writes bytes past the WebSocket, in the middle of its conversation.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn write_raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.get_mut().write_all(bytes).await?)
    }

    /// The bare stream, for those who would rather not speak WebSocket.
    #[must_use]
    pub fn into_tcp(self) -> TcpStream {
        self.stream.into_inner()
    }
}

/// A bare connection from one of this machine's addresses.
///
/// # Errors
/// If there is none.
pub async fn connect_from(source: Ipv4Addr, authority: &str) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    Ok(socket.connect(authority.parse()?).await?)
}

/// `Hello` was refused with this code.
#[derive(Debug, thiserror::Error)]
#[error("refused: {0:?}")]
pub struct Refusal(pub ErrorCode);
