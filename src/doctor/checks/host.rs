//! What vassals reach of the host itself, and what they can use up of it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::filter::{own_servers, speaks, uplinks};
use super::passage::{Packet, Passage, passage};
use crate::config::RouterSpec;
use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
use crate::policy::pattern::{Action, Flow, Rules, Service as RuleService};
use crate::sys::survey::filter::{BaseChain, Filters, Hook, LOCAL, NEW, UNICAST};
use crate::sys::survey::kernel::Fill;
use crate::sys::survey::network::Surroundings;
use crate::sys::survey::services::Service;

/// So many services are named.
const MOST_NAMED: usize = 12;

/// The chain of a router's own table that sees what comes for the host.
const INPUT: &str = "input";

/// Where clouds serve a machine's keys and start scripts (RFC 3927: link-local).
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const DNS: u16 = 53;
const HTTP: u16 = 80;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Services of the host that vassals reach, by the packet filters as they are now.
pub fn exposure(router: &RouterSpec, services: &[Service], filters: &Filters, found: &Surroundings) -> Option<Finding> {
    let device = &router.device;
    // That they can't be read is said already.
    if filters.lacks_nftables {
        return None;
    }
    let is_meant = |service: &&Service| {
        service.port == DNS && own_servers(router, Some(found)).any(|server| service.is_for(server))
    };
    let reached: Vec<&Service> =
        services.iter().filter(|it| !is_meant(it)).filter(|it| is_reached(router, it, filters, found)).collect();
    let mut names: Vec<String> = reached.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Some(Finding::fine(format!(
            "vassals of {device} reach no service of this host that isn't meant for them"
        )));
    }
    let more = names.len().saturating_sub(MOST_NAMED);
    names.truncate(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    // Its own table keeps vassals from what no option has opened.
    let own = filters.inet_tables.get(&router.table_name());
    if own.is_some_and(|chains| chains.contains_key(INPUT)) {
        let names = names.join(", ");
        return Some(Finding::fine(format!(
            "vassals of {device} reach what is opened to them of this host: {names}{more}"
        )));
    }
    Some(Finding::warning(
        format!("vassals of {device} reach these services of this host: {}{more}", names.join(", ")),
        format!(
            "have them listen on 127.0.0.1 only; or refuse what comes by {device}: nft add table inet guard; nft add chain inet \
             guard input '{{ type filter hook input priority 0; }}'; nft add rule inet guard input iifname {device} ct state new \
             meta l4proto {{ tcp, udp }} reject"
        ),
    ))
}

fn is_reached(router: &RouterSpec, service: &Service, filters: &Filters, found: &Surroundings) -> bool {
    if service.address.is_loopback() {
        return false;
    }
    [false, true].into_iter().filter(|is_ipv6| speaks(router, *is_ipv6) && service.speaks(*is_ipv6)).any(|is_ipv6| {
        let destination = if service.address.is_unspecified() {
            let own = router.addresses.iter().map(IpNet::addr);
            own.chain(found.addresses.iter().map(|(_, net)| net.addr()))
                .find(|address| address.is_ipv6() == is_ipv6 && !address.is_loopback())
        } else {
            Some(service.address)
        };
        let Some(destination) = destination else { return false };
        let packet = Packet {
            came_by: vec![router.device.as_str()],
            is_ipv6,
            state: NEW,
            protocol: Some(if service.protocol == "udp" { UDP } else { TCP }),
            port: Some(service.port),
            sources: router.addresses.iter().map(IpNet::trunc).filter(|net| net.addr().is_ipv6() == is_ipv6).collect(),
            destination: Some(destination),
            destination_type: LOCAL,
            ..Packet::default()
        };
        passes(&filters.chains, &[Hook::Prerouting, Hook::Input], &packet)
    })
}

/// Whether no chain of these hooks drops a packet, as far as that can be told.
fn passes(chains: &[BaseChain], hooks: &[Hook], packet: &Packet<'_>) -> bool {
    let concerned = chains.iter().filter(|chain| !chain.is_nat && hooks.contains(&chain.hook));
    let of_family = concerned.filter(|chain| chain.is_ipv6.is_none_or(|it| it == packet.is_ipv6));
    of_family.into_iter().all(|chain| passage(chain, packet) != Passage::Closed)
}

