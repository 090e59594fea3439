//! Headers of IPv4 (RFC 791).

use super::{Fragment, Header, IPV4_MIN_HEADER_LEN, Packet, PacketError};

/// Options of IPv4 (RFC 791, section 3.1).
mod option {
    /// The end of the list.
    pub const END: u8 = 0;
    /// Padding between options.
    pub const NO_OPERATION: u8 = 1;
    /// Loose source and record route.
    pub const LOOSE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_ROUTE: u8 = 137;
}

impl<'a> Packet<'a> {
    pub(super) fn parse_v4(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some(header) = bytes.first_chunk::<IPV4_MIN_HEADER_LEN>() else { return Err(PacketError::TooShort) };
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_MIN_HEADER_LEN || total_len < header_len || total_len > bytes.len() {
            return Err(PacketError::Malformed);
        }
        check_options(&bytes[IPV4_MIN_HEADER_LEN..header_len])?;
        let fragment_field = u16::from_be_bytes([header[6], header[7]]);
        let fragment = match fragment_field & 0x3fff {
            0 => Fragment::Whole,
            field if field & 0x1fff == 0 => Fragment::First,
            _ => Fragment::Later,
        };
        Self::with_ports(bytes, Header::V4(header), header_len, total_len, header[9], fragment)
    }
}

/// Checks that the lengths of options fit (RFC 791, section 3.1) and that no source route is left.
fn check_options(mut options: &[u8]) -> Result<(), PacketError> {
    loop {
        match options {
            [] | [option::END, ..] => return Ok(()),
            [option::NO_OPERATION, rest @ ..] => options = rest,
            [kind, len, rest @ ..] => {
                // The length includes the bytes of kind and length.
                let data_len = usize::from(*len).checked_sub(2).ok_or(PacketError::Malformed)?;
                let (data, rest) = rest.split_at_checked(data_len).ok_or(PacketError::Malformed)?;
                if matches!(*kind, option::LOOSE_ROUTE | option::STRICT_ROUTE) {
                    let [pointer, ..] = data else { return Err(PacketError::Malformed) };
                    // A pointer beyond the option's end means that the route is used up.
                    if pointer <= len {
                        return Err(PacketError::SourceRoute);
                    }
                }
                options = rest;
            }
            [_] => return Err(PacketError::Malformed),
        }
    }
}
