//! The server's own WebSocket side. Whatever comes, in whatever pieces: the same bytes mean the same, and no more is kept than one message may hold. What
//! a client writes by the rules is understood, and what the server writes can be read.
#![no_main]

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use kith_chat_core::log::{Entry, Payload};
use kith_fuzz::Plan;
use kith_gateway::{
    connection::Outgoing,
    socket::{Codec, Inbound, SocketError, WebSocket},
};
use kith_proto::{
    id::{AccountId, ClientMsgId, ConversationId, DeviceId, DeviceRef},
    v1,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest header of a frame: two bytes, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;
/// A ping may stand between the fragments of a message.
const LONGEST_CONTROL: usize = 125;
/// What the socket reads at one time, and where it stops answering pings; from the same limits, memory held twice over for growth.
const READ_AT_ONCE: usize = 64 * 1024;
const HIGH_WATER: usize = 128 * 1024;

/// A connection whose other side is `input`, and that gives and takes as much at a time as `cuts` say, over and over; 0 says to come again.
struct Pipe<'a> {
    input: &'a [u8],
    cuts: &'a [u8],
    turn: usize,
    refused: bool,
    output: Rc<RefCell<Vec<u8>>>,
}

impl Pipe<'_> {
    /// How much may pass now.
    fn allowance(&mut self) -> Poll<usize> {
        if self.cuts.is_empty() {
            return Poll::Ready(usize::MAX);
        }
        let cut = usize::from(self.cuts[self.turn % self.cuts.len()]);
        self.turn += 1;
        self.refused = cut == 0 && !self.refused;
        // Large cuts are larger than a read.
        if self.refused { Poll::Pending } else { Poll::Ready(if cut > 250 { cut * 300 } else { cut.max(1) }) }
    }
}

impl AsyncRead for Pipe<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.allowance().map(|allowed| {
            let (piece, rest) = self.input.split_at(allowed.min(buffer.remaining()).min(self.input.len()));
            buffer.put_slice(piece);
            self.input = rest;
            Ok(())
        })
    }
}

impl AsyncWrite for Pipe<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.allowance().map(|allowed| {
            let taken = allowed.min(bytes.len());
            self.output.borrow_mut().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, PartialEq)]
enum Seen {
    Frame(v1::ClientFrame),
    Heard,
    Malformed,
    TooLarge,
}

/// Polls until it is ready; a pipe that says to come again twice in a row does not exist.
fn ready<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>, mut waiting: impl FnMut()) -> T {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => waiting(),
        }
    }
}

/// What the server makes of `input` in these pieces, and what it writes of itself.
fn read(codec: Codec, most: usize, input: &[u8], cuts: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let output = Rc::new(RefCell::new(Vec::new()));
    let pipe = Pipe { input, cuts, turn: 0, refused: false, output: Rc::clone(&output) };
    let socket = RefCell::new(WebSocket::new(pipe, codec, most));
    let bounded = || {
        let socket = socket.borrow();
        assert!(socket.buffered() <= most + LONGEST_HEADER + LONGEST_CONTROL, "{} bytes wait for the rest of a message", socket.buffered());
        assert!(socket.held() <= 4 * (most + READ_AT_ONCE + HIGH_WATER), "{} bytes of memory", socket.held());
    };
    let mut seen = Vec::new();
    while let Some(inbound) = ready(|cx| Pin::new(&mut *socket.borrow_mut()).poll_next(cx), bounded) {
        seen.push(match inbound {
            Ok(Inbound::Frame(frame)) => {
                assert!(frame.encoded_len() <= most, "a frame that is longer than allowed");
                Seen::Frame(frame)
            }
            Ok(Inbound::Heard) => Seen::Heard,
            Err(SocketError::Malformed) => Seen::Malformed,
            Err(SocketError::TooLarge) => Seen::TooLarge,
            Err(SocketError::Io(failure)) => panic!("the pipe has no failures: {failure}"),
        });
    }
    let faults = seen.iter().filter(|seen| matches!(seen, Seen::Malformed | Seen::TooLarge)).count();
    assert!(faults == 0 || faults == 1 && matches!(seen.last(), Some(Seen::Malformed | Seen::TooLarge)), "nothing follows a fault");
    ready(|cx| Pin::new(&mut *socket.borrow_mut()).poll_close(cx), || {}).expect("the pipe has no failures");
    assert!(ready(|cx| Pin::new(&mut *socket.borrow_mut()).poll_next(cx), || {}).is_none(), "over is over");
    drop(socket);
    (seen, output.take())
}

/// One frame as a client writes it.
fn client_frame(first: u8, mask: [u8; 4], payload: &[u8], out: &mut Vec<u8>) {
    out.push(first);
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
}

/// The same message as a well-behaved client may send it: whole or in fragments, with pings between them.
fn by_the_rules(codec: Codec, plan: &mut Plan<'_>, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let opcode = if codec.is_text() { 1 } else { 2 };
    let parts = 1 + usize::from(plan.u8() % 8);
    let mut left = payload;
    for part in 0..parts {
        let last = part + 1 == parts;
        let length = if last { left.len() } else { usize::from(plan.u16()).min(left.len()) };
        let (piece, rest) = left.split_at(length);
        client_frame(if last { 0x80 } else { 0 } | if part == 0 { opcode } else { 0 }, plan.array(), piece, &mut out);
        left = rest;
        if plan.flag() {
            client_frame(0x89, plan.array(), &piece[..piece.len().min(125)], &mut out);
        }
    }
    out
}

