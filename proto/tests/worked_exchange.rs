//! The worked exchange of docs/protocol.md is what this build really sends: each step is encoded here and looked for in the page, in bytes and in JSON.

use kith_proto::{
    id::{AccountId, ConversationId},
    v1::{self, client_frame, server_frame},
};
use prost::Message;

const PAGE: &str = include_str!("../../docs/protocol.md");

fn hex_lines(bytes: &[u8]) -> String {
    bytes.chunks(32).map(hex::encode).collect::<Vec<_>>().join("\n")
}

fn step<M: Message + serde::Serialize>(name: &str, frame: &M) -> String {
    let json = serde_json::to_string(frame).expect("frames have a JSON form");
    format!("{name}\n{}\n{json}", hex_lines(&frame.encode_to_vec()))
}

fn client(id: u64, kind: client_frame::Kind) -> v1::ClientFrame {
    v1::ClientFrame { id, kind: Some(kind) }
}

fn server(id: u64, kind: server_frame::Kind) -> v1::ServerFrame {
    v1::ServerFrame { id, kind: Some(kind) }
}

#[test]
fn the_page_shows_the_bytes_that_are_sent() {
    let (alice, bob) = (AccountId([0xa1; 16]), AccountId([0xb0; 16]));
    let conversation = ConversationId::direct(alice, bob).to_bytes();
    let (alices_phone, bobs_phone) = (vec![0x0a; 16], vec![0x0b; 16]);
    let client_msg_id = vec![0x11; 16];
    let limits = v1::Limits { max_frame_bytes: 65536, keep_alive_ms: 30000, max_sends_in_flight: 64, catch_up_window: 1024, max_page: 256 };
    let welcome = v1::Welcome {
        version: 1,
        limits: Some(limits),
        server_time_ms: 1_790_000_000_000,
        account: alice.to_bytes(),
        device: alices_phone.clone().into(),
        token_expires_ms: 1_790_000_600_000,
        device_list_version: 1,
        ..Default::default()
    };
    let send = v1::Send {
        conversation: conversation.clone(),
        recipient: bob.to_bytes(),
        client_msg_id: client_msg_id.clone().into(),
        body: (&b"body"[..]).into(),
        slices: vec![v1::Slice { device: bobs_phone.into(), data: (&b"slice"[..]).into() }],
        device_counter: 1,
        sender_list_version: 1,
        recipient_list_version: 1,
        ..Default::default()
    };
    let deliver = v1::Deliver {
        conversation: conversation.clone(),
        seq: 1,
        at_ms: 1_790_000_000_123,
        sender_account: alice.to_bytes(),
        sender_device: alices_phone.into(),
        client_msg_id: client_msg_id.clone().into(),
        sender_list_version: 1,
        recipient_list_version: 1,
        body: (&b"body"[..]).into(),
        slice: (&b"slice"[..]).into(),
        ..Default::default()
    };
    let hello = v1::Hello { token: "token".into(), version: 1, epoch: 1, ..Default::default() };
    let accepted = v1::Accepted { client_msg_id: client_msg_id.into(), seq: 1, at_ms: 1_790_000_000_123, duplicate: false };
    let cursor = v1::Cursor { conversation: conversation.clone(), seq: 1 };
    let refused = v1::Error {
        code: v1::ErrorCode::EarlierRefused.into(),
        message: "an earlier message of this conversation was refused".into(),
        retry: v1::Retry::Same.into(),
        ..Default::default()
    };
    let exchange = [
        step("alice > hello", &client(1, client_frame::Kind::Hello(hello))),
        step("alice < welcome", &server(1, server_frame::Kind::Welcome(welcome))),
        step("alice < caught up", &server(0, server_frame::Kind::CaughtUp(v1::CaughtUp {}))),
        step("alice > send", &client(2, client_frame::Kind::Send(send))),
        step("alice < accepted", &server(2, server_frame::Kind::Accepted(accepted))),
        step("bob < deliver", &server(0, server_frame::Kind::Deliver(deliver))),
        step("bob > ack (a notice: id 0)", &client(0, client_frame::Kind::Ack(v1::Ack { cursors: vec![cursor] }))),
        step("an error", &server(3, server_frame::Kind::Error(refused))),
    ]
    .join("\n\n");
    assert!(PAGE.contains(&exchange), "section 9 of docs/protocol.md should hold:\n\n{exchange}\n");
}
