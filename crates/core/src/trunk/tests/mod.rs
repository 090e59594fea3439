mod hostile;
mod network;
mod one_trunk;
mod pieces;
mod topologies;

use std::net::{IpAddr, Ipv4Addr};

use tuntap_wire::holding::{ClaimTime, Holding, RouterId};

/// The id of a router of a test.
pub(super) fn id(number: usize) -> RouterId {
    RouterId::new(number as u64 + 1).expect("not 0")
}

/// An address in the networks of all routers.
pub(super) fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, number))
}

pub(super) fn holding(router: usize, since: u64) -> Holding {
    Holding { router: id(router), since: ClaimTime(since) }
}
