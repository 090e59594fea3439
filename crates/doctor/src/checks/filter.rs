//! Whether packet filters let pass what is forwarded between routers' devices and elsewhere, and what the host's own DNS
//! servers and gateways need.

mod remedy;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::finding::Finding;
use crate::instance::Instance;
use remedy::remedy;
use tuntap_config::{PortProtocol, RouterSpec};
use tuntap_survey::filter::evaluate::{Outcome, Packet, evaluate};
use tuntap_survey::filter::{BaseChain, ESTABLISHED, Filters, Hook, LOCAL, NEW, UNICAST};
use tuntap_survey::network::Surroundings;
use tuntap_sys::netlink::nftables::MODULES;

/// The port of DNS servers.
const DNS: u16 = 53;

/// A kind of packet that has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Packets from a vassal to elsewhere.
    Out,
    /// Packets that come back to it.
    Back,
    /// Packets to a mapped port.
    Port,
    /// A question for a DNS server of this host.
    Question(PortProtocol),
    /// An answer of a DNS server of this host.
    Answer,
    /// Datagrams from another router to the gateway at this port.
    Gateway(u16),
}

impl Way {
    fn words(self, device: &str) -> String {
        match self {
            Self::Out => format!("what comes from {device}"),
            Self::Back => format!("answers to {device}"),
            Self::Port => format!("what tuntap-router-port leads to {device}"),
            Self::Question(protocol) => {
                format!("questions by {} from {device} for the DNS server of this host", protocol.as_str())
            }
            Self::Answer => format!("the answers of this host's DNS server to {device}"),
            Self::Gateway(port) => format!("what other routers send to the gateway of {device}, udp {port}"),
        }
    }
}

/// Checks that a packet of each kind passes all filters. `found` has the routes. Only root may read filters.
pub fn filter(instance: &Instance, filters: &Filters, found: Option<&Surroundings>, asker: Asker) -> Vec<Finding> {
    let routers = &instance.config.routers;
    let mut findings: Vec<Finding> = unread(filters, routers, asker.is_root).into_iter().collect();
    let count = findings.len();
    for router in routers {
        // The router's own table lets its packets pass. Whether it is the router's is checked in `network::table`.
        let own = format!("inet {}", router.table_name());
        for chain in filters.chains.iter().filter(|chain| !chain.is_nat && chain.table != own) {
            findings.extend(judge(instance, router, chain, found, asker));
        }
    }
    if findings.len() == count && !filters.read.is_empty() {
        let devices: Vec<&str> = routers.iter().map(|router| router.device.as_str()).collect();
        let devices = devices.join(", ");
        let forwards = |chain: &&BaseChain| chain.hook == Hook::Forward;
        let what = match filters.chains.iter().filter(forwards).count() {
            0 => "no chain sees what is forwarded".to_owned(),
            1 => format!("the chain that sees what is forwarded lets pass what {devices} needs"),
            some => format!("the {some} chains that see what is forwarded let pass what {devices} needs"),
        };
        findings.push(Finding::fine(format!("packet filters ({}): {what}", filters.read.join(", "))));
    }
    findings.extend(filters.foreign.iter().map(|chain| {
        Finding::fine(format!("{chain}: not examined, for it sees frames; what it drops is missing here"))
    }));
    findings
}

/// Who runs the examination, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// True for root, who may read filters.
    pub is_root: bool,
    /// True if the instance runs, so that its hooks have had their effect.
    pub is_running: bool,
}

fn unread(filters: &Filters, routers: &[RouterSpec], is_root: bool) -> Option<Finding> {
    if filters.unread.is_empty() {
        return None;
    }
    let what = format!("packet filters: can't be read: {}", filters.unread.join("; "));
    // Masquerading and ports need nftables. Without it the router starts with no protection of the host, unless the file asks
    // for that.
    let needs_table = routers.iter().any(|router| {
        !(router.nat.is_empty() && router.ports.is_empty())
            || (router.has_network() && router.protection.was_asked_for())
    });
    let load = || MODULES.map(|module| format!("modprobe {module}")).join("; ");
    Some(if is_root && filters.lacks_nftables && needs_table {
        Finding::wrong(what, format!("the routers' options need root, and nf_tables: {}", load()))
    } else if is_root && filters.lacks_nftables && routers.iter().any(RouterSpec::has_network) {
        let what = format!("{what}; without nf_tables, vassals reach every service of this host");
        Finding::warning(what, format!("run this check as root; {}", load()))
    } else {
        Finding::warning(what, "run this check as root; a kernel without nf_tables has none to read")
    })
}

