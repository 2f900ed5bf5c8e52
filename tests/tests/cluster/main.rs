//! Several servers on one PostgreSQL and one Redis, as one service.

mod directory;
mod fleet;
mod interruption;
mod live;
mod outages;
mod restarts;
mod unknown;
mod ways;
