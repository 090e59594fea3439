//! The host that the examples are for, and the internet behind it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::common::netns::Netns;

/// A machine in the internet, which knows no way back to the vassals' own addresses.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const INTERNET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 10);

/// The host's own addresses there.
pub const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

#[derive(Debug)]
pub struct World {
    pub host: Netns,
    pub internet: Netns,
}

impl World {
    /// A host with `eth0` towards the internet, which does not forward anything yet.
    pub fn new() -> Self {
        let (host, internet) = (Netns::new(), Netns::new());
        host.sh(&format!("ip link add eth0 type veth peer name eth0 netns {}", internet.name()));
        let ends: [(&Netns, IpAddr, IpAddr); 2] =
            [(&host, HOST.into(), HOST_V6.into()), (&internet, INTERNET.into(), INTERNET_V6.into())];
        for (netns, v4, v6) in ends {
            netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0");
            netns.sh(&format!("ip addr add {v4}/24 dev eth0"));
            netns.sh(&format!("ip addr add {v6}/64 dev eth0 nodad"));
            netns.sh("ip link set eth0 up");
        }
        host.sh("sysctl -qw net.ipv4.ip_forward=0");
        Self { host, internet }
    }
}
