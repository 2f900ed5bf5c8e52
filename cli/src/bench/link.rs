//! One WebSocket connection of the generator: a socket, what is still to be written, and the beginning of a frame that is not yet whole. Input passes
//! through one buffer that all connections share, so that an idle connection holds next to nothing.

use std::{
    cell::RefCell,
    future::{Future as _, poll_fn},
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Buf as _, BytesMut};
use kith_proto::v1;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::ws::{self, WireError};

/// How much one read takes at most.
const READ_BYTES: usize = 64 * 1024;
/// Output buffers larger than this are given back when they are empty.
const KEPT_OUTPUT: usize = 16 * 1024;
/// Every step of connecting must be over by then.
const CONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The server broke the WebSocket protocol or refused the upgrade.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The server closed.
    #[error("the server closed the connection ({0})")]
    Closed(String),
    /// The server did not answer in time.
    #[error("no answer within {} s", CONNECT_DEADLINE.as_secs())]
    Deadline,
    /// The server refused `Hello`.
    #[error("the server refused Hello: {0}")]
    Refused(String),
}

/// Where to connect, and from where.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    /// The server's address.
    pub(super) address: SocketAddr,
    /// The `Host` header.
    pub(super) host: String,
}

impl Endpoint {
    /// The source address for the n-th connection: loopback has sixteen million of them, so that neither ports nor limits per address run out.
    fn source(&self, n: usize) -> Option<IpAddr> {
        let last = u8::try_from(n % 64).ok()? + 1;
        (self.address.ip() == IpAddr::from([127, 0, 0, 1])).then(|| IpAddr::from([127, 0, 1, last]))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    max_frame: usize,
    masks: u32,
}

impl Link {
    /// Connects by TCP and upgrades. `n` chooses the source address.
    pub(super) async fn open(endpoint: &Endpoint, n: usize) -> Result<Self, LinkError> {
        timeout(CONNECT_DEADLINE, Self::upgrade(endpoint, n)).await.map_err(|_| LinkError::Deadline)?
    }

