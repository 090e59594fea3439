//! What vassals reach of the host itself, and what they can use up of it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::filter::{own_servers, speaks, uplinks};
use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::{HostRule, RouterSpec};
use tuntap_core::policy::grant::Grants;
use tuntap_core::policy::pattern::{Action, MatchKey, Service as RuleService};
use tuntap_survey::filter::evaluate::{Outcome, Packet, evaluate};
use tuntap_survey::filter::{BaseChain, Filters, Hook, LOCAL, NEW, UNICAST};
use tuntap_survey::kernel::Fill;
use tuntap_survey::network::Surroundings;
use tuntap_survey::services::Service;
use tuntap_sys::netlink::nftables::MODULES;

/// How many services a finding names at most.
const MOST_NAMED: usize = 12;

/// The chain of a router's own table that packets to the host pass.
const INPUT: &str = "input";

/// Where clouds serve a machine's keys and start scripts (RFC 3927: link-local).
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

const DNS: u16 = 53;
const HTTP: u16 = 80;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Checks which services of the host vassals reach, by the packet filters as they are now.
pub fn exposure(router: &RouterSpec, services: &[Service], filters: &Filters, found: &Surroundings) -> Option<Finding> {
    let device = &router.device;
    // Another finding says that the filters can't be read.
    if filters.lacks_nftables {
        return None;
    }
    let Some(names) = reached(router, services, filters, found) else {
        return Some(Finding::fine(format!(
            "vassals of {device} reach no service of this host that isn't meant for them"
        )));
    };
    // The router's own table keeps vassals from what no option has opened.
    let own = filters.inet_tables.get(&router.table_name());
    if own.is_some_and(|chains| chains.contains_key(INPUT)) {
        return Some(Finding::fine(format!("vassals of {device} reach what is opened to them of this host: {names}")));
    }
    let guard = format!(
        "have them listen on 127.0.0.1 only; or refuse what comes by {device}: nft add table inet guard; nft add chain inet \
         guard input '{{ type filter hook input priority 0; }}'; nft add rule inet guard input iifname {device} ct state new \
         meta l4proto {{ tcp, udp }} reject"
    );
    Some(if router.has_network() {
        let modules = MODULES.map(|module| format!("modprobe {module}")).join("; ");
        Finding::warning(
            format!(
                "vassals of {device} reach these services of this host, for its table has no chain {INPUT}: the kernel couldn't \
                 make it: {names}"
            ),
            format!("{modules}; then reload the instance\nor {guard}"),
        )
    } else {
        Finding::warning(
            format!("vassals of {device} reach these services of this host: {names}"),
            format!(
                "tuntap-router-address = <the vassals' network's first address>/<len>, which keeps vassals from all that \
                 tuntap-router-host doesn't open\nor {guard}"
            ),
        )
    })
}

/// Names the services that vassals reach and that aren't meant for them, not all if they are many; `None` if there is none.
fn reached(router: &RouterSpec, services: &[Service], filters: &Filters, found: &Surroundings) -> Option<String> {
    let is_meant = |service: &&Service| {
        service.port == DNS && own_servers(router, Some(found)).any(|server| service.is_for(server))
    };
    let reached = services
        .iter()
        .filter(|it| !(it.may_be_client || is_meant(it)))
        .filter(|it| is_reached(router, it, filters, found));
    let mut names: Vec<String> = reached.map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(MOST_NAMED);
    names.truncate(MOST_NAMED);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!names.is_empty()).then(|| format!("{}{more}", names.join(", ")))
}

