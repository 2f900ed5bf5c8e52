//! The edge of the server: REST and WebSocket over one listener, authentication, limits, and the assembly of everything behind it.
//!
//! Not here: SQL, the rules of accounts and of the message log (`kith-chat-core`), anything about what is inside a message.

pub mod connection;
pub mod sessions;
pub mod socket;
pub mod token;
