//! Replies to a packet's sender: the packet was too long, or it may not pass.

mod header;
mod icmp;
mod reset;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use self::icmp::Message;
use self::reset::Reset;
use super::ip::{Packet, is_unicast, protocol};

/// A reply that may be sent to a packet's sender. Its packet is only built once it is decided that it is sent.
#[derive(Debug, Clone, Copy)]
pub enum Reply<'a> {
    /// An ICMP message.
    Error(Message<'a>),
    /// A reset of a TCP connection.
    Reset(Reset),
}

impl Reply<'_> {
    /// Builds the packet. `None` if it would be too long for its header.
    pub fn packet(&self) -> Option<Vec<u8>> {
        match self {
            Self::Error(message) => message.packet(),
            Self::Reset(reset) => reset.packet(),
        }
    }
}

/// The source of a reply: the first of the router's `own` addresses of the packet's version, or the destination of the
/// packet if there is none.
pub fn source(own: impl IntoIterator<Item = IpAddr>, packet: &Packet<'_>) -> IpAddr {
    let mut own = own.into_iter().filter(|own| own.is_ipv4() == packet.is_v4() && is_unicast(*own));
    own.next().unwrap_or_else(|| packet.dst())
}

/// Reports to a packet's sender that it was longer than `mtu` bytes. `None` where no error may be sent. `from` is the
/// source of the reply, see [`source`].
pub fn too_big<'a>(packet: &Packet<'a>, mtu: u16, from: IpAddr) -> Option<Reply<'a>> {
    Message::too_big(packet, mtu, from).map(Reply::Error)
}

/// Reports to a packet's sender that it may not pass, so that the sender need not wait for a timeout: by a reset for
/// TCP, otherwise by an ICMP error from `from`, see [`source`]. `None` where no reply may be sent.
pub fn rejection<'a>(packet: &Packet<'a>, from: IpAddr) -> Option<Reply<'a>> {
    if packet.protocol() == protocol::TCP {
        Reset::of(packet).map(Reply::Reset)
    } else {
        Message::prohibited(packet, from).map(Reply::Error)
    }
}