    async fn upgrade(endpoint: &Endpoint, n: usize) -> Result<Self, LinkError> {
        let mut stream = match endpoint.source(n) {
            Some(source) => {
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::new(source, 0))?;
                socket.connect(endpoint.address).await?
            }
            None => TcpStream::connect(endpoint.address).await?,
        };
        stream.set_nodelay(true)?;
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        stream.write_all(ws::upgrade_request(&endpoint.host, &key).as_bytes()).await?;
        let mut answer = Vec::with_capacity(512);
        let end = loop {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err(LinkError::Closed("during the upgrade".to_owned()));
            }
            if let Some(end) = ws::upgrade_answer(&answer, &key)? {
                break end;
            }
        };
        answer.drain(..end);
        answer.shrink_to_fit();
        Ok(Self { stream, partial: answer, out: Vec::new(), written: 0, max_frame: kith_proto::DEFAULT_MAX_FRAME, masks: rand::random::<u32>() | 1 })
    }

    /// Sends `Hello` and waits for `Welcome`.
    pub(super) async fn hello(&mut self, token: &str, epoch: u64, scratch: &RefCell<BytesMut>) -> Result<v1::Welcome, LinkError> {
        let hello = v1::Hello { token: token.to_owned(), version: kith_proto::PROTOCOL_VERSION, features: Vec::new(), epoch };
        self.put(&v1::ClientFrame { id: 1, kind: Some(v1::client_frame::Kind::Hello(hello)) });
        let mut first = None;
        let answer = poll_fn(|cx| {
            loop {
                if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                    return Poll::Ready(Err(error));
                }
                // Nothing else comes before Welcome, and what comes after it in the same read is kept for later.
                match self.poll_read(cx, &mut scratch.borrow_mut(), |frame| first.get_or_insert(frame).id != 1) {
                    Poll::Ready(Ok(())) if first.is_none() => {}
                    other => return other,
                }
            }
        });
        timeout(CONNECT_DEADLINE, answer).await.map_err(|_| LinkError::Deadline)??;
        match first.and_then(|frame| frame.kind) {
            Some(v1::server_frame::Kind::Welcome(welcome)) => {
                self.max_frame = welcome.limits.as_ref().map_or(self.max_frame, |limits| limits.max_frame_bytes as usize);
                Ok(welcome)
            }
            Some(v1::server_frame::Kind::Error(error)) => Err(LinkError::Refused(format!("{} ({})", error.code().as_str_name(), error.message))),
            Some(v1::server_frame::Kind::Goodbye(bye)) => Err(LinkError::Refused(bye.reason().as_str_name().to_owned())),
            _ => Err(LinkError::Refused("it answered with something else".to_owned())),
        }
    }

    /// Queues a frame; [`Self::poll_flush`] sends what is queued.
    pub(super) fn put(&mut self, frame: &v1::ClientFrame) {
        let mask = self.next_mask();
        ws::put_frame(&mut self.out, ws::BINARY, frame.encoded_len(), mask, |out| {
            frame.encode(out).expect("a Vec has room");
        });
    }

    fn next_mask(&mut self) -> u32 {
        // xorshift: the mask protects proxies from scripts in browsers, of which there are none here.
        self.masks ^= self.masks << 13;
        self.masks ^= self.masks >> 17;
        self.masks ^= self.masks << 5;
        self.masks
    }

    /// Reads once and hands every whole frame to `each`, which answers whether to go on; if not, what follows is kept. `Ready` after a read.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut BytesMut,
        mut each: impl FnMut(v1::ServerFrame) -> bool,
    ) -> Poll<Result<(), LinkError>> {
        scratch.clear();
        scratch.reserve(READ_BYTES);
        let kept = self.partial.len();
        scratch.extend_from_slice(&self.partial);
        let before = self.try_frames(scratch, &mut each)?;
        if before.stopped || scratch.len() < kept {
            self.keep(scratch);
            return Poll::Ready(Ok(()));
        }
        let read = match pin!(self.stream.read_buf(scratch)).poll(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read?,
        };
        if read == 0 {
            return Poll::Ready(Err(LinkError::Closed("without a word".to_owned())));
        }
        self.try_frames(scratch, &mut each)?;
        self.keep(scratch);
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, scratch: &BytesMut) {
        self.partial.clear();
        self.partial.extend_from_slice(scratch);
        if scratch.is_empty() && self.partial.capacity() > 0 {
            self.partial = Vec::new();
        }
    }

    fn try_frames(&mut self, scratch: &mut BytesMut, each: &mut impl FnMut(v1::ServerFrame) -> bool) -> Result<Frames, LinkError> {
        while let Some(head) = ws::head(scratch, self.max_frame)? {
            if scratch.len() < head.header + head.payload {
                break;
            }
            let mut payload = scratch.split_to(head.header + head.payload).freeze();
            payload.advance(head.header);
            match head.opcode {
                ws::BINARY => {
                    let frame = v1::ServerFrame::decode(payload).map_err(|error| WireError::Decode(error.to_string()))?;
                    if !each(frame) {
                        return Ok(Frames { stopped: true });
                    }
                }
                ws::PING => {
                    let mask = self.next_mask();
                    ws::put_frame(&mut self.out, ws::PONG, payload.len(), mask, |out| out.extend_from_slice(&payload));
                }
                ws::PONG => {}
                ws::CLOSE => return Err(LinkError::Closed(close_reason(&payload))),
                _ => return Err(WireError::Frame.into()),
            }
        }
        Ok(Frames { stopped: false })
    }

    /// Writes what is queued; `Ready` when nothing is left.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while self.written < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.written..]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(written) => self.written += written?,
            }
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > KEPT_OUTPUT {
            self.out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Says goodbye as the protocol wants it and closes. Best effort: nothing depends on it.
    pub(super) async fn close(mut self) {
        let mask = self.next_mask();
        ws::put_frame(&mut self.out, ws::CLOSE, 2, mask, |out| out.extend_from_slice(&1000_u16.to_be_bytes()));
        let goodbye = async {
            let _ = poll_fn(|cx| self.poll_flush(cx)).await;
            let _ = self.stream.shutdown().await;
        };
        let _ = timeout(Duration::from_secs(1), goodbye).await;
    }
}

struct Frames {
    stopped: bool,
}

