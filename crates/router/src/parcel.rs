//! A packet on its way through the router, with what is left to do to it.

use std::io;

use tuntap_core::policy::drops::DropReason;
use tuntap_sys::tun::Tun;
use tuntap_wire::ip::{Packet, PacketError};
use tuntap_wire::vnet::{Offload, VNET_HEADER_LEN};

/// A packet with its header, both checked.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// What is left to do to it.
    pub offload: Offload,
    /// The packet.
    pub packet: Packet<'a>,
    /// Header and packet as they came, if that is how a device takes them: one piece is cheaper to write than two.
    whole: Option<&'a [u8]>,
}

impl<'a> Parcel<'a> {
    /// Checks what a device gave: a header, and a packet that it must fit.
    pub fn parse(received: &'a [u8]) -> Result<Self, DropReason> {
        let (header, bytes) = received.split_first_chunk::<VNET_HEADER_LEN>().ok_or(DropReason::TooShort)?;
        let packet = Packet::parse(bytes).map_err(drop_reason)?;
        let offload = Offload::parse(*header, &packet).map_err(|_| DropReason::Malformed)?;
        // What was not looked at must not go on.
        let whole = (offload.encode() == *header).then_some(received);
        Ok(Self { offload, packet, whole })
    }

    /// Checks a packet that is ready to travel on a wire.
    pub fn finished(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let packet = Packet::parse(bytes).map_err(drop_reason)?;
        Ok(Self { offload: Offload::NONE, packet, whole: None })
    }

    /// How many packets it is cut into where it can't pass whole; 0 if there is nothing to cut.
    pub fn segments(&self) -> usize {
        self.offload.segments(&self.packet)
    }

    /// Writes it to a device. Errors are those of [`Tun::send`].
    pub fn send(&self, tun: &Tun) -> io::Result<()> {
        match self.whole {
            Some(whole) if tun.has_header() => tun.send_whole(whole),
            _ => tun.send(&self.offload, self.packet.bytes()),
        }
    }
}

/// The reason that stands for bytes that are no packet.
const fn drop_reason(error: PacketError) -> DropReason {
    match error {
        PacketError::TooShort => DropReason::TooShort,
        PacketError::NotIp => DropReason::NotIp,
        PacketError::Malformed => DropReason::Malformed,
        PacketError::SourceRoute => DropReason::SourceRoute,
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
    fn header_that_was_not_looked_at_in_full_does_not_go_on_as_it_came() {
        let clean = received([0; VNET_HEADER_LEN]);
        assert_eq!(Parcel::parse(&clean).expect("valid").whole, Some(clean.as_slice()));
        // Lengths that count only where there is something to segment.
        let odd = received([0, 0, 0xff, 0xff, 7, 7, 0xff, 0xff, 0, 9]);
        let parcel = Parcel::parse(&odd).expect("valid");
        assert_eq!((parcel.whole, parcel.offload), (None, Offload::NONE));
    }

    #[test]
    fn what_is_no_packet_has_a_reason() {
        let reason =
            |bytes: &[u8]| Parcel::parse(&[&[0; VNET_HEADER_LEN], bytes].concat()).map(drop).expect_err("no packet");
        assert_eq!(reason(&[0x60; 48]), DropReason::Malformed);
        assert_eq!(reason(&[0x45; 19]), DropReason::TooShort);
        assert_eq!(reason(&[0xff; 40]), DropReason::NotIp);
        assert_eq!(reason(&[0x4f; 40]), DropReason::Malformed);
        assert_eq!(Parcel::parse(&[0; 9]).map(drop), Err(DropReason::TooShort));
        assert_eq!(Parcel::finished(&[0x4f; 40]).map(drop), Err(DropReason::Malformed));
        assert_eq!(Parcel::parse(&received([0xff; VNET_HEADER_LEN])).map(drop), Err(DropReason::Malformed));
    }
}
