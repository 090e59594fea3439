//! The one ICMP message that a router has to send: that a packet was too long (RFC 792; RFC 1191, section 4).

use std::net::{IpAddr, Ipv4Addr};

use super::ip::{Fragment, IPV4_MIN_HEADER_LEN, Packet};
use super::segment::{fold, sum};

const PROTOCOL: u8 = 1;
const HEADER_LEN: usize = 8;
const TTL: u8 = 64;
const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;

/// Messages that answer a question; all others report an error, and no error reports another (RFC 1122, section 3.2.2).
const QUERIES: [u8; 6] = [0, 8, 13, 14, 17, 18];

/// Bytes of the packet's payload that come back with its header (RFC 792).
const QUOTED_LEN: usize = 8;

/// Says to a packet's sender that it was longer than `mtu` bytes. `None` where no error may be reported.
pub fn fragmentation_needed(packet: &Packet<'_>, mtu: u16, from: Ipv4Addr) -> Option<Vec<u8>> {
    let bytes = &packet.bytes()[..packet.total_len()];
    let is_error =
        packet.protocol() == PROTOCOL && bytes.get(packet.header_len()).is_none_or(|kind| !QUERIES.contains(kind));
    let IpAddr::V4(src) = packet.src() else { return None };
    if is_error || packet.fragment() == Fragment::Later {
        return None;
    }
    let quoted = &bytes[..(packet.header_len() + QUOTED_LEN).min(bytes.len())];
    let total_len = u16::try_from(IPV4_MIN_HEADER_LEN + HEADER_LEN + quoted.len()).ok()?;

    let mut message = vec![0; IPV4_MIN_HEADER_LEN + HEADER_LEN];
    message[0] = 0x45;
    message[2..4].copy_from_slice(&total_len.to_be_bytes());
    message[8] = TTL;
    message[9] = PROTOCOL;
    message[12..16].copy_from_slice(&from.octets());
    message[16..20].copy_from_slice(&src.octets());
    let header_checksum = !fold(sum(0, &message[..IPV4_MIN_HEADER_LEN]));
    message[10..12].copy_from_slice(&header_checksum.to_be_bytes());

    message[20] = DESTINATION_UNREACHABLE;
    message[21] = FRAGMENTATION_NEEDED;
    message[26..28].copy_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(quoted);
    let checksum = !fold(sum(0, &message[IPV4_MIN_HEADER_LEN..]));
    message[22..24].copy_from_slice(&checksum.to_be_bytes());
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{Icmpv4Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    const FROM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn udp(payload_len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([192, 168, 0, 2], [192, 168, 1, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, &vec![7; payload_len])
            .expect("a valid packet");
        bytes
    }

    #[test]
    fn message_is_what_the_rfc_says() {
        let original = udp(1472);
        let packet = Packet::parse(&original).expect("valid");
        let message = fragmentation_needed(&packet, 1472, FROM).expect("an error may be reported");
        let sliced = SlicedPacket::from_ip(&message).expect("an IP packet");
        let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("no IPv4") };
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!((header.source, header.destination), (FROM.octets(), [192, 168, 0, 2]));
        let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else { panic!("no ICMP") };
        let expected = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1472 };
        assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(expected));
        assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
        assert_eq!(icmp.payload(), &original[..28]);
    }

    #[test]
    fn no_error_about_errors_or_later_fragments() {
        let original = udp(100);
        let about_an_error = fragmentation_needed(&Packet::parse(&original).expect("valid"), 50, FROM).expect("fine");
        assert_eq!(fragmentation_needed(&Packet::parse(&about_an_error).expect("valid"), 50, FROM), None);
        let mut without_type = about_an_error[..20].to_vec();
        without_type[3] = 20;
        without_type.push(QUERIES[0]); // behind the packet's end
        assert_eq!(fragmentation_needed(&Packet::parse(&without_type).expect("valid"), 50, FROM), None);
        let mut fragment = original.clone();
        fragment[7] = 1;
        assert_eq!(fragmentation_needed(&Packet::parse(&fragment).expect("valid"), 50, FROM), None);
    }
}