/// The finding about a chain that drops a router's packets, or may drop them.
fn judge(
    instance: &Instance,
    router: &RouterSpec,
    chain: &BaseChain,
    found: Option<&Surroundings>,
    asker: Asker,
) -> Option<Finding> {
    let device = router.device.as_str();
    let sees_to_it = |hook: Hook| {
        instance.hooks_mention(&[hook.as_str(), device])
            || instance.hooks_mention(&[&hook.as_str().to_lowercase(), device])
    };
    if !asker.is_running && sees_to_it(chain.hook) {
        return None;
    }
    let (mut closed, mut doubts) = (Vec::new(), Vec::new());
    for is_ipv6 in [false, true].into_iter().filter(|is_ipv6| chain.is_ipv6.is_none_or(|it| it == *is_ipv6)) {
        for (way, packet) in ways(router, chain.hook, is_ipv6, found) {
            match evaluate(chain, &packet) {
                Outcome::Accept | Outcome::Dnat(_) => {}
                Outcome::Drop if closed.contains(&way) => {}
                Outcome::Drop => closed.push(way),
                Outcome::Unknown(doubt) => doubts.push((way, doubt)),
            }
        }
    }
    let list = |ways: &[Way]| ways.iter().map(|way| way.words(device)).collect::<Vec<_>>().join(" and ");
    let BaseChain { table, name, .. } = chain;
    if !closed.is_empty() {
        let is_slight = closed == [Way::Question(PortProtocol::Tcp)] && doubts.is_empty();
        closed.extend(doubts.iter().map(|(way, _)| *way).filter(|way| !closed.contains(way)).collect::<Vec<_>>());
        closed.dedup();
        let what = format!("{table}, chain {name}: drops {}", list(&closed));
        let remedy = remedy(chain, router, &closed);
        // TCP is needed for the few answers that are too long for UDP.
        return Some(if is_slight { Finding::warning(what, remedy) } else { Finding::wrong(what, remedy) });
    }
    let (_, doubt) = doubts.first()?;
    let mut ways: Vec<Way> = doubts.iter().map(|(way, _)| *way).collect();
    ways.dedup();
    let what = format!("{table}, chain {name}: can't tell whether it lets pass {}: see {doubt}", list(&ways));
    Some(Finding::warning(what, remedy(chain, router, &ways)))
}

/// What has to pass at a hook in a version of IP, as far as the router's file says.
fn ways<'a>(
    router: &'a RouterSpec,
    hook: Hook,
    is_ipv6: bool,
    found: Option<&'a Surroundings>,
) -> Vec<(Way, Packet<'a>)> {
    let mut ways = forwarded(router, hook, is_ipv6, found);
    ways.extend(dns(router, hook, is_ipv6, found));
    if let Some(gateway) = router.gateway.filter(|_| matches!(hook, Hook::Prerouting | Hook::Input))
        && (gateway.is_ipv6() == is_ipv6 || gateway.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED))
    {
        ways.push((Way::Gateway(gateway.port()), Packet { is_ipv6, ..gateway_packet(router, gateway, found) }));
    }
    ways
}

/// What the host forwards between vassals and elsewhere.
fn forwarded<'a>(
    router: &'a RouterSpec,
    hook: Hook,
    is_ipv6: bool,
    found: Option<&'a Surroundings>,
) -> Vec<(Way, Packet<'a>)> {
    let mut ways = Vec::new();
    if speaks(router, is_ipv6) {
        let (own, outer) = (vec![router.device.as_str()], uplinks(router, is_ipv6, found));
        let sources: Vec<IpNet> = networks(router, is_ipv6);
        let base = Packet { is_ipv6, ..Packet::default() };
        // Where a packet leaves is known behind the routes.
        let behind_routes = |interfaces: &Vec<&'a str>| match hook {
            Hook::Prerouting | Hook::Input => Vec::new(),
            Hook::Forward | Hook::Output => interfaces.clone(),
        };
        if matches!(hook, Hook::Prerouting | Hook::Forward) {
            let packet = Packet { state: NEW, destination_type: UNICAST, sources: sources.clone(), ..base.clone() };
            ways.push((Way::Out, Packet { iif: own.clone(), oif: behind_routes(&outer), ..packet }));
            let packet = Packet { state: ESTABLISHED, ..base.clone() };
            ways.push((Way::Back, Packet { iif: outer.clone(), oif: behind_routes(&own), ..packet }));
            for mapping in router.ports.iter().filter(|mapping| mapping.target.is_ipv6() == is_ipv6) {
                let is_dnat = hook == Hook::Forward;
                let packet = Packet {
                    iif: outer.clone(),
                    oif: behind_routes(&own),
                    state: NEW,
                    is_dnat,
                    protocol: Some(number(mapping.protocol)),
                    port: Some(if is_dnat { mapping.target.port() } else { mapping.port }),
                    destination: is_dnat.then(|| mapping.target.ip()),
                    destination_type: if is_dnat { UNICAST } else { LOCAL },
                    ..base.clone()
                };
                ways.push((Way::Port, packet));
            }
        }
    }
    ways
}

