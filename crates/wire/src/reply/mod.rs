//! What a router tells a packet's sender: that the packet was too long, or that it may not pass.

mod header;
mod icmp;
mod reset;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use self::icmp::Message;
use self::reset::Reset;
use super::ip::{Packet, is_unicast, protocol};

/// Something that may be said to a packet's sender. It is put together once it is sure that it will be.
#[derive(Debug, Clone, Copy)]
pub enum Reply<'a> {
    /// An ICMP message.
    Error(Message<'a>),
    /// The end of a TCP connection.
    Reset(Reset),
}

impl Reply<'_> {
    /// The packet that says it.
    pub fn packet(&self) -> Option<Vec<u8>> {
        match self {
            Self::Error(message) => message.packet(),
            Self::Reset(reset) => reset.packet(),
        }
    }
}

/// Where an answer about a packet comes from: the first of the router's own addresses that is of the packet's version, else
/// the address that the packet was for.
pub fn source(own: impl IntoIterator<Item = IpAddr>, packet: &Packet<'_>) -> IpAddr {
    let mut own = own.into_iter().filter(|own| own.is_ipv4() == packet.is_v4() && is_unicast(*own));
    own.next().unwrap_or_else(|| packet.dst())
}

/// Says to a packet's sender that it was longer than `mtu` bytes. `None` where no error may be reported. `from` is the
/// router, see [`source`].
pub fn too_big<'a>(packet: &Packet<'a>, mtu: u16, from: IpAddr) -> Option<Reply<'a>> {
    Message::too_big(packet, mtu, from).map(Reply::Error)
}

/// Says to a packet's sender that it may not pass, so that nobody waits for an answer: with a reset where that ends a TCP
/// connection, else with an error from `from`, see [`source`]. `None` where nothing may be said.
pub fn rejection<'a>(packet: &Packet<'a>, from: IpAddr) -> Option<Reply<'a>> {
    if packet.protocol() == protocol::TCP {
        Reset::of(packet).map(Reply::Reset)
    } else {
        Message::prohibited(packet, from).map(Reply::Error)
    }
}
