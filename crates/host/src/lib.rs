//! What routers set up on their host: addresses and state of their devices, forwarding, and nftables tables. All of it stays
//! in place while the instance executes itself anew, and is undone when it ends. Changes by others in the meantime are
//! noticed and mended.

mod changes;
mod conflict;
mod forwarding;
mod handover;
mod limits;
mod link;
mod ports;
mod protection;
mod reconcile;
mod retry;
mod table;
mod tables;
mod warnings;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use thiserror::Error;

pub use conflict::{Conflict, Networks, conflicts};
pub use ports::{PortUses, Taken, taken};

use changes::{Changes, SettingError};
use link::Given;
use ports::Mapped;
use reconcile::Schedule;
use retry::Retries;
use table::Extent;
use tables::RefusedPackets;
use tuntap_config::RouterSpec;
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::netlink::nftables::{Nftables, Table};
use tuntap_sys::netlink::{Netlink, NetlinkError, Notices, Subject};
use warnings::Warnings;

/// Why the host can't be set up.
#[derive(Debug, Error)]
pub enum HostNetworkError {
    /// The kernel refused an address, the state of a device, or a table.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// IPv6 is turned off, and the router has no IPv4 address.
    #[error("{device}: IPv6 is turned off on this host, and the router has no IPv4 address: {reason}")]
    NoAddress {
        /// The router's device.
        device: String,
        /// The kernel's error.
        reason: NetlinkError,
    },
    /// Forwarding can't be turned on.
    #[error(transparent)]
    Forwarding(#[from] SettingError),
    /// A router's network is in use already.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A mapped port is in use already.
    #[error(transparent)]
    Taken(#[from] Taken),
}

/// The nftables tables that a router may have, one for each extent that a kernel may be able to make: for each chain the
/// number of its rules. Empty if the router needs no table.
pub fn rules_of_tables(router: &RouterSpec) -> Vec<BTreeMap<String, usize>> {
    let rules =
        |table: Table| table.chains.into_iter().map(|chain| (chain.name.to_owned(), chain.rules.len())).collect();
    Extent::ALL.into_iter().filter_map(|extent| table::of(router, extent)).map(rules).collect()
}

/// Sets up the new device of a router whose device was deleted. Everything else is still there. Errors are logged; what is
/// missing is tried again by [`HostNetwork::reconcile`].
pub fn set_up_device(router: &RouterSpec, logger: Logger) {
    let mut router = router.clone();
    if let Err(error) = link::configure(&mut router, &mut Given::default(), logger) {
        logger.line(Event::HostFault, format_args!("[tuntap-router] {error}"));
    }
    for error in Changes::default().replace(&forwarding::wanted_of_device(&router), logger) {
        logger.line(Event::HostFault, format_args!("[tuntap-router] {error}"));
    }
}

/// When the host is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// An instance starts. Any error ends the start, and everything is undone.
    Start,
    /// A running instance executes itself anew. It logs errors, and goes on with what works.
    Reload,
}

/// What was set up. The tables vanish when this is dropped.
#[derive(Debug, Default)]
pub struct HostNetwork {
    nftables: Option<Nftables>,
    changes: Changes,
    given: Given,
    refused: RefusedPackets,
    /// Names of the tables that were made; `None` if that failed.
    tables: Option<Vec<String>>,
    mapped: Mapped,
    /// The routers as the options say, without IPv6 if that is turned off.
    routers: Vec<RouterSpec>,
    /// Indexes of interfaces when they were last seen, by name. A new interface of the same name has another index.
    known: BTreeMap<String, u32>,
    /// Devices of routers that are missing, and since when.
    missing: BTreeMap<String, Instant>,
    notices: Option<Notices>,
    warnings: Warnings,
    /// What couldn't be mended at the last attempt, by key, with the line about it.
    failures: BTreeMap<String, String>,
    retries: Retries,
    schedule: Schedule,
}

impl HostNetwork {
    /// Sets up the host for these routers, whose devices exist, in place of what an earlier image has left. Where IPv6 is
    /// turned off, the routers lose their IPv6 addresses, ports and DNS servers.
    pub fn set_up(
        routers: &mut [RouterSpec],
        earlier: Self,
        occasion: Occasion,
        logger: Logger,
    ) -> Result<Self, HostNetworkError> {
        let mut network = Self { routers: routers.to_vec(), ..earlier };
        // This comes before the first change, so that no later change is missed. If it fails, changes are still found
        // periodically.
        network.notices = Notices::open(Subject::Everything).ok().filter(|_| network.has_something());
        match network.try_set_up(routers, occasion, logger) {
            Ok(()) => Ok(network),
            // `reconcile` tries again what is missing.
            Err(error) if occasion == Occasion::Reload => {
                network.warnings.add(logger, Event::HostFault, error);
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
        // Nothing is to be forwarded without the tables.
        match self.make_tables(logger) {
            Ok(()) => self.forward(occasion, logger)?,
            Err(error) => self.tolerate(error.into(), occasion, logger)?,
        }
        if let Err(error) = self.mapped.end_stale(&self.routers) {
            self.warnings.add(logger, Event::HostFault, error);
        }
        let mut netlink = Netlink::open()?;
        for name in self.interfaces() {
            if let Ok(link) = netlink.link(&name) {
                self.known.insert(name, link.index);
            }
        }
        Ok(())
    }

    /// Returns the error at a start. Logs it at a reload, after which the instance goes on.
    fn tolerate(
        &mut self,
        error: HostNetworkError,
        occasion: Occasion,
        logger: Logger,
    ) -> Result<(), HostNetworkError> {
        match occasion {
            Occasion::Start => Err(error),
            Occasion::Reload => {
                self.warnings.add(logger, Event::HostFault, error);
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
                self.warnings.add(logger, Event::AddressConflict, conflict);
            } else {
                self.tolerate(conflict.into(), occasion, logger)?;
            }
        }
        let own_tables: Vec<_> = self.routers.iter().map(RouterSpec::table_name).collect();
        let addresses: Vec<_> = networks.addresses.iter().map(|own| own.address.addr()).collect();
        for taken in ports::taken_now(router, &own_tables, &addresses) {
            if taken.is_uncertain {
                logger.line(Event::AddressConflict, format_args!("[tuntap-router] {taken}"));
            } else {
                self.tolerate(taken.into(), occasion, logger)?;
            }
        }
        Ok(())
    }

    /// Makes the tables, in place of those from before.
    fn make_tables(&mut self, logger: Logger) -> Result<(), NetlinkError> {
        self.tables = None;
        self.tables = Some(tables::make(&mut self.nftables, &self.routers, logger)?);
        self.refused = RefusedPackets::of(&self.routers, self.nftables.as_mut());
        Ok(())
    }

    fn forward(&mut self, occasion: Occasion, logger: Logger) -> Result<(), HostNetworkError> {
        self.warn_about_missing_interfaces(logger);
        let wanted = self.wanted_settings(logger);
        for error in self.changes.replace(&wanted, logger) {
            self.tolerate(error.into(), occasion, logger)?;
        }
        Ok(())
    }

    fn wanted_settings(&mut self, logger: Logger) -> Vec<changes::Wanted> {
        let warnings = &mut self.warnings;
        forwarding::wanted(&self.routers, &self.changes, &mut |text| warnings.add(logger, Event::HostFault, text))
    }

    fn warn_about_missing_interfaces(&mut self, logger: Logger) {
        for router in &self.routers {
            for name in router.nat.iter().filter(|name| !forwarding::exists(name)) {
                self.warnings.add(
                    logger,
                    Event::InterfaceMissing,
                    format_args!(
                        "{}: there is no interface {name} (tuntap-router-nat) at the moment: vassals reach nothing by it until \
                         it is there",
                        router.device
                    ),
                );
            }
        }
    }

    /// Returns true if something is set up that others could change.
    fn has_something(&self) -> bool {
        self.routers.iter().any(|router| !router.addresses.is_empty() || router.mtu.is_some())
    }

    /// Names of the routers' devices, and of the interfaces by which their vassals reach other networks.
    fn interfaces(&self) -> Vec<String> {
        self.routers.iter().flat_map(|router| std::iter::once(&router.device).chain(&router.nat)).cloned().collect()
    }

    /// Undoes everything, except what others have changed since.
    pub fn undo(&mut self, logger: Logger) {
        self.changes.put_back(logger);
        // Closing the socket removes the tables.
        self.nftables = None;
        // Connections by a mapped port would still be translated to an address that is gone.
        let _ = self.mapped.end_stale(&[]);
        self.given.take_back();
    }

    /// The descriptor that keeps the tables in existence.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.nftables.as_ref().map(AsFd::as_fd)
    }

    /// The descriptor that becomes readable when [`Self::reconcile`] has something to do.
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