fn understood(codec: Codec, most: usize, payload: &[u8], plan: &mut Plan<'_>, cuts: &[u8]) {
    let stream = by_the_rules(codec, plan, payload);
    let (seen, _) = read(codec, most, &stream, cuts);
    let found = seen.into_iter().find(|seen| *seen != Seen::Heard);
    let expected = match codec.decode(Bytes::copy_from_slice(payload)) {
        _ if payload.len() > most => Seen::TooLarge,
        Ok(frame) => Seen::Frame(frame),
        Err(_) => Seen::Malformed,
    };
    assert_eq!(found, Some(expected));
}

/// Messages in what the server has written: opcode and payload of each frame, all of them whole and unmasked.
fn written(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert!(first & 0xf0 == 0x80 && second & 0x80 == 0, "final, without reserved bits, unmasked");
        let (length, rest) = match second {
            126 => rest.split_first_chunk().map(|(length, rest)| (u64::from(u16::from_be_bytes(*length)), rest)).expect("a length"),
            127 => rest.split_first_chunk().map(|(length, rest)| (u64::from_be_bytes(*length), rest)).expect("a length"),
            short => (u64::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(usize::try_from(length).expect("small"));
        frames.push((first & 0x0f, payload));
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a header");
    frames
}

/// Something that the server may send.
fn outgoing(plan: &mut Plan<'_>) -> Outgoing {
    let sender = DeviceRef { account: AccountId(plan.array()), device: DeviceId(plan.array()) };
    let client_msg_id = ClientMsgId(plan.array());
    match plan.u8() % 5 {
        0 => Outgoing::Accepted { id: plan.number(), client_msg_id, seq: plan.number(), at_ms: plan.number(), duplicate: plan.flag() },
        1 => {
            let payload = match plan.u8() {
                0 => Payload::Absent(v1::AbsentReason::Own),
                1 => Payload::Absent(v1::AbsentReason::Expired),
                _ => {
                    let (body, slice) = (plan.u16().into(), plan.short());
                    Payload::Sealed { body: Bytes::copy_from_slice(plan.bytes(body)), slice: Bytes::copy_from_slice(slice) }
                }
            };
            let entry = Entry {
                seq: plan.number(),
                at_ms: plan.number(),
                sender,
                client_msg_id,
                checkpoint: plan.flag(),
                sender_list_version: plan.number(),
                recipient_list_version: plan.number(),
                payload,
            };
            Outgoing::Entry(ConversationId(plan.array()), Box::new(entry))
        }
        2 => Outgoing::Ping,
        _ => {
            let length = plan.u16().into();
            let frame = v1::ServerFrame::decode(plan.bytes(length)).unwrap_or_default();
            // What the server builds itself has no numbers without a name; only those have no form in JSON.
            let named = serde_json::to_vec(&frame).is_ok();
            Outgoing::Frame(Box::new(if named { frame } else { v1::ServerFrame::default() }))
        }
    }
}

fn readable(codec: Codec, plan: &mut Plan<'_>, cuts: &[u8]) {
    let output = Rc::new(RefCell::new(Vec::new()));
    let pipe = Pipe { input: &[], cuts, turn: 0, refused: false, output: Rc::clone(&output) };
    let mut socket = WebSocket::new(pipe, codec, READ_AT_ONCE);
    let mut sent = Vec::new();
    while !plan.is_over() {
        let message = outgoing(plan);
        ready(|cx| Pin::new(&mut socket).poll_ready(cx), || {}).expect("the pipe has no failures");
        Pin::new(&mut socket).start_send(message.clone()).expect("it was ready");
        assert!(socket.held() <= 4 * (HIGH_WATER + READ_AT_ONCE), "{} bytes of memory", socket.held());
        sent.push(message);
        if plan.flag() {
            ready(|cx| Pin::new(&mut socket).poll_flush(cx), || {}).expect("the pipe has no failures");
        }
    }
    Pin::new(&mut socket).start_send(Outgoing::Close(1000)).expect("a close always fits");
    ready(|cx| Pin::new(&mut socket).poll_close(cx), || {}).expect("the pipe has no failures");
    let bytes = output.borrow();
    let mut frames = written(&bytes).into_iter();
    for message in &sent {
        let (opcode, payload) = frames.next().expect("one frame for each message");
        match (message.to_frame(), opcode) {
            (None, 9) => assert!(payload.is_empty()),
            (Some(frame), 1) => assert_eq!(serde_json::from_slice::<v1::ServerFrame>(payload).expect("own text"), frame),
            (Some(frame), 2) => assert_eq!(v1::ServerFrame::decode(payload).expect("own bytes"), frame),
            (_, opcode) => panic!("a frame of kind {opcode}"),
        }
        assert!(opcode == 9 || (opcode == 1) == codec.is_text());
    }
    assert_eq!(frames.collect::<Vec<_>>(), [(8, &1000u16.to_be_bytes()[..])], "a close, and nothing after it");
}

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan(data);
    let which = plan.u8();
    let codec = if which & 1 == 0 { Codec::Binary } else { Codec::Json };
    let most = [16, 125, 300, 4_096, 65_536, 0, 1, 127][usize::from(which >> 1 & 7)];
    let cuts = plan.short();
    match which >> 4 & 3 {
        0 | 1 => {
            let (seen, output) = read(codec, most, plan.0, &[]);
            assert_eq!(read(codec, most, plan.0, cuts), (seen, output), "in other pieces it means something else");
        }
        2 => {
            let mut rules = Plan(plan.short());
            understood(codec, most, plan.0, &mut rules, cuts);
        }
        _ => readable(codec, &mut plan, cuts),
    }
});
