//! Networks of routers that overlap networks of the host, which the host would not reach any more. Pure.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use thiserror::Error;

use tuntap_config::RouterSpec;
use tuntap_sys::netlink::{InterfaceAddress, Link, Netlink, NetlinkError, Route};

/// Routes with shorter prefixes are ignored: they stand for a default route, as those of some VPNs do.
const SHORTEST_PREFIX: u8 = 8;

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h. Its routes are ignored, because the host's own addresses are read as such.
const LOCAL_TABLE: u32 = 255;

/// How many addresses of a network are looked up to find out if there is a route.
const PROBES: usize = 3;

/// A router's network, and what it overlaps.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{device}: its network {}; {}", self.what(), Self::REMEDY)]
pub struct Conflict {
    device: String,
    address: IpNet,
    with: String,
    /// True if it only overlaps the address of the host's DNS server, which may be reached some other way.
    pub is_uncertain: bool,
    /// True if the options say that it is meant ("anyway").
    pub is_meant: bool,
}

impl Conflict {
    /// The advice to the operator.
    pub const REMEDY: &str = "choose a network that is used nowhere near, as 10.137.0.0/24 may be, or put \"anyway\" behind \
                              the address if that is meant";

    /// The conflict and its consequence.
    pub fn what(&self) -> String {
        format!("{}: this host would reach vassals there instead", self.words())
    }

    /// The network, and what it overlaps.
    pub fn words(&self) -> String {
        format!("{} (tuntap-router-address) overlaps {}", self.address, self.with)
    }
}

/// The networks of the host.
#[derive(Debug, Clone, Default)]
pub struct Networks {
    /// All interfaces.
    pub links: Vec<Link>,
    /// Their addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Routes of all tables.
    pub routes: Vec<Route>,
    /// The DNS servers of the host itself.
    pub resolvers: Vec<IpAddr>,
}

impl Networks {
    /// Reads the present networks of the host.
    pub fn of_host(netlink: &mut Netlink) -> Result<Self, NetlinkError> {
        let (links, addresses) = (netlink.links()?, netlink.addresses()?);
        Ok(Self { links, addresses, routes: netlink.all_routes()?, resolvers: host_resolvers() })
    }
}

/// The DNS servers of this host, and those that its systemd-resolved forwards to.
pub fn host_resolvers() -> Vec<IpAddr> {
    let files = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
    files.iter().flat_map(|file| resolvers(&fs::read_to_string(file).unwrap_or_default())).collect()
}

/// Returns true if routes may overlap a router's networks: if a few addresses in these are routed by another interface, or
/// another interface has an address in them.
pub fn may_be(router: &RouterSpec, networks: &Networks, netlink: &mut Netlink) -> bool {
    let Some(own) = networks.links.iter().find(|link| link.name == router.device) else { return false };
    router.addresses.iter().any(|net| {
        let is_others = |other: &InterfaceAddress| other.index != own.index && overlap(other.address, *net);
        let last = match net.broadcast() {
            IpAddr::V4(last) => Some(IpAddr::from(Ipv4Addr::from_bits(last.to_bits() - 1))),
            IpAddr::V6(_) => None,
        };
        let probes = net.hosts().take(PROBES).chain(last.filter(|address| net.contains(address)));
        networks.addresses.iter().any(is_others)
            || probes.filter(|address| *address != net.addr()).any(|address| {
                // An error means that there is no route at all.
                netlink.interface_to(address).is_ok_and(|way| way.is_some_and(|index| index != own.index))
            })
    })
}

/// The first conflict of a router's networks that isn't meant.
pub fn find(router: &RouterSpec, networks: &Networks) -> Option<Conflict> {
    conflicts(router, networks).find(|conflict| !conflict.is_meant)
}

