//! Connections that the kernel keeps track of (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::Nla;
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::connection::Connection;
use super::error::NetlinkError;

/// CTA_ID and CTA_ZONE of `enum ctattr_type`.
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Most connections that are ended in one round: what is kept of each takes some hundred bytes.
const MAX_ENDED: usize = 4096;

/// How often the list is read again for those that an earlier round had no room for.
const MAX_ROUNDS: usize = 64;

const FAMILIES: [NetfilterProtoFamily; 2] = [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6];

/// A connection, as far as it matters where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Number of its transport protocol.
    pub protocol: u8,
    /// The destination of its first packet.
    pub destination: SocketAddr,
    /// The source of the answers: another one than `destination` if that was translated.
    pub reply_source: SocketAddr,
}

/// Makes the kernel forget the connections that are `meant`, among those of protocols with ports. Their next packets begin
/// new ones. Returns how many there were. The list is read message by message, however long it is. `attempt` is what an
/// error says was tried; EINVAL or EOPNOTSUPP if the kernel has no such list.
pub fn end(attempt: &str, meant: impl Fn(&Flow) -> bool) -> Result<usize, NetlinkError> {
    let attempt = || attempt.to_owned();
    let mut connection = Connection::open(NETLINK_NETFILTER).map_err(|error| NetlinkError::new(attempt(), error))?;
    let mut ended = 0;
    for family in FAMILIES {
        for _ in 0..MAX_ROUNDS {
            let mut found = Vec::new();
            let all = message(family, ConntrackMessage::Get(Vec::new()));
            connection.visit(all, attempt, |answer| {
                if found.len() < MAX_ENDED
                    && let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = answer.inner
                    && flow(&attributes).is_some_and(|flow| meant(&flow))
                {
                    found.push(name(attributes));
                }
            })?;
            let is_complete = found.len() < MAX_ENDED;
            for name in found {
                match connection.change(message(family, ConntrackMessage::Delete(name)), 0, attempt) {
                    Ok(()) => ended += 1,
                    // It has ended by itself.
                    Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            if is_complete {
                break;
            }
        }
    }
    Ok(ended)
}

fn message(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn flow(attributes: &[ConntrackAttribute]) -> Option<Flow> {
    let original = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) => Some(Direction::of(tuple)),
        _ => None,
    })?;
    let reply = attributes.iter().find_map(|attribute| match attribute {
        ConntrackAttribute::CtaTupleReply(tuple) => Some(Direction::of(tuple)),
        _ => None,
    })?;
    Some(Flow { protocol: original.protocol?, destination: original.destination()?, reply_source: reply.source()? })
}

/// The addresses and ports of a connection's packets in one direction.
#[derive(Default)]
struct Direction {
    protocol: Option<u8>,
    /// Source and destination.
    addresses: [Option<IpAddr>; 2],
    ports: [Option<u16>; 2],
}

impl Direction {
    fn of(tuple: &[Tuple]) -> Self {
        let mut direction = Self::default();
        for part in tuple {
            match part {
                Tuple::Ip(parts) => parts.iter().for_each(|part| match part {
                    IPTuple::SourceAddress(address) => direction.addresses[0] = Some(*address),
                    IPTuple::DestinationAddress(address) => direction.addresses[1] = Some(*address),
                    _ => {}
                }),
                Tuple::Proto(parts) => parts.iter().for_each(|part| match part {
                    ProtoTuple::Protocol(protocol) => direction.protocol = Some((*protocol).into()),
                    ProtoTuple::SourcePort(port) => direction.ports[0] = Some(*port),
                    ProtoTuple::DestinationPort(port) => direction.ports[1] = Some(*port),
                    _ => {}
                }),
                _ => {}
            }
        }
        direction
    }

    fn source(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.addresses[0]?, self.ports[0]?))
    }

    fn destination(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.addresses[1]?, self.ports[1]?))
    }
}

/// The attributes that name a connection: its first direction, its zone, and its number, so that no later one is meant.
fn name(mut attributes: Vec<ConntrackAttribute>) -> Vec<ConntrackAttribute> {
    attributes.retain(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(_) => true,
        ConntrackAttribute::Other(other) => [ID, ZONE].contains(&other.kind()),
        _ => false,
    });
    attributes
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn run(line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let output = Command::new(words[0]).args(&words[1..]).output().expect("the program can be started");
        assert!(output.status.success(), "{line}: {output:?}");
    }

    #[test]
    fn meant_connections_end_and_others_stay() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            run("ip link set lo up");
            run("nft add table inet t");
            run("nft add chain inet t c { type filter hook output priority 0 ; }");
            run("nft add rule inet t c ct state new accept");
            let ports = [1001, 1002, 1003];
            for (source, host) in [("127.0.0.1:9", "127.0.0.1"), ("[::1]:9", "::1")] {
                let socket = UdpSocket::bind(source).expect("own namespace");
                for port in ports {
                    // Nobody listens there.
                    let _ = socket.send_to(b"x", (host, port));
                }
            }
            let is = |flow: &Flow, port| {
                flow.protocol == 17 && flow.destination.port() == port && flow.reply_source == flow.destination
            };
            assert_eq!(end("ending", |flow| is(flow, 1002)).expect("they are listed"), 2, "one of each version");
            assert_eq!(end("ending", |flow| is(flow, 1002)).expect("they are listed"), 0);
            assert_eq!(end("ending", |flow| is(flow, 1001) || is(flow, 1003)).expect("they are listed"), 4);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