/// Whether vassals reach a cloud's metadata service, which tells everybody who asks what the machine may do.
pub fn metadata(instance: &Instance, router: &RouterSpec, filters: &Filters, found: &Surroundings) -> Option<Finding> {
    let is_near = |net: &IpNet| net.prefix_len() > 0 && net.contains(&IpAddr::from(METADATA));
    // Without a way of its own there it is a question of what is beyond this host.
    let way = found.neighbours.iter().find(|to| is_near(&to.net) && to.interface != router.device)?;
    let packet = Packet {
        came_by: vec![router.device.as_str()],
        leaves_by: vec![way.interface.as_str()],
        state: NEW,
        protocol: Some(TCP),
        port: Some(HTTP),
        sources: router.addresses.iter().map(IpNet::trunc).filter(|net| !net.addr().is_ipv6()).collect(),
        destination: Some(METADATA.into()),
        destination_type: UNICAST,
        ..Packet::default()
    };
    let is_masqueraded = router.nat.is_empty() || uplinks(router, false, Some(found)).contains(&way.interface.as_str());
    (!is_denied(instance, router)
        && is_masqueraded
        && speaks(router, false)
        && passes(&filters.chains, &[Hook::Prerouting, Hook::Forward], &packet))
    .then(|| {
        Finding::warning(
            format!(
                "vassals of {} reach {METADATA} by {}: in a cloud that is where a machine's keys are",
                router.device, way.interface
            ),
            "tuntap-router-firewall-out = reject any 169.254.0.0/16, before the rule that allows",
        )
    })
}

/// Whether the chain `out` drops what goes to the metadata service from the router's network.
fn is_denied(instance: &Instance, router: &RouterSpec) -> bool {
    let rules = Rules::chain(instance.config.firewall_out.iter().cloned());
    let first = router.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => net.hosts().nth(1),
        IpNet::V6(_) => None,
    });
    let src = first.unwrap_or(Ipv4Addr::UNSPECIFIED).to_bits();
    let flow = Flow { src, dst: METADATA.to_bits(), service: RuleService { protocol: TCP, port: Some(HTTP) } };
    rules.v4.first_match(&flow).is_some_and(|action| action != Action::Allow)
}

/// Whether somebody answers where the file says that a DNS server of this host is.
pub fn dns_servers(router: &RouterSpec, services: &[Service], filters: &Filters, found: &Surroundings) -> Vec<Finding> {
    let serves =
        |server: &IpAddr| services.iter().any(|it| it.protocol == "udp" && it.port == DNS && it.is_for(*server));
    let is_diverted = |server: &IpAddr| {
        let packet = Packet {
            came_by: vec![router.device.as_str()],
            is_ipv6: server.is_ipv6(),
            state: NEW,
            protocol: Some(UDP),
            port: Some(DNS),
            destination: Some(*server),
            destination_type: LOCAL,
            ..Packet::default()
        };
        let nat = filters.chains.iter().filter(|chain| chain.is_nat && chain.hook == Hook::Prerouting);
        nat.into_iter().any(|chain| matches!(passage(chain, &packet), Passage::Diverted(_)))
    };
    own_servers(router, Some(found))
        .filter(|server| !serves(server) && !is_diverted(server))
        .map(|server| {
            Finding::warning(
                format!("tuntap-router-dns = {} {server}: nothing on this host serves udp {DNS} there", router.device),
                "start the DNS server, and have it listen on that address, which is there as long as the router runs",
            )
        })
        .collect()
}