/// All conflicts of a router's networks. Addresses and routes of the router's own device are none. Neither are routes to single
/// addresses in them if a routing daemon tells the router of other hosts' vassals: those are where they lead.
pub fn conflicts(router: &RouterSpec, networks: &Networks) -> impl Iterator<Item = Conflict> {
    router.addresses.iter().filter_map(|net| {
        let is_vassals = |route: &Route| {
            let destination = route.destination;
            router.hosts.routes.is_some()
                && destination.prefix_len() == destination.max_prefix_len()
                && net.contains(&destination)
        };
        let (with, is_uncertain) = match in_the_way(&router.device, *net, networks, is_vassals) {
            Some(with) => (with, false),
            None => (resolver_in(*net, &networks.resolvers)?, true),
        };
        let is_meant = router.meant.addresses.contains(net);
        Some(Conflict { device: router.device.clone(), address: *net, with, is_uncertain, is_meant })
    })
}

/// What overlaps a network, in words.
fn in_the_way(device: &str, net: IpNet, networks: &Networks, is_vassals: impl Fn(&Route) -> bool) -> Option<String> {
    let name = |index: u32| {
        let link = networks.links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    };
    let is_others = |index: u32| name(index) != device;
    let is_vrfs = |table: u32| networks.links.iter().any(|link| link.vrf_table == Some(table));

    let own = networks.addresses.iter().filter(|own| is_others(own.index));
    if let Some(own) = own.clone().find(|own| own.address.addr() == net.addr()) {
        return Some(format!("{}, which {} has", own.address, name(own.index)));
    }
    let routes = || networks.routes.iter().filter(|route| route.table != LOCAL_TABLE && !is_vrfs(route.table));
    let by = |route: &Route| route.index.map_or_else(|| "several interfaces".to_owned(), name);
    let leads_elsewhere = |route: &&Route| route.index.is_none_or(is_others);
    if let Some(route) = routes()
        .filter(leads_elsewhere)
        .filter(|route| !is_vassals(route))
        .find(|route| route.destination.prefix_len() >= SHORTEST_PREFIX && overlap(route.destination, net))
    {
        return Some(format!("{}, to which {} leads", route.destination, by(route)));
    }
    if let Some((route, gateway)) =
        routes().filter(leads_elsewhere).find_map(|route| Some((route, route.gateway.filter(|it| net.contains(it))?)))
    {
        return Some(format!("{gateway}, which is the gateway by {}", by(route)));
    }
    // Some clouds give hosts an address without a network.
    let own = own.clone().find(|own| net.contains(&own.address.addr()))?;
    Some(format!("{}, which {} has", own.address, name(own.index)))
}

