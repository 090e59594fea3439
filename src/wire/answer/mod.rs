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

/// Where an answer about a packet comes from: the first of the router's own addresses that is of the packet's version, else
/// the address that the packet was for.
pub fn source(own: impl IntoIterator<Item = IpAddr>, packet: &Packet<'_>) -> IpAddr {
    let mut own = own.into_iter().filter(|own| own.is_ipv4() == packet.is_v4() && is_unicast(*own));
    own.next().unwrap_or_else(|| packet.dst())
}

/// Says to a packet's sender that it may not pass, so that nobody waits for an answer: with a reset where that ends a TCP
/// connection, else with an error from `from`, see [`source`]. `None` where nothing may be said.
pub fn rejection(packet: &Packet<'_>, from: IpAddr) -> Option<Vec<u8>> {
    if packet.protocol() == protocol::TCP { reset(packet) } else { prohibited(packet, from) }
}
