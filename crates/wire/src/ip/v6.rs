//! Headers of IPv6 (RFC 8200).

use super::protocol::{self, is_extension};
use super::{Fragment, Header, IPV6_HEADER_LEN, Packet, PacketError};

/// Most extension headers in a packet. RFC 8504, section 5.3, lets nodes set such a limit.
pub const MAX_EXTENSION_HEADERS: usize = 8;

impl<'a> Packet<'a> {
    pub(super) fn parse_v6(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some(header) = bytes.first_chunk::<IPV6_HEADER_LEN>() else { return Err(PacketError::TooShort) };
        let total_len = IPV6_HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let Some(whole) = bytes.get(..total_len) else { return Err(PacketError::Malformed) };
        let extensions = Extensions::walk(whole, header[6])?;
        Self::with_ports(bytes, Header::V6(header), extensions.end, total_len, extensions.protocol, extensions.fragment)
    }
}

/// The result of following a chain of extension headers.
pub(super) struct Extensions {
    /// Bytes from the start of the packet to its payload.
    pub(super) end: usize,
    pub(super) protocol: u8,
    pub(super) fragment: Fragment,
}

impl Extensions {
    /// Follows the chain that begins with the fixed header's `next` (RFC 8200, section 4), within the packet `whole`.
    pub(super) fn walk(whole: &[u8], next: u8) -> Result<Self, PacketError> {
        let mut found = Self { end: IPV6_HEADER_LEN, protocol: next, fragment: Fragment::Whole };
        for _ in 0..MAX_EXTENSION_HEADERS {
            if !is_extension(found.protocol) {
                return Ok(found);
            }
            let rest = whole.get(found.end..).unwrap_or_default();
            let Some(&[next, len, third, fourth]) = rest.first_chunk() else { return Err(PacketError::Malformed) };
            let bytes = match found.protocol {
                protocol::FRAGMENT => 8,
                protocol::AUTHENTICATION => (usize::from(len) + 2) * 4,
                _ => (usize::from(len) + 1) * 8,
            };
            if rest.len() < bytes {
                return Err(PacketError::Malformed);
            }
            match found.protocol {
                protocol::ROUTING if fourth != 0 => return Err(PacketError::SourceRoute),
                // Hop-by-hop options may only follow the fixed header directly.
                protocol::HOP_BY_HOP if found.end != IPV6_HEADER_LEN => return Err(PacketError::Malformed),
                protocol::FRAGMENT => {
                    let is_later = u16::from_be_bytes([third, fourth]) & 0xfff8 != 0;
                    found.fragment = if is_later { Fragment::Later } else { Fragment::First };
                }
                _ => {}
            }
            found.end += bytes;
            found.protocol = next;
            if found.fragment == Fragment::Later {
                return Ok(found);
            }
        }
        if is_extension(found.protocol) { Err(PacketError::Malformed) } else { Ok(found) }
    }
}
