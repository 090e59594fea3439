//! What tells to which flow a packet belongs: ports, the identifiers of ICMP queries, and what ICMP errors quote.

use std::net::IpAddr;

use super::v6::Extensions;
use super::{Fragment, Header, IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN, Packet, protocol, v4_address, v6_address};

/// Bytes of an ICMP header of both versions (RFC 792; RFC 4443, section 2.1). In an error, the quoted packet follows.
pub(super) const ICMP_HEADER_LEN: usize = 8;

/// Bytes of the quoted packet's payload that an error has at least (RFC 792).
const QUOTED_PAYLOAD_LEN: usize = 8;

/// What distinguishes flows between two addresses, apart from the protocol. For protocols without ports, both are 0. For ICMP
/// queries, `first` is the identifier in both directions, and `second` the type of the request; for other messages of ICMP,
/// `first` is 0, and `second` the type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FlowPorts {
    /// The source port, or what stands for it.
    pub first: u16,
    /// The destination port, or what stands for it.
    pub second: u16,
    /// How the opposite direction differs.
    pub roles: Roles,
}

/// The roles of a packet's source and destination in its flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Roles {
    /// None: both directions are alike.
    #[default]
    Alike,
    /// Each has a port. The two change places in the opposite direction.
    Ports,
    /// The source asks, by a query of ICMP.
    Asks,
    /// The source answers a query of ICMP. A request in the same direction belongs to another flow: who was asked may not ask
    /// for that reason.
    Answers,
}

/// Addresses, protocol and ports of a packet that an ICMP error quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Source of the quoted packet.
    pub src: IpAddr,
    /// Destination of the quoted packet.
    pub dst: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// Its ports.
    pub ports: FlowPorts,
}

/// How a packet belongs to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowPart {
    /// It belongs to the flow of its addresses, its protocol and these ports.
    Flow(FlowPorts),
    /// It is an ICMP error, which belongs to the flow of the packet that it quotes; `None` if that can't be read.
    Error(Option<Quoted>),
    /// It is a fragment after the first one: it doesn't show to which flow it belongs.
    Fragment,
}

/// Flags of a TCP header (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// Takes the byte of a TCP header that has the flags.
    pub const fn new(bits: u8) -> Self {
        Self(bits)
    }

    /// Returns true if the sender has sent all of its data.
    pub const fn is_fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// Returns true if the connection is reset.
    pub const fn is_reset(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// Returns true if a connection is opened: SYN without ACK.
    pub const fn opens(self) -> bool {
        self.0 & 0x12 == 0x02
    }
}

impl Packet<'_> {
    /// Returns the ports by which the packet belongs to a flow. `None` for ICMP errors and later fragments.
    #[inline]
    pub fn flow_ports(&self) -> Option<FlowPorts> {
        if let Some(second) = self.destination_port {
            let first = u16::from_be_bytes([self.bytes[self.header_len], self.bytes[self.header_len + 1]]);
            return Some(FlowPorts { first, second, roles: Roles::Ports });
        }
        match self.flow_part() {
            FlowPart::Flow(ports) => Some(ports),
            FlowPart::Error(_) | FlowPart::Fragment => None,
        }
    }

    /// Returns how the packet belongs to a flow.
    pub fn flow_part(&self) -> FlowPart {
        if self.fragment == Fragment::Later {
            return FlowPart::Fragment;
        }
        if let Some(second) = self.destination_port {
            let first = u16::from_be_bytes([self.bytes[self.header_len], self.bytes[self.header_len + 1]]);
            return FlowPart::Flow(FlowPorts { first, second, roles: Roles::Ports });
        }
        if !self.is_icmp() {
            return FlowPart::Flow(FlowPorts::default());
        }
        let message = &self.bytes[self.header_len..self.total_len];
        if is_error(self.is_v4(), message) {
            return FlowPart::Error(message.get(ICMP_HEADER_LEN..).and_then(|bytes| quoted(self.is_v4(), bytes)));
        }
        FlowPart::Flow(icmp_ports(self.is_v4(), message))
    }

    /// Returns source and destination, each as its upper and its lower half. Those of IPv4 fill the lower 32 bits.
    #[inline]
    pub const fn address_halves(&self) -> [[u64; 2]; 2] {
        match self.header {
            Header::V4([.., a, b, c, d, e, f, g, h]) => {
                let src = u32::from_be_bytes([*a, *b, *c, *d]);
                let dst = u32::from_be_bytes([*e, *f, *g, *h]);
                [[0, src as u64], [0, dst as u64]]
            }
            Header::V6([_, _, _, _, _, _, _, _, addresses @ ..]) => {
                let (words, _) = addresses.as_chunks::<8>();
                [
                    [u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1])],
                    [u64::from_be_bytes(words[2]), u64::from_be_bytes(words[3])],
                ]
            }
        }
    }

    /// Returns the flags of a TCP packet; `None` for other protocols, later fragments, and a header that is cut off.
    pub fn tcp_flags(&self) -> Option<TcpFlags> {
        let is_tcp = self.protocol == protocol::TCP && self.fragment != Fragment::Later;
        let flags = self.bytes[..self.total_len].get(self.header_len + 13).filter(|_| is_tcp)?;
        Some(TcpFlags(*flags))
    }

    /// Returns true for ICMP in IPv4 and ICMPv6 in IPv6.
    pub(super) const fn is_icmp(&self) -> bool {
        self.protocol == if self.is_v4() { protocol::ICMP } else { protocol::ICMPV6 }
    }
}

