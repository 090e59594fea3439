//! Explicit congestion notification (RFC 3168).

use super::{IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN};

/// "Congestion experienced", the value of the two bits (RFC 3168, section 5).
const CE: u8 = 0b11;

/// Offset of the checksum in an IPv4 header (RFC 791, section 3.1).
const V4_CHECKSUM: usize = 10;

/// Marks an IP packet as one that met congestion. Returns false, and changes nothing, if its sender wouldn't understand
/// that (RFC 3168, section 5: "not ECT"), or if it isn't an IP packet. The header checksum of IPv4 stays right.
pub fn mark_ce(packet: &mut [u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.first_chunk_mut().is_some_and(mark_v4),
        Some(6) => packet.first_chunk_mut().is_some_and(mark_v6),
        _ => false,
    }
}

/// The bits are the low ones of the second byte.
fn mark_v4(header: &mut [u8; IPV4_MIN_HEADER_LEN]) -> bool {
    let before = header[1];
    if before & CE == 0 {
        return false;
    }
    let after = before | CE;
    header[1] = after;
    // Of the 16-bit word with these bits, nothing but the low byte changes: equation 3 of RFC 1624, section 3.
    let checksum = u16::from_be_bytes([header[V4_CHECKSUM], header[V4_CHECKSUM + 1]]);
    let sum = u32::from(!checksum) + u32::from(after - before);
    let folded = (sum & 0xffff) + (sum >> 16);
    let [.., high, low] = (!folded).to_be_bytes();
    [header[V4_CHECKSUM], header[V4_CHECKSUM + 1]] = [high, low];
    true
}

/// The bits are the low ones of the traffic class, which begins in the middle of the first byte (RFC 8200, section 3).
const fn mark_v6(header: &mut [u8; IPV6_HEADER_LEN]) -> bool {
    if (header[1] >> 4) & CE == 0 {
        return false;
    }
    header[1] |= CE << 4;
    true
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Header, Ipv6Header};
    use proptest::prelude::*;

    use super::mark_ce;

    fn v4(dscp_and_ecn: u8, id: u16, options: usize) -> Vec<u8> {
        let mut header = Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).expect("fits");
        header.identification = id;
        header.options = vec![1; options * 4].as_slice().try_into().expect("fits");
        let mut bytes = Vec::new();
        header.write(&mut bytes).expect("fits");
        bytes[1] = dscp_and_ecn;
        let fresh = Ipv4Header::from_slice(&bytes).expect("valid").0.calc_header_checksum();
        bytes[10..12].copy_from_slice(&fresh.to_be_bytes());
        bytes
    }

    fn v6(class: u8) -> Vec<u8> {
        let header = Ipv6Header { traffic_class: class, hop_limit: 64, ..Ipv6Header::default() };
        header.to_bytes().to_vec()
    }

    proptest! {
        /// The oracle computes the whole checksum anew.
        #[test]
        fn ipv4_keeps_a_right_checksum(class: u8, id: u16, options in 0_usize..=10) {
            let before = v4(class, id, options);
            let mut after = before.clone();
            let marked = mark_ce(&mut after);
            prop_assert_eq!(marked, class & 3 != 0);
            if marked {
                prop_assert_eq!(after[1], class | 3);
                let header = Ipv4Header::from_slice(&after).expect("valid").0;
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                after[1] = before[1];
                after[10..12].copy_from_slice(&before[10..12]);
            }
            prop_assert_eq!(after, before);
        }

        #[test]
        fn ipv6_changes_nothing_else(class: u8) {
            let before = v6(class);
            let mut after = before.clone();
            let marked = mark_ce(&mut after);
            prop_assert_eq!(marked, class & 3 != 0);
            let header = Ipv6Header::from_slice(&after).expect("valid").0;
            prop_assert_eq!(header.traffic_class, if marked { class | 3 } else { class });
            let expected = if marked { v6(class | 3) } else { before };
            prop_assert_eq!(after, expected);
        }

        #[test]
        fn anything_else_stays_as_it_is(mut bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let before = bytes.clone();
            prop_assert!(!mark_ce(&mut bytes));
            prop_assert_eq!(bytes, before);
        }
    }
}
