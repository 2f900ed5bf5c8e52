//! Everything that can go wrong with a fleet, one after the other and several at once, under load, for as long as one likes: `cargo xtask chaos`.
//!
//! [`Fault`] is what can be done to a [`Fleet`]. A [`Trial`] is a fleet under load that has to survive faults; stories try chosen ones. A [`Round`] is what is tried
//! at one time; it follows from the seed and its number alone, so that it can be played again. [`run`] plays rounds.

mod events;
mod fault;
mod fleet;
mod people;
mod plan;
mod report;
mod run;
mod trial;

pub use self::{
    fault::{Fault, Link, Party, Promise, Trouble},
    fleet::{Fleet, FleetOptions, Gateway, LEASE},
    plan::{Round, Timed, kinds, round},
    run::{RunOptions, run},
    trial::{Survival, Trial, manners},
};
