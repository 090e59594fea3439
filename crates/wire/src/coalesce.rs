//! Generic receive offload in software, for packets that come as datagrams: consecutive segments of one TCP connection become
//! one GSO packet again. Such a packet is made only if cutting it gives exactly the segments that came, so that nobody behind
//! the router can tell the difference, and only of segments whose checksums are right.

use std::ops::Range;

use super::ip::{IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN, protocol};
use super::segment::{
    TCP_FLAGS, TCP_PSH, TCP_SEQUENCE, V4_ADDRESSES, V4_CHECKSUM, V4_IDENTIFICATION, V4_TOTAL_LEN, V6_ADDRESSES,
    V6_PAYLOAD_LEN, fold, get, put, sum,
};
use super::vnet::{Offload, TCP_CHECKSUM_OFFSET, TCP_MIN_HEADER_LEN};

/// The most bytes of a GSO packet with its headers, those of IPv6 included.
pub const MAX_COALESCED_LEN: usize = 65_535;

/// The first byte of an IPv4 header without options (RFC 791, section 3.1).
const V4_WITHOUT_OPTIONS: u8 = 0x45;
/// Offset of flags and fragment offset, and all their bits but "don't fragment".
const V4_FRAGMENT: usize = 6;
const V4_NOT_DF: u16 = 0xbfff;
/// Offsets of the protocol numbers (RFC 791, section 3.1; RFC 8200, section 3).
const V4_PROTOCOL: usize = 9;
const V6_NEXT_HEADER: usize = 6;

/// Offset of the length in a TCP header (RFC 9293, section 3.1).
const TCP_OFFSET: usize = 12;
const TCP_OPTIONS: usize = TCP_MIN_HEADER_LEN;
const TCP_ACK: u8 = 0x10;
const TCP_ECE: u8 = 0x40;

/// Parts of headers that all segments of a GSO packet have in common. What lies between them is a length, a number that
/// counts, or a checksum; the flags of TCP, and its options, are compared apart.
const V4_COMMON: [Range<usize>; 3] = [0..V4_TOTAL_LEN, V4_FRAGMENT..V4_CHECKSUM, V4_ADDRESSES];
const V6_COMMON: [Range<usize>; 2] = [0..V6_PAYLOAD_LEN, V6_NEXT_HEADER..IPV6_HEADER_LEN];
const TCP_COMMON: [Range<usize>; 4] = [0..TCP_SEQUENCE, 8..TCP_FLAGS, 14..TCP_CHECKSUM_OFFSET, 18..TCP_OPTIONS];

/// Datagrams that came with one read: they lie end to end, and all have the same length but for the last one, which may be
/// shorter.
#[derive(Debug, Clone, Copy)]
pub struct Datagrams<'a> {
    rest: Option<&'a [u8]>,
    len: usize,
}

/// What goes on as one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run<'a> {
    /// A datagram as it came.
    Single(&'a [u8]),
    /// So many datagrams, which are one GSO packet now.
    Coalesced(usize),
}

impl<'a> Datagrams<'a> {
    /// The datagrams in `bytes`; `len` is the length of each, if there are several.
    pub fn new(bytes: &'a [u8], len: Option<usize>) -> Self {
        Self { rest: Some(bytes), len: len.unwrap_or(bytes.len()).max(1) }
    }

    /// The number of datagrams that are left.
    pub fn count(&self) -> usize {
        self.rest.map_or(0, |rest| rest.len().div_ceil(self.len).max(1))
    }

    /// Takes the next datagrams that go on as one packet. If they are several, the packet is written into `built`, with its
    /// virtio_net header before it.
    pub fn next_run(&mut self, built: &mut Vec<u8>) -> Option<Run<'a>> {
        let bytes = self.take()?;
        let Some(first) = self.peek().and_then(|_| Segment::parse(bytes)).filter(Segment::may_be_followed) else {
            return Some(Run::Single(bytes));
        };
        let (mut count, mut payload_len, mut flags) = (1, first.payload().len(), first.flags());
        while let Some(next) = self.peek().and_then(Segment::parse)
            && first.is_followed(&next, count, payload_len)
        {
            if count == 1 {
                if !first.is_intact() {
                    break;
                }
                built.clear();
                built.extend_from_slice(&Offload::NONE.encode());
                built.extend_from_slice(first.bytes);
            }
            self.take();
            built.extend_from_slice(next.payload());
            (count, payload_len, flags) = (count + 1, payload_len + next.payload().len(), next.flags());
            if !next.may_be_followed() || next.payload().len() < first.payload().len() {
                break;
            }
        }
        if count == 1 {
            return Some(Run::Single(bytes));
        }
        finish(built, &first, flags);
        Some(Run::Coalesced(count))
    }

    fn peek(&self) -> Option<&'a [u8]> {
        self.rest.map(|rest| &rest[..rest.len().min(self.len)])
    }

    fn take(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (first, others) = rest.split_at(rest.len().min(self.len));
        self.rest = (!others.is_empty()).then_some(others);
        Some(first)
    }
}

/// Makes the headers those of the whole packet: its length, the flags of its last segment, and the sum of the pseudo header in
/// place of the checksum.
fn finish(built: &mut [u8], first: &Segment<'_>, flags: u8) {
    let (header, packet) = built.split_at_mut(Offload::NONE.encode().len());
    header.copy_from_slice(&Offload::of_tcp(first.ip_len, first.headers_len, first.payload().len()).encode());
    let (ip, tcp) = packet.split_at_mut(first.ip_len);
    if first.is_v4() {
        put(ip, V4_TOTAL_LEN, length(ip.len() + tcp.len()));
        put(ip, V4_CHECKSUM, 0);
        put(ip, V4_CHECKSUM, !fold(sum(0, ip)));
    } else {
        put(ip, V6_PAYLOAD_LEN, length(tcp.len()));
    }
    tcp[TCP_FLAGS] = flags;
    put(tcp, TCP_CHECKSUM_OFFSET, fold(first.pseudo_header_sum() + tcp.len() as u64));
}

