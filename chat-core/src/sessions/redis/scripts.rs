//! What runs inside Redis, because reading, comparing and writing must be one step.

use std::sync::LazyLock;

use bytes::Bytes;
use fred::types::scripts::Script;

/// All scripts, with their hashes.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) enter: Script,
    pub(super) leave: Script,
    pub(super) renew: Script,
    pub(super) gateways: Script,
    pub(super) take: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| Scripts {
    enter: Script::from_lua(include_str!("enter.lua")),
    leave: Script::from_lua(include_str!("leave.lua")),
    renew: Script::from_lua(include_str!("renew.lua")),
    gateways: Script::from_lua(include_str!("gateways.lua")),
    take: Script::from_lua(include_str!("take.lua")),
});

impl Scripts {
    pub(super) fn all(&self) -> [&Script; 5] {
        [&self.enter, &self.leave, &self.renew, &self.gateways, &self.take]
    }
}

/// What a script is called with.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// At least one; in a cluster exactly one.
    pub(super) keys: Vec<Bytes>,
    pub(super) arguments: Vec<Bytes>,
}
