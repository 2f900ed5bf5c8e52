//! Who is at the other end of a connection, as far as an address says.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use axum::http::HeaderMap;

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a network")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| NotANetwork))?;
        if bits > most { Err(NotANetwork) } else { Ok(Self { address, bits }) }
    }
}

impl Network {
    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        if self.address.is_ipv4() != address.is_ipv4() {
            return false;
        }
        let unused = 128 - u32::from(self.bits) - if address.is_ipv4() { 96 } else { 0 };
        let differing = number(self.address) ^ number(address);
        differing.checked_shr(unused).unwrap_or(0) == 0
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The peer of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client's address: the socket's, or what a trusted proxy says.
    pub address: IpAddr,
    /// The client is on this machine and did not come through a proxy.
    pub is_local: bool,
}

impl Peer {
    /// From the address of the socket alone.
    #[must_use]
    pub fn direct(socket: IpAddr, trusted: &[Network]) -> Self {
        let address = socket.to_canonical();
        Self { address, is_local: address.is_loopback() && !is_trusted(address, trusted) }
    }

    /// From the address of the socket and, if that is a trusted proxy, `X-Forwarded-For`: the right-most address in it that is no trusted proxy, since
    /// anything to the left of it was said by somebody who is not trusted.
    #[must_use]
    pub fn forwarded(self, headers: &HeaderMap, trusted: &[Network]) -> Self {
        if !is_trusted(self.address, trusted) {
            return self;
        }
        let mut address = self.address;
        let values = headers.get_all("x-forwarded-for").iter().rev();
        let hops = values.flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for hop in hops {
            // Whatever cannot be read was not written by a proxy of ours.
            let Ok(hop) = hop.trim().parse::<IpAddr>() else { break };
            address = hop.to_canonical();
            if !is_trusted(address, trusted) {
                break;
            }
        }
        Self { address, is_local: false }
    }

    /// What limits per address count by; a subscriber has a whole /64 of version 6. None for peers to which they do not apply.
    #[must_use]
    pub fn limit_key(&self) -> Option<[u8; 16]> {
        if self.is_local {
            return None;
        }
        Some(match self.address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).octets(),
        })
    }
}

fn is_trusted(address: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(socket: &str, values: &[&str]) -> (String, bool) {
        let trusted = ["10.0.0.0/8", "::1", "127.0.0.1"].map(|n| n.parse().unwrap());
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| {
            headers.append("x-forwarded-for", value.parse().unwrap());
        });
        let peer = Peer::direct(socket.parse().unwrap(), &trusted).forwarded(&headers, &trusted);
        (peer.address.to_string(), peer.is_local)
    }

    #[test]
    fn believes_only_trusted_proxies() {
        assert_eq!(forwarded("8.8.8.8", &["1.1.1.1"]).0, "8.8.8.8");
        assert_eq!(forwarded("10.1.2.3", &["1.1.1.1"]).0, "1.1.1.1");
        assert_eq!(forwarded("10.1.2.3", &["6.6.6.6, 1.1.1.1, 10.9.9.9"]).0, "1.1.1.1", "what the client itself wrote is on the left");
        assert_eq!(forwarded("10.1.2.3", &["6.6.6.6", "1.1.1.1"]).0, "1.1.1.1", "a second header continues the first");
        assert_eq!(forwarded("10.1.2.3", &["6.6.6.6, rubbish, 10.0.0.9"]).0, "10.0.0.9");
        assert_eq!(forwarded("10.1.2.3", &[]).0, "10.1.2.3");
        assert_eq!(forwarded("::ffff:10.1.2.3", &["::ffff:1.1.1.1"]).0, "1.1.1.1");
    }

    #[test]
    fn a_proxy_on_this_machine_makes_nobody_local() {
        assert_eq!(forwarded("127.0.0.1", &["127.0.0.1"]), ("127.0.0.1".to_owned(), false));
        let alone = Peer::direct("127.0.0.1".parse().unwrap(), &[]);
        assert!(alone.is_local && alone.limit_key().is_none());
    }

    #[test]
    fn networks() {
        let contains = |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("::/0", "ff::1") && contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe80::1"));
        assert!(contains("1.2.3.4", "1.2.3.4") && !contains("1.2.3.4/32", "1.2.3.5"));
        for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "host"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_of_version_6_counts_as_its_network() {
        let key = |address: &str| Peer::direct(address.parse().unwrap(), &[]).limit_key();
        assert_eq!(key("2001:db8:1:2:3::4"), key("2001:db8:1:2::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("1.2.3.4"), key("1.2.3.5"));
    }
}
