//! What a bench measures, and whether what was received is what was sent: the same for Kith and for the servers that it is compared with.
//!
//! Not here: sockets, clocks, tables. Whoever measures passes the time in and prints what comes out.

mod meter;
mod numbers;

pub use self::{
    meter::{Latencies, Meter, Percentiles},
    numbers::{Faults, Numbers},
};
