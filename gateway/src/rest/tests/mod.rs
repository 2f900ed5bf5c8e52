//! The router as clients see it: what it does, and everything it must refuse.

#[path = "../../../../chat-core/tests/support/owner.rs"]
mod owner;

mod accounts;
mod devices;
mod keys;
mod login;
mod operations;
mod privacy;
mod rig;
