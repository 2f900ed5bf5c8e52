//! What the fuzz targets of `fuzz/` reach beyond the crate's interface. Compiled for them alone.

pub use crate::{
    challenge::{Challenges, InvalidChallenge},
    config::Origins,
    connection::Held,
    peer::{Network, Peer},
};
