//! The server's side of an upgraded WebSocket (RFC 6455) as a `Stream` of frames and a `Sink` of what goes out.
//!
//! Headers are parsed by tungstenite; the buffers are ours, because a quiet connection should own none. What is read lands in a buffer of the thread
//! first and is then copied once into memory of exactly its size, of which all frames that came together are slices. What is written is encoded into a
//! buffer borrowed from the thread's pool and given back when the socket has taken it all. Only half a frame, or a socket that does not take what it is
//! given, holds memory.

use std::{
    cell::RefCell,
    io::{self, Cursor},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use futures_util::{Sink, Stream};
use kith_proto::v1;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::Codec;
use crate::connection::Outgoing;

/// What is read at one time.
const READ_AT_ONCE: usize = 64 * 1024;
/// What came in one read is kept as a whole for as long as any frame of it is. From this size on a frame that is a small part of it is copied out: queues
/// and inboxes count a message by its own length.
const SHARED_AT_MOST: usize = 4 * 1024;
/// A small part is less than one in so many.
const SMALL_PART: usize = 8;
/// With more waiting to be written, nothing more is asked for.
const HIGH_WATER: usize = 128 * 1024;
/// Largest buffer that goes back to the pool.
const POOLED_BUFFER: usize = 256 * 1024;
/// Buffers a thread keeps.
const POOLED_BUFFERS: usize = 8;
/// RFC 6455 section 5.5.
const MAX_CONTROL: usize = 125;
/// Fragments of one message; a peer that sends smaller ones than this allows is at fault.
const MAX_FRAGMENTS: u32 = 1_024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AT_ONCE].into_boxed_slice());
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Something that came in.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives for one call; a box would cost an allocation per frame")]
pub enum Inbound {
    /// A frame.
    Frame(v1::ClientFrame),
    /// A ping (already answered) or a pong.
    Heard,
}

/// Why nothing more can come in.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// What came is no frame, or breaks the rules of WebSockets.
    #[error("what came is no frame")]
    Malformed,
    /// A message is longer than allowed; nothing of it was kept.
    #[error("a message is longer than allowed")]
    TooLarge,
    /// The connection is gone.
    #[error("the connection is gone")]
    Io(#[from] io::Error),
}

/// An upgraded connection.
#[derive(Debug)]
pub struct WebSocket<T> {
    io: T,
    codec: Codec,
    max_message: usize,
    incoming: BytesMut,
    /// Bytes of memory that frames taken out of `incoming` hold on to.
    shared: usize,
    header: Option<(FrameHeader, usize)>,
    fragments: Option<Box<Fragments>>,
    outgoing: Vec<u8>,
    written: usize,
    /// The peer has said close, or end of file, or broken a rule: nothing more is read.
    read_over: bool,
    close_sent: bool,
    shut: bool,
}

#[derive(Debug)]
struct Fragments {
    text: bool,
    payload: BytesMut,
    count: u32,
}

impl<T> WebSocket<T> {
    /// Over a connection whose upgrade has been answered. `max_message` is the largest message taken, in bytes.
    pub fn new(io: T, codec: Codec, max_message: usize) -> Self {
        Self {
            io,
            codec,
            max_message,
            incoming: BytesMut::new(),
            shared: 0,
            header: None,
            fragments: None,
            outgoing: Vec::new(),
            written: 0,
            read_over: false,
            close_sent: false,
            shut: false,
        }
    }

    /// Bytes of memory held for what came in and what goes out.
    #[cfg(any(test, fuzzing))]
    pub fn held(&self) -> usize {
        self.incoming.capacity() + self.outgoing.capacity()
    }

    /// Bytes that came in and were not given out yet.
    #[cfg(fuzzing)]
    pub fn buffered(&self) -> usize {
        self.incoming.len() + self.fragments.as_ref().map_or(0, |fragments| fragments.payload.len())
    }

    /// Bytes that the socket has not taken yet.
    fn unwritten(&self) -> usize {
        self.outgoing.len() - self.written
    }

