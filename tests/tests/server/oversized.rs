//! What is too large is refused by its length, before it is read. (A49)

use anyhow::{Context as _, ensure};
use kith_proto::v1::{ClientFrame, ErrorCode, Ping, client_frame, server_frame};
use kith_tests::{
    Story,
    expect::{accepted, refused, still_serves},
    person::Person,
    server::Options,
    socket::{SOON, Socket},
};
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};
use reqwest::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_frame_passes_and_one_byte_more_does_not() -> Story {
    let server = Options::new().start().await?;
    let (mut alice, bob) = (Person::register(&server.origin(), "alice").await?, Person::register(&server.origin(), "bob").await?);
    let (mut socket, welcome) = alice.connect().await?;
    let limit = welcome.limits.context("no limits")?.max_frame_bytes as usize;
    ensure!(limit == 64 * 1024, "the default is 64 KiB, not {limit}");

    // A ping with a field that nobody knows fills a frame to the last byte.
    let mut largest = ClientFrame { id: 100, kind: Some(client_frame::Kind::Ping(Ping {})) }.encode_to_vec();
    let unknown_field = 1_000 << 3 | 2;
    encode_varint(unknown_field, &mut largest);
    let filling = limit - largest.len() - encoded_len_varint(limit as u64);
    encode_varint(filling as u64, &mut largest);
    largest.resize(limit, 0);
    socket.send_message(Message::binary(largest)).await?;
    let answer = socket.answer(100).await?;
    ensure!(matches!(answer, server_frame::Kind::Pong(_)), "{answer:?}");

    // A message that fits into the sender's frame but not into the recipient's is refused, and the connection lives.
    let send = alice.message(bob.device_ref(), vec![7; limit - 150]);
    refused(socket.ask(client_frame::Kind::Send(send)).await?, ErrorCode::TooLarge)?;
    let mut send = alice.message(bob.device_ref(), vec![7; limit - 1_000]);
    send.restart = true;
    accepted(&mut socket, send.clone()).await?;

    socket.send_message(Message::binary(vec![0; limit + 1])).await?;
    let ending = socket.ending(SOON).await?;
    ensure!(ending.reason() == Some(ErrorCode::TooLarge), "{ending:?}");
    // The message before it is whole.
    let (mut socket, _) = alice.connect().await?;
    ensure!(accepted(&mut socket, send).await?.duplicate);
    still_serves(&server.origin()).await
}

/// A masked binary frame's header that claims `length`, without its payload.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut header = vec![first, 0x80 | 127];
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    header
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_huge_frame_is_refused_before_a_byte_of_it_came() -> Story {
    let server = Options::new().start().await?;
    let before = kith_tests::server::resident_bytes(server.pid().context("runs")?)?;
    let mut held = Vec::new();
    for length in [65_537, 1 << 30, 1 << 40, u64::MAX >> 1] {
        for _ in 0..50 {
            let mut socket = Socket::open(&server.origin()).await?;
            socket.write_raw(&header(0x82, length)).await?;
            let ending = socket.ending(SOON).await?;
            ensure!(matches!(ending.reason(), Some(ErrorCode::TooLarge)), "{length}: {ending:?}");
            held.push(socket);
        }
    }
    let after = kith_tests::server::resident_bytes(server.pid().context("runs")?)?;
    ensure!(after < before + (32 << 20), "memory grew from {before} to {after}");
    still_serves(&server.origin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_fragments_do_not_make_a_large_frame() -> Story {
    let server = Options::new().start().await?;
    let mut socket = Socket::open(&server.origin()).await?;
    let fragment = |first: u8| {
        let mut bytes = vec![first, 0x80 | 126];
        bytes.extend_from_slice(&8_000_u16.to_be_bytes());
        bytes.resize(bytes.len() + 4 + 8_000, 0);
        bytes
    };
    socket.write_raw(&fragment(0x02)).await?;
    for _ in 0..8 {
        // The server may hang up before the last one is written.
        if socket.write_raw(&fragment(0x00)).await.is_err() {
            break;
        }
    }
    let ending = socket.ending(SOON).await?;
    ensure!(matches!(ending.reason(), Some(ErrorCode::TooLarge) | None), "{ending:?}");
    still_serves(&server.origin()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rest_body_that_is_too_large_is_refused() -> Story {
    let server = Options::new().start().await?;
    let rest = server.rest()?;
    let limits: kith_proto::rest::LimitsResponse = rest.get("/v1/limits", None).await?;
    let body = vec![b' '; usize::try_from(limits.max_body_bytes)? + 1];
    let (status, _, bytes) = rest.raw(Method::POST, "/v1/accounts", None, Some(body)).await?;
    ensure!(status == StatusCode::PAYLOAD_TOO_LARGE, "{status}");
    let body: kith_proto::rest::ErrorBody = serde_json::from_slice(&bytes).context("an error body")?;
    ensure!(body.code.0 == ErrorCode::TooLarge);

    // A client that writes all of it before it reads still learns why.
    let head =
        format!("POST /v1/accounts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", 2 * limits.max_body_bytes);
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(server.origin().replace("http://", "")).await?;
        tcp.write_all(head.as_bytes()).await?;
        for _ in 0..limits.max_body_bytes / 32_768 {
            tcp.write_all(&[b' '; 65_536]).await.context("cut off while writing")?;
        }
        answered_too_large(&mut tcp).await?;
    }

    // Claimed and never sent: refused by the header.
    let mut tcp = TcpStream::connect(server.origin().replace("http://", "")).await?;
    tcp.write_all(b"POST /v1/accounts HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n").await?;
    answered_too_large(&mut tcp).await?;
    still_serves(&server.origin()).await
}

async fn answered_too_large(tcp: &mut TcpStream) -> Story {
    let mut first = [0; 12];
    tokio::time::timeout(SOON, tcp.read_exact(&mut first)).await.context("no answer to the header")??;
    ensure!(&first == b"HTTP/1.1 413", "{}", String::from_utf8_lossy(&first));
    Ok(())
}
