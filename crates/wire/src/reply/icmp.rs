//! Error messages of ICMP (RFC 792, RFC 1191, RFC 1812) and ICMPv6 (RFC 4443, RFC 8201).

use std::net::IpAddr;

use super::header::Ends;
use crate::ip::{Fragment, IPV6_HEADER_LEN, IPV6_MIN_MTU, Packet, protocol};

/// Bytes before the quoted packet, for both versions.
const MESSAGE_HEADER_LEN: usize = 8;

/// Offset of the checksum in a message, for both versions.
const CHECKSUM_AT: usize = 2;

/// Types of ICMP queries and their replies. All other messages are errors, and no error is sent about an error (RFC
/// 1122, section 3.2.2).
const V4_QUERIES: [u8; 6] = [0, 8, 13, 14, 17, 18];

/// The lowest type of informational ICMPv6 messages (RFC 4443, section 2.1).
const V6_FIRST_INFORMATIONAL: u8 = 128;

/// Type of ICMPv6 redirects, about which no error is sent either (RFC 4443, section 2.4, e.2).
const V6_REDIRECT: u8 = 137;

/// Bytes of an IPv4 packet's payload that are quoted behind its header (RFC 792).
const V4_QUOTED_LEN: usize = 8;

/// Most bytes of an IPv6 packet that are quoted, so that the message fits every link (RFC 4443, section 2.4, c).
const V6_QUOTED_LEN: usize = IPV6_MIN_MTU as usize - IPV6_HEADER_LEN - MESSAGE_HEADER_LEN;

/// The error that is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// "Fragmentation needed" (RFC 1191, section 4), "packet too big" (RFC 4443, section 3.2).
    TooBig {
        /// MTU of the next hop, in bytes.
        mtu: u16,
    },
    /// "Communication administratively prohibited" (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
    Prohibited,
}

impl Reason {
    /// Type, code and the four bytes behind the checksum.
    const fn message(self, v4: bool) -> (u8, u8, [u8; 4]) {
        match (self, v4) {
            (Self::TooBig { mtu }, _) => {
                let [high, low] = mtu.to_be_bytes();
                let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
                (kind, code, [0, 0, high, low])
            }
            (Self::Prohibited, true) => (3, 13, [0; 4]),
            (Self::Prohibited, false) => (1, 1, [0; 4]),
        }
    }
}

/// An ICMP error message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    ends: Ends,
    about: Packet<'a>,
    reason: Reason,
}

impl<'a> Message<'a> {
    /// Reports that a packet was longer than `mtu` bytes. `None` where no error may be sent.
    pub(super) fn too_big(about: &Packet<'a>, mtu: u16, from: IpAddr) -> Option<Self> {
        Self::new(about, Reason::TooBig { mtu }, from)
    }

    /// Reports that a rule drops the packet. `None` where no error may be sent.
    pub(super) fn prohibited(about: &Packet<'a>, from: IpAddr) -> Option<Self> {
        Self::new(about, Reason::Prohibited, from)
    }

    /// `None` where no error may be sent.
    fn new(about: &Packet<'a>, reason: Reason, from: IpAddr) -> Option<Self> {
        let ends = Ends::new(from, about.src())?;
        may_be_reported(about, reason).then_some(Self { ends, about: *about, reason })
    }

    pub(super) fn packet(&self) -> Option<Vec<u8>> {
        let v4 = self.about.is_v4();
        let bytes = &self.about.bytes()[..self.about.total_len()];
        let quoted_len = if v4 { self.about.header_len() + V4_QUOTED_LEN } else { V6_QUOTED_LEN };
        let quoted = &bytes[..quoted_len.min(bytes.len())];
        let (kind, code, rest) = self.reason.message(v4);
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend_from_slice(quoted);
        self.ends.packet(if v4 { protocol::ICMP } else { protocol::ICMPV6 }, &message, CHECKSUM_AT)
    }
}

/// Returns true if an error may be sent about a packet (RFC 1122, section 3.2.2; RFC 4443, section 2.4, e). None is
/// sent about later fragments of IPv6 either, because they may be part of an error.
fn may_be_reported(packet: &Packet<'_>, reason: Reason) -> bool {
    let first = packet.bytes()[..packet.total_len()].get(packet.header_len());
    let is_error = match packet.protocol() {
        protocol::ICMP => first.is_none_or(|kind| !V4_QUERIES.contains(kind)),
        protocol::ICMPV6 => first.is_none_or(|&kind| kind < V6_FIRST_INFORMATIONAL || kind == V6_REDIRECT),
        _ => false,
    };
    let is_for_many = match packet.dst() {
        // Multicast, class E, broadcast. Broadcast addresses of single networks are not known here.
        IpAddr::V4(dst) => dst.octets()[0] >= 224,
        // Path MTU discovery needs "packet too big" for multicasts, too.
        IpAddr::V6(dst) => dst.is_multicast() && reason == Reason::Prohibited,
    };
    packet.fragment() != Fragment::Later && !is_error && !is_for_many
}