/// A DNS server of the host in a network. One on the router's own address is no conflict: it may serve host and vassals.
fn resolver_in(net: IpNet, resolvers: &[IpAddr]) -> Option<String> {
    let resolver = resolvers.iter().find(|server| net.contains(*server) && **server != net.addr())?;
    Some(format!("{resolver}, which is this host's DNS server"))
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The DNS servers that a resolv.conf names (resolv.conf(5)).
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuntap_config::{Config, OptionName};

    fn router(lines: &[&str]) -> RouterSpec {
        let lines = lines.iter().map(|value| (OptionName::RouterAddress, *value));
        let options = [(OptionName::Router, "emperor0 /run/t.sock")].into_iter().chain(lines);
        Config::from_options(options).expect("they can be read").routers.remove(0)
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn link(index: u32, name: &str, vrf_table: Option<u32>) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            tx_queue_len: 0,
            is_up: true,
            is_active: true,
            vrf_table,
            queueing: String::new(),
            group: 0,
            alias: String::new(),
        }
    }

    fn route(destination: &str, gateway: Option<&str>, index: u32, table: u32) -> Route {
        let gateway = gateway.map(|gateway| gateway.parse().expect("an address"));
        Route { destination: net(destination), gateway, index: Some(index), metric: 0, table }
    }

    fn found(address: &str, addresses: &[(u32, &str)], routes: &[Route], resolvers: &[&str]) -> Option<String> {
        let networks = Networks {
            links: vec![
                link(1, "lo", None),
                link(2, "eth0", None),
                link(3, "emperor0", None),
                link(4, "red", Some(77)),
            ],
            addresses: addresses
                .iter()
                .map(|(index, address)| InterfaceAddress { index: *index, address: net(address) })
                .collect(),
            routes: routes.to_vec(),
            resolvers: resolvers.iter().map(|server| server.parse().expect("an address")).collect(),
        };
        find(&router(&[address]), &networks).map(|conflict| conflict.with)
    }

    #[test]
    fn networks_of_the_host_are_in_the_way_in_any_table() {
        let conflict = |routes: &[Route]| found("10.0.0.1/24", &[], routes, &[]);
        for (destination, table) in
            [("10.0.0.0/24", 254), ("10.0.0.128/25", 254), ("10.0.0.0/8", 254), ("10.0.0.0/16", 100)]
        {
            let expected = format!("{destination}, to which eth0 leads");
            assert_eq!(conflict(&[route(destination, None, 2, table)]), Some(expected));
        }
        let harmless = [
            route("0.0.0.0/0", Some("192.0.2.1"), 2, 254),
            route("0.0.0.0/1", Some("192.0.2.1"), 2, 254),
            route("10.0.0.0/24", None, 3, 254),
            route("10.0.0.0/24", None, 2, 77),
            route("10.0.1.0/24", None, 2, 254),
        ];
        assert_eq!(conflict(&harmless), None);
        let expected = Some("fd00:9::/32, to which eth0 leads".to_owned());
        assert_eq!(found("fd00:9:7::1/64", &[], &[route("fd00:9::/32", None, 2, 254)], &[]), expected);
    }

    #[test]
    fn gateways_own_addresses_and_resolvers_are_in_the_way_without_a_network() {
        let gateway = route("0.0.0.0/0", Some("10.0.0.1"), 2, 254);
        let expected = Some("10.0.0.1, which is the gateway by eth0".to_owned());
        assert_eq!(found("10.0.0.1/24", &[], &[gateway], &[]), expected);
        let expected = Some("10.0.0.5/32, which eth0 has".to_owned());
        assert_eq!(found("10.0.0.1/24", &[(2, "10.0.0.5/32")], &[], &[]), expected);
        let expected = Some("10.0.0.53, which is this host's DNS server".to_owned());
        assert_eq!(found("10.0.0.1/24", &[], &[], &["10.0.0.53"]), expected);
        assert_eq!(found("10.0.0.1/24", &[(3, "10.0.0.1/24")], &[], &["10.0.0.1", "192.0.2.53"]), None);
    }

    #[test]
    fn what_is_meant_is_no_conflict() {
        let networks = Networks { routes: vec![route("10.0.0.0/8", None, 2, 254)], ..Networks::default() };
        assert!(find(&router(&["10.0.0.1/24"]), &networks).is_some());
        assert_eq!(find(&router(&["10.0.0.1/24 anyway"]), &networks), None);
    }

    #[test]
    fn vassals_of_other_hosts_are_no_conflict() {
        let options = |more: &[(OptionName, &'static str)]| {
            let router = [(OptionName::Router, "emperor0 /run/t.sock"), (OptionName::RouterAddress, "10.0.0.1/16")];
            Config::from_options(router.into_iter().chain(more.iter().copied())).expect("valid").routers.remove(0)
        };
        let (alone, of_several) = (options(&[]), options(&[(OptionName::Routes, "127.0.0.1:979")]));
        let conflict = |router: &RouterSpec, destination: &str| {
            let routes = vec![route(destination, Some("10.99.0.2"), 2, 254)];
            find(router, &Networks { links: vec![link(2, "eth0", None)], routes, ..Networks::default() }).is_some()
        };
        assert!(!conflict(&of_several, "10.0.2.2/32"));
        assert!(conflict(&of_several, "10.0.2.0/24"), "a network is no vassal");
        assert!(conflict(&alone, "10.0.2.2/32"), "nobody tells this router of other hosts' vassals");
    }

    #[test]
    fn resolvers_are_read_as_the_resolver_does() {
        let text = "# nameserver 192.0.2.9\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \nnameserver x\n";
        assert_eq!(resolvers(text), ["192.0.2.1", "2001:db8::1"].map(|it| it.parse::<IpAddr>().expect("an address")));
    }
}