/// Whether a table that all share is nearly full. The words are the table's, and what makes it larger.
pub fn fill(table: Option<Fill>, what: &str, remedy: &str) -> Option<Finding> {
    let Fill { used, most } = table?;
    (used.saturating_mul(10) >= most.saturating_mul(8)).then(|| {
        Finding::warning(
            format!("{what}: {used} of {most}; when it is full, new connections fail, those of this host, too"),
            remedy,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::passage::tests::{came_by, chain, rule};
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::instance::tests::instance;
    use crate::sys::survey::filter::Verdict;
    use crate::sys::survey::network::Neighbour;

    const LINES: [(&str, &str); 3] = [
        ("tuntap-router", "emperor0 /run/t.socket"),
        ("tuntap-router-address", "10.0.0.1/24"),
        ("tuntap-router-dns", "10.0.0.1"),
    ];

    fn service(protocol: &'static str, address: &str, port: u16) -> Service {
        Service { protocol, address: address.parse().expect("an address"), is_ipv6_only: false, port, process: None }
    }

    fn filters(chains: Vec<BaseChain>) -> Filters {
        Filters { chains, ..Filters::default() }
    }

    fn input(verdict: Verdict) -> BaseChain {
        BaseChain { hook: Hook::Input, ..chain(false, vec![rule(&[came_by("emperor0")], verdict)]) }
    }

    #[test]
    fn services_within_reach_are_named() {
        let it = instance(&LINES);
        let look = |services: &[Service], filters: &Filters| {
            exposure(&it.config.routers[0], services, filters, &Surroundings::default()).expect("filters were read")
        };
        let ssh = [service("tcp", "0.0.0.0", 22), service("tcp", "::", 22)];
        let open = look(&ssh, &filters(Vec::new()));
        assert_eq!(open.what, "vassals of emperor0 reach these services of this host: tcp 22");
        assert_eq!(look(&ssh, &filters(vec![input(Verdict::Drop)])).severity, Severity::Fine);
        let chains = [("input".to_owned(), 1)].into();
        let own = Filters { inet_tables: [("tuntap-emperor0".to_owned(), chains)].into(), ..Filters::default() };
        assert_eq!(look(&ssh, &own).severity, Severity::Fine, "opened by the router's own table");
        assert_eq!(look(&ssh, &filters(vec![input(Verdict::Accept)])).severity, Severity::Warning);
        assert_eq!(look(&[service("tcp", "127.0.0.1", 22)], &filters(Vec::new())).severity, Severity::Fine);
        assert_eq!(look(&[service("udp", "0.0.0.0", 53)], &filters(Vec::new())).severity, Severity::Fine, "meant");
        assert_eq!(look(&[service("tcp", "fd00::1", 22)], &filters(Vec::new())).severity, Severity::Fine, "IPv4 only");
    }

    #[test]
    fn metadata_is_a_matter_where_there_is_a_way_of_its_own() {
        let way = |net: &str| Surroundings {
            neighbours: vec![Neighbour {
                net: net.parse().expect("a network"),
                interface: "eth0".to_owned(),
                is_own: false,
            }],
            ..Surroundings::default()
        };
        let look = |more: &[(&str, &str)], found: &Surroundings| {
            let it = instance(&[&LINES[..], more].concat());
            metadata(&it, &it.config.routers[0], &filters(Vec::new()), found)
        };
        assert!(look(&[], &way("169.254.169.254/32")).is_some());
        assert_eq!(look(&[], &way("0.0.0.0/0")), None);
        let denied = ("tuntap-router-firewall-out", "deny any 169.254.0.0/16");
        assert_eq!(look(&[denied], &way("169.254.0.0/16")), None);
        assert_eq!(look(&[("tuntap-router-nat", "eth1")], &way("169.254.0.0/16")), None, "not masqueraded there");
    }

    #[test]
    fn server_that_is_named_must_serve() {
        let it = instance(&LINES);
        let count = |services: &[Service]| {
            dns_servers(&it.config.routers[0], services, &filters(Vec::new()), &Surroundings::default()).len()
        };
        assert_eq!(count(&[]), 1);
        assert_eq!(count(&[service("udp", "0.0.0.0", 53)]), 0);
        assert_eq!(count(&[service("udp", "10.0.0.9", 53)]), 1);
    }

    #[test]
    fn nearly_full_is_a_warning() {
        let look = |used| fill(Some(Fill { used, most: 100 }), "connections", "more").is_some();
        assert_eq!([look(79), look(80)], [false, true]);
        assert_eq!(fill(None, "connections", "more"), None);
    }
}