/// What vassals and the DNS servers of this host send each other.
fn dns<'a>(
    router: &'a RouterSpec,
    hook: Hook,
    is_ipv6: bool,
    found: Option<&'a Surroundings>,
) -> Vec<(Way, Packet<'a>)> {
    let mut ways = Vec::new();
    if speaks(router, is_ipv6) {
        let (own, sources) = (vec![router.device.as_str()], networks(router, is_ipv6));
        let base = Packet { is_ipv6, ..Packet::default() };
        for server in own_servers(router, found).filter(|server| server.is_ipv6() == is_ipv6) {
            for protocol in [PortProtocol::Udp, PortProtocol::Tcp] {
                let packet = Packet { protocol: Some(number(protocol)), ..base.clone() };
                if matches!(hook, Hook::Prerouting | Hook::Input) {
                    let packet = Packet {
                        iif: own.clone(),
                        state: NEW,
                        port: Some(DNS),
                        sources: sources.clone(),
                        destination: Some(server),
                        destination_type: LOCAL,
                        ..packet
                    };
                    ways.push((Way::Question(protocol), packet));
                } else if hook == Hook::Output {
                    let packet = Packet { oif: own.clone(), state: ESTABLISHED, ..packet };
                    let packet = Packet { sources: vec![server.into()], destination_type: UNICAST, ..packet };
                    ways.push((Way::Answer, packet));
                }
            }
        }
    }
    ways
}

/// A datagram from another router, as far as the file says where it comes from.
fn gateway_packet<'a>(router: &RouterSpec, gateway: SocketAddr, found: Option<&'a Surroundings>) -> Packet<'a> {
    let address = gateway.ip();
    let has_it = |own: &&(String, IpNet)| own.1.addr() == address;
    let by_address = found.and_then(|found| found.addresses.iter().find(has_it)).map(|(name, _)| name.as_str());
    let iif = if address.is_loopback() {
        vec!["lo"]
    } else if address.is_unspecified() {
        found.map(|found| default_interfaces(found, gateway.is_ipv6(), &router.device)).unwrap_or_default()
    } else {
        by_address.into_iter().collect()
    };
    Packet {
        iif,
        state: NEW,
        protocol: Some(number(PortProtocol::Udp)),
        port: Some(gateway.port()),
        destination: (!address.is_unspecified()).then_some(address),
        destination_type: LOCAL,
        ..Packet::default()
    }
}

/// The number of a protocol in IP headers.
pub fn number(protocol: PortProtocol) -> u8 {
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    match protocol {
        PortProtocol::Tcp => TCP,
        PortProtocol::Udp => UDP,
    }
}

/// The DNS servers among those for vassals (`tuntap-router-dns`) that are this host.
pub fn own_servers<'a>(
    router: &'a RouterSpec,
    found: Option<&'a Surroundings>,
) -> impl Iterator<Item = IpAddr> + use<'a> {
    let is_own = move |server: &IpAddr| {
        router.addresses.iter().any(|net| net.addr() == *server)
            || found.is_some_and(|found| found.addresses.iter().any(|(_, net)| net.addr() == *server))
    };
    router.dns.iter().copied().filter(is_own)
}

fn networks(router: &RouterSpec, is_ipv6: bool) -> Vec<IpNet> {
    router.addresses.iter().map(IpNet::trunc).filter(|net| net.addr().is_ipv6() == is_ipv6).collect()
}

/// Returns true if a router's vassals use a version of IP, as far as its file says.
pub fn speaks(router: &RouterSpec, is_ipv6: bool) -> bool {
    if router.addresses.is_empty() { !is_ipv6 } else { !networks(router, is_ipv6).is_empty() }
}

/// The interfaces towards other networks: those of `tuntap-router-nat`, or else those of the default routes.
pub fn uplinks<'a>(router: &'a RouterSpec, is_ipv6: bool, found: Option<&'a Surroundings>) -> Vec<&'a str> {
    if !router.nat.is_empty() {
        return router.nat.iter().map(String::as_str).collect();
    }
    found.map(|found| default_interfaces(found, is_ipv6, &router.device)).unwrap_or_default()
}

