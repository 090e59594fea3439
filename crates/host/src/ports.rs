//! Mapped ports that are in use already, and connections that began before a port was mapped.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use tuntap_config::{PortMapping, PortProtocol, RouterSpec};
use tuntap_survey::filter::evaluate::{Packet, dnat_rule};
use tuntap_survey::filter::{BaseChain, Hook, LOCAL, NEW, filters};
use tuntap_survey::services::{Service, name_owners, services};
use tuntap_sys::netlink::conntrack::{self, Flow};
use tuntap_sys::netlink::{Netlink, NetlinkError};
use tuntap_wire::ip::protocol::{TCP, UDP};

/// A mapped port that is in use already.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{device}: {}; {}", self.what(), Self::REMEDY)]
pub struct Taken {
    device: String,
    mapping: PortMapping,
    use_: String,
    /// True if it may be in use by a client, which will end soon.
    pub is_uncertain: bool,
    /// True if the options say that it is meant ("anyway").
    pub is_meant: bool,
}

impl Taken {
    /// The advice to the operator.
    pub const REMEDY: &str = "take another port, or put \"anyway\" behind the mapping if that is meant";

    /// The port, its use, and the consequence.
    pub fn what(&self) -> String {
        format!("{}: nobody outside would reach that any more", self.words())
    }

    /// The port and its use.
    pub fn words(&self) -> String {
        let PortMapping { protocol, port, target } = self.mapping;
        format!("{} port {port} (tuntap-router-port, to {target}) {}", protocol.as_str(), self.use_)
    }
}

/// What uses ports of the host.
#[derive(Debug, Clone, Copy)]
pub struct PortUses<'a> {
    /// Its services, with their processes.
    pub services: &'a [Service],
    /// The chains of its packet filters.
    pub chains: &'a [BaseChain],
    /// Its addresses.
    pub addresses: &'a [IpAddr],
}

/// Reads what uses ports of this host now, and returns the mapped ports of a router that are in use, unless that is meant.
/// `own_tables` are the names of this instance's nftables tables.
pub fn taken_now(router: &RouterSpec, own_tables: &[String], addresses: &[IpAddr]) -> Vec<Taken> {
    if router.ports.iter().all(|port| router.meant.ports.contains(port)) {
        return Vec::new();
    }
    // If services can't be read, nothing is known of them.
    let mut services = services().unwrap_or_default();
    services.retain(|service| router.ports.iter().any(|mapping| is_served_by(mapping, service)));
    name_owners(&mut services);
    let chains = filters().chains;
    let all = taken(router, own_tables, PortUses { services: &services, chains: &chains, addresses });
    all.into_iter().filter(|taken| !taken.is_meant).collect()
}

/// All mapped ports of a router that this host serves itself, or that filter rules of others map.
pub fn taken(router: &RouterSpec, own_tables: &[String], uses: PortUses<'_>) -> Vec<Taken> {
    let find = |mapping: &PortMapping| {
        let served = uses.services.iter().filter(|service| is_served_by(mapping, service));
        // A service that can't be a client is preferred.
        let service = served.min_by_key(|service| service.may_be_client);
        let (use_, is_uncertain) = match service {
            Some(service) => (describe(service), service.may_be_client),
            None => (mapped_by_others(router, mapping, own_tables, uses)?, false),
        };
        let is_meant = router.meant.ports.contains(mapping);
        Some(Taken { device: router.device.clone(), mapping: *mapping, use_, is_uncertain, is_meant })
    };
    router.ports.iter().filter_map(find).collect()
}

/// Returns true if a mapping takes the port of a service. Mappings apply to all addresses but those of loopback.
fn is_served_by(mapping: &PortMapping, service: &Service) -> bool {
    service.protocol == mapping.protocol.as_str()
        && service.port == mapping.port
        && !service.address.is_loopback()
        && service.speaks(mapping.target.is_ipv6())
}

fn describe(service: &Service) -> String {
    let address = SocketAddr::new(service.address, service.port);
    match &service.process {
        Some(process) => format!("is served by this host itself, {process} on {address}"),
        None => format!("is served by this host itself, on {address}"),
    }
}

