//! What routers set up on their host: addresses and state of their devices, forwarding, and a table of nftables. All of
//! it is undone when the instance ends, and stays in place while it executes itself anew.

mod forwarding;
mod handover;
mod link;
mod table;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use thiserror::Error;

pub use handover::Handover;

use crate::config::RouterSpec;
use crate::log::Logger;
use crate::sys::netlink::NetlinkError;
use crate::sys::netlink::nftables::Nftables;
use forwarding::Changes;

/// Why the host can't be set up.
#[derive(Debug, Error)]
pub enum HostNetworkError {
    /// The kernel refused an address, a device's state or the table.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Forwarding can't be turned on.
    #[error("forwarding: {0}")]
    Forwarding(#[from] io::Error),
}

/// Sets up the device of a router anew that was deleted. Everything else is still there.
pub fn set_up_device(router: &RouterSpec, logger: Logger) -> Result<(), HostNetworkError> {
    link::configure(router, logger)?;
    Ok(Changes::default().replace(&forwarding::wanted_of_device(router), logger)?)
}

/// What was set up. It must not be dropped before it is to be undone, for the tables go with it.
#[derive(Debug, Default)]
pub struct HostNetwork {
    nftables: Option<Nftables>,
    /// Names of the tables.
    tables: Vec<String>,
    changes: Changes,
}

impl HostNetwork {
    /// Sets up the host for these routers, whose devices exist, in place of what an earlier image has left. Without
    /// success, nothing stays.
    pub fn set_up(routers: &[RouterSpec], earlier: Self, logger: Logger) -> Result<Self, HostNetworkError> {
        let mut network = earlier;
        match network.try_set_up(routers, logger) {
            Ok(()) => Ok(network),
            Err(error) => {
                network.undo(logger);
                Err(error)
            }
        }
    }

    fn try_set_up(&mut self, routers: &[RouterSpec], logger: Logger) -> Result<(), HostNetworkError> {
        for router in routers {
            link::configure(router, logger)?;
        }
        self.changes.replace(&forwarding::wanted(routers), logger)?;
        let tables: Vec<_> = routers.iter().filter_map(table::of).collect();
        if tables.is_empty() {
            self.remove_tables(logger);
            return Ok(());
        }
        let nftables = match &mut self.nftables {
            Some(nftables) => nftables,
            none => none.insert(Nftables::open()?),
        };
        nftables.replace(&tables)?;
        let names: Vec<_> = tables.into_iter().map(|table| table.name).collect();
        self.tables.retain(|name| !names.contains(name));
        nftables.remove(&self.tables)?;
        logger.line(format_args!("[tuntap-router] made the nftables table inet {}", names.join(", ")));
        self.tables = names;
        Ok(())
    }

    /// Undoes all of it, as far as nobody else has changed it since.
    pub fn undo(&mut self, logger: Logger) {
        self.remove_tables(logger);
        self.changes.put_back(logger);
    }

    fn remove_tables(&mut self, logger: Logger) {
        // Most kernels remove them with the socket.
        if let Some(Err(error)) = self.nftables.take().map(|mut nftables| nftables.remove(&self.tables)) {
            logger.line(format_args!("[tuntap-router] {error}"));
        }
        self.tables.clear();
    }

    /// The descriptor that keeps the tables alive.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.nftables.as_ref().map(AsFd::as_fd)
    }
}
