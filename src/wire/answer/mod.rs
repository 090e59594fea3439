//! What a router tells a packet's sender: that the packet was too long, or that it may not pass.

mod header;
mod icmp;
mod reset;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use icmp::{prohibited, too_big};
pub use reset::reset;

use super::ip::{Packet, is_unicast, protocol};

/// Where an answer about a packet comes from: the router's own address if it has one of the packet's version, else the
/// address that the packet was for.
pub fn source(own: Option<IpAddr>, packet: &Packet<'_>) -> IpAddr {
    own.filter(|own| own.is_ipv4() == packet.is_v4() && is_unicast(*own)).unwrap_or_else(|| packet.dst())
}

/// Says to a packet's sender that it may not pass, so that nobody waits for an answer: with a reset where that ends a TCP
/// connection, else with an error from `from`, see [`source`]. `None` where nothing may be said.
pub fn rejection(packet: &Packet<'_>, from: IpAddr) -> Option<Vec<u8>> {
    if packet.protocol() == protocol::TCP { reset(packet) } else { prohibited(packet, from) }
}
