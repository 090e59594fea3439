//! rtnetlink(7): links, addresses, routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoTun, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::connection::Connection;
use super::error::NetlinkError;

/// IFLA_TUN_NUM_QUEUES and IFLA_TUN_NUM_DISABLED_QUEUES of linux/if_link.h.
const OPEN_QUEUES: u16 = 8;
const DETACHED_QUEUES: u16 = 9;

/// The queueing discipline of an interface that drops all packets.
const NO_QUEUEING: &str = "noop";

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Longest packet, in bytes.
    pub mtu: u32,
    /// Most packets that wait to be sent.
    pub tx_queue_len: u32,
    /// True if it is administratively up (IFF_UP).
    pub is_up: bool,
    /// True if it sends packets. An interface whose carrier comes after it was set up drops them until the kernel's link watch has run
    /// (net/core/link_watch.c), which is a moment later; since Linux 6.8, asking for the interface waits for that.
    pub is_active: bool,
    /// The routing table of a VRF device; `None` for other devices. Packets of other devices are not looked up in it
    /// (Documentation/networking/vrf.rst).
    pub vrf_table: Option<u32>,
    /// The queueing discipline at its root (tc(8)); empty if the kernel doesn't tell.
    pub queueing: String,
    /// The group that it is in (ip-link(8)); 0 if it was put into no other one.
    pub group: u32,
    /// What somebody has noted about it (`alias` of ip-link(8)); empty if there is nothing.
    pub alias: String,
}

/// Changes to an interface; `None` leaves a property as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkChange<'a> {
    /// Administratively up, or down.
    pub up: Option<bool>,
    /// Longest packet, in bytes.
    pub mtu: Option<u32>,
    /// Most packets that wait to be sent.
    pub tx_queue_len: Option<u32>,
    /// A note about it, of 255 bytes at most.
    pub alias: Option<&'a str>,
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface.
    pub index: u32,
    /// The address, with its host bits, and the length of its network's prefix.
    pub address: IpNet,
}

/// A route for unicast packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where it leads to.
    pub destination: IpNet,
    /// The next hop. `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface. A route with several next hops has none.
    pub index: Option<u32>,
    /// Lower is preferred (`metric` of ip-route(8)).
    pub metric: u32,
    /// Its routing table (`RT_TABLE_MAIN` is 254).
    pub table: u32,
}

impl Route {
    /// Returns true if it is in the main table, in which packets are looked up unless a routing rule says otherwise
    /// (ip-rule(8)).
    pub fn is_main(&self) -> bool {
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }
}

/// A connection to the kernel's network configuration, in the namespace that the thread was in when it was opened. All
/// calls wait for the kernel's answer. They fail after five seconds of silence.
#[derive(Debug)]
pub struct Netlink(pub(super) Connection<RouteNetlinkMessage>);

impl Netlink {
    /// Connects.
    pub fn open() -> Result<Self, NetlinkError> {
        Connection::open(NETLINK_ROUTE).map(Self).map_err(|errno| {
            let refused = NetlinkError::new("a socket of rtnetlink", errno);
            let is_sandboxed = matches!(refused.errno(), Some(Errno::EAFNOSUPPORT | Errno::EPERM | Errno::EACCES));
            let hint = "in a unit of systemd, RestrictAddressFamilies must have AF_NETLINK";
            if is_sandboxed { refused.with_hint(hint.to_owned()) } else { refused }
        })
    }

