//! Notifications of the kernel that interfaces, addresses or forwarding have changed (rtnetlink(7)).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::connection::Connection;
use super::error::NetlinkError;

/// Where messages of linux/rtnetlink.h about interfaces, and about their queueing disciplines and packet filters, have the index, behind
/// struct nlmsghdr.
const INDEX_AT: usize = 4;

/// What notifications are about, as multicast groups of linux/rtnetlink.h. Routes are not among them: where a routing daemon
/// runs, they change by the thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Addresses alone.
    Addresses,
    /// Interfaces alone, with their queueing disciplines and packet filters.
    Links,
    /// Interfaces, addresses and settings (`NETCONFA_FORWARDING` and its like).
    Everything,
}

impl Subject {
    const fn groups(self) -> &'static [u32] {
        match self {
            Self::Addresses => &[libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR],
            Self::Links => &[libc::RTNLGRP_LINK, libc::RTNLGRP_TC],
            Self::Everything => &[
                libc::RTNLGRP_IPV4_IFADDR,
                libc::RTNLGRP_IPV6_IFADDR,
                libc::RTNLGRP_LINK,
                libc::RTNLGRP_IPV4_NETCONF,
                libc::RTNLGRP_IPV6_NETCONF,
            ],
        }
    }
}

/// A socket that becomes readable when something has changed in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Notices(Connection<RouteNetlinkMessage>);

impl Notices {
    /// Subscribes. The descriptor is non-blocking and closed on exec.
    pub fn open(subject: Subject) -> Result<Self, NetlinkError> {
        let subscribed = Connection::open(NETLINK_ROUTE).and_then(|mut connection| {
            connection.subscribe(subject.groups())?;
            Ok(Self(connection))
        });
        subscribed.map_err(|error| NetlinkError::new("rtnetlink: subscribing to notices", error))
    }

    /// Takes all notifications that have arrived. Returns true if there were any, or more than the socket holds. Their
    /// contents are discarded: whoever takes them reads the whole state anyway.
    pub fn take(&self) -> bool {
        self.0.discard()
    }

    /// Takes notifications about [`Subject::Links`] that have arrived. Returns the indexes of the interfaces that they are about.
    /// `None` if some were lost, so that they may have been about any.
    pub fn take_indexes(&self) -> Option<BTreeSet<u32>> {
        let mut indexes = BTreeSet::new();
        let is_complete = self.0.take(|message| {
            // It is at the same place in struct ifinfomsg and in struct tcmsg.
            indexes.extend(message.get(INDEX_AT..).and_then(<[u8]>::first_chunk).copied().map(u32::from_ne_bytes));
        });
        is_complete.then_some(indexes)
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::netlink::{LinkChange, Netlink};
    use crate::sysctl::{ALL, Setting, Sysctl};

    #[test]
    fn changes_of_links_addresses_and_forwarding_are_noticed() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let notices = Notices::open(Subject::Everything).expect("netlink");
            let mut netlink = Netlink::open().expect("netlink");
            assert!(!notices.take(), "nothing has happened yet");
            netlink.set_link(1, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            assert!(notices.take(), "a link");
            netlink.replace_address(1, "10.0.0.1/24".parse().expect("a network")).expect("an address");
            assert!(notices.take(), "an address");
            for setting in [Setting::Ipv4Forwarding, Setting::Ipv6Forwarding] {
                let sysctl = Sysctl::new(ALL, setting);
                let value = sysctl.read().expect("it is there");
                sysctl.write(1 - value).expect("root");
                assert!(notices.take(), "{setting:?}");
            }
            assert!(!notices.take());
            // More than a receive buffer holds.
            for number in 0..20_000_u32 {
                let [.., high, low] = number.to_be_bytes();
                let address = ipnet::IpNet::new_assert(std::net::Ipv4Addr::new(10, 1, high, low).into(), 32);
                if netlink.replace_address(1, address).is_err() || number > 4000 {
                    break;
                }
            }
            assert!(notices.take(), "an overflow is a notice");
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn interfaces_that_have_changed_are_named() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let notices = Notices::open(Subject::Links).expect("netlink");
            let mut netlink = Netlink::open().expect("netlink");
            assert_eq!(notices.take_indexes(), Some(BTreeSet::new()));
            netlink.set_link(1, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            assert_eq!(notices.take_indexes(), Some(BTreeSet::from([1])));
            let tc = |arguments: &str| {
                let status = std::process::Command::new("tc").args(arguments.split(' ')).status();
                assert!(status.expect("tc of iproute2 starts").success(), "{arguments}");
            };
            for arguments in ["qdisc add dev lo clsact", "qdisc del dev lo clsact"] {
                tc(arguments);
                assert_eq!(notices.take_indexes(), Some(BTreeSet::from([1])), "{arguments}");
            }
            // More than a receive buffer holds.
            for number in 0..4000 {
                let change = LinkChange { tx_queue_len: Some(1000 + number), ..LinkChange::default() };
                netlink.set_link(1, change).expect("a change");
            }
            assert_eq!(notices.take_indexes(), None);
            assert_eq!(notices.take_indexes(), Some(BTreeSet::new()));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