/// Returns true for an error message of ICMP (RFC 792) or ICMPv6 (RFC 4443, section 2.1: types below 128).
pub(super) fn is_error(is_v4: bool, message: &[u8]) -> bool {
    message.first().is_some_and(|kind| {
        if is_v4 {
            // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
            matches!(kind, 3 | 4 | 5 | 11 | 12)
        } else {
            *kind < 128
        }
    })
}

/// Returns what distinguishes flows of ICMP messages that are no errors. Requests and replies of queries differ in the roles
/// only: echo, timestamp, information (RFC 792), address mask (RFC 950), extended echo (RFC 8335), and echo of ICMPv6 (RFC 4443).
fn icmp_ports(is_v4: bool, message: &[u8]) -> FlowPorts {
    let kind = message.first().copied().unwrap_or_default();
    let request: Option<u8> = match (is_v4, kind) {
        (true, 0 | 8) => Some(8),
        (true, 13..=18) => Some((kind - 1) & !1 | 1),
        (true, 42 | 43) => Some(42),
        (false, 128 | 129) => Some(128),
        (false, 160 | 161) => Some(160),
        _ => None,
    };
    let id = || message.get(4..).and_then(|rest| rest.first_chunk()).map_or(0, |id| u16::from_be_bytes(*id));
    match request {
        Some(request) => {
            let roles = if kind == request { Roles::Asks } else { Roles::Answers };
            FlowPorts { first: id(), second: request.into(), roles }
        }
        None => FlowPorts { first: 0, second: kind.into(), roles: Roles::Alike },
    }
}

/// Reads the beginning of a packet that an ICMP error quotes. It may be cut off behind the first 8 bytes of its payload. `None`
/// for fragments after the first one, and for errors about errors, which nobody may send (RFC 1122, section 3.2.2).
fn quoted(is_v4: bool, bytes: &[u8]) -> Option<Quoted> {
    let (src, dst, protocol, payload) = if is_v4 { quoted_v4(bytes) } else { quoted_v6(bytes) }?;
    let icmp = if is_v4 { protocol::ICMP } else { protocol::ICMPV6 };
    if payload.len() < QUOTED_PAYLOAD_LEN || protocol == icmp && is_error(is_v4, payload) {
        return None;
    }
    let ports = if protocol::has_ports(protocol) {
        let at = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        FlowPorts { first: at(0), second: at(2), roles: Roles::Ports }
    } else if protocol == icmp {
        icmp_ports(is_v4, payload)
    } else {
        FlowPorts::default()
    };
    Some(Quoted { src, dst, protocol, ports })
}

fn quoted_v4(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let header = bytes.first_chunk::<IPV4_MIN_HEADER_LEN>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let is_later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || header_len < IPV4_MIN_HEADER_LEN || is_later {
        return None;
    }
    let payload = bytes.get(header_len..)?;
    Some((v4_address(&header[12..16]), v4_address(&header[16..20]), header[9], payload))
}

fn quoted_v6(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let header = bytes.first_chunk::<IPV6_HEADER_LEN>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let extensions = Extensions::walk(bytes, header[6]).ok().filter(|found| found.fragment != Fragment::Later)?;
    let payload = bytes.get(extensions.end..)?;
    Some((v6_address(&header[8..24]), v6_address(&header[24..40]), extensions.protocol, payload))
}

impl Packet<'_> {
    /// Returns true for an error message of ICMP or ICMPv6 whose sender cannot have received the packet that the message
    /// quotes: `is_receiver` is false for the quoted destination, or none is quoted. Returns false for later fragments: no
    /// kernel uses them without the first one.
    pub fn is_error_about_others(&self, mut is_receiver: impl FnMut(IpAddr) -> bool) -> bool {
        if !self.is_icmp() || self.fragment == Fragment::Later {
            return false;
        }
        let message = &self.bytes[self.header_len..self.total_len];
        let quoted = || {
            let quoted = message.get(ICMP_HEADER_LEN..)?;
            Some(match self.header {
                Header::V4(_) => v4_address(quoted.get(16..20)?),
                Header::V6(_) => v6_address(quoted.get(24..40)?),
            })
        };
        is_error(self.is_v4(), message) && !quoted().is_some_and(&mut is_receiver)
    }
}
