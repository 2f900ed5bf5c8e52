//! Bytes: against tungstenite as the other side, and against whatever an attacker may write.

mod codec;
mod upgrade;

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use kith_proto::{v1, v1::client_frame};
use proptest::prelude::*;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{
            Role,
            frame::{
                Frame, FrameHeader,
                coding::{Data, OpCode},
            },
        },
    },
};

use super::{Codec, Inbound, SocketError, WebSocket};
use crate::connection::Outgoing;

const MAX: usize = 64 * 1024;
const DEADLINE: Duration = Duration::from_secs(20);

async fn pair(codec: Codec) -> (WebSocket<DuplexStream>, WebSocketStream<DuplexStream>) {
    let (server, client) = duplex(512);
    (WebSocket::new(server, codec, MAX), WebSocketStream::from_raw_socket(client, Role::Client, None).await)
}

fn ping_frame(id: u64) -> v1::ClientFrame {
    v1::ClientFrame { id, kind: Some(client_frame::Kind::Ping(v1::Ping {})) }
}

fn large_frame(bytes: usize) -> v1::ClientFrame {
    let send = v1::Send { body: vec![7; bytes].into(), ..v1::Send::default() };
    v1::ClientFrame { id: 1, kind: Some(client_frame::Kind::Send(send)) }
}

async fn next(server: &mut WebSocket<DuplexStream>) -> Option<Result<Inbound, SocketError>> {
    timeout(DEADLINE, server.next()).await.expect("something comes")
}

