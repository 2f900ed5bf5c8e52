//! A port of 127.0.0.1 that stays ours while a service on it is down.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{linux::net::SocketAddrExt as _, unix::net::UnixListener},
};

use anyhow::Context as _;

use crate::random::random_below;

/// Below the ports that the kernel gives to outgoing connections, which could otherwise take the port of a service that is being restarted.
const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;
const TRIES: usize = 200;

/// Given back when dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Bound to a name that says the number: other processes of the harness see by it that the port is taken, and the kernel frees it when we end.
    _reservation: UnixListener,
}

impl Port {
    /// One that nobody listens on and no other test has reserved.
    ///
    /// # Errors
    /// If none is found.
    pub fn reserve() -> anyhow::Result<Self> {
        (0..TRIES).find_map(|_| Self::attempt(FIRST + random_below(COUNT))).context("no free port on 127.0.0.1")
    }

    fn attempt(number: u16) -> Option<Self> {
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("kith-harness-port-{number}")).ok()?;
        let reservation = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _reservation: reservation })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The same with 127.0.0.1.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Port;

    #[test]
    fn a_port_is_reserved_once() {
        let port = Port::reserve().expect("there is one");
        let number = port.number();
        assert!(Port::attempt(number).is_none());
        drop(port);
        // A child that another test is starting just now still holds what we held, until it runs its program.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Port::attempt(number).is_none() {
            assert!(Instant::now() < deadline, "it is not given back");
            std::thread::yield_now();
        }
    }
}
