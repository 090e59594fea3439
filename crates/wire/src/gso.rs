//! A packet on its way through the router, with what is left to do to it.

use thiserror::Error;

use super::ip::{Packet, PacketError};
use super::vnet::{Offload, VNET_HEADER_LEN, VnetError};

/// An IP packet with its virtio_net header, both checked. It may be a GSO packet, which stands for many.
#[derive(Debug, Clone, Copy)]
pub struct GsoPacket<'a> {
    offload: Offload,
    packet: Packet<'a>,
    whole: Option<&'a [u8]>,
}

/// Why bytes from a device are no packet that can be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum GsoError {
    /// The bytes are no IP packet. [`PacketError::TooShort`] also stands for an incomplete virtio_net header.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The virtio_net header does not fit the packet.
    #[error(transparent)]
    Header(#[from] VnetError),
}

impl<'a> GsoPacket<'a> {
    /// Checks what was read from a TUN device: a header, and a packet that the header must fit.
    pub fn parse(received: &'a [u8]) -> Result<Self, GsoError> {
        let (header, bytes) = received.split_first_chunk::<VNET_HEADER_LEN>().ok_or(PacketError::TooShort)?;
        let packet = Packet::parse(bytes)?;
        let offload = Offload::parse(*header, &packet)?;
        // A header with fields that `Offload::parse` ignores must not be passed on as it is.
        let whole = (offload.encode() == *header).then_some(received);
        Ok(Self { offload, packet, whole })
    }

    /// Checks a packet without a header, which is ready to travel on a wire.
    pub fn finished(bytes: &'a [u8]) -> Result<Self, PacketError> {
        Ok(Self { offload: Offload::NONE, packet: Packet::parse(bytes)?, whole: None })
    }

    /// What is left to do to it.
    pub const fn offload(&self) -> &Offload {
        &self.offload
    }

    /// The IP packet.
    pub const fn packet(&self) -> &Packet<'a> {
        &self.packet
    }

    /// Header and packet as they were read, if they may be written to a device so: one write is cheaper than two parts.
    pub const fn whole(&self) -> Option<&'a [u8]> {
        self.whole
    }

    /// Number of segments that it is cut into where it can't be sent whole; 0 if it is not a GSO packet.
    pub fn segments(&self) -> usize {
        self.offload.segments(&self.packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn received(header: [u8; VNET_HEADER_LEN]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut bytes, b"data").expect("valid");
        bytes
    }

    #[test]
    fn header_with_ignored_fields_is_not_passed_on() {
        let clean = received([0; VNET_HEADER_LEN]);
        assert_eq!(GsoPacket::parse(&clean).expect("valid").whole(), Some(clean.as_slice()));
        // Fields that only have a meaning for GSO packets.
        let odd = received([0, 0, 0xff, 0xff, 7, 7, 0xff, 0xff, 0, 9]);
        let packet = GsoPacket::parse(&odd).expect("valid");
        assert_eq!((packet.whole(), packet.offload()), (None, &Offload::NONE));
    }

    #[test]
    fn what_is_no_packet_has_a_reason() {
        let parse = |bytes: &[u8]| GsoPacket::parse(bytes).map(drop);
        let reason = |bytes: &[u8]| parse(&[&[0; VNET_HEADER_LEN], bytes].concat());
        assert_eq!(reason(&[0x60; 48]), Err(PacketError::Malformed.into()));
        assert_eq!(reason(&[0x45; 19]), Err(PacketError::TooShort.into()));
        assert_eq!(reason(&[0xff; 40]), Err(PacketError::NotIp.into()));
        assert_eq!(reason(&[0x4f; 40]), Err(PacketError::Malformed.into()));
        assert_eq!(parse(&[0; 9]), Err(PacketError::TooShort.into()));
        assert_eq!(GsoPacket::finished(&[0x4f; 40]).map(drop), Err(PacketError::Malformed));
        assert_eq!(parse(&received([0xff; VNET_HEADER_LEN])), Err(VnetError::Unknown.into()));
    }

    #[test]
    fn gso_packet_tells_how_many_it_stands_for() {
        let mut bytes = vec![0; VNET_HEADER_LEN];
        // GSO of UDP in datagrams of 100 bytes, with a checksum to complete.
        (bytes[0], bytes[1]) = (1, 5);
        for (at, value) in [(4, 100_u16), (6, 20), (8, 6)] {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut bytes, &[7; 250]).expect("valid");
        let packet = GsoPacket::parse(&bytes).expect("valid");
        assert_eq!((packet.segments(), packet.packet().total_len()), (3, 278));
        assert_eq!(GsoPacket::finished(&bytes[VNET_HEADER_LEN..]).expect("valid").segments(), 0);
    }
}
