//! What the operator chooses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tuntap_wire::bgp::Family;
use tuntap_wire::holding::RouterId;

/// The router's AS if nothing else is configured: one for private use (RFC 6996).
pub const DEFAULT_ASN: u32 = 64513;

/// Seconds without a message after which either side takes the other one for dead.
pub const DEFAULT_HOLD_TIME: u16 = 9;

/// The settings of a speaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The router.
    pub router: RouterId,
    /// The AS of all routers that know each other. The daemon has another one.
    pub asn: u32,
    /// The daemon's AS, if it has to be a certain one.
    pub neighbour_asn: Option<u32>,
    /// Seconds without a message after which the daemon counts as dead: 3 or more. The lower one of this and the daemon's
    /// counts.
    pub hold_time: u16,
    /// Where the daemon is to send packets for announced addresses, usually [`NextHops::NOBODY`].
    pub next_hops: NextHops,
    /// Where addresses of others are taken from.
    pub networks: Vec<IpNet>,
}

/// The next hop of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHops {
    /// For IPv4.
    pub ipv4: Ipv4Addr,
    /// For IPv6.
    pub ipv6: Ipv6Addr,
}

impl NextHops {
    /// Addresses that are nobody's: IPv4's dummy address (RFC 7600), and one to be discarded (RFC 6666). BIRD's filter sets
    /// the device instead; FRR needs a route to them by the device. Other addresses have their traps: FRR ends the session for
    /// one of the loopback device, and BIRD ignores an IPv4 address in the form of an IPv6 one.
    pub const NOBODY: Self =
        Self { ipv4: Ipv4Addr::new(192, 0, 0, 8), ipv6: Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1) };

    /// Returns the one of a family.
    pub const fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => IpAddr::V4(self.ipv4),
            Family::Ipv6 => IpAddr::V6(self.ipv6),
        }
    }
}

impl Settings {
    /// The BGP identifier: the two halves of the router's id in one, and never 0.
    pub fn identifier(&self) -> Ipv4Addr {
        let [a, b, c, d, e, f, g, h] = self.router.number().to_be_bytes();
        let identifier = Ipv4Addr::new(a ^ e, b ^ f, c ^ g, d ^ h);
        if identifier.is_unspecified() { Ipv4Addr::new(a | 1, b, c, d) } else { identifier }
    }
}
