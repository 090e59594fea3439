//! The table of a router: masquerading, port mappings, segment sizes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::config::{PortMapping, PortProtocol, RouterSpec};
use crate::sys::netlink::nftables::{Chain, Hook, Rule, Table, Transport};

/// Where the mappings are.
const PORTS: &str = "ports";

/// Leaves the loopback addresses, 127.0.0.0/8 and ::1, to their owners.
const IPV4_LOOPBACK_LEN: u8 = 8;
const IPV6_LOOPBACK_LEN: u8 = 128;

/// Where new connections from outside are checked, and the sources of what goes out.
const INWARD: &str = "inward";
const OUTWARD: &str = "outward";

/// The table of a router that has something for it to do.
pub fn of(router: &RouterSpec) -> Option<Table> {
    if router.nat.is_empty() && router.ports.is_empty() {
        return None;
    }
    let chain = |name, hook, rules| Chain { name, hook, rules };
    let mut chains = Vec::new();
    if !router.nat.is_empty() {
        chains.push(chain(INWARD, None, vec![Rule::new().of_no_connection().was_not_diverted().discard()]));
        chains.push(chain(OUTWARD, None, own_sources(router)));
    }
    let forward = segment_sizes(&router.device).into_iter().chain(ways(router)).collect();
    chains.push(chain("forward", Some(Hook::ForwardMangle), forward));
    chains.push(chain("postrouting", Some(Hook::SourceNat), masquerading(router)));
    if !router.ports.is_empty() {
        chains.push(chain(PORTS, None, mappings(&router.ports)));
        chains.push(chain("prerouting", Some(Hook::DestinationNat), vec![Rule::new().jump(PORTS)]));
        chains.push(chain("output", Some(Hook::OutputNat), vec![Rule::new().jump(PORTS)]));
    }
    Some(Table { name: format!("tuntap-{}", router.device), chains })
}

/// What passes between the device and the interfaces that masquerade it. An interface that forwards would let everybody
/// beyond it open connections to the vassals, without a mapping.
fn ways(router: &RouterSpec) -> impl Iterator<Item = Rule> {
    router.nat.iter().flat_map(|interface| {
        [
            Rule::new().came_by(interface).leaves_by(&router.device).jump(INWARD),
            Rule::new().came_by(&router.device).leaves_by(interface).jump(OUTWARD),
        ]
    })
}

/// Nothing goes out with a source that is not masqueraded: of another network, or of a family that the router has no address
/// of.
fn own_sources(router: &RouterSpec) -> Vec<Rule> {
    let own = router.addresses.iter().map(|net| Rule::new().from(*net).leave());
    own.chain([Rule::new().discard()]).collect()
}

/// Connections across the device get no larger segments than the narrower of the ways there and back carries.
fn segment_sizes(device: &str) -> Vec<Rule> {
    [Rule::new().came_by(device), Rule::new().leaves_by(device)]
        .map(|rule| rule.opens_tcp().clamp_segment_size())
        .into()
}

/// Vassals take the address of the interface by which they leave. That is the router's device itself for those who ask a
/// port of the host for a vassal of the same router: its answer would take the short way past the host, or not even leave
/// the vassal if it asked for itself, and come from an address that nobody asked.
fn masquerading(router: &RouterSpec) -> Vec<Rule> {
    let to_others = router.nat.iter().map(|interface| Rule::new().leaves_by(interface));
    let back = (!router.ports.is_empty()).then(|| Rule::new().leaves_by(&router.device).was_diverted());
    let rules = to_others
        .chain(back)
        .flat_map(|rule| router.addresses.iter().map(move |net| rule.clone().from(*net).masquerade()));
    rules.collect()
}

fn mappings(ports: &[PortMapping]) -> Vec<Rule> {
    let loopback = [
        IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), IPV4_LOOPBACK_LEN),
        IpNet::new_assert(Ipv6Addr::LOCALHOST.into(), IPV6_LOOPBACK_LEN),
    ];
    let exceptions =
        [Rule::new().to_others().leave()].into_iter().chain(loopback.map(|net| Rule::new().to(net).leave()));
    let mappings = ports.iter().map(|PortMapping { protocol, port, target }| {
        let transport = match protocol {
            PortProtocol::Tcp => Transport::Tcp,
            PortProtocol::Udp => Transport::Udp,
        };
        let address: IpAddr = target.ip();
        Rule::new().of_family(address).to_port(transport, *port).divert(*target)
    });
    exceptions.chain(mappings).collect()
}
