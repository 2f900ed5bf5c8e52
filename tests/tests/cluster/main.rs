//! Several servers on one PostgreSQL and one Redis, as one service.

mod clocks;
mod directory;
mod fleet;
mod interruption;
mod limits;
mod live;
mod logins;
mod outages;
mod replica;
mod restarts;
mod sleeping;
mod traces;
mod unknown;
mod ways;
