//! IP headers of replies.

use std::net::IpAddr;

use crate::ip::{IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN, is_unicast, protocol};
use crate::segment::{fold, sum};

/// Hop limit of replies: the default of Linux.
const HOP_LIMIT: u8 = 64;

/// "Don't fragment" of RFC 791. A packet that is never fragmented needs no identification (RFC 6864, section 4.1), and
/// replies are short enough for every link.
const DONT_FRAGMENT: u8 = 0x40;

/// Source and destination of a reply.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    src: IpAddr,
    dst: IpAddr,
}

impl Ends {
    /// `None` if the addresses are of different versions, or one of them is not unicast.
    pub fn new(src: IpAddr, dst: IpAddr) -> Option<Self> {
        let fit = src.is_ipv4() == dst.is_ipv4() && is_unicast(src) && is_unicast(dst);
        fit.then_some(Self { src, dst })
    }

    /// Builds an IP packet and its checksums. The payload's checksum is at offset `checksum_at` in the payload; it
    /// includes the pseudo header except for ICMP. `None` if the payload is too long for a packet.
    pub fn packet(self, protocol: u8, payload: &[u8], checksum_at: usize) -> Option<Vec<u8>> {
        let mut packet = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let [high, low] = u16::try_from(IPV4_MIN_HEADER_LEN + payload.len()).ok()?.to_be_bytes();
                let mut header = [0x45, 0, high, low, 0, 0, DONT_FRAGMENT, 0, HOP_LIMIT, protocol, 0, 0].to_vec();
                header.extend(src.octets());
                header.extend(dst.octets());
                let checksum = !fold(sum(0, &header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let [high, low] = u16::try_from(payload.len()).ok()?.to_be_bytes();
                let mut header = [0x60, 0, 0, 0, high, low, protocol, HOP_LIMIT].to_vec();
                header.extend(src.octets());
                header.extend(dst.octets());
                header
            }
            _ => return None,
        };
        let header_len = packet.len();
        let addresses_len = if header_len == IPV6_HEADER_LEN { 32 } else { 8 };
        let pseudo = match protocol {
            protocol::ICMP => 0,
            _ => sum(u64::from(protocol) + payload.len() as u64, &packet[header_len - addresses_len..]),
        };
        packet.extend_from_slice(payload);
        let checksum = !fold(sum(pseudo, payload));
        packet.get_mut(header_len + checksum_at..)?.first_chunk_mut::<2>()?.copy_from_slice(&checksum.to_be_bytes());
        Some(packet)
    }
}
