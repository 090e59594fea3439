//! What routers set up on their host: addresses and state of their devices, forwarding, and a table of nftables. All of
//! it is undone when the instance ends, and stays in place while it executes itself anew. What others change of it meanwhile is
//! noticed and mended.

mod changes;
mod complaints;
mod conflict;
mod forwarding;
mod handover;
mod limits;
mod link;
mod look;
mod patience;
mod ports;
mod protection;
mod table;
mod tables;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use thiserror::Error;

pub use conflict::{Conflict, Networks, conflicts};
pub use ports::{PortUses, Taken, taken};

use changes::{Changes, SettingError};
use complaints::Complaints;
use link::Given;
use look::Schedule;
use patience::Patience;
use ports::Mapped;
use table::Extent;
use tables::Refusals;
use tuntap_config::RouterSpec;
use tuntap_sys::log::Logger;
use tuntap_sys::netlink::nftables::{Nftables, Table};
use tuntap_sys::netlink::{Netlink, NetlinkError, Notices, Subject};

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
    #[error(transparent)]
    Forwarding(#[from] SettingError),
    /// A router's network is somebody else's already.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A mapped port has a use already.
    #[error(transparent)]
    Taken(#[from] Taken),
}

/// What a router's table of nftables may have in it: the number of rules of each of its chains, once for each table that
/// a kernel may be given. Nothing if the router needs none.
pub fn rules_of_tables(router: &RouterSpec) -> Vec<BTreeMap<String, usize>> {
    let rules =
        |table: Table| table.chains.into_iter().map(|chain| (chain.name.to_owned(), chain.rules.len())).collect();
    Extent::ALL.into_iter().filter_map(|extent| table::of(router, extent)).map(rules).collect()
}

/// Sets up the device of a router anew that was deleted. Everything else is still there. What can't be had is a line, and is
/// tried again by the next look.
pub fn set_up_device(router: &RouterSpec, logger: Logger) {
    let mut router = router.clone();
    if let Err(error) = link::configure(&mut router, &mut Given::default(), logger) {
        logger.line(format_args!("[tuntap-router] {error}"));
    }
    for error in Changes::default().replace(&forwarding::wanted_of_device(&router), logger) {
        logger.line(format_args!("[tuntap-router] {error}"));
    }
}

/// When the host is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// An instance starts: what can't be had is an error, and nothing stays.
    Start,
    /// A running one executes itself anew: it goes on with what can be had, and says what can't.
    Reload,
}

/// What was set up. It must not be dropped before it is to be undone, for the tables go with it.
#[derive(Debug, Default)]
pub struct HostNetwork {
    nftables: Option<Nftables>,
    changes: Changes,
    given: Given,
    refusals: Refusals,
    /// Names of the tables that were made. `None`: they could not be.
    tables: Option<Vec<String>>,
    mapped: Mapped,
    /// What the options say, but for IPv6 where that was turned off.
    routers: Vec<RouterSpec>,
    /// Indexes of interfaces at the last look. Another one of that name has another index.
    known: BTreeMap<String, u32>,
    /// Routers' devices that aren't there, and since when.
    missing: BTreeMap<String, Instant>,
    notices: Option<Notices>,
    complaints: Complaints,
    /// What couldn't be mended at the last attempt, and what was said of it.
    failures: BTreeMap<String, String>,
    patience: Patience,
    schedule: Schedule,
}

impl HostNetwork {
    /// Sets up the host for these routers, whose devices exist, in place of what an earlier image has left. Routers lose what
    /// the host can't have: all of IPv6 where that is turned off.
    pub fn set_up(
        routers: &mut [RouterSpec],
        earlier: Self,
        occasion: Occasion,
        logger: Logger,
    ) -> Result<Self, HostNetworkError> {
        let mut network = Self { routers: routers.to_vec(), ..earlier };
        // Before the first change, so that none is missed. Without it there are still looks now and then.
        network.notices = Notices::open(Subject::Everything).ok().filter(|_| network.has_something());
        match network.try_set_up(routers, occasion, logger) {
            Ok(()) => Ok(network),
            // What is missing is tried again by the next look.
            Err(error) if occasion == Occasion::Reload => {
                network.complaints.add(logger, error);
                Ok(network)
            }
            Err(error) => {
                network.undo(logger);
                Err(error)
            }
        }
    }

