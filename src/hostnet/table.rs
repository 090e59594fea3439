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

/// The table of a router that has something for it to do.
pub fn of(router: &RouterSpec) -> Option<Table> {
    if router.nat.is_empty() && router.ports.is_empty() {
        return None;
    }
    let chain = |name, hook, rules| Chain { name, hook, rules };
    let mut chains = vec![
        chain("forward", Some(Hook::ForwardMangle), segment_sizes(&router.device)),
        chain("postrouting", Some(Hook::SourceNat), masquerading(router)),
    ];
    if !router.ports.is_empty() {
        chains.push(chain(PORTS, None, mappings(&router.ports)));
        chains.push(chain("prerouting", Some(Hook::DestinationNat), vec![Rule::new().jump(PORTS)]));
        chains.push(chain("output", Some(Hook::OutputNat), vec![Rule::new().jump(PORTS)]));
    }
    Some(Table { name: format!("tuntap-{}", router.device), chains })
}

/// Connections across the device get no larger segments than the narrower of the ways there and back carries.
fn segment_sizes(device: &str) -> Vec<Rule> {
    [Rule::new().came_by(device), Rule::new().leaves_by(device)]
        .map(|rule| rule.opens_tcp().clamp_segment_size())
        .into()
}

fn masquerading(router: &RouterSpec) -> Vec<Rule> {
    let rules = router.nat.iter().flat_map(|interface| {
        router.addresses.iter().map(move |net| Rule::new().leaves_by(interface).from(*net).masquerade())
    });
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