/// The filter rule of others that maps a port, on any of this host's addresses.
fn mapped_by_others(
    router: &RouterSpec,
    mapping: &PortMapping,
    own_tables: &[String],
    uses: PortUses<'_>,
) -> Option<String> {
    let is_ipv6 = mapping.target.is_ipv6();
    let is_own = |chain: &BaseChain| own_tables.iter().any(|name| chain.table == format!("inet {name}"));
    let others = uses.chains.iter().filter(|chain| {
        chain.is_nat && chain.hook == Hook::Prerouting && chain.is_ipv6.is_none_or(|it| it == is_ipv6) && !is_own(chain)
    });
    let addresses: Vec<_> =
        uses.addresses.iter().filter(|it| it.is_ipv6() == is_ipv6 && !it.is_loopback()).copied().map(Some).collect();
    let destinations = if addresses.is_empty() { vec![None] } else { addresses };
    let by = |chain: &BaseChain| {
        let packet = Packet {
            iif: router.nat.iter().map(String::as_str).collect(),
            is_ipv6,
            state: NEW,
            protocol: Some(match mapping.protocol {
                PortProtocol::Tcp => TCP,
                PortProtocol::Udp => UDP,
            }),
            port: Some(mapping.port),
            destination_type: LOCAL,
            ..Packet::default()
        };
        let rule = destinations
            .iter()
            .find_map(|destination| dnat_rule(chain, &Packet { destination: *destination, ..packet.clone() }))?;
        Some(format!("is led elsewhere by the table {}, chain {}: {rule}", chain.table, chain.name))
    };
    others.into_iter().find_map(by)
}

/// The mapped ports of UDP, each with true for IPv4; also those of the image before.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Mapped(BTreeSet<(u16, bool)>);

impl Mapped {
    /// Ends tracked connections of UDP that began before ports were mapped as they are now: as long as a sender doesn't
    /// pause, they would lead to the old destination. All others go on. Returns how many were ended.
    pub fn end_stale(&mut self, routers: &[RouterSpec]) -> Result<usize, NetlinkError> {
        let current: Vec<_> = routers.iter().flat_map(|router| &router.ports).filter(|it| is_udp(it)).collect();
        let now = current.iter().map(|mapping| (mapping.port, mapping.target.is_ipv4())).collect();
        let earlier = std::mem::replace(&mut self.0, now);
        if current.is_empty() && earlier.is_empty() {
            return Ok(0);
        }
        let own: Vec<IpAddr> = Netlink::open()?.addresses()?.into_iter().map(|own| own.address.addr()).collect();
        let networks: Vec<_> = routers.iter().flat_map(|router| &router.addresses).copied().collect();
        conntrack::end("ending connections that a mapped port had before", |flow| {
            is_stale(flow, &own, &current, &earlier, &networks)
        })
    }
}

fn is_udp(mapping: &PortMapping) -> bool {
    mapping.protocol == PortProtocol::Udp
}

/// Returns true if a connection to one of this host's `own` addresses leads elsewhere than the mappings do.
fn is_stale(
    flow: &Flow,
    own: &[IpAddr],
    current: &[&PortMapping],
    earlier: &BTreeSet<(u16, bool)>,
    networks: &[IpNet],
) -> bool {
    let Flow { protocol, destination, reply_source } = flow;
    if *protocol != UDP || destination.ip().is_loopback() || !own.contains(&destination.ip()) {
        return false;
    }
    match current.iter().find(|it| it.port == destination.port() && it.target.is_ipv4() == destination.is_ipv4()) {
        Some(mapping) => mapping.target != *reply_source,
        None => {
            let was_mapped = earlier.contains(&(destination.port(), destination.is_ipv4()));
            was_mapped
                && reply_source != destination
                && (networks.is_empty() || networks.iter().any(|net| net.contains(&reply_source.ip())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_what_goes_past_the_mapping_is_stale() {
        let own = ["203.0.113.1", "10.0.0.1"].map(|it| it.parse().expect("an address"));
        let mapping = PortMapping { protocol: PortProtocol::Udp, port: 9000, target: address("10.0.0.2:53") };
        let is_stale = |protocol, destination, reply_source, current: &[&PortMapping]| {
            let flow = Flow { protocol, destination: address(destination), reply_source: address(reply_source) };
            let networks = ["10.0.0.0/24".parse().expect("a network")];
            super::is_stale(&flow, &own, current, &BTreeSet::from([(9000, true), (9001, true)]), &networks)
        };
        let current = [&mapping];
        assert!(is_stale(UDP, "203.0.113.1:9000", "203.0.113.1:9000", &current), "from before the mapping");
        assert!(is_stale(UDP, "203.0.113.1:9000", "10.0.0.3:53", &current), "to an earlier target");
        assert!(is_stale(UDP, "203.0.113.1:9000", "10.0.0.2:54", &current), "to an earlier port");
        assert!(!is_stale(UDP, "203.0.113.1:9000", "10.0.0.2:53", &current), "where it leads");
        assert!(!is_stale(UDP, "198.51.100.1:9000", "198.51.100.1:9000", &current), "to somebody else");
        assert!(!is_stale(6, "203.0.113.1:9000", "203.0.113.1:9000", &current), "TCP");
        assert!(!is_stale(UDP, "203.0.113.1:53", "203.0.113.1:53", &current), "another port");
        assert!(is_stale(UDP, "203.0.113.1:9001", "10.0.0.2:53", &current), "a mapping that is gone");
        assert!(!is_stale(UDP, "203.0.113.1:9001", "203.0.113.1:9001", &current), "the host's own by now");
        assert!(is_stale(UDP, "203.0.113.1:9000", "10.0.0.2:53", &[]), "all are gone");
    }
}
