//! Mapped ports that have a use already, and connections that began before a port led where it leads now.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{PortMapping, PortProtocol, RouterSpec};
use crate::sys::netlink::conntrack::{self, Flow};
use crate::sys::netlink::{Netlink, NetlinkError};
use crate::sys::services::{Protocol, Service, Services};
use crate::sys::survey::mapping::{Mapping, mappings};

/// `IPPROTO_UDP` of linux/in.h.
const UDP: u8 = 17;

/// A mapped port, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{device}: {protocol} port {port} (tuntap-router-port, to {target}) {use_}: nobody outside would reach that any more; take \
     another port, or put \"anyway\" behind the mapping if that is meant"
)]
pub struct Taken {
    device: String,
    protocol: &'static str,
    port: u16,
    target: SocketAddr,
    use_: String,
    /// It may be a client's, which ends soon.
    pub is_uncertain: bool,
}

/// All mapped ports of a router that the host serves itself, or that rules of somebody else's lead elsewhere.
/// `own_tables` are the names of this instance's tables of nftables.
pub fn taken(router: &RouterSpec, own_tables: &[String]) -> Vec<Taken> {
    let wanted: Vec<_> = router.ports.iter().filter(|port| !router.meant.ports.contains(port)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    // Where they can't be read there is no other Emperor, or no way to know.
    let mappings = mappings().unwrap_or_default();
    let mappings: Vec<_> = mappings.into_iter().filter(|mapping| !mapping.is_in_one_of(own_tables)).collect();
    let services = Services::read();
    wanted.into_iter().filter_map(|port| find(&router.device, port, &services, &mappings)).collect()
}

fn find(device: &str, mapping: &PortMapping, services: &Services, mappings: &[Mapping]) -> Option<Taken> {
    let PortMapping { protocol, port, target } = mapping;
    let (kind, number) = match protocol {
        PortProtocol::Tcp => (Protocol::Tcp, 6),
        PortProtocol::Udp => (Protocol::Udp, UDP),
    };
    let served = services.on(kind, *port, target.is_ipv4());
    // One that surely serves comes first.
    let service = served.iter().min_by_key(|service| service.may_be_client);
    let led_elsewhere = || mappings.iter().find(|other| other.takes(number, *port) && other.is_for(target.is_ipv4()));
    let (use_, is_uncertain) = match service {
        Some(service) => (describe(service), service.may_be_client),
        None => (format!("is led elsewhere by {}", led_elsewhere()?.place), false),
    };
    Some(Taken {
        device: device.to_owned(),
        protocol: protocol.as_str(),
        port: *port,
        target: *target,
        use_,
        is_uncertain,
    })
}

fn describe(service: &Service) -> String {
    match service.process() {
        Some(process) => format!("is served by this host itself, {} on {}", process, service.address),
        None => format!("is served by this host itself, on {}", service.address),
    }
}

/// Which ports of UDP have led somewhere: those of the image before, too.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Mapped(BTreeSet<(u16, bool)>);

impl Mapped {
    /// Ends what began before ports of UDP led where they lead now, and what goes on to where they led before: a sender that
    /// never stops would be sent there for ever. Everything else goes on. Returns how many were ended.
    pub fn end_stale(&mut self, routers: &[RouterSpec]) -> Result<usize, NetlinkError> {
        let current: Vec<_> = routers.iter().flat_map(|router| &router.ports).filter(|it| is_udp(it)).collect();
        let now = current.iter().map(|mapping| (mapping.port, mapping.target.is_ipv4())).collect();
        let earlier = std::mem::replace(&mut self.0, now);
        if current.is_empty() && earlier.is_empty() {
            return Ok(0);
        }
        let own: Vec<IpAddr> = Netlink::open()?.addresses()?.into_iter().map(|own| own.address.addr()).collect();
        let networks: Vec<_> = routers.iter().flat_map(|router| &router.addresses).copied().collect();
        let ended = conntrack::end(|flow| is_stale(flow, &own, &current, &earlier, &networks));
        ended.map_err(|errno| NetlinkError::of_conntrack("ending connections that a mapped port had before", errno))
    }
}

fn is_udp(mapping: &PortMapping) -> bool {
    mapping.protocol == PortProtocol::Udp
}

/// Whether a connection to one of this host's `own` addresses goes where no port leads.
fn is_stale(
    flow: &Flow,
    own: &[IpAddr],
    current: &[&PortMapping],
    earlier: &BTreeSet<(u16, bool)>,
    networks: &[IpNet],
) -> bool {
    let Flow { protocol, asked, answers } = flow;
    if *protocol != UDP || asked.ip().is_loopback() || !own.contains(&asked.ip()) {
        return false;
    }
    match current.iter().find(|it| it.port == asked.port() && it.target.is_ipv4() == asked.is_ipv4()) {
        Some(mapping) => mapping.target != *answers,
        None => {
            let has_led = earlier.contains(&(asked.port(), asked.is_ipv4()));
            has_led
                && answers != asked
                && (networks.is_empty() || networks.iter().any(|net| net.contains(&answers.ip())))
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
        let is_stale = |protocol, asked, answers, current: &[&PortMapping]| {
            let flow = Flow { protocol, asked: address(asked), answers: address(answers) };
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
