//! Whose address a request counts as: proxies of ours are believed, what their clients wrote themselves is not.
#![no_main]

use std::net::{IpAddr, Ipv6Addr};

use http::{HeaderMap, HeaderValue};
use kith_fuzz::Plan;
use kith_gateway::fuzzing::{Network, Peer};
use libfuzzer_sys::fuzz_target;

const FORWARDED_FOR: &str = "x-forwarded-for";

fn address(plan: &mut Plan<'_>) -> IpAddr {
    match plan.u8() % 4 {
        0 => IpAddr::from(plan.array::<4>()),
        1 => IpAddr::from([10, 0, 0, plan.u8()]),
        2 => IpAddr::from(plan.array::<16>()),
        _ => Ipv6Addr::LOCALHOST.into(),
    }
}

fn bits(address: IpAddr) -> Vec<bool> {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
}

/// A network, and that membership is what counting bits one by one says.
fn network(text: &str, probe: IpAddr) -> Option<Network> {
    let network = text.parse::<Network>().ok()?;
    let (start, length) = text.split_once('/').map_or((text, None), |(start, length)| (start, Some(length)));
    let start: IpAddr = start.parse().expect("it was read");
    let length = length.map_or_else(|| bits(start).len(), |length| length.parse().expect("it was read"));
    for probe in [probe, start] {
        let inside = start.is_ipv4() == probe.is_ipv4() && bits(start)[..length] == bits(probe)[..length];
        assert_eq!(network.contains(probe), inside, "{text} {probe}");
    }
    Some(network)
}

/// The rule, said once more: from the right, hops are believed while they are ours.
fn expected(socket: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let ours = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut hops = vec![Some(socket.to_canonical())];
    for value in headers.get_all(FORWARDED_FOR).iter().rev() {
        let Ok(text) = value.to_str() else {
            hops.push(None);
            continue;
        };
        hops.extend(text.split(',').rev().map(|hop| hop.trim().parse::<IpAddr>().ok().map(|hop| hop.to_canonical())));
    }
    let readable: Vec<IpAddr> = hops.into_iter().map_while(|hop| hop).collect();
    readable.iter().copied().find(|hop| !ours(*hop)).unwrap_or(readable[readable.len() - 1])
}

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan(data);
    let socket = address(&mut plan);
    let mut trusted = Vec::new();
    for _ in 0..plan.u8() % 4 {
        trusted.extend(network(plan.text(), socket));
    }
    if plan.flag() {
        trusted.extend(network("10.0.0.0/8", socket));
    }
    let mut headers = HeaderMap::new();
    for _ in 0..64 {
        if let Ok(value) = HeaderValue::from_bytes(plan.short()) {
            headers.append(FORWARDED_FOR, value);
        }
    }
    let direct = Peer::direct(socket, &trusted);
    let peer = direct.forwarded(&headers, &trusted);
    assert_eq!(peer.address, expected(socket, &headers, &trusted));
    let behind_proxy = trusted.iter().any(|network| network.contains(socket.to_canonical()));
    assert_eq!(peer.is_local, !behind_proxy && socket.to_canonical().is_loopback(), "only a direct connection is local");
    assert_eq!(peer.limit_key().is_none(), peer.is_local, "nobody else is without limits");

    // What a client writes itself comes before everything that our proxies add.
    if trusted.iter().all(|network| !network.contains(peer.address)) {
        let mut lying = HeaderMap::new();
        lying.append(FORWARDED_FOR, HeaderValue::from_static("6.6.6.6, 10.0.0.1"));
        headers.get_all(FORWARDED_FOR).iter().for_each(|value| {
            lying.append(FORWARDED_FOR, value.clone());
        });
        assert_eq!(direct.forwarded(&lying, &trusted), peer, "a client chose its own address");
    }
});
