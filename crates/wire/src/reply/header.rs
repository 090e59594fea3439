//! IP headers of replies.

use std::net::IpAddr;

use crate::ip::{IPV6_HEADER_LEN, header, is_unicast, protocol};
use crate::segment::{fold, sum};

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
        let mut packet = header(self.src, self.dst, protocol, payload.len())?;
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