async fn next_frame(server: &mut WebSocket<DuplexStream>) -> v1::ClientFrame {
    loop {
        match next(server).await {
            Some(Ok(Inbound::Frame(frame))) => return frame,
            Some(Ok(Inbound::Heard)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn frames_of_any_size_come_through() {
    let (mut server, mut client) = pair(Codec::Binary).await;
    let sizes = [0, 1, 100, 125, 126, 1_000, 40_000, 65_000];
    let sending = tokio::spawn(async move {
        for size in sizes {
            client.send(Message::binary(large_frame(size).encode_to_vec())).await.unwrap();
        }
        client
    });
    for size in sizes {
        assert_eq!(next_frame(&mut server).await, large_frame(size));
    }
    assert_eq!(server.held(), 0, "a quiet socket owns no buffer");
    drop(sending.await.unwrap());
}

#[tokio::test]
async fn what_is_sent_arrives_and_the_buffer_is_given_back() {
    let (mut server, mut client) = pair(Codec::Binary).await;
    let pong = |id, n: usize| {
        let message = "x".repeat(n);
        let error = v1::Error { message, ..v1::Error::default() };
        Outgoing::answer(id, v1::server_frame::Kind::Error(error))
    };
    let reading = tokio::spawn(async move {
        let mut sizes = Vec::new();
        while sizes.len() < 4 {
            if let Message::Binary(bytes) = client.next().await.unwrap().unwrap() {
                sizes.push(v1::ServerFrame::decode(bytes).unwrap().encoded_len());
            }
        }
        sizes
    });
    for (id, n) in [(1, 0), (2, 130), (3, 66_000), (4, 10)] {
        server.feed(pong(id, n)).await.unwrap();
    }
    server.flush().await.unwrap();
    assert_eq!(server.held(), 0);
    let sizes = reading.await.unwrap();
    assert!(sizes[0] < 10 && sizes[1] > 130 && sizes[2] > 66_000);
}

#[tokio::test]
async fn fragments_are_joined_with_control_frames_between_them() {
    let (mut server, mut client) = pair(Codec::Binary).await;
    let bytes = large_frame(300).encode_to_vec();
    let part = |bytes: &[u8], opcode, last| Message::Frame(Frame::message(bytes.to_vec(), OpCode::Data(opcode), last));
    client.send(part(&bytes[..10], Data::Binary, false)).await.unwrap();
    client.send(Message::Ping("are you there".into())).await.unwrap();
    client.send(part(&bytes[10..20], Data::Continue, false)).await.unwrap();
    client.send(part(&bytes[20..], Data::Continue, true)).await.unwrap();
    assert_eq!(next_frame(&mut server).await, large_frame(300));
    server.flush().await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("are you there".into()));
}

#[tokio::test]
async fn json_is_text_and_says_the_same() {
    let (mut server, mut client) = pair(Codec::Json).await;
    client.send(Message::text(r#"{"id":"5","ping":{}}"#)).await.unwrap();
    assert_eq!(next_frame(&mut server).await, ping_frame(5));
    client.send(Message::text(r#"{"id":6,"ping":{}}"#)).await.unwrap();
    assert_eq!(next_frame(&mut server).await, ping_frame(6));
    let pong = Outgoing::answer(5, v1::server_frame::Kind::Pong(v1::Pong { server_time_ms: 9 }));
    server.send(pong).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::text(r#"{"id":"5","pong":{"serverTimeMs":"9"}}"#));
}

#[tokio::test]
async fn a_close_is_answered() {
    let (mut server, mut client) = pair(Codec::Binary).await;
    client.send(Message::binary(ping_frame(1).encode_to_vec())).await.unwrap();
    client.close(None).await.unwrap();
    assert_eq!(next_frame(&mut server).await, ping_frame(1));
    assert!(next(&mut server).await.is_none());
    server.flush().await.unwrap();
    assert!(matches!(client.next().await, Some(Ok(Message::Close(None)))));
}

/// What the server makes of raw bytes from a client that then ends.
async fn fed(codec: Codec, bytes: &[u8], piece: usize) -> Vec<Result<u64, String>> {
    let (server, mut client) = duplex(64);
    let mut server = WebSocket::new(server, codec, MAX);
    let bytes = bytes.to_vec();
    let writing = tokio::spawn(async move {
        for piece in bytes.chunks(piece) {
            if client.write_all(piece).await.is_err() {
                return;
            }
        }
        let _ = client.shutdown().await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
    });
    let mut seen = Vec::new();
    while let Some(inbound) = next(&mut server).await {
        match inbound {
            Ok(Inbound::Frame(frame)) => seen.push(Ok(frame.id)),
            Ok(Inbound::Heard) => {}
            Err(fault) => seen.push(Err(format!("{fault:?}"))),
        }
    }
    drop(server);
    writing.await.unwrap();
    seen
}

/// One masked frame.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let opcode = OpCode::from(first & 0x0f);
    let header = FrameHeader {
        is_final: first & 0x80 != 0,
        rsv1: first & 0x40 != 0,
        rsv2: first & 0x20 != 0,
        rsv3: first & 0x10 != 0,
        opcode,
        mask: Some([1, 2, 3, 4]),
    };
    header.format(payload.len() as u64, &mut bytes).unwrap();
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ [1, 2, 3, 4][at % 4]));
    bytes
}

#[tokio::test]
async fn broken_frames_are_refused() {
    let ping = ping_frame(1).encode_to_vec();
    let mut unmasked = vec![0x82, u8::try_from(ping.len()).unwrap()];
    unmasked.extend_from_slice(&ping);
    let malformed = [
        ("unmasked", unmasked),
        ("reserved bit", raw(0xc2, &ping)),
        ("reserved opcode", raw(0x83, &ping)),
        ("continuation of nothing", raw(0x80, &ping)),
        ("text under the binary subprotocol", raw(0x81, &ping)),
        ("garbage", raw(0x82, &[0xff; 30])),
        ("truncated protobuf", raw(0x82, &large_frame(50).encode_to_vec()[..40])),
        ("fragmented ping", raw(0x09, &[])),
        ("long ping", raw(0x89, &[0; 126])),
        ("a new message within one", [raw(0x02, &ping), raw(0x82, &ping)].concat()),
    ];
    for (name, bytes) in malformed {
        for piece in [1, 7, 4_096] {
            assert_eq!(fed(Codec::Binary, &bytes, piece).await, [Err("Malformed".to_owned())], "{name} in pieces of {piece}");
        }
    }
    let mut announced = vec![0x82, 0xff];
    announced.extend_from_slice(&(1u64 << 40).to_be_bytes());
    announced.extend_from_slice(&[0; 4]);
    assert_eq!(fed(Codec::Binary, &announced, 100).await, [Err("TooLarge".to_owned())]);
    let pieces = [raw(0x02, &[0; 40_000]), raw(0x80, &[0; 40_000])].concat();
    assert_eq!(fed(Codec::Binary, &pieces, 1_000).await, [Err("TooLarge".to_owned())], "in fragments, too");
    let largest = large_frame(MAX - 10).encode_to_vec();
    assert_eq!(largest.len(), MAX);
    let exact = raw(0x82, &largest);
    assert_eq!(fed(Codec::Binary, &exact, 5_000).await, [Ok(1)]);
    assert_eq!(fed(Codec::Json, &raw(0x81, b"{\"id\":\"1\",\"ping\":{}}"), 3).await, [Ok(1)]);
    assert_eq!(fed(Codec::Json, &raw(0x81, b"{\"id\":\"1\",\"ping\""), 3).await, [Err("Malformed".to_owned())]);
    assert_eq!(fed(Codec::Binary, &raw(0x82, &ping)[..5], 3).await, [], "half a frame, then the end");
}

#[tokio::test]
async fn a_header_alone_costs_nothing() {
    let (server, mut client) = duplex(64);
    let mut server = WebSocket::new(server, Codec::Binary, MAX);
    client.write_all(&raw(0x82, &[0; 60_000])[..30]).await.unwrap();
    assert!(timeout(Duration::from_millis(50), server.next()).await.is_err());
    assert!(server.held() <= 64, "{}", server.held());
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50, json in any::<bool>()) {
        let codec = if json { Codec::Json } else { Codec::Binary };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(fed(codec, &bytes, piece));
    }

    #[test]
    fn frames_cut_anywhere_are_the_same_frames(count in 1usize..20, size in 0usize..400, piece in 1usize..700) {
        let bytes: Vec<u8> = (0..count).flat_map(|_| raw(0x82, &large_frame(size).encode_to_vec())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        prop_assert_eq!(runtime.block_on(fed(Codec::Binary, &bytes, piece)), vec![Ok(1); count]);
    }
}
