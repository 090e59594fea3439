//! Checked views of IP packets (RFC 791). Nothing here trusts a length.

use std::net::Ipv4Addr;

use thiserror::Error;

/// Bytes of an IPv4 header without options (RFC 791, section 3.1). Shorter packets are no IP packets.
pub const IPV4_MIN_HEADER_LEN: usize = 20;

/// Why bytes are no IPv4 packet that can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Fewer bytes than the shortest IPv4 header.
    #[error("shorter than an IPv4 header")]
    TooShort,
    /// Version 6. Forwarding it is not supported yet.
    #[error("an IPv6 packet")]
    Ipv6,
    /// The version is neither 4 nor 6.
    #[error("not an IP packet")]
    NotIp,
    /// The header's own lengths contradict each other or the packet's.
    #[error("a malformed IPv4 header")]
    Malformed,
}

/// An IPv4 packet whose header is whole and fits the bytes that carry it.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4Packet<'a> {
    bytes: &'a [u8],
    header: &'a [u8; IPV4_MIN_HEADER_LEN],
}

impl<'a> Ipv4Packet<'a> {
    /// Checks version and lengths. Checksums are left to the kernels at both ends.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let Some(header) = bytes.first_chunk::<IPV4_MIN_HEADER_LEN>() else { return Err(PacketError::TooShort) };
        match header[0] >> 4 {
            4 => {}
            6 => return Err(PacketError::Ipv6),
            _ => return Err(PacketError::NotIp),
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < IPV4_MIN_HEADER_LEN || total_len < header_len || total_len > bytes.len() {
            return Err(PacketError::Malformed);
        }
        Ok(Self { bytes, header })
    }

    /// The packet as it came, with whatever stands behind its total length.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of the header, options included.
    pub const fn header_len(&self) -> usize {
        (self.header[0] & 0x0f) as usize * 4
    }

    /// Bytes of header and payload; what stands behind them belongs to no packet.
    pub const fn total_len(&self) -> usize {
        u16::from_be_bytes([self.header[2], self.header[3]]) as usize
    }

    /// Number of the protocol in the payload.
    pub const fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Flags and offset of fragmentation.
    pub const fn fragment_field(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// Whether it is a part of a packet only (RFC 791: more fragments, or an offset).
    pub const fn is_fragment(&self) -> bool {
        self.fragment_field() & 0x3fff != 0
    }

    /// Source address.
    pub const fn src(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Destination address.
    pub const fn dst(&self) -> Ipv4Addr {
        let [.., a, b, c, d] = *self.header;
        Ipv4Addr::new(a, b, c, d)
    }
}

/// Whether an address can belong to one host (RFC 1122, section 3.2.1.3): not 0.0.0.0/8, loopback, multicast, class E
/// or broadcast. Nothing else may be claimed as a source.
pub const fn is_unicast(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn udp(src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(src, dst, 64).udp(1000, 2000).write(&mut packet, payload).expect("a valid packet");
        packet
    }

    #[test]
    fn reads_the_addresses() {
        let bytes = udp([192, 168, 0, 2], [10, 1, 2, 3], b"hello");
        let packet = Ipv4Packet::parse(&bytes).expect("valid");
        assert_eq!(packet.src(), Ipv4Addr::new(192, 168, 0, 2));
        assert_eq!(packet.dst(), Ipv4Addr::new(10, 1, 2, 3));
    }

    #[test]
    fn refuses_what_is_no_ipv4_packet() {
        let good = udp([1, 2, 3, 4], [5, 6, 7, 8], b"");
        let with = |index: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[index] = value;
            bytes
        };
        let error = |bytes: &[u8]| Ipv4Packet::parse(bytes).expect_err("must be refused");
        assert_eq!(error(&good[..19]), PacketError::TooShort);
        assert_eq!(error(&[]), PacketError::TooShort);
        assert_eq!(error(&with(0, 0x60)), PacketError::Ipv6);
        assert_eq!(error(&with(0, 0x55)), PacketError::NotIp);
        assert_eq!(error(&with(0, 0x44)), PacketError::Malformed); // header of 16 bytes
        assert_eq!(error(&with(0, 0x4f)), PacketError::Malformed); // header longer than the packet
        assert_eq!(error(&with(3, 29)), PacketError::Malformed); // total length beyond the packet
        assert_eq!(error(&with(3, 19)), PacketError::Malformed); // total length below the header
    }

    #[test]
    fn unicast_addresses() {
        for (address, expected) in [
            ([0, 0, 0, 0], false),
            ([0, 1, 2, 3], false),
            ([10, 0, 0, 1], true),
            ([127, 0, 0, 1], false),
            ([223, 255, 255, 255], true),
            ([224, 0, 0, 1], false),
            ([255, 255, 255, 255], false),
        ] {
            assert_eq!(is_unicast(Ipv4Addr::from(address)), expected, "{address:?}");
        }
    }

    proptest! {
        /// Everything that the oracle calls an IPv4 packet is one here, with the same addresses.
        #[test]
        fn agrees_with_etherparse(src: [u8; 4], dst: [u8; 4], payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let bytes = udp(src, dst, &payload);
            let packet = Ipv4Packet::parse(&bytes).expect("the builder makes valid packets");
            let oracle = etherparse::Ipv4Slice::from_slice(&bytes).expect("the builder makes valid packets");
            prop_assert_eq!(packet.src(), oracle.header().source_addr());
            prop_assert_eq!(packet.dst(), oracle.header().destination_addr());
        }

        /// What passes here has a header that the oracle accepts, too.
        #[test]
        fn accepts_nothing_that_etherparse_refuses(mut bytes in prop::collection::vec(any::<u8>(), 0..80), first: u8) {
            if let Some(byte) = bytes.first_mut() {
                *byte = 0x40 | (first & 0x0f);
            }
            if Ipv4Packet::parse(&bytes).is_ok() {
                prop_assert!(etherparse::Ipv4HeaderSlice::from_slice(&bytes).is_ok());
            }
        }
    }
}
