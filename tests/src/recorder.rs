//! A wire tap between clients and a server: passes everything on, and keeps what clients send over their WebSockets.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, ensure};
use kith_proto::v1::{ClientFrame, Send, client_frame};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// Bytes of one connection, client to server.
type Taped = Arc<Mutex<Vec<u8>>>;

/// The tap. It ends when the value is dropped.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    tapes: Arc<Mutex<Vec<Taped>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Recorder {
    /// Listens on a free port and passes connections on to `server`.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn before(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tapes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&tapes);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let tape = Taped::default();
                kept.lock().push(Arc::clone(&tape));
                tokio::spawn(relay(client, server, tape));
            }
        });
        Ok(Self { address, tapes, accepting })
    }

    /// What clients dial.
    #[must_use]
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections were made so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.tapes.lock().len()
    }

    /// Every `Send` that any client has written so far, answered or not. A frame cut off by the end of a connection is left out.
    ///
    /// # Errors
    /// If a client wrote what is no frame.
    pub fn sends(&self) -> anyhow::Result<Vec<Send>> {
        let mut sends = Vec::new();
        for tape in self.tapes.lock().iter() {
            for payload in websocket_payloads(&tape.lock()) {
                if let Some(client_frame::Kind::Send(send)) = ClientFrame::decode(payload.as_slice())?.kind {
                    sends.push(send);
                }
            }
        }
        Ok(sends)
    }
}

async fn relay(client: TcpStream, server: SocketAddr, tape: Taped) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // When one side has ended, the other is of no use.
    tokio::select! {
        () = copy(from_client, to_server, Some(&tape)) => {}
        () = copy(from_server, to_client, None) => {}
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, tape: Option<&Taped>) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if let Some(tape) = tape {
            tape.lock().extend_from_slice(&buffer[..count]);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// The payloads of the binary messages in a client's half of a WebSocket connection; none if it was something else.
fn websocket_payloads(tape: &[u8]) -> Vec<Vec<u8>> {
    const BINARY: u8 = 0x82;
    let mut payloads = Vec::new();
    let Some(head) = tape.windows(4).position(|four| four == b"\r\n\r\n") else { return payloads };
    if !tape.starts_with(b"GET /v1/ws") {
        return payloads;
    }
    let mut rest = &tape[head + 4..];
    while let Some((first, mask, payload, after)) = frame(rest) {
        if first == BINARY {
            payloads.push(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect());
        }
        rest = after;
    }
    payloads
}

/// First byte, mask, masked payload, and what follows.
type Frame<'a> = (u8, [u8; 4], &'a [u8], &'a [u8]);

/// The whole client frame at the front.
fn frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (&[first, second], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match second & 0x7f {
        126 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
        127 => rest.split_first_chunk().and_then(|(length, rest)| Some((usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)))?,
        short => (usize::from(short), rest),
    };
    let (mask, rest) = rest.split_first_chunk::<4>()?;
    let (payload, after) = rest.split_at_checked(length)?;
    Some((first, *mask, payload, after))
}

/// No message key was used twice: under one (session, ratchet key, number) there is one slice. And a retry repeats the very same bytes.
///
/// # Errors
/// Names what was found.
pub fn no_key_was_used_twice(sends: &[Send]) -> anyhow::Result<()> {
    let mut by_key: HashMap<Vec<u8>, &[u8]> = HashMap::new();
    let mut by_id: HashMap<&[u8], &Send> = HashMap::new();
    let mut by_counter: HashMap<(&[u8], u64), &[u8]> = HashMap::new();
    for send in sends {
        let first = by_id.entry(&send.client_msg_id).or_insert(send);
        let same = first.body == send.body
            && first.slices == send.slices
            && first.own_slices == send.own_slices
            && first.device_counter == send.device_counter;
        ensure!(same, "a retry differs from the first attempt");
        // The sender is known by the peer it writes to: in these stories there are two people.
        let counted = by_counter.entry((&send.recipient, send.device_counter)).or_insert(&send.client_msg_id);
        ensure!(*counted == send.client_msg_id, "the counter {} was given to two messages", send.device_counter);
        for slice in send.slices.iter().chain(&send.own_slices) {
            let key = message_key(&slice.data).context("a slice without a header")?;
            let known = by_key.entry([&slice.device, key.as_slice()].concat()).or_insert(&slice.data);
            ensure!(*known == slice.data, "one message key has encrypted two plaintexts");
        }
    }
    Ok(())
}

/// What names a message key (encryption specification, section 3): session id, ratchet key, number. The header is version 1, type 1, session 8, key 32,
/// PN 4, N 4.
fn message_key(slice: &[u8]) -> Option<Vec<u8>> {
    Some([slice.get(2..10)?, slice.get(10..42)?, slice.get(46..50)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kith_proto::v1::Slice;

    fn send(id: u8, n: u8, filling: u8) -> Send {
        let mut data = vec![filling; 190];
        data[..46].fill(1);
        data[46..50].copy_from_slice(&[0, 0, 0, n]);
        let slices = vec![Slice { device: vec![2; 16].into(), data: data.into() }];
        Send { client_msg_id: vec![id; 16].into(), recipient: vec![3; 16].into(), device_counter: u64::from(id), slices, ..Send::default() }
    }

    #[test]
    fn a_key_used_twice_is_noticed_and_an_identical_retry_is_fine() {
        no_key_was_used_twice(&[send(1, 0, 7), send(2, 1, 8), send(1, 0, 7)]).unwrap();
        assert!(no_key_was_used_twice(&[send(1, 0, 7), send(2, 0, 8)]).is_err());
        assert!(no_key_was_used_twice(&[send(1, 0, 7), send(1, 0, 8)]).is_err());
    }

    #[test]
    fn masked_frames_are_read_from_the_tape() {
        let mut tape = b"GET /v1/ws HTTP/1.1\r\n\r\n".to_vec();
        tape.extend_from_slice(&[0x82, 0x83, 1, 2, 3, 4, b'a' ^ 1, b'b' ^ 2, b'c' ^ 3]);
        tape.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
        tape.extend_from_slice(&[0x82, 0x85, 0, 0]);
        assert_eq!(websocket_payloads(&tape), [b"abc".to_vec()]);
        assert!(websocket_payloads(b"POST /v1/login HTTP/1.1\r\n\r\nxxxxx").is_empty());
    }
}
