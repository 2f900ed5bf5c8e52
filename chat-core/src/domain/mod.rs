//! Plain values and decisions. Nothing here does input or output, reads a clock or draws a random number.

mod address;
mod bucket;
mod clock;
pub mod device_list;
mod generations;
pub mod login;
mod map;
pub mod prekeys;
pub mod signature;
pub mod statement;
mod username;

pub use address::Address;
pub use bucket::{Bucket, Rate};
pub use clock::Clock;
pub use generations::Generations;
pub use map::{IdMap, IdSet};
pub use statement::StatementError;
pub use username::{Username, WrongUsername};