fn close_reason(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => format!("{} {}", u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason)).trim_end().to_owned(),
        _ => "without a code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use kith_proto::v1::{client_frame, server_frame};
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::{
        Message, WebSocket,
        handshake::server::{Request, Response},
        protocol::Role,
    };

    use super::*;

    fn frame(id: u64, kind: server_frame::Kind) -> Vec<u8> {
        v1::ServerFrame { id, kind: Some(kind) }.encode_to_vec()
    }

    /// The bytes that another implementation makes of these messages.
    fn on_the_wire(messages: Vec<Message>) -> Vec<u8> {
        let mut socket = WebSocket::from_raw_socket(std::io::Cursor::new(Vec::new()), Role::Server, None);
        messages.into_iter().for_each(|message| socket.write(message).unwrap());
        socket.flush().unwrap();
        socket.get_ref().get_ref().clone()
    }

    #[expect(clippy::result_large_err, reason = "tungstenite's own type")]
    fn upgrade(_: &Request, mut response: Response) -> Result<Response, tokio_tungstenite::tungstenite::handshake::server::ErrorResponse> {
        response.headers_mut().insert("sec-websocket-protocol", kith_proto::SUBPROTOCOL_BINARY.parse().unwrap());
        Ok(response)
    }

    /// A server by another implementation, which writes in pieces of `piece` bytes and gives back what it was sent.
    async fn serve(listener: TcpListener, piece: usize) -> Vec<Message> {
        use futures_util::StreamExt as _;
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, upgrade).await.unwrap();
        let mut got = vec![socket.next().await.unwrap().unwrap()];
        let limits = v1::Limits { max_frame_bytes: 1000, ..Default::default() };
        let welcome = v1::Welcome { limits: Some(limits), ..Default::default() };
        let bytes = on_the_wire(vec![
            Message::binary(frame(1, server_frame::Kind::Welcome(welcome))),
            Message::binary(frame(0, server_frame::Kind::Deliver(v1::Deliver { seq: 7, body: vec![5; 300].into(), ..Default::default() }))),
            Message::Ping("are you there".into()),
            Message::binary(frame(0, server_frame::Kind::CaughtUp(v1::CaughtUp {}))),
        ]);
        for piece in bytes.chunks(piece) {
            socket.get_mut().write_all(piece).await.unwrap();
            socket.get_mut().flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        got.push(socket.next().await.unwrap().unwrap());
        socket.get_mut().write_all(&on_the_wire(vec![Message::binary(vec![0; 1001])])).await.unwrap();
        got
    }

    #[tokio::test]
    async fn talks_to_another_implementation_however_the_bytes_are_cut() {
        for piece in [1, 3, 50, 100_000] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = tokio::spawn(serve(listener, piece));
            let scratch = RefCell::default();
            let mut link = Link::open(&Endpoint { address, host: address.to_string() }, 3).await.unwrap();
            link.hello("token", 9, &scratch).await.unwrap();
            let mut seqs = Vec::new();
            let error = poll_fn(|cx| {
                loop {
                    let take = |frame: v1::ServerFrame| {
                        seqs.push(match frame.kind {
                            Some(server_frame::Kind::Deliver(deliver)) => deliver.seq,
                            _ => 0,
                        });
                        true
                    };
                    match link.poll_read(cx, &mut scratch.borrow_mut(), take) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(error),
                        Poll::Pending => {
                            let _ = link.poll_flush(cx);
                            return Poll::Pending;
                        }
                    }
                }
            })
            .await;
            assert!(matches!(error, LinkError::Wire(WireError::TooLarge(1001))), "{error}");
            assert_eq!(seqs, [7, 0], "cut into pieces of {piece}");
            let got = server.await.unwrap();
            assert_eq!(got[1], Message::Pong("are you there".into()));
            let hello = v1::ClientFrame::decode(got[0].clone().into_data()).unwrap();
            assert!(matches!(hello.kind, Some(client_frame::Kind::Hello(hello)) if (hello.token.as_str(), hello.epoch) == ("token", 9)));
        }
    }

    #[tokio::test]
    async fn a_server_that_refuses_the_upgrade_is_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        });
        let error = Link::open(&Endpoint { address, host: address.to_string() }, 0).await.unwrap_err();
        assert_eq!(error.to_string(), "the server refused the WebSocket: HTTP/1.1 503 Service Unavailable");
        server.await.unwrap();
    }
}