    /// The interface of that name. ENODEV if there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        link(self.find_link(name)?).ok_or_else(|| NetlinkError::new(format!("interface {name}"), Errno::ENODEV))
    }

    /// How many queues of a TUN device are open, those that are detached included. `None` if the kernel doesn't tell (before
    /// Linux 4.17), or if the device can't have several. ENODEV if there is no interface of that name.
    pub fn tun_queues(&mut self, name: &str) -> Result<Option<usize>, NetlinkError> {
        let RouteNetlinkMessage::NewLink(message) = self.find_link(name)? else { return Ok(None) };
        Ok(message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().find_map(tun_queues),
            _ => None,
        }))
    }

    fn find_link(&mut self, name: &str) -> Result<RouteNetlinkMessage, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.0.get(RouteNetlinkMessage::GetLink(message), || format!("looking for the interface {name}"))
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.0.list(message, || "listing interfaces".to_owned())?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// Changes an interface.
    pub fn set_link(&mut self, index: u32, change: LinkChange<'_>) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if let Some(up) = change.up {
            message.header.change_mask = LinkFlags::Up;
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        message.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        message.attributes.extend(change.tx_queue_len.map(LinkAttribute::TxQueueLen));
        message.attributes.extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        self.0.change(RouteNetlinkMessage::SetLink(message), 0, || {
            let part = |name: &str, value: Option<u32>| value.map(|value| format!(" {name} {value}"));
            let up = change.up.map(|up| if up { " up" } else { " down" }.to_owned());
            let parts = [part("mtu", change.mtu), part("txqueuelen", change.tx_queue_len), up];
            format!("setting interface {index}{}", parts.into_iter().flatten().collect::<String>())
        })
    }

    /// Gives an interface another name. EBUSY on kernels that can only rename an interface that is down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.0.change(RouteNetlinkMessage::SetLink(message), 0, || format!("naming interface {index} {name}"))
    }

    /// Gives an interface an address. It may have the address already. IPv6 addresses can be used at once, without
    /// duplicate address detection.
    pub fn replace_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.header.scope = if address.addr().is_loopback() { AddressScope::Host } else { AddressScope::Universe };
        message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
        if matches!(address, IpNet::V6(_)) {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.0.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("giving interface {index} the address {address}")
        })
    }

    /// Removes an address from an interface.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address.addr())];
        self.0.change(RouteNetlinkMessage::DelAddress(message), 0, || {
            format!("taking the address {address} from interface {index}")
        })
    }

    /// All addresses of all interfaces.
    pub fn addresses(&mut self) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let message = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.0.list(message, || "listing addresses".to_owned())?;
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Makes the route to a network in the main table. Replaces a route to the same network with the same metric.
    pub fn replace_route(
        &mut self,
        destination: IpNet,
        gateway: Option<IpAddr>,
        index: u32,
    ) -> Result<(), NetlinkError> {
        self.replace_route_in(RouteHeader::RT_TABLE_MAIN.into(), destination, gateway, index)
    }

    /// Like [`Self::replace_route`], in another table.
    pub fn replace_route_in(
        &mut self,
        table: u32,
        destination: IpNet,
        gateway: Option<IpAddr>,
        index: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination.addr());
        message.header.destination_prefix_length = destination.prefix_len();
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::Table(table)];
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination.network())));
        }
        message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::from(gateway))));
        self.0.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            let via = gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            format!("making the route to {destination}{via} by interface {index}")
        })
    }

    /// Makes a routing rule: packets from an address are looked up in this table before the main one. The rule may exist
    /// already.
    pub fn add_source_rule(&mut self, source: IpAddr, table: u32, priority: u32) -> Result<(), NetlinkError> {
        let mut message = RuleMessage::default();
        message.header.family = family(source);
        message.header.src_len = IpNet::from(source).prefix_len();
        message.header.action = RuleAction::ToTable;
        message.attributes =
            vec![RuleAttribute::Source(source), RuleAttribute::Table(table), RuleAttribute::Priority(priority)];
        let added = self.0.change(RouteNetlinkMessage::NewRule(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("having packets from {source} look into table {table}")
        });
        match added {
            Err(error) if error.errno() == Some(Errno::EEXIST) => Ok(()),
            result => result,
        }
    }

    /// The index of the interface by which packets to an address leave; `None` if it is not another machine's address.
    pub fn interface_to(&mut self, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = IpNet::from(address).prefix_len();
        message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(address))];
        let answer =
            self.0.get(RouteNetlinkMessage::GetRoute(message), || format!("looking for the way to {address}"))?;
        Ok(route(answer, |kind| kind == RouteType::Unicast).and_then(|route| route.index))
    }

    /// The unicast routes of the main table, both families.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = self.all_routes()?;
        routes.retain(Route::is_main);
        Ok(routes)
    }

    /// The unicast routes of all tables, both families.
    pub fn all_routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        self.routes_of(|kind| kind == RouteType::Unicast)
    }

    /// The routes of the main table at which packets end (blackhole, unreachable and prohibit of ip-route(8)), both families.
    pub fn dead_ends(&mut self) -> Result<Vec<Route>, NetlinkError> {
        const KINDS: [RouteType; 3] = [RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit];
        let mut routes = self.routes_of(|kind| KINDS.contains(&kind))?;
        routes.retain(Route::is_main);
        Ok(routes)
    }

    fn routes_of(&mut self, is_wanted: impl Fn(RouteType) -> bool) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let message = RouteNetlinkMessage::GetRoute(message);
            let answers = self.0.list(message, || "listing routes".to_owned())?;
            routes.extend(answers.into_iter().filter_map(|answer| route(answer, &is_wanted)));
        }
        Ok(routes)
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) fn link(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let is_up = message.header.flags.contains(LinkFlags::Up);
    let index = message.header.index;
    let mut link = Link {
        index,
        name: String::new(),
        mtu: 0,
        tx_queue_len: 0,
        is_up,
        is_active: false,
        vrf_table: None,
        queueing: String::new(),
        group: 0,
        alias: String::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(len) => link.tx_queue_len = len,
            LinkAttribute::Qdisc(name) => {
                link.is_active = is_up && name != NO_QUEUEING;
                link.queueing = name;
            }
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::LinkInfo(parts) => link.vrf_table = parts.iter().find_map(vrf_table),
            _ => {}
        }
    }
    Some(link)
}

