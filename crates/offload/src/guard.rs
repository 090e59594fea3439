//! The second line of defence at the host's end of pairs: packets that come in by a pair, and by no program, are dropped. The first one is
//! the program there, which lets decided packets come in by the router's device and drops all others.

use std::os::fd::{AsFd, BorrowedFd};

use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::netlink::nftables::{Chain, Hook, NftRule, Nftables, Table};

use super::pairs::group_of;

/// An nftables table, which exists as long as this is open in a process.
#[derive(Debug)]
pub struct Guard(Nftables);

impl Guard {
    /// Makes the table for the pairs of the router with this device.
    pub fn new(device: &str) -> Result<Self, NetlinkError> {
        let rule = NftRule::new().iif_group(group_of(device)).count().because("what no program has let in").discard();
        let chain = Chain { name: "pairs", hook: Some(Hook::PreroutingBeforeDefrag), rules: vec![rule] };
        let table = Table { name: format!("uwsgi-tuntap-pairs-{device}"), sets: Vec::new(), chains: vec![chain] };
        let mut nftables = Nftables::open()?;
        nftables.replace(&[table])?;
        Ok(Self(nftables))
    }
}

impl AsFd for Guard {
    /// The descriptor that keeps the table.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
