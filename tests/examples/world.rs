//! The host that the examples are for, and the internet behind it.

use std::net::Ipv4Addr;

use crate::common::netns::Netns;

/// A machine in the internet, which knows no way back to the vassals' own addresses.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

#[derive(Debug)]
pub struct World {
    pub host: Netns,
    // Lives as long as the host does.
    _internet: Netns,
}

impl World {
    /// A host with `eth0` towards the internet, which does not forward anything yet.
    pub fn new() -> Self {
        let (host, internet) = (Netns::new(), Netns::new());
        host.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", internet.name()));
        for (netns, address) in [(&host, Ipv4Addr::new(203, 0, 113, 2)), (&internet, INTERNET)] {
            netns.sh(&format!("ip addr add {address}/24 dev eth0"));
            netns.sh("ip link set eth0 up");
        }
        host.sh("sysctl -qw net.ipv4.ip_forward=0");
        Self { host, _internet: internet }
    }
}