    fn try_set_up(
        &mut self,
        routers: &mut [RouterSpec],
        occasion: Occasion,
        logger: Logger,
    ) -> Result<(), HostNetworkError> {
        for router in routers.iter_mut() {
            let wanted = router.clone();
            if let Err(error) = self.refuse_what_is_in_use(&wanted, occasion, logger) {
                self.tolerate(error, occasion, logger)?;
            }
            if let Err(error) = link::configure(router, &mut self.given, logger) {
                self.tolerate(error, occasion, logger)?;
                *router = wanted;
            }
            forwarding::warn_about_ports(router, logger);
        }
        self.routers = routers.to_vec();
        self.given.prune(&self.routers);
        // Before anything is forwarded.
        match self.make_tables(logger) {
            Ok(()) => self.forward(occasion, logger)?,
            Err(error) => self.tolerate(error.into(), occasion, logger)?,
        }
        if let Err(error) = self.mapped.end_stale(&self.routers) {
            self.complaints.add(logger, error);
        }
        let mut netlink = Netlink::open()?;
        for name in self.interfaces() {
            if let Ok(link) = netlink.link(&name) {
                self.known.insert(name, link.index);
            }
        }
        Ok(())
    }

    /// A running instance goes on without what can't be had.
    fn tolerate(
        &mut self,
        error: HostNetworkError,
        occasion: Occasion,
        logger: Logger,
    ) -> Result<(), HostNetworkError> {
        match occasion {
            Occasion::Start => Err(error),
            Occasion::Reload => {
                self.complaints.add(logger, error);
                Ok(())
            }
        }
    }

    fn refuse_what_is_in_use(
        &mut self,
        router: &RouterSpec,
        occasion: Occasion,
        logger: Logger,
    ) -> Result<(), HostNetworkError> {
        if router.addresses.is_empty() {
            return Ok(());
        }
        let networks = Networks::of_host(&mut Netlink::open()?)?;
        if let Some(conflict) = conflict::find(router, &networks) {
            if conflict.is_uncertain {
                self.complaints.add(logger, conflict);
            } else {
                self.tolerate(conflict.into(), occasion, logger)?;
            }
        }
        let own_tables: Vec<_> = self.routers.iter().map(RouterSpec::table_name).collect();
        let addresses: Vec<_> = networks.addresses.iter().map(|own| own.address.addr()).collect();
        for taken in ports::taken_now(router, &own_tables, &addresses) {
            if taken.is_uncertain {
                logger.line(format_args!("[tuntap-router] {taken}"));
            } else {
                self.tolerate(taken.into(), occasion, logger)?;
            }
        }
        Ok(())
    }

    /// Puts the tables in the place of those that were there before.
    fn make_tables(&mut self, logger: Logger) -> Result<(), NetlinkError> {
        self.tables = None;
        self.tables = Some(tables::make(&mut self.nftables, &self.routers, logger)?);
        self.refusals = Refusals::of(&self.routers, self.nftables.as_mut());
        Ok(())
    }

    fn forward(&mut self, occasion: Occasion, logger: Logger) -> Result<(), HostNetworkError> {
        self.complain_of_missing_ways(logger);
        let wanted = self.wanted_settings(logger);
        for error in self.changes.replace(&wanted, logger) {
            self.tolerate(error.into(), occasion, logger)?;
        }
        Ok(())
    }

    fn wanted_settings(&mut self, logger: Logger) -> Vec<changes::Wanted> {
        let complaints = &mut self.complaints;
        forwarding::wanted(&self.routers, &self.changes, &mut |text| complaints.add(logger, text))
    }

    fn complain_of_missing_ways(&mut self, logger: Logger) {
        for router in &self.routers {
            for name in router.nat.iter().filter(|name| !forwarding::exists(name)) {
                self.complaints.add(
                    logger,
                    format_args!(
                        "{}: there is no interface {name} (tuntap-router-nat) at the moment: vassals reach nothing by it until \
                         it is there",
                        router.device
                    ),
                );
            }
        }
    }

    /// Whether there is anything that somebody could change.
    fn has_something(&self) -> bool {
        self.routers.iter().any(|router| !router.addresses.is_empty() || router.mtu.is_some())
    }

    /// The routers' devices, and the interfaces by which their vassals reach other networks.
    fn interfaces(&self) -> Vec<String> {
        self.routers.iter().flat_map(|router| std::iter::once(&router.device).chain(&router.nat)).cloned().collect()
    }

    /// Undoes all of it, as far as nobody else has changed it since.
    pub fn undo(&mut self, logger: Logger) {
        self.changes.put_back(logger);
        // The tables end with it.
        self.nftables = None;
        // What came by a mapped port would go on to where nobody is.
        let _ = self.mapped.end_stale(&[]);
        self.given.take_back();
    }

    /// The descriptor that keeps the tables alive.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.nftables.as_ref().map(AsFd::as_fd)
    }

    /// The descriptor that is readable when [`Self::look_after`] has something to do.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.notices.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use tuntap_sys::sysctl::{Setting, Sysctl};

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