fn default_interfaces<'a>(found: &'a Surroundings, is_ipv6: bool, device: &str) -> Vec<&'a str> {
    let defaults = found
        .neighbours
        .iter()
        .filter(|to| !to.is_own && to.net.prefix_len() == 0 && matches!(to.net, IpNet::V6(_)) == is_ipv6);
    defaults.map(|to| to.interface.as_str()).filter(|name| !name.is_empty() && *name != device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;
    use tuntap_survey::filter::{FilterRule, Verdict};
    use tuntap_survey::testing::{chain, dnat, iif, oif, rule, state, unclear};

    const ROUTER: (&str, &str) = ("tuntap-router", "emperor0 /run/t.socket");
    const ADDRESS: (&str, &str) = ("tuntap-router-address", "192.168.0.1/24");
    const ADDRESS6: (&str, &str) = ("tuntap-router-address", "fd00:1::1/64");
    const NAT: (&str, &str) = ("tuntap-router-nat", "eth0");
    const ROOT: Asker = Asker { is_root: true, is_running: false };
    const PORT: (&str, &str) = ("tuntap-router-port", "tcp 8080 192.168.0.2:80");

    fn verdicts(lines: &[(&str, &str)], chains: Vec<BaseChain>) -> Vec<Finding> {
        filter(&instance(lines), &Filters { chains, read: vec!["nf_tables"], ..Filters::default() }, None, ROOT)
    }

    fn verdict(lines: &[(&str, &str)], chain: BaseChain) -> Finding {
        verdicts(lines, vec![chain]).swap_remove(0)
    }

    fn accept(conditions: &[tuntap_survey::filter::Condition]) -> FilterRule {
        rule(conditions, Verdict::Accept)
    }

    #[test]
    fn all_ways_must_be_open() {
        let (out, back) = (accept(&[iif("emperor0")]), accept(&[oif("emperor0"), state(ESTABLISHED)]));
        let port = accept(&[oif("emperor0"), dnat()]);
        let fine = &verdicts(&[ROUTER], Vec::new())[0];
        assert_eq!(*fine, Finding::fine("packet filters (nf_tables): no chain sees what is forwarded"));
        let closed = verdict(&[ROUTER], chain(true, Vec::new()));
        assert_eq!(closed.severity, Severity::Wrong);
        assert_eq!(closed.what, "ip filter, chain FORWARD: drops what comes from emperor0 and answers to emperor0");
        assert_eq!(closed.remedy.len(), 2);
        let half = verdict(&[ROUTER], chain(true, vec![out.clone()]));
        assert_eq!(half.what, "ip filter, chain FORWARD: drops answers to emperor0");
        assert_eq!(half.remedy.len(), 1);
        let open = || chain(true, vec![out.clone(), back.clone()]);
        assert_eq!(verdict(&[ROUTER], open()).severity, Severity::Fine);
        let mapped = [ROUTER, ADDRESS, NAT, PORT];
        let no_port = verdict(&mapped, open());
        assert_eq!(no_port.what, "ip filter, chain FORWARD: drops what tuntap-router-port leads to emperor0");
        assert_eq!(no_port.remedy, ["iptables -I FORWARD -o emperor0 -m conntrack --ctstate DNAT -j ACCEPT"]);
        let all = chain(true, vec![out, back, port]);
        assert_eq!(verdict(&mapped, all).severity, Severity::Fine);
    }

    #[test]
    fn chains_of_the_other_version_do_not_matter() {
        let chain = BaseChain { table: "ip6 filter".to_owned(), is_ipv6: Some(true), ..chain(true, Vec::new()) };
        assert_eq!(verdict(&[ROUTER], chain.clone()).severity, Severity::Fine, "no IPv6, as far as is known");
        let closed = verdict(&[ROUTER, ADDRESS6], chain);
        assert!(closed.severity == Severity::Wrong && closed.remedy[0].starts_with("ip6tables "), "{closed:?}");
    }

    #[test]
    fn hook_that_sees_to_it_is_believed() {
        let own = ("exec-as-root", "iptables -I FORWARD -i emperor0 -j ACCEPT");
        assert_eq!(verdict(&[ROUTER, own], chain(true, Vec::new())).severity, Severity::Fine);
    }

    #[test]
    fn doubt_is_a_warning_that_says_where_to_look() {
        let unclear = chain(true, vec![accept(&[unclear()])]);
        let finding = verdict(&[ROUTER], unclear);
        assert_eq!(finding.severity, Severity::Warning);
        assert!(finding.what.ends_with("see rule 1 of FORWARD (payload)"), "{finding:?}");
    }

    #[test]
    fn filters_that_cannot_be_read_are_told() {
        let filters =
            |lacks_nftables| Filters { unread: vec!["EPERM".to_owned()], lacks_nftables, ..Filters::default() };
        let worst = |lines, lacks| filter(&instance(lines), &filters(lacks), None, ROOT)[0].severity;
        assert_eq!(worst(&[ROUTER], true), Severity::Warning);
        assert_eq!(worst(&[ROUTER, ADDRESS, NAT], true), Severity::Wrong);
        assert_eq!(worst(&[ROUTER, ADDRESS, NAT], false), Severity::Warning, "the older one isn't needed");
        assert_eq!(
            filter(&instance(&[ROUTER]), &filters(true), None, ROOT).len(),
            1,
            "nothing is fine that wasn't seen"
        );
    }

    #[test]
    fn hook_of_an_instance_that_runs_has_done_what_it_does() {
        let own = ("exec-as-root", "iptables -I FORWARD -i emperor0 -j ACCEPT");
        let filters = Filters { chains: vec![chain(true, Vec::new())], read: vec!["nf_tables"], ..Filters::default() };
        let running = Asker { is_running: true, ..ROOT };
        assert_eq!(filter(&instance(&[ROUTER, own]), &filters, None, running)[0].severity, Severity::Wrong);
    }

    fn input(rules: Vec<FilterRule>) -> BaseChain {
        BaseChain { name: "INPUT".to_owned(), hook: Hook::Input, ..chain(true, rules) }
    }

    #[test]
    fn own_dns_server_must_be_reached() {
        let dns = ("tuntap-router-dns", "192.168.0.1");
        let elsewhere = ("tuntap-router-dns", "9.9.9.9");
        let closed = verdict(&[ROUTER, ADDRESS, dns], input(Vec::new()));
        assert_eq!(
            closed.what,
            "ip filter, chain INPUT: drops questions by udp from emperor0 for the DNS server of this host and questions \
             by tcp from emperor0 for the DNS server of this host"
        );
        assert_eq!(closed.remedy[0], "iptables -I INPUT -i emperor0 -p udp --dport 53 -j ACCEPT");
        assert_eq!(verdict(&[ROUTER, ADDRESS, elsewhere], input(Vec::new())).severity, Severity::Fine);
        assert_eq!(verdict(&[ROUTER, ADDRESS], input(Vec::new())).severity, Severity::Fine, "nobody asks it");
        let udp = tuntap_survey::filter::Condition {
            test: tuntap_survey::filter::Test::Protocol(vec![17..=17]),
            is_negated: false,
        };
        let half = verdict(&[ROUTER, ADDRESS, dns], input(vec![accept(&[udp])]));
        assert_eq!(half.severity, Severity::Warning, "long answers only");
    }

    #[test]
    fn answers_and_gateways_must_pass() {
        let output = BaseChain { name: "OUTPUT".to_owned(), hook: Hook::Output, ..chain(true, Vec::new()) };
        let dns = ("tuntap-router-dns", "192.168.0.1");
        let closed = verdict(&[ROUTER, ADDRESS, dns], output);
        assert_eq!(
            closed.remedy,
            ["iptables -I OUTPUT -o emperor0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]
        );
        let gateway = ("tuntap-router", "emperor0 /run/t.socket \"\" :999");
        let closed = verdict(&[gateway], input(Vec::new()));
        assert_eq!(closed.remedy, ["iptables -I INPUT -p udp --dport 999 -j ACCEPT"]);
    }

    #[test]
    fn firewalls_are_told_in_their_own_words() {
        let dns = ("tuntap-router-dns", "192.168.0.1");
        let firewalld = BaseChain { table: "inet firewalld".to_owned(), is_ipv6: None, ..input(Vec::new()) };
        let remedy = verdict(&[ROUTER, ADDRESS, dns], firewalld).remedy;
        assert!(remedy[0].contains("source address=192.168.0.0/24 service name=dns"), "{remedy:?}");
        let mut ufw = input(Vec::new());
        ufw.others.insert("ufw-before-input".to_owned(), Vec::new());
        let remedy = verdict(&[ROUTER, ADDRESS, dns], ufw).remedy;
        assert_eq!(remedy.last().map(String::as_str), Some("(ufw: ufw allow in on emperor0 to any port 53)"));
    }
}
