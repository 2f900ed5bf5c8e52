//! The WebSocket protocol as a client needs it, as plain functions over bytes: the upgrade, and unfragmented frames (RFC 6455).
//!
//! Written by hand because a load generator that costs as much as the server it measures measures itself: frames are encoded straight into the
//! connection's output and decoded out of a buffer shared by all connections.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A data frame that holds bytes.
pub(super) const BINARY: u8 = 0x2;
/// The peer is closing.
pub(super) const CLOSE: u8 = 0x8;
/// Must be answered by a pong with the same payload.
pub(super) const PING: u8 = 0x9;
/// Answers a ping.
pub(super) const PONG: u8 = 0xa;

/// Bytes that no upgrade answer of an honest server exceeds.
const MAX_UPGRADE: usize = 8 * 1024;

/// What the peer sent is no WebSocket.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum WireError {
    /// The upgrade was refused or malformed; holds the status line.
    #[error("the server refused the WebSocket: {0}")]
    Upgrade(String),
    /// A frame breaks RFC 6455 or is one this client does not take (fragmented, masked, with reserved bits).
    #[error("a WebSocket frame is malformed")]
    Frame,
    /// A frame is larger than the limit the server itself announced.
    #[error("a frame of {0} bytes is larger than agreed")]
    TooLarge(usize),
    /// The payload is no `ServerFrame`.
    #[error("a frame does not decode: {0}")]
    Decode(String),
}

/// The request that turns the connection into a WebSocket speaking `kith.v1`.
pub(super) fn upgrade_request(host: &str, key: &str) -> String {
    format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: {}\r\nSec-WebSocket-Key: {key}\r\n\r\n",
        kith_proto::SUBPROTOCOL_BINARY
    )
}

/// The length of the upgrade answer at the start of `bytes`, or `None` while it is incomplete.
///
/// # Errors
/// [`WireError::Upgrade`] unless it is a 101 that accepts `key`.
pub(super) fn upgrade_answer(bytes: &[u8], key: &str) -> Result<Option<usize>, WireError> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > MAX_UPGRADE { Err(WireError::Upgrade("its answer is too long".to_owned())) } else { Ok(None) };
    };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let header = |name: &str| {
        let find = |line: &str| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned());
        text.split("\r\n").skip(1).find_map(find)
    };
    if status.split(' ').nth(1) != Some("101") {
        return Err(WireError::Upgrade(status.to_owned()));
    }
    if header("sec-websocket-accept").as_deref() != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(WireError::Upgrade("it did not accept the key".to_owned()));
    }
    if header("sec-websocket-protocol").as_deref() != Some(kith_proto::SUBPROTOCOL_BINARY) {
        return Err(WireError::Upgrade("it speaks another subprotocol".to_owned()));
    }
    Ok(Some(end + 4))
}

/// Appends one masked client frame; `write` appends exactly `len` bytes of payload.
pub(super) fn put_frame(out: &mut Vec<u8>, opcode: u8, len: usize, mask: u32, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..=125), _) => out.push(0x80 | short),
        (_, Ok(medium)) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    let mask = mask.to_ne_bytes();
    out.extend_from_slice(&mask);
    let start = out.len();
    write(out);
    debug_assert_eq!(out.len() - start, len, "the payload has the announced length");
    apply_mask(&mut out[start..], mask);
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Where a server frame begins and ends in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// What kind of frame it is.
    pub(super) opcode: u8,
    /// Bytes before the payload.
    pub(super) header: usize,
    /// Bytes of payload.
    pub(super) payload: usize,
}

/// Reads the head of the frame at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// [`WireError::Frame`] for fragments, masked frames and reserved bits; [`WireError::TooLarge`] above `max`.
pub(super) fn head(bytes: &[u8], max: usize) -> Result<Option<Head>, WireError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(WireError::Frame);
    }
    let (header, payload) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (10, usize::try_from(u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])).map_err(|_| WireError::Frame)?)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(short)),
    };
    if payload > max { Err(WireError::TooLarge(payload)) } else { Ok(Some(Head { opcode: first & 0x0f, header, payload })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmask(frame: &[u8]) -> (u8, Vec<u8>) {
        let (header, len) = match frame[1] & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes([frame[2], frame[3]]))),
            127 => (10, usize::try_from(u64::from_be_bytes(frame[2..10].try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        assert_eq!(frame[1] & 0x80, 0x80, "client frames are masked");
        let mask: [u8; 4] = frame[header..header + 4].try_into().unwrap();
        let payload = &frame[header + 4..];
        assert_eq!(payload.len(), len);
        (frame[0] & 0x0f, payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect())
    }

    #[test]
    fn frames_of_every_length_form_carry_their_payload() {
        for len in [0, 1, 7, 8, 9, 125, 126, 127, 65_535, 65_536] {
            let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let mut out = Vec::new();
            put_frame(&mut out, BINARY, len, 0x1234_5678, |out| out.extend_from_slice(&payload));
            assert_eq!(unmask(&out), (BINARY, payload));
        }
    }

    #[test]
    fn a_head_is_read_only_when_it_is_whole() {
        let cases: [(&[u8], Option<Head>); 6] = [
            (&[], None),
            (&[0x82], None),
            (&[0x82, 5], Some(Head { opcode: BINARY, header: 2, payload: 5 })),
            (&[0x82, 126, 1], None),
            (&[0x82, 126, 1, 0], Some(Head { opcode: BINARY, header: 4, payload: 256 })),
            (&[0x89, 127, 0, 0, 0, 0, 0, 1, 0, 0], Some(Head { opcode: PING, header: 10, payload: 65_536 })),
        ];
        for (bytes, expected) in cases {
            assert_eq!(head(bytes, 70_000), Ok(expected), "{bytes:?}");
        }
    }

    #[test]
    fn refuses_what_a_server_must_not_send() {
        assert_eq!(head(&[0x02, 5], 100), Err(WireError::Frame), "a fragment");
        assert_eq!(head(&[0x82, 0x85], 100), Err(WireError::Frame), "a masked frame");
        assert_eq!(head(&[0xc2, 5], 100), Err(WireError::Frame), "a reserved bit");
        assert_eq!(head(&[0x82, 101], 100), Err(WireError::TooLarge(101)));
    }

    #[test]
    fn the_upgrade_is_checked() {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let good =
            "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: kith.v1\r\n\r\nrest";
        assert_eq!(upgrade_answer(good.as_bytes(), key), Ok(Some(good.len() - 4)));
        assert_eq!(upgrade_answer(&good.as_bytes()[..60], key), Ok(None));
        assert!(upgrade_answer(good.replace("s3p", "s3q").as_bytes(), key).is_err());
        assert!(upgrade_answer(good.replace("kith.v1\r", "kith.v2\r").as_bytes(), key).is_err());
        assert_eq!(upgrade_answer(b"HTTP/1.1 503 Busy\r\n\r\n", key), Err(WireError::Upgrade("HTTP/1.1 503 Busy".to_owned())));
        assert!(upgrade_answer(&[b'x'; MAX_UPGRADE + 1], key).is_err());
    }
}