/// Checks whether an option opens all services of the host.
pub fn opened(router: &RouterSpec) -> Option<Finding> {
    let is_everywhere = |to: Option<IpNet>| to.is_none_or(|net| net.prefix_len() == 0);
    let all = |rule: &&HostRule| rule.allow && rule.service.is_none() && is_everywhere(rule.to);
    router.protection.rules.iter().find(all)?;
    Some(Finding::warning(
        format!("tuntap-router-host = {} allow: every service of this host is open to vassals", router.device),
        "name what they need: tuntap-router-host = allow <address> <protocol> <port>",
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
            iif: vec![router.device.as_str()],
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

/// Returns true if no chain of these hooks is known to drop a packet.
fn passes(chains: &[BaseChain], hooks: &[Hook], packet: &Packet<'_>) -> bool {
    let concerned = chains.iter().filter(|chain| !chain.is_nat && hooks.contains(&chain.hook));
    let of_family = concerned.filter(|chain| chain.is_ipv6.is_none_or(|it| it == packet.is_ipv6));
    of_family.into_iter().all(|chain| evaluate(chain, packet) != Outcome::Drop)
}

/// Checks whether vassals reach a cloud's metadata service, which gives the machine's credentials to everybody who asks.
pub fn metadata(instance: &Instance, router: &RouterSpec, filters: &Filters, found: &Surroundings) -> Option<Finding> {
    let is_near = |net: &IpNet| net.prefix_len() > 0 && net.contains(&IpAddr::from(METADATA));
    // Without a route of its own to that network, other machines decide whether the service can be reached.
    let way = found.neighbours.iter().find(|to| is_near(&to.net) && to.interface != router.device)?;
    let packet = Packet {
        iif: vec![router.device.as_str()],
        oif: vec![way.interface.as_str()],
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

/// Returns true if the chain `out` denies packets from the router's network to the metadata service.
fn is_denied(instance: &Instance, router: &RouterSpec) -> bool {
    let rules = instance.config.policy(router, Grants::none(), Vec::new()).firewall_out;
    let first = router.addresses.iter().find_map(|net| match net {
        IpNet::V4(net) => net.hosts().nth(1),
        IpNet::V6(_) => None,
    });
    let src = first.unwrap_or(Ipv4Addr::UNSPECIFIED).to_bits();
    let flow = MatchKey { src, dst: METADATA.to_bits(), service: RuleService { protocol: TCP, port: Some(HTTP) } };
    rules.v4.first_match(&flow).is_some_and(|action| action != Action::Allow)
}

/// Checks that the DNS servers of this host which the file names exist. Before the start there may be none yet on the router's
/// own addresses.
pub fn dns_servers(
    router: &RouterSpec,
    services: &[Service],
    filters: &Filters,
    found: &Surroundings,
    is_running: bool,
) -> Vec<Finding> {
    let is_there = |server: &IpAddr| is_running || found.addresses.iter().any(|(_, net)| net.addr() == *server);
    let serves =
        |server: &IpAddr| services.iter().any(|it| it.protocol == "udp" && it.port == DNS && it.is_for(*server));
    let is_dnat = |server: &IpAddr| {
        let packet = Packet {
            iif: vec![router.device.as_str()],
            is_ipv6: server.is_ipv6(),
            state: NEW,
            protocol: Some(UDP),
            port: Some(DNS),
            destination: Some(*server),
            destination_type: LOCAL,
            ..Packet::default()
        };
        let nat = filters.chains.iter().filter(|chain| chain.is_nat && chain.hook == Hook::Prerouting);
        nat.into_iter().any(|chain| matches!(evaluate(chain, &packet), Outcome::Dnat(_)))
    };
    own_servers(router, Some(found))
        .filter(|server| is_there(server) && !serves(server) && !is_dnat(server))
        .map(|server| {
            Finding::warning(
                format!("tuntap-router-dns = {} {server}: nothing on this host serves udp {DNS} there", router.device),
                "start the DNS server, and have it listen on that address; a router's is there as long as it runs",
            )
        })
        .collect()
}

/// Checks that the host tracks as many connections as all vassals together may have. `peers`: how many vassals there may be.
/// `most`: how many connections the host tracks.
pub fn connections(router: &RouterSpec, peers: u64, most: Option<u64>) -> Option<Finding> {
    let most = most.filter(|_| router.has_network())?;
    let device = &router.device;
    let remedy = |wanted: u64| {
        format!(
            "tuntap-router-max-connections = {device} {}; or sysctl -w net.netfilter.nf_conntrack_max={wanted}, kept in \
             /etc/sysctl.d (about 300 bytes each)",
            (most / peers.max(1)).max(1)
        )
    };
    let Some(each) = router.protection.max_connections() else {
        return Some(Finding::warning(
            format!(
                "tuntap-router-max-connections = {device} 0: one vassal may have all {most} connections that this host tracks \
                 (net.netfilter.nf_conntrack_max)"
            ),
            "leave the line out, or set a number",
        ));
    };
    let all = peers.saturating_mul(u64::from(each));
    (all > most).then(|| {
        Finding::warning(
            format!(
                "{device}: {peers} vassals with {each} connections each (tuntap-router-max-connections) are {all}, and this host \
                 tracks {most} (net.netfilter.nf_conntrack_max)"
            ),
            remedy(all),
        )
    })
}

/// Checks that the host's table of IPv6 neighbours has room for all vassals. `peers`: how many vassals there may be. `most`:
/// the size of the table.
pub fn neighbours(router: &RouterSpec, peers: u64, most: Option<u64>) -> Option<Finding> {
    let most = most.filter(|_| router.has_network() && speaks(router, true))?;
    (peers > most).then(|| {
        Finding::warning(
            format!(
                "{}: {peers} vassals, and this host may know {most} neighbours of IPv6 (net.ipv6.neigh.default.gc_thresh3)",
                router.device
            ),
            format!("sysctl -w net.ipv6.neigh.default.gc_thresh3={}, kept in /etc/sysctl.d", peers.saturating_mul(2)),
        )
    })
}

/// Checks that a table which the whole machine shares is less than 80% full. `what` is its name, `remedy` makes it larger.
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
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;
    use tuntap_survey::filter::Verdict;
    use tuntap_survey::network::Neighbour;
    use tuntap_survey::testing::service;
    use tuntap_survey::testing::{chain, iif, rule};

    const LINES: [(&str, &str); 3] = [
        ("tuntap-router", "emperor0 /run/t.socket"),
        ("tuntap-router-address", "10.0.0.1/24"),
        ("tuntap-router-dns", "10.0.0.1"),
    ];

    fn filters(chains: Vec<BaseChain>) -> Filters {
        Filters { chains, ..Filters::default() }
    }

    /// A host with one interface.
    fn surroundings() -> Surroundings {
        let address = ("eth0".to_owned(), "203.0.113.2/24".parse().expect("an address"));
        Surroundings { addresses: vec![address], ..Surroundings::default() }
    }

    fn input(verdict: Verdict) -> BaseChain {
        BaseChain { hook: Hook::Input, ..chain(false, vec![rule(&[iif("emperor0")], verdict)]) }
    }

    #[test]
    fn services_within_reach_are_named() {
        let it = instance(&LINES);
        let look = |services: &[Service], filters: &Filters| {
            exposure(&it.config.routers[0], services, filters, &Surroundings::default()).expect("filters were read")
        };
        let ssh = [service("tcp", "0.0.0.0", 22), service("tcp", "::", 22)];
        let open = look(&ssh, &filters(Vec::new()));
        assert!(open.what.ends_with(": tcp 22"), "{open:?}");
        assert_eq!(look(&ssh, &filters(vec![input(Verdict::Drop)])).severity, Severity::Fine);
        let chains = [("input".to_owned(), 1)].into();
        let own = Filters { inet_tables: [("tuntap-emperor0".to_owned(), chains)].into(), ..Filters::default() };
        assert_eq!(look(&ssh, &own).severity, Severity::Fine, "opened by the router's own table");
        let bare = Filters { inet_tables: [("tuntap-emperor0".to_owned(), [].into())].into(), ..Filters::default() };
        let unprotected = look(&ssh, &bare);
        assert!(unprotected.what.contains("its table has no chain input"), "{unprotected:?}");
        let long = instance(&LINES[..1]);
        let long = exposure(&long.config.routers[0], &ssh, &filters(Vec::new()), &surroundings());
        assert!(long.is_some_and(|finding| finding.remedy[0].contains("tuntap-router-address")));
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
            dns_servers(&it.config.routers[0], services, &filters(Vec::new()), &Surroundings::default(), true).len()
        };
        let before = dns_servers(&it.config.routers[0], &[], &filters(Vec::new()), &Surroundings::default(), false);
        assert_eq!(before, [], "the address isn't there yet");
        assert_eq!(count(&[]), 1);
        assert_eq!(count(&[service("udp", "0.0.0.0", 53)]), 0);
        assert_eq!(count(&[service("udp", "10.0.0.9", 53)]), 1);
    }

    #[test]
    fn what_opens_everything_is_a_warning() {
        let look = |value: &str| {
            let it = instance(&[&LINES[..], &[("tuntap-router-host", value)]].concat());
            opened(&it.config.routers[0]).is_some()
        };
        assert!(look("allow") && look("allow 0.0.0.0/0"));
        assert!(!look("allow tcp 22") && !look("allow 10.0.0.1") && !look("deny"));
    }

    #[test]
    fn limit_of_connections_is_compared_with_what_the_host_tracks() {
        let look = |lines: &[(&str, &str)], peers| {
            let it = instance(&[&LINES[..], lines].concat());
            connections(&it.config.routers[0], peers, Some(262_144)).map(|finding| finding.what)
        };
        assert_eq!(look(&[], 64), None);
        let expected = "emperor0: 65 vassals with 4096 connections each (tuntap-router-max-connections) are 266240, and this \
                        host tracks 262144 (net.netfilter.nf_conntrack_max)";
        assert_eq!(look(&[], 65).as_deref(), Some(expected));
        assert_eq!(look(&[("tuntap-router-max-connections", "1000")], 262), None);
        assert!(look(&[("tuntap-router-max-connections", "0")], 1).is_some());
        let long = instance(&LINES[..1]);
        assert_eq!(connections(&long.config.routers[0], 9000, Some(10)), None, "it has no limits");
    }

    #[test]
    fn neighbours_are_those_of_ipv6() {
        let it = instance(&[LINES[0], ("tuntap-router-address", "fd00::1/64")]);
        let look = |peers| neighbours(&it.config.routers[0], peers, Some(1024)).is_some();
        assert_eq!([look(1024), look(1025)], [false, true]);
        assert_eq!(neighbours(&instance(&LINES).config.routers[0], 5000, Some(1024)), None);
    }

    #[test]
    fn nearly_full_is_a_warning() {
        let look = |used| fill(Some(Fill { used, most: 100 }), "connections", "more").is_some();
        assert_eq!([look(79), look(80)], [false, true]);
        assert_eq!(fill(None, "connections", "more"), None);
    }
}
