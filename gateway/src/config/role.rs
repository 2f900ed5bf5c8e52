//! Which parts of the server a process runs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A part that can be a process of its own, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Role {
    /// Everything.
    #[default]
    All,
    /// Serves clients: REST, WebSocket, and what they send to the log.
    Gateway,
    /// Work beside the way of a message: events from the outbox to Kafka, deletion of what has ended.
    Relay,
}

/// No part of this version has that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?} in this version; there are: all, gateway, relay")]
pub struct UnknownRole(String);

impl Role {
    /// Whether it serves clients.
    #[must_use]
    pub fn is_gateway(self) -> bool {
        matches!(self, Self::All | Self::Gateway)
    }

    /// Whether it does the work beside.
    #[must_use]
    pub fn is_relay(self) -> bool {
        matches!(self, Self::All | Self::Relay)
    }
}

impl From<Role> for &'static str {
    fn from(role: Role) -> Self {
        match role {
            Role::All => "all",
            Role::Gateway => "gateway",
            Role::Relay => "relay",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str((*self).into())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        [Self::All, Self::Gateway, Self::Relay].into_iter().find(|role| <&str>::from(*role) == text).ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

impl TryFrom<String> for Role {
    type Error = UnknownRole;

    fn try_from(text: String) -> Result<Self, UnknownRole> {
        text.parse()
    }
}
