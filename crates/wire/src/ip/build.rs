//! Builds the headers of IP packets that a router makes itself.

use std::net::IpAddr;

use super::IPV4_MIN_HEADER_LEN;
use crate::segment::{fold, sum};

/// The default of Linux.
const HOP_LIMIT: u8 = 64;

/// "Don't fragment" of RFC 791. A packet that is never fragmented needs no identification (RFC 6864, section 4.1), and
/// what a router makes is short enough for every link.
const DONT_FRAGMENT: u8 = 0x40;

/// Returns the header of a packet with a payload of so many bytes, with its checksum. `None` if the addresses are of different
/// versions, or the payload is too long for a packet.
pub fn header(src: IpAddr, dst: IpAddr, protocol: u8, payload_len: usize) -> Option<Vec<u8>> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [high, low] = u16::try_from(IPV4_MIN_HEADER_LEN + payload_len).ok()?.to_be_bytes();
            let mut header = [0x45, 0, high, low, 0, 0, DONT_FRAGMENT, 0, HOP_LIMIT, protocol, 0, 0].to_vec();
            header.extend(src.octets());
            header.extend(dst.octets());
            let checksum = !fold(sum(0, &header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            Some(header)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [high, low] = u16::try_from(payload_len).ok()?.to_be_bytes();
            let mut header = [0x60, 0, 0, 0, high, low, protocol, HOP_LIMIT].to_vec();
            header.extend(src.octets());
            header.extend(dst.octets());
            Some(header)
        }
        _ => None,
    }
}
