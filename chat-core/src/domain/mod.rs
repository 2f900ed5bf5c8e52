//! Plain values and decisions. Nothing here does input or output, reads a clock or draws a random number.

mod clock;

pub use clock::Clock;
