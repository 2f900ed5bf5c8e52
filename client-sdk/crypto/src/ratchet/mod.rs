//! The Double Ratchet with a periodic post-quantum step (§3, §9.17 to §9.26).
//!
//! [`session::Session`] is the state between one pair of devices in one conversation. It never changes before the message
//! that moves it has authenticated: opening a slice gives a *new* session, and the old one stays what it was.

pub(crate) mod header;
pub(crate) mod keys;
pub(crate) mod post_quantum;
pub(crate) mod session;
pub(crate) mod session_state;
pub(crate) mod skipped;

pub use post_quantum::{MIX_AFTER_MESSAGES, MIX_AFTER_MS};

#[cfg(test)]
mod tests;

/// Most messages a header may jump ahead, for PN and N separately (§9.20).
pub const MAX_JUMP: u32 = 25_000;
/// Most skipped message keys kept for a peer device; the oldest go first.
pub const MAX_SKIPPED: usize = 2_000;
/// Skipped keys are erased after this long, in milliseconds: 30 days.
pub const SKIPPED_LIFETIME_MS: u64 = 30 * 24 * 60 * 60 * 1000;
/// Skipped keys are kept for this many of the newest receiving ratchet keys of a session.
pub const MAX_RECEIVING_CHAINS: usize = 5;