    /// The buffer for what goes out; from the pool if there is none.
    fn buffer(&mut self) -> &mut Vec<u8> {
        if self.outgoing.capacity() == 0 {
            self.outgoing = POOL.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        &mut self.outgoing
    }

    fn put_control(&mut self, opcode: u8, payload: &[u8]) {
        let out = self.buffer();
        put_header(opcode, payload.len(), out);
        out.extend_from_slice(payload);
    }

    fn put_close(&mut self, code: Option<u16>) {
        if !std::mem::replace(&mut self.close_sent, true) {
            match code {
                Some(code) => self.put_control(OP_CLOSE, &code.to_be_bytes()),
                None => self.put_control(OP_CLOSE, &[]),
            }
        }
    }

    /// The next whole WebSocket frame of what was read, unmasked.
    fn next_frame(&mut self) -> Result<Option<(FrameHeader, BytesMut)>, SocketError> {
        if self.header.is_none() {
            let mut cursor = Cursor::new(&self.incoming[..]);
            let Some((header, len)) = FrameHeader::parse(&mut cursor).map_err(|_| SocketError::Malformed)? else { return Ok(None) };
            let parsed = usize::try_from(cursor.position()).map_err(|_| SocketError::Malformed)?;
            let len = self.check(&header, len)?;
            self.incoming.advance(parsed);
            self.header = Some((header, len));
        }
        let Some((_, len)) = &self.header else { return Ok(None) };
        if self.incoming.len() < *len {
            return Ok(None);
        }
        let Some((header, len)) = self.header.take() else { return Ok(None) };
        let mut payload = if self.incoming.len() == len { std::mem::take(&mut self.incoming) } else { self.incoming.split_to(len) };
        if self.shared > SHARED_AT_MOST && len < self.shared / SMALL_PART {
            payload = BytesMut::from(&payload[..]);
        }
        if let Some(mask) = header.mask {
            unmask(&mut payload, mask);
        }
        Ok(Some((header, payload)))
    }

    /// RFC 6455 sections 5.1, 5.2, 5.5, and the size limit: all by the header, before anything is kept for the payload.
    fn check(&self, header: &FrameHeader, len: u64) -> Result<usize, SocketError> {
        if header.mask.is_none() || header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(SocketError::Malformed);
        }
        let known = self.fragments.as_ref().map_or(0, |f| f.payload.len());
        match header.opcode {
            OpCode::Control(_) if !header.is_final || len > MAX_CONTROL as u64 => Err(SocketError::Malformed),
            OpCode::Data(_) if len > (self.max_message - known.min(self.max_message)) as u64 => Err(SocketError::TooLarge),
            _ => usize::try_from(len).map_err(|_| SocketError::TooLarge),
        }
    }

