//! Notifications of the kernel that interfaces, addresses or forwarding have changed (rtnetlink(7)).

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::connection::Connection;
use super::error::NetlinkError;
use super::route::{Link, link};

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

    /// Takes all notifications that have arrived, and shows those about interfaces: the index, and how the interface is now; `None` if it
    /// is gone, or if its queueing disciplines or packet filters have changed. Returns false if there were more than the socket holds, so
    /// that some are lost.
    pub fn take_links(&self, mut visit: impl FnMut(u32, Option<Link>)) -> bool {
        self.0.visit_arrived(|message| match message {
            RouteNetlinkMessage::NewLink(ref about) => visit(about.header.index, link(message)),
            RouteNetlinkMessage::DelLink(about) => visit(about.header.index, None),
            RouteNetlinkMessage::NewQueueDiscipline(about)
            | RouteNetlinkMessage::DelQueueDiscipline(about)
            | RouteNetlinkMessage::NewTrafficFilter(about)
            | RouteNetlinkMessage::DelTrafficFilter(about) => visit(about.header.index.cast_unsigned(), None),
            _ => {}
        })
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
    fn notices_tell_which_link_has_changed_and_how() {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            let notices = Notices::open(Subject::Links).expect("netlink");
            let mut netlink = Netlink::open().expect("netlink");
            let take = || {
                let mut taken = Vec::new();
                let is_all =
                    notices.take_links(|index, link| taken.push((index, link.map(|link| (link.is_up, link.mtu)))));
                (taken, is_all)
            };
            assert_eq!(take(), (Vec::new(), true));
            netlink.set_link(1, LinkChange { mtu: Some(1500), ..LinkChange::default() }).expect("an MTU");
            assert_eq!(take(), (vec![(1, Some((false, 1500)))], true));
            netlink.set_link(1, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            let (taken, _) = take();
            assert_eq!(taken.last(), Some(&(1, Some((true, 1500)))), "{taken:?}");
            // More than a receive buffer holds.
            for number in 0..5000 {
                netlink.set_link(1, LinkChange { mtu: Some(1500 + number), ..LinkChange::default() }).expect("an MTU");
            }
            let (taken, is_all) = take();
            assert!(!taken.is_empty() && !is_all);
            assert_eq!(take(), (Vec::new(), true));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

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
}
