//! Sockets: the upgrade, WebSocket messages to frames and back, and the pump that drives a [`crate::connection::Connection`] with them.
//!
//! Not here: what a frame means.

mod codec;
mod pump;
mod stages;
#[cfg(test)]
mod tests;
mod upgrade;
mod websocket;

pub use self::{
    codec::{Codec, NotAFrame},
    pump::Pump,
    upgrade::upgrade,
    websocket::{Inbound, SocketError, WebSocket},
};
