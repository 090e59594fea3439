//! An attached peer that is the test itself. It keeps a descriptor of its device, by which it can break what it handed
//! over.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use nix::libc;

use crate::common::emperor::{EMPEROR, Emperor};
use crate::common::netns::Netns;
use crate::common::probe::pings_answered;
use crate::common::raw_peer::RawPeer;
use crate::hello::{Answer, answer, hello, offer};
use crate::tun::{self, ATTACHABLE, HEADER_LEN};
use crate::world::is_attached;

pub const DEVICE: &str = "uwsgi0";

#[derive(Debug)]
pub struct Handed {
    pub peer: RawPeer,
    pub device: File,
    pub netns: Netns,
}

impl Handed {
    #[track_caller]
    pub fn attach(emperor: &Emperor, address: Ipv4Addr) -> Self {
        Self::attach_as(emperor, address, DEVICE, ATTACHABLE)
    }

    /// Hands over a device of another name or layout, which the router has to take as well.
    #[track_caller]
    pub fn attach_as(emperor: &Emperor, address: Ipv4Addr, name: &str, layout: libc::c_int) -> Self {
        Self::attach_over(|| emperor.connect(), emperor, address, name, layout)
    }

    /// Hands over a device on a connection that exists already.
    #[track_caller]
    pub fn attach_over(
        connect: impl FnOnce() -> RawPeer + Send,
        emperor: &Emperor,
        address: Ipv4Addr,
        name: &str,
        layout: libc::c_int,
    ) -> Self {
        let netns = Netns::new();
        // A vassal connects from its own namespace.
        let mut peer = netns.run(connect);
        let device = tun::make(&netns, name, layout);
        tun::set_header_len(&device, HEADER_LEN);
        netns.sh(&format!("ip addr add {address}/24 dev {name}"));
        netns.sh(&format!("ip link set {name} up"));
        offer(&mut peer, &hello(), &[device.as_fd()]);
        assert_eq!(answer(&mut peer), Answer::Attached);
        let handed = Self { peer, device, netns };
        assert_eq!(handed.pings_answered(3), 3, "an attached peer's pings");
        assert!(is_attached(&emperor.stats(), address), "{}", emperor.stats().0);
        handed
    }

    pub fn pings_answered(&self, count: u32) -> u32 {
        pings_answered(&self.netns, EMPEROR, count, &[])
    }
}
