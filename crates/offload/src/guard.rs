//! The second line of defence at the host's end of pairs: packets that come in by a pair, and by no program, are dropped. The first one is
//! the program there, which lets decided packets come in by the router's device and drops all others.

use std::os::fd::{AsFd, BorrowedFd};

use tuntap_sys::netlink::NetlinkError;
use tuntap_sys::netlink::nftables::{Chain, Hook, IngressDrops, NftRule, Nftables, PAIR_GUARDS, Table};

use super::maps::Index;
use super::pairs::group_of;

/// An nftables table, which exists as long as a process has this open. The master has, and the process that makes pairs, which alone
/// changes it.
#[derive(Debug)]
pub struct Guard(Kind);

#[derive(Debug)]
enum Kind {
    /// A chain for each pair, behind the programs: no other packet of the host comes by.
    Ingress(IngressDrops),
    /// A rule that each packet of the host meets, for all pairs at once.
    Group(Nftables),
}

impl Guard {
    /// Makes the table for the pairs of the router with this device.
    pub fn new(device: &str) -> Result<Self, NetlinkError> {
        // A kernel may have been built without the family (CONFIG_NF_TABLES_NETDEV).
        match IngressDrops::open(&table(device)) {
            Ok(drops) => Ok(Self(Kind::Ingress(drops))),
            Err(_) => Self::by_group(device),
        }
    }

    /// The same for kernels that have no chains for single devices.
    pub fn by_group(device: &str) -> Result<Self, NetlinkError> {
        let rule = NftRule::new().iif_group(group_of(device)).count().because("what no program has let in").discard();
        let chain = Chain { name: "pairs", hook: Some(Hook::PreroutingBeforeDefrag), rules: vec![rule] };
        let mut nftables = Nftables::open()?;
        nftables.replace(&[Table { name: table(device), sets: Vec::new(), chains: vec![chain] }])?;
        Ok(Self(Kind::Group(nftables)))
    }

    /// Has a pair guarded, of which this is the index and the name at the host.
    pub fn add(&mut self, pair: Index, name: &str) -> Result<(), NetlinkError> {
        match &mut self.0 {
            Kind::Ingress(drops) => drops.add(&chain(pair), name),
            Kind::Group(_) => Ok(()),
        }
    }

    /// Forgets pairs that are gone.
    pub fn remove(&mut self, pairs: &[Index]) -> Result<(), NetlinkError> {
        match &mut self.0 {
            Kind::Ingress(drops) => drops.remove(&pairs.iter().copied().map(chain).collect::<Vec<_>>()),
            Kind::Group(_) => Ok(()),
        }
    }

    /// Forgets all pairs.
    pub fn clear(&mut self) -> Result<(), NetlinkError> {
        match &mut self.0 {
            Kind::Ingress(drops) => drops.clear(),
            Kind::Group(_) => Ok(()),
        }
    }
}

impl AsFd for Guard {
    /// The descriptor that keeps the table.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Ingress(drops) => drops.as_fd(),
            Kind::Group(nftables) => nftables.as_fd(),
        }
    }
}

fn table(device: &str) -> String {
    format!("{PAIR_GUARDS}{device}")
}

/// The name of a pair's chain. Names of interfaces are used again, and the kernel has devices of before go later than others come.
fn chain(pair: Index) -> String {
    format!("pair-{pair}")
}
