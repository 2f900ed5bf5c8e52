//! The edge of the server: REST and WebSocket over one listener, authentication, limits, and the assembly of everything behind it.
//!
//! Not here: SQL, the rules of accounts and of the message log (`kith-chat-core`), anything about what is inside a message.
//!
//! Start with [`run`], which assembles all; `rest/` is the HTTP side, `connection/`, `socket/` and `sessions/` the WebSocket side.

mod challenge;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod invites;
mod limits;
mod metrics;
mod peer;
pub mod rest;
mod server;
pub mod sessions;
pub mod socket;
mod start;
pub mod state;
mod storage;
mod telemetry;
mod tls;
pub mod token;

pub use self::{
    config::{Config, ConfigError},
    invites::{InviteError, create_invites},
    start::{RunError, bind, run},
    storage::{StorageError, migrate},
    telemetry::{TelemetryError, Tracer},
};
