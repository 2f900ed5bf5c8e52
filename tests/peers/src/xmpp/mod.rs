//! As much of XMPP as a load generator speaks: login in the clear, messages, and acknowledgements by stream management (XEP-0198).

mod connection;
mod element;
mod scanner;

pub(crate) use self::{
    connection::{Connection, User},
    element::{Body, Element},
};

/// Bytes of a body before its filler: the message's number and the time it was due, as hexadecimal digits.
pub(crate) const BODY_HEAD: usize = 32;
/// The namespace of stream management.
pub(crate) const SM: &str = "urn:xmpp:sm:3";
