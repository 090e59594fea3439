//! Connections that the kernel keeps track of (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;

use crate::netlink::netfilter::{Message, attribute, change, each};

/// NFNL_SUBSYS_CTNETLINK of linux/netfilter/nfnetlink.h, and its messages: show, end.
const CONNTRACK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

/// Attributes of a connection (`enum ctattr_type`).
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Attributes of a direction (`enum ctattr_tuple`, `ctattr_ip`, `ctattr_l4proto`).
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// NLA_F_NESTED of linux/netlink.h.
const NESTED: u16 = 0x8000;

/// Most connections that are ended in one go: what is kept of each takes some hundred bytes.
const MAX_ENDED: usize = 4096;

/// How often the list is read again for those that found no place.
const MAX_ROUNDS: usize = 64;

/// Address families as netfilter numbers them (`NFPROTO_IPV4`, `NFPROTO_IPV6`).
const FAMILIES: [u8; 2] = [2, 10];

/// A connection, as far as it matters where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Number of its transport protocol.
    pub protocol: u8,
    /// Whom its first packet was for.
    pub asked: SocketAddr,
    /// Who answers: another one if the destination was translated.
    pub answers: SocketAddr,
}

/// Has the kernel forget the connections of UDP and its like that are `meant`, and returns how many. Their next packets begin
/// new ones. The list is read one by one, however long it is. Errors are those of the kernel: EINVAL or EOPNOTSUPP if it has
/// no such list.
pub fn end(meant: impl Fn(&Flow) -> bool) -> nix::Result<usize> {
    let mut ended = 0;
    for family in FAMILIES {
        for _ in 0..MAX_ROUNDS {
            let mut found = Vec::new();
            each(CONNTRACK, GET, family, &[], |message| {
                if found.len() < MAX_ENDED && flow(&message).is_some_and(|flow| meant(&flow)) {
                    found.extend(name(&message));
                }
            })?;
            for connection in &found {
                match change(CONNTRACK, DELETE, family, connection) {
                    Ok(()) => ended += 1,
                    // It has ended by itself.
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if found.len() < MAX_ENDED {
                break;
            }
        }
    }
    Ok(ended)
}

fn flow(message: &Message) -> Option<Flow> {
    let original = attribute(&message.attributes, ORIGINAL)?;
    let reply = attribute(&message.attributes, REPLY)?;
    let protocol = *attribute(attribute(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)?.first()?;
    Some(Flow {
        protocol,
        asked: end_of(original, [IPV4_DESTINATION, IPV6_DESTINATION], DESTINATION_PORT)?,
        answers: end_of(reply, [IPV4_SOURCE, IPV6_SOURCE], SOURCE_PORT)?,
    })
}

/// Address and port of one end of a direction.
fn end_of(tuple: &[u8], [ipv4, ipv6]: [u16; 2], port: u16) -> Option<SocketAddr> {
    let addresses = attribute(tuple, TUPLE_IP)?;
    let address: IpAddr = match attribute(addresses, ipv4) {
        Some(bytes) => <[u8; 4]>::try_from(bytes).ok()?.into(),
        None => <[u8; 16]>::try_from(attribute(addresses, ipv6)?).ok()?.into(),
    };
    let port = attribute(attribute(tuple, TUPLE_PROTOCOL)?, port)?;
    Some(SocketAddr::new(address, u16::from_be_bytes(port.try_into().ok()?)))
}

/// What names a connection: its first direction, its zone, and its number, so that no later one is meant.
fn name(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    append(&mut bytes, ORIGINAL | NESTED, attribute(&message.attributes, ORIGINAL)?);
    for kind in [ZONE, ID] {
        if let Some(payload) = attribute(&message.attributes, kind) {
            append(&mut bytes, kind, payload);
        }
    }
    Some(bytes)
}

fn append(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let length = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
