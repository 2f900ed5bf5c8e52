//! What the fuzz targets of `fuzz/` reach beyond the crate's interface. Compiled for them alone.

pub use crate::{
    challenge::{ChallengeError, Challenges},
    config::Origins,
    connection::Held,
    peer::{Network, Peer},
};
