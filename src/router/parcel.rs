//! A packet on its way through the router, with what is left to do to it.

use crate::policy::drops::DropReason;
use crate::policy::forward::drop_reason;
use crate::wire::ip::Ipv4Packet;
use crate::wire::vnet::{Offload, VNET_HEADER_LEN};

/// What stands before a packet that could travel on a wire.
pub const NO_HEADER: [u8; VNET_HEADER_LEN] = [0; VNET_HEADER_LEN];

/// A packet with its header, both checked.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// What is left to do to it.
    pub offload: Offload,
    /// The packet.
    pub packet: Ipv4Packet<'a>,
}

impl<'a> Parcel<'a> {
    /// Checks the packet, and the header against it.
    pub fn parse(header: &[u8], bytes: &'a [u8]) -> Result<Self, DropReason> {
        let packet = Ipv4Packet::parse(bytes).map_err(drop_reason)?;
        let header = header.first_chunk().ok_or(DropReason::Malformed)?;
        let offload = Offload::parse(*header, &packet).map_err(|_| DropReason::Malformed)?;
        Ok(Self { offload, packet })
    }
}
