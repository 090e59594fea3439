//! What routers set up on their host: addresses and state of their devices, forwarding, and a table of nftables. All of
//! it is undone when the instance ends, and stays in place while it executes itself anew.

mod changes;
mod forwarding;
mod handover;
mod limits;
mod link;
mod protection;
mod table;
mod tables;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use thiserror::Error;

pub use handover::Handover;

use crate::config::RouterSpec;
use crate::log::Logger;
use crate::sys::netlink::nftables::{Nftables, Table};
use crate::sys::netlink::{Netlink, NetlinkError};
use changes::{Changes, Wanted};
use link::Given;
use table::Extent;
use tables::Refusals;

/// Why the host can't be set up.
#[derive(Debug, Error)]
pub enum HostNetworkError {
    /// The kernel refused an address, a device's state or the table.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// IPv6 is turned off, and there is nothing else.
    #[error("{device}: IPv6 is turned off on this host, and the router has no IPv4 address: {reason}")]
    NoAddress {
        /// The router's device.
        device: String,
        /// What the kernel said.
        reason: NetlinkError,
    },
    /// Forwarding can't be turned on.
    #[error("forwarding: {0}")]
    Forwarding(#[from] io::Error),
}

/// What a router's table of nftables may have in it: the number of rules of each of its chains, once for each table that
/// a kernel may be given. Nothing if the router needs none.
pub fn rules_of_tables(router: &RouterSpec) -> Vec<BTreeMap<String, usize>> {
    let rules =
        |table: Table| table.chains.into_iter().map(|chain| (chain.name.to_owned(), chain.rules.len())).collect();
    Extent::ALL.into_iter().filter_map(|extent| table::of(router, extent)).map(rules).collect()
}

/// Sets up the device of a router anew that was deleted. Everything else is still there.
pub fn set_up_device(router: &RouterSpec, logger: Logger) -> Result<(), HostNetworkError> {
    let mut router = router.clone();
    link::configure(&mut router, &mut Given::default(), logger)?;
    Ok(Changes::default().replace(&forwarding::wanted_of_device(&router), logger)?)
}

/// What was set up. It must not be dropped before it is to be undone, for the tables go with it.
#[derive(Debug, Default)]
pub struct HostNetwork {
    nftables: Option<Nftables>,
    changes: Changes,
    given: Given,
    refusals: Refusals,
    wanted: Vec<Wanted>,
    ways: Vec<Way>,
}

/// An interface by which vassals reach other networks.
#[derive(Debug)]
struct Way {
    name: String,
    /// Another one of that name has another index. 0 is none.
    index: u32,
}

impl HostNetwork {
    /// Sets up the host for these routers, whose devices exist, in place of what an earlier image has left. Routers lose what
    /// the host can't have: all of IPv6 where that is turned off. Without success, nothing stays.
    pub fn set_up(routers: &mut [RouterSpec], earlier: Self, logger: Logger) -> Result<Self, HostNetworkError> {
        let mut network = earlier;
        match network.try_set_up(routers, logger) {
            Ok(()) => Ok(network),
            Err(error) => {
                network.undo(logger);
                Err(error)
            }
        }
    }

    fn try_set_up(&mut self, routers: &mut [RouterSpec], logger: Logger) -> Result<(), HostNetworkError> {
        for router in routers.iter_mut() {
            link::configure(router, &mut self.given, logger)?;
            forwarding::warn_about_ports(router, logger);
        }
        self.given.prune(routers);
        // Before anything is forwarded.
        self.nftables = tables::make(self.nftables.take(), routers, logger)?;
        self.refusals = Refusals::of(routers, self.nftables.as_mut());
        self.wanted = forwarding::wanted(routers, &self.changes, logger);
        self.changes.replace(&self.wanted, logger)?;
        let mut netlink = Netlink::open()?;
        let interfaces = routers.iter().flat_map(|router| &router.nat);
        self.ways = interfaces
            .map(|name| Way { name: name.clone(), index: netlink.link(name).map_or(0, |link| link.index) })
            .collect();
        Ok(())
    }

    /// To be called now and then: tells of what the tables refuse, and has interfaces forward that were deleted and made anew, as those of dial-up lines and
    /// tunnels are. What somebody turns off on an interface that is still the same stays off.
    pub fn look_after(&mut self, logger: Logger) {
        if let Some(nftables) = &mut self.nftables {
            self.refusals.tell(nftables, logger);
        }
        if self.ways.is_empty() {
            return;
        }
        let Ok(mut netlink) = Netlink::open() else { return };
        for way in &mut self.ways {
            let Ok(link) = netlink.link(&way.name) else { continue };
            if std::mem::replace(&mut way.index, link.index) == link.index {
                continue;
            }
            logger.line(format_args!("[tuntap-router] {} is another interface than before", way.name));
            for wanted in self.wanted.iter().filter(|wanted| wanted.is_about(&way.name)) {
                if let Err(error) = self.changes.make(wanted, logger) {
                    logger.line(format_args!("[tuntap-router] forwarding: {error}"));
                }
            }
        }
    }

    /// Undoes all of it, as far as nobody else has changed it since.
    pub fn undo(&mut self, logger: Logger) {
        self.changes.put_back(logger);
        // The tables end with it.
        self.nftables = None;
        self.given.take_back();
    }

    /// The descriptor that keeps the tables alive.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.nftables.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::sys::sysctl::{Setting, Sysctl};

    pub(super) const SILENT: Logger = Logger(|_| ());

    pub(super) fn in_new_namespace(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    pub(super) fn value(interface: &str, setting: Setting) -> i32 {
        Sysctl::new(interface, setting).read().expect("the kernel has it")
    }
}
