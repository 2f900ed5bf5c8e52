//! The core of the server: the rules of conversations and accounts, and the ports behind which they are stored.
//!
//! `domain/` is pure: plain values and decisions, no driver, no clock, no task. Each port has a folder: the trait with its types and errors in `mod.rs`,
//! an implementation beside it, and one conformance suite that every implementation passes. `sqlite/` is the embedded database that the embedded
//! implementations share: one writer thread that commits what is waiting as one transaction, and a few readers.
//!
//! Not here: sockets, HTTP, frames beyond the types that travel, anything about what is inside a message.

pub mod accounts;
pub mod bus;
pub mod domain;
pub mod log;
pub mod postgres;
pub mod sessions;
pub mod sqlite;
