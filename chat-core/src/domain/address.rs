//! Where a service behind the server is.

use std::{fmt, sync::Arc};

/// Hosts and ports, and what there is to reach, for errors, logs and readiness. Whoever makes one leaves out users and passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Arc<str>);

impl Address {
    pub(crate) fn new(shown: String) -> Self {
        Self(shown.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