/// No packet is longer than [`MAX_COALESCED_LEN`], so its length always fits.
fn length(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// A packet with a segment of TCP that carries data and, of all flags, ACK, ECE and PSH alone.
#[derive(Debug, Clone, Copy)]
struct Segment<'a> {
    bytes: &'a [u8],
    /// Length of the IP header in bytes.
    ip_len: usize,
    /// Length of all headers in bytes.
    headers_len: usize,
}

impl<'a> Segment<'a> {
    /// Returns the segment in a datagram, if it is such a packet and nothing else.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let first = *bytes.first()?;
        let ip_len = if first == V4_WITHOUT_OPTIONS { IPV4_MIN_HEADER_LEN } else { IPV6_HEADER_LEN };
        let (ip, tcp) = bytes.split_at_checked(ip_len)?;
        let is_tcp = if first == V4_WITHOUT_OPTIONS {
            usize::from(get(ip, V4_TOTAL_LEN)) == bytes.len()
                && get(ip, V4_FRAGMENT) & V4_NOT_DF == 0
                && ip[V4_PROTOCOL] == protocol::TCP
        } else {
            first >> 4 == 6 && usize::from(get(ip, V6_PAYLOAD_LEN)) == tcp.len() && ip[V6_NEXT_HEADER] == protocol::TCP
        };
        if !is_tcp || tcp.len() <= TCP_MIN_HEADER_LEN {
            return None;
        }
        let tcp_len = usize::from(tcp[TCP_OFFSET] >> 4) * 4;
        let is_data = tcp[TCP_FLAGS] & !(TCP_PSH | TCP_ECE) == TCP_ACK;
        let fits = is_data && (TCP_MIN_HEADER_LEN..tcp.len()).contains(&tcp_len);
        fits.then_some(Self { bytes, ip_len, headers_len: ip_len + tcp_len })
    }

    const fn is_v4(&self) -> bool {
        self.ip_len == IPV4_MIN_HEADER_LEN
    }

    fn ip(&self) -> &'a [u8] {
        &self.bytes[..self.ip_len]
    }

    fn tcp(&self) -> &'a [u8] {
        &self.bytes[self.ip_len..]
    }

    fn payload(&self) -> &'a [u8] {
        &self.bytes[self.headers_len..]
    }

    fn flags(&self) -> u8 {
        self.tcp()[TCP_FLAGS]
    }

    fn sequence(&self) -> u32 {
        let tcp = self.tcp();
        u32::from(get(tcp, TCP_SEQUENCE)) << 16 | u32::from(get(tcp, TCP_SEQUENCE + 2))
    }

    /// Returns true unless it has to be the last one of a GSO packet: PSH is a flag of the last segment.
    fn may_be_followed(&self) -> bool {
        self.flags() & TCP_PSH == 0
    }

    /// Returns true if `next` is the segment that a GSO packet is cut into after `count` others, of which this is the first
    /// one, with `payload_len` bytes of payload.
    fn is_followed(&self, next: &Self, count: usize, payload_len: usize) -> bool {
        let equal = |bytes: &[u8], others: &[u8], parts: &[Range<usize>]| {
            parts.iter().all(|part| bytes[part.clone()] == others[part.clone()])
        };
        let len = next.payload().len();
        let (Ok(distance), Ok(number)) = (u32::try_from(payload_len), u16::try_from(count)) else { return false };
        if next.headers_len != self.headers_len
            || len > self.payload().len()
            || self.headers_len + payload_len + len > MAX_COALESCED_LEN
            || next.sequence() != self.sequence().wrapping_add(distance)
            || (next.flags() ^ self.flags()) & !TCP_PSH != 0
        {
            return false;
        }
        let ip_follows = if self.is_v4() {
            get(next.ip(), V4_IDENTIFICATION) == get(self.ip(), V4_IDENTIFICATION).wrapping_add(number)
                && equal(self.ip(), next.ip(), &V4_COMMON)
        } else {
            equal(self.ip(), next.ip(), &V6_COMMON)
        };
        ip_follows
            && equal(self.tcp(), next.tcp(), &TCP_COMMON)
            && self.bytes[self.ip_len + TCP_OPTIONS..self.headers_len]
                == next.bytes[self.ip_len + TCP_OPTIONS..self.headers_len]
            && next.is_intact()
    }

    /// The sum of addresses and protocol.
    fn pseudo_header_sum(&self) -> u64 {
        let addresses = if self.is_v4() { V4_ADDRESSES } else { V6_ADDRESSES };
        sum(u64::from(protocol::TCP), &self.bytes[addresses])
    }

    /// Returns true if the checksums are right, and written as they are when the segment is cut: 0xffff stands for 0, too.
    fn is_intact(&self) -> bool {
        let is_right = |total: u64, checksum: u16| fold(total) == u16::MAX && checksum != u16::MAX;
        let tcp = self.tcp();
        is_right(sum(self.pseudo_header_sum() + tcp.len() as u64, tcp), get(tcp, TCP_CHECKSUM_OFFSET))
            && (!self.is_v4() || is_right(sum(0, self.ip()), get(self.ip(), V4_CHECKSUM)))
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
