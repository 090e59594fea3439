//! Watching the addresses of a network namespace's interfaces.

use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;

use super::error::NetlinkError;
use super::notices::{Notices, Subject};
use super::route::Netlink;

/// Tells when addresses come and go, and lists them. All sockets are opened at once, so that it can be used in a process
/// that may open none.
#[derive(Debug)]
pub struct AddressWatch {
    notices: Notices,
    netlink: Netlink,
}

impl AddressWatch {
    /// Opens the sockets, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { notices: Notices::open(Subject::Addresses)?, netlink: Netlink::open()? })
    }

    /// All addresses, with the lengths of their networks' prefixes. Takes the notifications that have arrived before.
    pub fn addresses(&mut self) -> Result<Vec<IpNet>, NetlinkError> {
        self.notices.take();
        Ok(self.netlink.addresses()?.into_iter().map(|found| found.address).collect())
    }
}

impl AsFd for AddressWatch {
    /// Readable when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notices.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::socket::wait_readable;

    #[test]
    fn addresses_that_come_and_go_are_told() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let mut watch = AddressWatch::open().expect("netlink");
            let mut netlink = Netlink::open().expect("netlink");
            for address in ["10.9.0.1/24", "fd00:99::1/64"] {
                let address: IpNet = address.parse().expect("a network");
                assert!(!watch.addresses().expect("a list").contains(&address));
                netlink.replace_address(1, address).expect("a change");
                assert!(wait_readable(watch.as_fd(), Duration::from_secs(30)), "{address} came");
                assert!(watch.addresses().expect("a list").contains(&address));
                assert!(!wait_readable(watch.as_fd(), Duration::ZERO), "nothing is left to read");
                netlink.remove_address(1, address).expect("a change");
                assert!(wait_readable(watch.as_fd(), Duration::from_secs(30)), "{address} went");
                assert!(!watch.addresses().expect("a list").contains(&address));
            }
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