    /// Takes a whole WebSocket frame; gives what it means, if it is complete.
    fn accept(&mut self, header: &FrameHeader, payload: BytesMut) -> Result<Option<Inbound>, SocketError> {
        match header.opcode {
            OpCode::Control(Control::Ping) => {
                if self.unwritten() < HIGH_WATER && !self.close_sent {
                    self.put_control(OP_PONG, &payload);
                }
                Ok(Some(Inbound::Heard))
            }
            OpCode::Control(Control::Close) => {
                self.read_over = true;
                let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]])).filter(|code| may_be_echoed(*code));
                self.put_close(code);
                Ok(None)
            }
            OpCode::Control(_) => Ok(Some(Inbound::Heard)),
            OpCode::Data(data) => self.message(data, header.is_final, payload),
        }
    }

    fn message(&mut self, data: Data, is_final: bool, payload: BytesMut) -> Result<Option<Inbound>, SocketError> {
        let (text, payload) = match (data, self.fragments.take()) {
            (Data::Continue, Some(mut fragments)) => {
                fragments.payload.extend_from_slice(&payload);
                fragments.count += 1;
                if !is_final {
                    if fragments.count > MAX_FRAGMENTS {
                        return Err(SocketError::Malformed);
                    }
                    self.fragments = Some(fragments);
                    return Ok(Some(Inbound::Heard));
                }
                (fragments.text, fragments.payload)
            }
            (Data::Text | Data::Binary, None) => {
                let text = data == Data::Text;
                if !is_final {
                    self.fragments = Some(Box::new(Fragments { text, payload, count: 1 }));
                    return Ok(Some(Inbound::Heard));
                }
                (text, payload)
            }
            _ => return Err(SocketError::Malformed),
        };
        if text != self.codec.is_text() {
            return Err(SocketError::Malformed);
        }
        let frame = self.codec.decode(payload.freeze()).map_err(|_| SocketError::Malformed)?;
        Ok(Some(Inbound::Frame(frame)))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WebSocket<T> {
    /// Reads what is there. `false` at the end of the file.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            // Memory grows with what has come, not with what a header announces.
            self.incoming.extend_from_slice(read);
            self.shared = self.incoming.capacity();
            Poll::Ready(Ok(!read.is_empty()))
        })
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unwritten() > 0 {
            match Pin::new(&mut self.io).poll_write(cx, &self.outgoing[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.written += written,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => {
                    self.keep_rest();
                    return Poll::Pending;
                }
            }
        }
        self.give_buffer_back();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// The socket is full: what it has taken is forgotten, so that the buffer does not grow over what was written long ago.
    fn keep_rest(&mut self) {
        if self.written > self.outgoing.len() / 2 {
            self.outgoing.drain(..self.written);
            self.written = 0;
        }
    }

    fn give_buffer_back(&mut self) {
        self.written = 0;
        let mut buffer = std::mem::take(&mut self.outgoing);
        if buffer.capacity() == 0 || buffer.capacity() > POOLED_BUFFER {
            return;
        }
        buffer.clear();
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED_BUFFERS {
                pool.push(buffer);
            }
        });
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for WebSocket<T> {
    type Item = Result<Inbound, SocketError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        while !this.read_over {
            match this.next_frame().and_then(|frame| frame.map(|(header, payload)| this.accept(&header, payload)).transpose()) {
                Ok(Some(Some(inbound))) => return Poll::Ready(Some(Ok(inbound))),
                Ok(Some(None)) => {}
                Ok(None) => {
                    this.read_over = !ready!(this.poll_read(cx)).inspect_err(|_| this.read_over = true)?;
                }
                Err(fault) => {
                    this.read_over = true;
                    return Poll::Ready(Some(Err(fault)));
                }
            }
        }
        Poll::Ready(None)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Sink<Outgoing> for WebSocket<T> {
    type Error = SocketError;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if self.unwritten() < HIGH_WATER {
            return Poll::Ready(Ok(()));
        }
        self.poll_write_out(cx).map_err(SocketError::Io)
    }

    fn start_send(mut self: Pin<&mut Self>, outgoing: Outgoing) -> Result<(), SocketError> {
        match &outgoing {
            Outgoing::Ping => self.put_control(OP_PING, &[]),
            Outgoing::Close(code) => self.put_close(Some(*code)),
            message => {
                let codec = self.codec;
                let opcode = if codec.is_text() { OP_TEXT } else { OP_BINARY };
                codec.encode(message, self.buffer(), |len, out| {
                    out.reserve(len + 10);
                    put_header(opcode, len, out);
                });
            }
        }
        Ok(())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if self.unwritten() == 0 {
            return Poll::Ready(Ok(()));
        }
        self.poll_write_out(cx).map_err(SocketError::Io)
    }

    /// Writes out, ends our direction, and reads on until the peer has ended its own: a socket closed with unread bytes would be reset, and the last
    /// frames lost with it.
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        let this = &mut *self;
        ready!(this.poll_write_out(cx))?;
        if !this.shut {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.shut = true;
        }
        loop {
            this.incoming = BytesMut::new();
            this.header = None;
            if !ready!(this.poll_read(cx))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

const OP_TEXT: u8 = 1;
const OP_BINARY: u8 = 2;
const OP_CLOSE: u8 = 8;
const OP_PING: u8 = 9;
const OP_PONG: u8 = 10;

/// A final, unmasked frame's header.
fn put_header(opcode: u8, len: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut words = payload.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ word).to_ne_bytes());
    }
    for (at, byte) in words.into_remainder().iter_mut().enumerate() {
        *byte ^= mask[at % 4];
    }
}

/// RFC 6455 section 7.4: codes that may stand in a close frame.
fn may_be_echoed(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
