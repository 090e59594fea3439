//! Pairs of veth devices across namespaces (veth(4)), and groups of interfaces (ip-link(8)).

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use nix::errno::Errno;

use super::error::NetlinkError;
use super::route::{Link, Netlink, link};

/// A pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The index of both ends, each in its namespace. EEXIST or EBUSY if one of them has it already.
    pub index: u32,
    /// The name of both ends. The kernel puts the first free number in for `%d`.
    pub name: &'a str,
    /// The namespace of the other end.
    pub namespace: BorrowedFd<'a>,
    /// Longest packet of both ends, in bytes.
    pub mtu: u32,
    /// The group of the end in this namespace; not 0, in which all interfaces are at first.
    pub group: u32,
}

impl Netlink {
    /// Makes a pair, both ends of it down, without ARP and multicast. One request makes all of it: each one more would take the
    /// kernel's lock on all interfaces once more.
    pub fn make_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let end = |more: Vec<LinkAttribute>| {
            let mut message = LinkMessage::default();
            message.header.index = veth.index;
            message.header.flags = LinkFlags::Noarp;
            message.header.change_mask = LinkFlags::Noarp | LinkFlags::Multicast;
            message.attributes = vec![
                LinkAttribute::IfName(veth.name.to_owned()),
                LinkAttribute::Mtu(veth.mtu),
                LinkAttribute::NumTxQueues(1),
                LinkAttribute::NumRxQueues(1),
            ];
            message.attributes.extend(more);
            message
        };
        let other = end(vec![LinkAttribute::NetNsFd(veth.namespace.as_raw_fd())]);
        let kind = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other)))];
        let message = end(vec![LinkAttribute::Group(veth.group), LinkAttribute::LinkInfo(kind)]);
        self.0.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("making a veth pair with index {}", veth.index)
        })
    }

    /// Has the kernel give an interface no IPv6 address of its own accord (`addrgenmode none` of ip-link(8)). EAFNOSUPPORT or
    /// EOPNOTSUPP if there is no IPv6.
    pub fn generate_no_addresses(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])]));
        self.0
            .change(RouteNetlinkMessage::SetLink(message), 0, || format!("setting interface {index} addrgenmode none"))
    }

    /// Puts an interface into another group.
    pub fn set_group(&mut self, index: u32, group: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Group(group));
        self.0.change(RouteNetlinkMessage::SetLink(message), 0, || format!("setting interface {index} group {group}"))
    }

    /// Removes an interface. ENODEV if there is none.
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.0.change(RouteNetlinkMessage::DelLink(message), 0, || format!("removing interface {index}"))
    }

    /// Removes all interfaces of a group, which takes hardly longer than removing one. There may be none.
    pub fn remove_group(&mut self, group: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        let removed = self
            .0
            .change(RouteNetlinkMessage::DelLink(message), 0, || format!("removing the interfaces of group {group}"));
        match removed {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            result => result,
        }
    }

    /// The interface with an index. ENODEV if there is none.
    pub fn link_at(&mut self, index: u32) -> Result<Link, NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let attempt = || format!("looking for interface {index}");
        let answer = self.0.get(RouteNetlinkMessage::GetLink(message), attempt)?;
        link(answer).ok_or_else(|| NetlinkError::new(attempt(), Errno::ENODEV))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use nix::sched::{CloneFlags, setns, unshare};

    use super::*;
    use crate::net::namespace_with;
    use crate::netlink::{LinkChange, Notices, Subject};

    const GROUP: u32 = 0x7474_0001;

    /// Calls a function with two namespaces that nobody else is in, from within the first one.
    fn between_namespaces(test: impl FnOnce(&File, &File) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            let new = || {
                unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
                File::open("/proc/thread-self/ns/net").expect("a namespace")
            };
            let (there, here) = (new(), new());
            test(&here, &there);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn pair_has_one_index_in_two_namespaces_and_goes_with_its_group() {
        between_namespaces(|here, there| {
            let mut netlink = Netlink::open().expect("netlink");
            let veth = Veth { index: 0x1234_5678, name: "tv%d", namespace: there.as_fd(), mtu: 65_535, group: GROUP };
            netlink.make_veth(&veth).expect("a pair");
            let second = Veth { index: 0x1234_5679, ..veth };
            netlink.make_veth(&second).expect("another pair");
            assert!(netlink.make_veth(&veth).is_err_and(|error| error.errno() == Some(Errno::EEXIST)));
            netlink.generate_no_addresses(veth.index).expect("an interface");
            let found = netlink.link_at(veth.index).expect("it is there");
            assert_eq!((found.name.as_str(), found.mtu, found.is_up), ("tv0", 65_535, false));

            setns(there, CloneFlags::CLONE_NEWNET).expect("a namespace");
            let mut outside = Netlink::open().expect("netlink");
            let notices = Notices::open(Subject::Links).expect("netlink");
            setns(here, CloneFlags::CLONE_NEWNET).expect("a namespace");
            let other = outside.link_at(veth.index).expect("it is there");
            assert_eq!((other.name.as_str(), other.mtu), ("tv0", 65_535));
            assert!(!notices.take());
            outside.set_link(veth.index, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            assert!(notices.take());

            let same = |left: BorrowedFd<'_>, right: BorrowedFd<'_>| {
                let number = |file| nix::sys::stat::fstat(file).expect("a file").st_ino;
                number(left) == number(right)
            };
            let found = namespace_with(notices.as_fd()).expect("a namespace");
            assert!(same(found.as_fd(), there.as_fd()) && !same(found.as_fd(), here.as_fd()));

            netlink.set_group(second.index, GROUP + 1).expect("an interface");
            netlink.remove_group(GROUP).expect("a group");
            assert!(outside.link_at(veth.index).is_err_and(|error| error.errno() == Some(Errno::ENODEV)));
            assert!(outside.link_at(second.index).is_ok(), "of another group");
            netlink.remove_group(GROUP).expect("there are none any more");
            netlink.remove_group(GROUP + 1).expect("a group");
        });
    }
}
