//! The engine.
mod command;
mod published;

pub(crate) use command::{Command, EngineHandle, Reply};
pub(crate) use published::Published;

/// What the engine reacts to.
#[derive(Debug)]
pub(crate) enum Input {
    /// A call of the app.
    Command(Command),
}
