//! Ports of the host: whether those that a router wants are somebody's already.

use std::net::{IpAddr, SocketAddr};

use super::filter::{number, uplinks};
use super::passage::{Packet, Passage, passage};
use crate::config::{PortMapping, RouterSpec, StatsAddress};
use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
use crate::sys::survey::filter::{BaseChain, Hook, LOCAL, NEW};
use crate::sys::survey::interface::Process;
use crate::sys::survey::network::Surroundings;
use crate::sys::survey::services::Service;

/// Mapped ports that the host serves itself.
pub fn served(router: &RouterSpec, services: &[Service]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for mapping in &router.ports {
        let takes = |service: &&Service| {
            // The mappings are for all addresses but loopback's.
            service.protocol == mapping.protocol.as_str()
                && service.port == mapping.port
                && !service.address.is_loopback()
                && service.speaks(mapping.target.is_ipv6())
        };
        let Some(service) = services.iter().find(takes) else { continue };
        let finding = Finding::wrong(
            format!(
                "tuntap-router-port {}: this host serves that port itself, {}: from outside it is reached no more",
                words(mapping),
                service
                    .process
                    .as_ref()
                    .map_or_else(|| "by a process that can't be seen".to_owned(), ToString::to_string)
            ),
            "another port in tuntap-router-port; or have that service use another one, or 127.0.0.1 only",
        );
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

/// Mapped ports that a rule of somebody else leads elsewhere.
pub fn mapped_by_others(router: &RouterSpec, chains: &[BaseChain], found: Option<&Surroundings>) -> Vec<Finding> {
    let own = format!("inet {}", router.table_name());
    let others = || chains.iter().filter(|chain| chain.is_nat && chain.hook == Hook::Prerouting && chain.table != own);
    let find = |mapping: &PortMapping| {
        let is_ipv6 = mapping.target.is_ipv6();
        let packet = Packet {
            came_by: uplinks(router, is_ipv6, found),
            is_ipv6,
            state: NEW,
            protocol: Some(number(mapping.protocol)),
            port: Some(mapping.port),
            destination_type: LOCAL,
            ..Packet::default()
        };
        let of_family = others().filter(|chain| chain.is_ipv6.is_none_or(|it| it == is_ipv6));
        of_family.into_iter().find_map(|chain| match passage(chain, &packet) {
            Passage::Diverted(place) => Some(Finding::wrong(
                format!(
                    "tuntap-router-port {}: {}, chain {} leads that port elsewhere: {place}",
                    words(mapping),
                    chain.table,
                    chain.name
                ),
                "another port in one of the two; an Emperor's table is inet tuntap-<its device>",
            )),
            _ => None,
        })
    };
    router.ports.iter().filter_map(find).collect()
}

/// Ports that routers of two files map.
pub fn mapped_twice(instance: &Instance, earlier: &[&Instance]) -> Vec<Finding> {
    let own = instance.config.routers.iter().flat_map(|router| &router.ports);
    let clash = |mapping: &PortMapping| {
        let is_same = |other: &PortMapping| {
            (other.protocol, other.port, other.target.is_ipv6())
                == (mapping.protocol, mapping.port, mapping.target.is_ipv6())
        };
        let other =
            earlier.iter().find(|other| other.config.routers.iter().flat_map(|router| &router.ports).any(is_same))?;
        Some(Finding::wrong(
            format!("tuntap-router-port {}: a router of {} maps that port, too", words(mapping), other.file),
            "another port in one of the two",
        ))
    };
    own.filter_map(clash).collect()
}

/// Whether the router's own ports, of its statistics and of its gateway, are somebody else's. `own`: its processes.
pub fn own(router: &RouterSpec, services: &[Service], own: &[Process]) -> Vec<Finding> {
    let stats = match &router.stats {
        Some(StatsAddress::Tcp(address)) => Some(("tcp", "statistics", address.clone(), socket_address(address))),
        _ => None,
    };
    let gateway = router.gateway.map(|address| ("udp", "gateway", address.to_string(), Some(address)));
    let mut findings = Vec::new();
    for (protocol, what, text, address) in stats.into_iter().chain(gateway) {
        let Some(address) = address else {
            findings.push(Finding::fine(format!("{what} {text}: not examined, for it is a name")));
            continue;
        };
        let is_meant = |service: &&Service| {
            let overlaps =
                service.is_for(address.ip()) || (address.ip().is_unspecified() && service.speaks(address.is_ipv6()));
            service.protocol == protocol && service.port == address.port() && overlaps
        };
        let is_own = |service: &&Service| service.process.as_ref().is_some_and(|process| own.contains(process));
        if let Some(service) = services.iter().filter(is_meant).find(|service| !is_own(service)) {
            let who =
                service.process.as_ref().map_or_else(|| "a process that can't be seen".to_owned(), ToString::to_string);
            let what = format!("{what} {text}: {who} has that port");
            let remedy = "stop that process, or another port in tuntap-router";
            findings.push(if service.process.is_some() {
                Finding::wrong(what, remedy)
            } else {
                Finding::warning(what, remedy)
            });
        }
    }
    findings
}

/// As uWSGI reads it: without an address it is all of them.
pub fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let address = match host {
        "" | "*" => IpAddr::from([0, 0, 0, 0]),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(address, port.parse().ok()?))
}

fn words(mapping: &PortMapping) -> String {
    format!("{} {} {}", mapping.protocol.as_str(), mapping.port, mapping.target)
}

#[cfg(test)]
mod tests {
    use super::super::passage::tests::{chain, rule};
    use super::*;
    use crate::doctor::instance::tests::instance;
    use crate::sys::survey::filter::{Condition, Test, Verdict};

    const LINES: [(&str, &str); 4] = [
        ("tuntap-router", "emperor0 /run/t.socket 127.0.0.1:5000 :999"),
        ("tuntap-router-address", "10.0.0.1/24"),
        ("tuntap-router-nat", "eth0"),
        ("tuntap-router-port", "tcp 2222 10.0.0.2:22"),
    ];

    fn service(protocol: &'static str, address: &str, port: u16) -> Service {
        let process = Some(Process { pid: 7, command: "sshd".to_owned() });
        Service { protocol, address: address.parse().expect("an address"), is_ipv6_only: false, port, process }
    }

    #[test]
    fn port_that_the_host_serves_is_told_once() {
        let it = instance(&LINES);
        let count = |services: &[Service]| served(&it.config.routers[0], services).len();
        assert_eq!(count(&[service("tcp", "0.0.0.0", 2222), service("tcp", "::", 2222)]), 1);
        assert_eq!(count(&[service("tcp", "::", 2222)]), 1, "for both versions");
        assert_eq!(count(&[service("tcp", "203.0.113.2", 2222)]), 1);
        for other in [service("tcp", "127.0.0.1", 2222), service("udp", "0.0.0.0", 2222), service("tcp", "0.0.0.0", 22)]
        {
            assert_eq!(count(&[other]), 0);
        }
    }

    #[test]
    fn rule_of_somebody_else_is_told() {
        let it = instance(&LINES);
        let leads = |port| {
            let test = Condition { test: Test::ToPort(vec![port..=port]), is_negated: false };
            let chain = chain(false, vec![rule(&[test], Verdict::Divert)]);
            BaseChain { table: "inet tuntap-emperor1".to_owned(), hook: Hook::Prerouting, is_nat: true, ..chain }
        };
        let count = |chain| mapped_by_others(&it.config.routers[0], &[chain], None).len();
        assert_eq!((count(leads(2222)), count(leads(2223))), (1, 0));
        assert_eq!(count(BaseChain { table: "inet tuntap-emperor0".to_owned(), ..leads(2222) }), 0, "its own");
        assert_eq!(mapped_twice(&it, &[&instance(&LINES)]).len(), 1);
    }

    #[test]
    fn own_ports_must_be_free() {
        let it = instance(&LINES);
        let count = |services: &[Service], processes: &[Process]| own(&it.config.routers[0], services, processes).len();
        let both = [service("tcp", "0.0.0.0", 5000), service("udp", "10.0.0.1", 999)];
        assert_eq!(count(&both, &[]), 2);
        assert_eq!(count(&both, &[Process { pid: 7, command: "sshd".to_owned() }]), 0, "its own");
        assert_eq!(count(&[service("tcp", "10.0.0.1", 5000)], &[]), 0, "another address");
        assert_eq!(socket_address("*:80"), Some(SocketAddr::from(([0, 0, 0, 0], 80))));
        assert_eq!(socket_address("localhost:80"), None);
    }
}
