//! Attacks on memory and on the flow of catching up, by name.

use std::sync::Arc;

use futures_util::StreamExt as _;
use kith_chat_core::log::{Behind, Connected};
use kith_gateway::{
    connection::{Action, Connection, Done, Input, Now, Op, Shared},
    sessions::SessionSettings,
    socket::{Codec, Inbound, WebSocket},
    token::TokenKey,
};
use kith_proto::{
    id::{AccountId, ConversationId, DeviceId, DeviceRef},
    v1,
    v1::client_frame,
};
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;

/// A masked frame with a mask of zeros.
fn websocket_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(len) if len < 126 => frame.push(0x80 | len),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// What is kept of a message in queues and inboxes is counted by its length, so it must not hold on to all that came with it in one read.
#[tokio::test]
async fn a_small_message_among_much_else_pins_no_large_buffer() {
    let send = v1::Send { body: vec![7; 200].into(), ..v1::Send::default() };
    let message = v1::ClientFrame { id: 1, kind: Some(client_frame::Kind::Send(send)) }.encode_to_vec();
    for before in [0, 100, 400] {
        let mut bytes = Vec::new();
        (0..before).for_each(|_| bytes.extend(websocket_frame(9, &[0; 125])));
        bytes.extend(websocket_frame(2, &message));
        (before..450).for_each(|_| bytes.extend(websocket_frame(9, &[0; 125])));
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(&bytes).await.unwrap();
        let mut socket = WebSocket::new(server, Codec::Binary, 1 << 16);
        let frame = loop {
            if let Inbound::Frame(frame) = socket.next().await.expect("a frame").expect("no fault") {
                break frame;
            }
        };
        drop(socket);
        let Some(client_frame::Kind::Send(send)) = frame.kind else { panic!("another frame") };
        let mut body = send.body.try_into_mut().expect("nobody else holds it");
        assert!(!body.try_reclaim(16 << 10), "200 bytes hold on to the memory of a whole read");
    }
}

const ME: DeviceRef = DeviceRef { account: AccountId([1; 16]), device: DeviceId([11; 16]) };
const NOW: Now = Now { unix_ms: 1_000, running_ms: 0 };

fn handle(connection: &mut Connection, input: Input) -> Vec<Op> {
    let mut actions = Vec::new();
    connection.handle(input, NOW, &mut actions);
    actions.into_iter().filter_map(|action| if let Action::Run(op) = action { Some(op) } else { None }).collect()
}

/// A device that acknowledges at once what it had stored before must not be paged what it has: it would never acknowledge that again, and a full window
/// of it would hold up everything else for ever.
#[test]
fn acknowledging_while_the_heads_are_read_does_not_fill_the_window_for_ever() {
    let settings = SessionSettings::default();
    let window = u64::from(settings.catch_up_window);
    let tokens = TokenKey::new([7; 32]);
    let hello = v1::Hello { token: tokens.issue(ME, 10_000), version: 1, features: Vec::new(), epoch: 1 };
    let mut connection = Connection::new(1, Arc::new(Shared { settings, tokens }), false, NOW);
    handle(&mut connection, Input::Frame(v1::ClientFrame { id: 1, kind: Some(client_frame::Kind::Hello(hello)) }));
    let connected = Connected { device_counter: 0, previous_epoch: 0, device_list_version: 1, one_time_left: (100, 100) };
    let ops = handle(&mut connection, Input::Done(Done::Connect { request: 1, result: Ok(connected) }));
    assert_eq!(ops, [Op::Heads]);
    let [stored, missed] = [2, 3].map(|n| ConversationId::direct(ME.account, AccountId([n; 16])));
    let cursors = vec![v1::Cursor { conversation: stored.to_bytes(), seq: window }];
    assert!(handle(&mut connection, Input::Frame(v1::ClientFrame { id: 0, kind: Some(client_frame::Kind::Ack(v1::Ack { cursors })) })).is_empty());
    // Read before the acknowledgement arrived.
    let behind = [(stored, window), (missed, 1)].map(|(conversation, head)| Behind { device: ME, conversation, cursor: 0, head });
    let ops = handle(&mut connection, Input::Done(Done::Heads(Ok(behind.to_vec()))));
    let [Op::Acknowledge { request: 0, cursors }] = &ops[..] else { panic!("{ops:?}") };
    let ops = handle(&mut connection, Input::Done(Done::Acknowledge { request: 0, cursors: cursors.clone(), result: Ok(()) }));
    let paged_again = ops.iter().any(|op| matches!(op, Op::CatchUp { conversation, after, .. } if *conversation == stored && *after < window));
    assert!(!paged_again, "{ops:?}");
}