fn vrf_table(part: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Vrf(parts)) = part else { return None };
    parts.iter().find_map(|part| match part {
        InfoVrf::TableId(table) => Some(*table),
        _ => None,
    })
}

fn address(answer: RouteNetlinkMessage) -> Option<InterfaceAddress> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    // On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is always this one, but IPv6 mostly has none.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let address = IpNet::new(address, message.header.prefix_len).ok()?;
    Some(InterfaceAddress { index: message.header.index, address })
}

/// Reads a route, if it is of a wanted type.
fn route(answer: RouteNetlinkMessage, is_wanted: impl Fn(RouteType) -> bool) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let header = message.header;
    let anything: IpAddr = match header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        _ => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut table = u32::from(header.table);
    let (mut destination, mut gateway, mut index, mut metric) = (anything, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    is_wanted(header.kind).then_some(Route { destination, gateway, index, metric, table })
}

fn tun_queues(info: &LinkInfo) -> Option<usize> {
    let LinkInfo::Data(InfoData::Tun(attributes)) = info else { return None };
    let number = |wanted| {
        let InfoTun::Other(found) = attributes.iter().find(|it| it.kind() == wanted)? else { return None };
        let mut value = [0; 4];
        (found.value_len() == value.len()).then(|| found.emit_value(&mut value))?;
        usize::try_from(u32::from_ne_bytes(value)).ok()
    };
    Some(number(OPEN_QUEUES)? + number(DETACHED_QUEUES).unwrap_or_default())
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::tun::Tun;

    const LOOPBACK: u32 = 1;

    /// Runs in a network namespace of its own, in which there is nothing but the loopback interface, which is down.
    fn in_new_namespace(test: impl FnOnce(Netlink) + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
            test(Netlink::open().expect("netlink"));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn link_is_found_and_changed() {
        in_new_namespace(|mut netlink| {
            let before = netlink.link("lo").expect("lo");
            assert_eq!((before.index, before.name.as_str(), before.is_up), (LOOPBACK, "lo", false));
            let change = LinkChange { up: Some(true), mtu: Some(9000), tx_queue_len: Some(77), alias: Some("a note") };
            for _ in 0..2 {
                netlink.set_link(LOOPBACK, change).expect("a change");
            }
            let alias = "a note".to_owned();
            let queueing = "noqueue".to_owned();
            let wanted = Link { mtu: 9000, tx_queue_len: 77, is_up: true, is_active: true, queueing, alias, ..before };
            assert_eq!(netlink.link("lo").expect("lo"), wanted);
            netlink.set_link(LOOPBACK, LinkChange { up: Some(false), ..LinkChange::default() }).expect("a change");
            assert_eq!(netlink.link("lo").expect("lo"), Link { is_up: false, is_active: false, ..wanted.clone() });
            assert!(netlink.links().expect("a list").contains(&Link { is_up: false, is_active: false, ..wanted }));
        });
    }

    #[test]
    fn address_can_be_given_again() {
        in_new_namespace(|mut netlink| {
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            netlink.set_link(LOOPBACK, up).expect("up");
            let wanted = [net("10.0.0.1/24"), net("10.0.1.1/32"), net("fd00:77::1/64")];
            for _ in 0..2 {
                wanted.iter().for_each(|address| netlink.replace_address(LOOPBACK, *address).expect("an address"));
            }
            let found = netlink.addresses().expect("a list");
            for address in wanted {
                let same = found.iter().filter(|it| **it == InterfaceAddress { index: LOOPBACK, address });
                assert_eq!(same.count(), 1, "{address} in {found:?}");
            }
            // An address that is still being looked for can't be bound to.
            std::net::UdpSocket::bind("[fd00:77::1]:0").expect("usable at once");
        });
    }

    #[test]
    fn route_can_be_made_again() {
        in_new_namespace(|mut netlink| {
            // The loopback interface can't have a gateway.
            let _tun = Tun::create("tun0").expect("a device");
            let device = netlink.link("tun0").expect("tun0").index;
            let up = LinkChange { up: Some(true), ..LinkChange::default() };
            netlink.set_link(device, up).expect("up");
            netlink.replace_address(device, net("10.0.0.2/24")).expect("an address");
            netlink.replace_address(device, net("fd00:77::2/64")).expect("an address");
            let wanted = [
                (net("0.0.0.0/0"), Some("10.0.0.1")),
                (net("10.9.0.0/16"), None),
                (net("::/0"), Some("fd00:77::1")),
                (net("fd00:99::/48"), None),
            ];
            for _ in 0..2 {
                for (destination, gateway) in wanted {
                    let gateway = gateway.map(|gateway| gateway.parse().expect("an address"));
                    netlink.replace_route(destination, gateway, device).expect("a route");
                }
            }
            let found = netlink.routes().expect("a list");
            for (destination, gateway) in wanted {
                let gateway = gateway.map(|gateway| gateway.parse().expect("an address"));
                let same = found.iter().filter(|route| {
                    route.destination == destination && route.gateway == gateway && route.index == Some(device)
                });
                assert_eq!(same.count(), 1, "{destination} in {found:?}");
            }
        });
    }

    #[test]
    fn routes_at_which_packets_end_are_no_ways() {
        in_new_namespace(|mut netlink| {
            let ip = |line: &str| {
                let words = line.split(' ');
                assert!(std::process::Command::new("ip").args(words).status().expect("iproute2").success(), "{line}");
            };
            ip("link set lo up");
            ip("route add blackhole 10.77.0.0/16 metric 4096");
            ip("route add prohibit 10.78.0.0/16");
            ip("-6 route add unreachable fd00:77::/64");
            ip("route add blackhole 10.79.0.0/16 table 100");
            let ends: Vec<_> = netlink.dead_ends().expect("a list").iter().map(|route| route.destination).collect();
            for end in ["10.77.0.0/16", "10.78.0.0/16", "fd00:77::/64"] {
                assert!(ends.contains(&net(end)), "{end} in {ends:?}");
            }
            assert!(!ends.contains(&net("10.79.0.0/16")), "of another table");
            assert!(!netlink.routes().expect("a list").iter().any(|route| ends.contains(&route.destination)));
        });
    }

    /// A list that is interrupted is read to its end: what was left of it would be in the way of the next one.
    #[test]
    fn list_that_changes_meanwhile_is_read_anew() {
        in_new_namespace(|mut netlink| {
            // More than one answer holds.
            let many = |last: u8| net(&format!("10.{}.{}.1/32", last / 16, last));
            for index in 0..=u8::MAX {
                netlink.replace_address(LOOPBACK, many(index)).expect("an address");
            }
            let ended = std::sync::atomic::AtomicBool::new(false);
            let mut changing = Netlink::open().expect("netlink");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                        changing.remove_address(LOOPBACK, many(7)).expect("it is there");
                        changing.replace_address(LOOPBACK, many(7)).expect("an address");
                    }
                });
                let lists: Vec<_> = (0..300).map(|_| netlink.addresses()).collect();
                ended.store(true, std::sync::atomic::Ordering::Relaxed);
                for list in lists {
                    match list {
                        Ok(found) => assert!((255..=256).contains(&found.len()), "{}", found.len()),
                        // It changed each time.
                        Err(error) => assert_eq!(error.errno(), Some(Errno::EINTR), "{error}"),
                    }
                }
            });
        });
    }

    #[test]
    fn packets_from_an_address_have_a_table_of_their_own() {
        in_new_namespace(|mut netlink| {
            let _tun = Tun::create("tun0").expect("a device");
            let device = netlink.link("tun0").expect("tun0").index;
            netlink.set_link(device, LinkChange { up: Some(true), ..LinkChange::default() }).expect("up");
            for (address, everything) in [("10.0.0.2/24", "0.0.0.0/0"), ("fd00:77::2/64", "::/0")] {
                netlink.replace_address(device, net(address)).expect("an address");
                for _ in 0..2 {
                    netlink.replace_route_in(1000, net(everything), None, device).expect("a route");
                    netlink.add_source_rule(net(address).addr(), 1000, 500).expect("a rule");
                }
            }
            let is_default = |route: &Route| route.destination.prefix_len() == 0;
            assert!(!netlink.routes().expect("a list").iter().any(is_default), "nothing in the main table");
            let source = std::net::UdpSocket::bind("10.0.0.2:0").expect("its address");
            source.connect("192.0.2.1:9").expect("a way from this address");
            let source = std::net::UdpSocket::bind("[fd00:77::2]:0").expect("its address");
            source.connect("[2001:db8::1]:9").expect("a way from this address");
            let other = std::net::UdpSocket::bind("0.0.0.0:0").expect("any address");
            assert!(other.connect("192.0.2.1:9").is_err(), "and none from others");
        });
    }

    #[test]
    fn error_says_what_was_tried_and_what_the_kernel_says() {
        in_new_namespace(|mut netlink| {
            let missing = netlink.link("nothing0").expect_err("there is none");
            assert_eq!(missing.errno(), Some(Errno::ENODEV));
            assert!(missing.to_string().contains("nothing0"), "{missing}");

            let change = LinkChange { mtu: Some(1), ..LinkChange::default() };
            let refused = netlink.set_link(4711, change).expect_err("there is none");
            assert_eq!(refused.errno(), Some(Errno::ENODEV));
            assert!(refused.to_string().starts_with("setting interface 4711 mtu 1: "), "{refused}");

            let gateway = Some("10.0.0.1".parse().expect("an address"));
            let refused = netlink.replace_route(net("0.0.0.0/0"), gateway, LOOPBACK).expect_err("no way there");
            assert!(refused.to_string().contains("(Nexthop has invalid gateway)"), "{refused}");
        });
    }
}
