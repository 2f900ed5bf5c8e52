//! Several servers on one PostgreSQL and one Redis, as processes: what one user does at one of them reaches another user at another, and no fault of a part
//! loses a message. (DESIGN.md, promise 9, rules 1, 6, 7, 8)

mod directory;
mod fleet;
mod interruption;
mod live;
