//! Bytes that are no frames, and frames that are no requests, end the connection that sent them and nothing else. (A49: limits before allocation.)

use anyhow::{Context as _, ensure};
use kith_proto::v1::{self, ClientFrame, ErrorCode, client_frame};
use kith_tests::{
    Story,
    expect::still_serves,
    person::Person,
    server::Options,
    socket::{SOON, Socket},
};
use prost::Message as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

/// Unknown wire type, length beyond the end, varint without an end, field number 0, a string that is not UTF-8 in `Hello.token`.
const UNDECODABLE: [&[u8]; 5] =
    [b"\x0f", b"\x12\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x00\x01", b"\x08\x01\x12\x04\x0a\x02\xff\xfe"];

async fn ends_as_invalid(mut socket: Socket, what: &str, message: Message) -> Story {
    socket.send_message(message).await?;
    let ending = socket.ending(SOON).await.with_context(|| what.to_owned())?;
    ensure!(ending.reason() == Some(ErrorCode::InvalidFrame), "{what}: {ending:?}");
    ensure!(ending.close.as_ref().is_some_and(|close| u16::from(close.code) == 1002), "{what}: close {:?}", ending.close);
    Ok(())
}

fn not_requests() -> Vec<(&'static str, Message)> {
    let encode = |frame: ClientFrame| Message::binary(frame.encode_to_vec());
    let mut all: Vec<_> = UNDECODABLE.iter().map(|bytes| ("undecodable", Message::binary(bytes.to_vec()))).collect();
    all.push(("empty", Message::binary(Vec::new())));
    all.push(("no kind", encode(ClientFrame { id: 7, kind: None })));
    all.push(("text under the binary subprotocol", Message::text("{}")));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_ends_the_connection_before_and_after_hello() -> Story {
    let server = Options::new().start().await?;
    let mut alice = Person::register(&server.origin(), "alice").await?;
    for (what, message) in not_requests() {
        ends_as_invalid(Socket::open(&server.origin()).await?, what, message.clone()).await.context("before hello")?;
        ends_as_invalid(alice.connect().await?.0, what, message).await.context("after hello")?;
    }
    let notice = ClientFrame { id: 0, kind: Some(client_frame::Kind::Ping(v1::Ping {})) }.encode_to_vec();
    ends_as_invalid(alice.connect().await?.0, "a request as a notice", Message::binary(notice)).await?;
    for text in ["", "{", "null", "{\"id\":\"1\"}", "{\"id\":\"1\",\"hello\":7}", "{\"id\":\"1\",\"ping\":{},\"hello\":{}}"] {
        let socket = Socket::open_as(&server.origin(), "kith.v1.json").await?;
        ends_as_invalid(socket, text, Message::text(text)).await?;
    }
    ends_as_invalid(Socket::open_as(&server.origin(), "kith.v1.json").await?, "binary under JSON", Message::binary(vec![8, 1])).await?;
    still_serves(&server.origin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_truncation_of_a_send_is_refused_or_ends_the_connection() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let send = alice.message(bob.device_ref(), "whole");
    let whole = ClientFrame { id: 1 << 40, kind: Some(client_frame::Kind::Send(send.clone())) }.encode_to_vec();
    let mut socket = alice.connect().await?.0;
    for length in 0..whole.len() {
        let cut = whole[..length].to_vec();
        let decodable = ClientFrame::decode(cut.as_slice()).is_ok_and(|frame| frame.id != 0 && frame.kind.is_some());
        if !decodable {
            ends_as_invalid(socket, "truncated", Message::binary(cut)).await.with_context(|| format!("at {length}"))?;
            socket = alice.connect().await?.0;
            continue;
        }
        // Cut between two fields it is still a frame; but none of these is a valid Send before its counter and versions are there.
        socket.send_message(Message::binary(cut)).await?;
        socket.answer(1 << 40).await.with_context(|| format!("cut at {length}"))?;
    }
    still_serves(&server.origin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_do_no_harm() -> Story {
    const SEED: u64 = 0x6B69_7468;
    let server = Options::new().start().await?;
    let mut random = StdRng::seed_from_u64(SEED);
    for round in 0..300 {
        let mut bytes = vec![0; random.random_range(0..2_000)];
        random.fill_bytes(&mut bytes);
        let mut socket = Socket::open(&server.origin()).await?;
        socket.send_message(Message::binary(bytes)).await?;
        let ending = socket.ending(SOON).await.with_context(|| format!("round {round}"))?;
        ensure!(matches!(ending.reason(), Some(ErrorCode::InvalidFrame | ErrorCode::HelloRequired)), "round {round}: {ending:?}");
    }
    still_serves(&server.origin()).await
}

/// WebSocket frames that break RFC 6455: not masked, a reserved bit, an unknown opcode, a ping of 126 bytes, a continuation of nothing, bad UTF-8.
const BROKEN_WEBSOCKET: [&[u8]; 6] = [
    b"\x82\x02\x08\x01",
    b"\xc2\x82\0\0\0\0\x08\x01",
    b"\x83\x80\0\0\0\0",
    b"\x89\xfe\x00\x7e\0\0\0\0",
    b"\x80\x80\0\0\0\0",
    b"\x81\x81\0\0\0\0\xff",
];

#[tokio::test(flavor = "multi_thread")]
async fn broken_websocket_and_broken_http_are_hung_up_on() -> Story {
    let server = Options::new().start().await?;
    for bytes in BROKEN_WEBSOCKET {
        let mut tcp = Socket::open(&server.origin()).await?.into_tcp();
        tcp.write_all(bytes).await?;
        hung_up(&mut tcp).await.with_context(|| format!("{bytes:02x?}"))?;
    }
    let address = server.origin().replace("http://", "");
    for text in ["\0\0\0\0\r\n\r\n", "GET /v1/ws HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03"] {
        let mut tcp = TcpStream::connect(&address).await?;
        tcp.write_all(text.as_bytes()).await?;
        tcp.shutdown().await?;
        hung_up(&mut tcp).await.with_context(|| format!("{text:?}"))?;
    }
    still_serves(&server.origin()).await
}

async fn hung_up(tcp: &mut TcpStream) -> Story {
    let mut said = Vec::new();
    match timeout(SOON, tcp.read_to_end(&mut said)).await.context("still open")? {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_without_our_subprotocol_is_refused() -> Story {
    let server = Options::new().start().await?;
    ensure!(Socket::open_as(&server.origin(), "chat.v9").await.is_err(), "an unknown subprotocol was accepted");
    still_serves(&server.origin()).await
}
