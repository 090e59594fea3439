//! Whether the ports of the host that a router wants are somebody else's already.

use std::net::{IpAddr, SocketAddr};

use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::{PortMapping, RouterSpec, StatsAddress};
use tuntap_host::{self, PortUses, Taken};
use tuntap_survey::interface::Process;
use tuntap_survey::services::Service;

/// Finds mapped ports that have a use already, by the same rules as the start.
pub fn taken(router: &RouterSpec, own_tables: &[String], uses: PortUses<'_>) -> Vec<Finding> {
    let finding = |taken: Taken| {
        if taken.is_meant {
            Finding::fine(format!("{}, which is meant (anyway)", taken.words()))
        } else if taken.is_uncertain {
            Finding::warning(format!("{}, or used by a client", taken.what()), Taken::REMEDY)
        } else {
            Finding::wrong(taken.what(), Taken::REMEDY)
        }
    };
    tuntap_host::taken(router, own_tables, uses).into_iter().map(finding).collect()
}

/// Finds ports that routers of two files map.
pub fn mapped_twice(instance: &Instance, earlier: &[&Instance]) -> Vec<Finding> {
    let is_meant = |router: &RouterSpec, mapping: &PortMapping| router.meant.ports.contains(mapping);
    let own = instance
        .config
        .routers
        .iter()
        .flat_map(|router| router.ports.iter().filter(|mapping| !is_meant(router, mapping)));
    let clash = |mapping: &PortMapping| {
        let is_same = |other: &PortMapping| {
            (other.protocol, other.port, other.target.is_ipv6())
                == (mapping.protocol, mapping.port, mapping.target.is_ipv6())
        };
        let other =
            earlier.iter().find(|other| other.config.routers.iter().flat_map(|router| &router.ports).any(is_same))?;
        Some(Finding::wrong(
            format!("tuntap-router-port {}: a router of {} maps that port, too", words(mapping), other.file),
            "another port in one of the two, or \"anyway\" behind the mapping if that is meant",
        ))
    };
    own.filter_map(clash).collect()
}

/// Checks that the router's own ports, those of its statistics, metrics and gateway, aren't somebody else's. `own`: its processes.
pub fn own(router: &RouterSpec, services: &[Service], own: &[Process]) -> Vec<Finding> {
    let documents = [("statistics", &router.stats), ("metrics", &router.metrics.address)];
    let documents = documents.into_iter().filter_map(|(what, address)| match address {
        Some(StatsAddress::Tcp(address)) => Some(("tcp", what, address.clone(), socket_address(address))),
        _ => None,
    });
    let gateway = router.gateway.map(|address| ("udp", "gateway", address.to_string(), Some(address)));
    let mut findings = Vec::new();
    for (protocol, what, text, address) in documents.chain(gateway) {
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

/// Reads `address:port` as uWSGI does: without an address it means all of them. `None` if the address is a name.
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
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;
    use tuntap_survey::filter::{BaseChain, Condition, Hook, Name, Test, Verdict};
    use tuntap_survey::testing::{chain, rule};

    const LINES: [(&str, &str); 4] = [
        ("tuntap-router", "emperor0 /run/t.socket 127.0.0.1:5000 :999"),
        ("tuntap-router-address", "10.0.0.1/24"),
        ("tuntap-router-nat", "eth0"),
        ("tuntap-router-port", "tcp 2222 10.0.0.2:22"),
    ];

    fn service(protocol: &'static str, address: &str, port: u16) -> Service {
        let process = Some(Process { pid: 7, command: "sshd".to_owned() });
        Service { process, ..tuntap_survey::testing::service(protocol, address, port) }
    }

    fn look(lines: &[(&str, &str)], services: &[Service], chains: &[BaseChain]) -> Vec<Finding> {
        let router = &instance(lines).config.routers[0];
        let addresses = ["203.0.113.2".parse().expect("an address")];
        taken(router, &[router.table_name()], PortUses { services, chains, addresses: &addresses })
    }

    #[test]
    fn port_that_the_host_serves_is_told_once() {
        let count = |services: &[Service]| look(&LINES, services, &[]).len();
        assert_eq!(count(&[service("tcp", "0.0.0.0", 2222), service("tcp", "::", 2222)]), 1);
        assert_eq!(count(&[service("tcp", "::", 2222)]), 1, "for both versions");
        assert_eq!(count(&[service("tcp", "203.0.113.2", 2222)]), 1);
        for other in [service("tcp", "127.0.0.1", 2222), service("udp", "0.0.0.0", 2222), service("tcp", "0.0.0.0", 22)]
        {
            assert_eq!(count(&[other]), 0);
        }
        let ssh = [service("tcp", "0.0.0.0", 2222)];
        assert_eq!(look(&LINES, &ssh, &[])[0].severity, Severity::Wrong);
        let client = [Service { may_be_client: true, ..service("tcp", "0.0.0.0", 2222) }];
        assert_eq!(look(&LINES, &client, &[])[0].severity, Severity::Warning);
        let meant = [&LINES[..3], &[("tuntap-router-port", "tcp 2222 10.0.0.2:22 anyway")]].concat();
        assert_eq!(look(&meant, &ssh, &[])[0].severity, Severity::Fine);
    }

    #[test]
    fn rule_of_somebody_else_is_told() {
        let leads = |tests: &[Test]| {
            let conditions: Vec<_> =
                tests.iter().map(|test| Condition { test: test.clone(), is_negated: false }).collect();
            let chain = chain(false, vec![rule(&conditions, Verdict::Dnat)]);
            BaseChain { table: "inet tuntap-emperor1".to_owned(), hook: Hook::Prerouting, is_nat: true, ..chain }
        };
        let port = |port| Test::ToPort(vec![port..=port]);
        let count = |chain| look(&LINES, &[], &[chain]).len();
        assert_eq!((count(leads(&[port(2222)])), count(leads(&[port(2223)]))), (1, 0));
        assert_eq!(count(BaseChain { table: "inet tuntap-emperor0".to_owned(), ..leads(&[port(2222)]) }), 0, "its own");
        let to = |address: &str| {
            let address: IpAddr = address.parse().expect("an address");
            Test::To(vec![address..=address])
        };
        assert_eq!(count(leads(&[to("203.0.113.2"), port(2222)])), 1, "an address of this host");
        assert_eq!(count(leads(&[to("203.0.113.3"), port(2222)])), 0, "somebody else's");
        let by = |name: &str| Test::Iif(vec![Name::Exactly(name.to_owned())]);
        assert_eq!((count(leads(&[by("eth0"), port(2222)])), count(leads(&[by("eth1"), port(2222)]))), (1, 0));
        let it = instance(&LINES);
        assert_eq!(mapped_twice(&it, &[&it]).len(), 1);
        let meant = [&LINES[..3], &[("tuntap-router-port", "tcp 2222 10.0.0.2:22 anyway")]].concat();
        assert_eq!(mapped_twice(&instance(&meant), &[&it]), []);
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
