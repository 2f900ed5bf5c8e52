//! The harness of the whole-system tests: starts the `kith` program, kills it, cuts its power, fills its disk, and talks to it with a client of its own.
//!
//! The client here knows the protocol and nothing of the SDK: payloads are opaque, so that a story about the server does not depend on the encryption,
//! and signed statements are built from the specification, not by `kith-crypto`. Stories about the SDK use `kith-client`, in processes that can be killed.
//! Nothing here sleeps to synchronise: whatever is waited for is a condition with a deadline.

pub mod actor;
pub mod balancer;
pub mod chaos;
pub mod doors;
pub mod expect;
pub mod identity;
pub mod journal;
pub mod load;
pub mod peer;
pub mod person;
pub mod recorder;
pub mod rest;
pub mod sdk;
pub mod server;
pub mod shim;
pub mod sleepers;
pub mod socket;
pub mod wait;

/// What a story returns: the first thing that did not hold.
pub type Story = anyhow::Result<()>;
