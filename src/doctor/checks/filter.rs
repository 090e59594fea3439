//! Whether packet filters let pass what routers' devices forward.

use ipnet::IpNet;

use super::passage::{Packet, Passage, passage};
use crate::config::RouterSpec;
use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
use crate::sys::netlink::nftables::MODULES;
use crate::sys::survey::filter::{ESTABLISHED, Filters, ForwardChain, NEW};
use crate::sys::survey::network::Surroundings;

/// A kind of packet that has to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From a vassal.
    Out,
    /// What comes back to it.
    Back,
    /// What comes to a mapped port.
    Port,
}

impl Way {
    fn words(self, device: &str) -> String {
        match self {
            Self::Out => format!("what comes from {device}"),
            Self::Back => format!("answers to {device}"),
            Self::Port => format!("what tuntap-router-port leads to {device}"),
        }
    }
}

/// Whether a packet of each kind passes all filters. `found` tells where packets go. Only root may read filters.
pub fn filter(instance: &Instance, filters: &Filters, found: Option<&Surroundings>, is_root: bool) -> Vec<Finding> {
    let routers = &instance.config.routers;
    let mut findings: Vec<Finding> = unread(filters, routers, is_root).into_iter().collect();
    let count = findings.len();
    for router in routers {
        // The router's own table is made for it; whether it is somebody else's is asked elsewhere.
        let own = format!("inet {}", router.table_name());
        for chain in filters.chains.iter().filter(|chain| chain.table != own) {
            findings.extend(judge(instance, router, chain, found));
        }
    }
    if findings.len() == count && !filters.read.is_empty() {
        let devices: Vec<&str> = routers.iter().map(|router| router.device.as_str()).collect();
        let devices = devices.join(", ");
        let what = match filters.chains.len() {
            0 => "no chain sees what is forwarded".to_owned(),
            1 => format!("the chain that sees what is forwarded lets pass what {devices} needs"),
            some => format!("the {some} chains that see what is forwarded let pass what {devices} needs"),
        };
        findings.push(Finding::fine(format!("packet filters ({}): {what}", filters.read.join(", "))));
    }
    findings
}

fn unread(filters: &Filters, routers: &[RouterSpec], is_root: bool) -> Option<Finding> {
    if filters.unread.is_empty() {
        return None;
    }
    let what = format!("packet filters: can't be read: {}", filters.unread.join("; "));
    let needs_table = routers.iter().any(|router| !(router.nat.is_empty() && router.ports.is_empty()));
    Some(if is_root && needs_table && filters.lacks_nftables {
        let load = MODULES.map(|module| format!("modprobe {module}")).join("; ");
        let remedy = format!("tuntap-router-nat and -port need root, and nf_tables: {load}");
        Finding::wrong(what, remedy)
    } else {
        Finding::warning(what, "run this check as root; a kernel without nf_tables has none to read")
    })
}

/// What a chain does to a router's packets, if it is nothing good.
fn judge(
    instance: &Instance,
    router: &RouterSpec,
    chain: &ForwardChain,
    found: Option<&Surroundings>,
) -> Option<Finding> {
    let device = router.device.as_str();
    if instance.hooks_mention(&["FORWARD", device]) || instance.hooks_mention(&["forward", device]) {
        return None;
    }
    let (mut closed, mut doubts) = (Vec::new(), Vec::new());
    for is_ipv6 in [false, true].into_iter().filter(|is_ipv6| chain.is_ipv6.is_none_or(|it| it == *is_ipv6)) {
        for way in ways(router, is_ipv6) {
            match passage(chain, &packet(way, router, is_ipv6, found)) {
                Passage::Open => {}
                Passage::Closed if closed.contains(&way) => {}
                Passage::Closed => closed.push(way),
                Passage::Unknown(doubt) => doubts.push((way, doubt)),
            }
        }
    }
    let list = |ways: &[Way]| ways.iter().map(|way| way.words(device)).collect::<Vec<_>>().join(" and ");
    let ForwardChain { table, name, .. } = chain;
    if !closed.is_empty() {
        closed.extend(doubts.iter().map(|(way, _)| *way));
        closed.dedup();
        return Some(Finding::wrong(
            format!("{table}, chain {name}: drops {}", list(&closed)),
            remedy(chain, device, &closed),
        ));
    }
    let (_, doubt) = doubts.first()?;
    let mut ways: Vec<Way> = doubts.iter().map(|(way, _)| *way).collect();
    ways.dedup();
    let what = format!("{table}, chain {name}: can't tell whether it lets pass {}: see {doubt}", list(&ways));
    Some(Finding::warning(what, remedy(chain, device, &ways)))
}

/// What has to pass in a version of IP, as far as the router's file tells.
fn ways(router: &RouterSpec, is_ipv6: bool) -> Vec<Way> {
    if !speaks(router, is_ipv6) {
        return Vec::new();
    }
    let has_ports = router.ports.iter().any(|mapping| mapping.target.is_ipv6() == is_ipv6);
    let ports = has_ports.then_some(Way::Port);
    [Way::Out, Way::Back].into_iter().chain(ports).collect()
}

/// Whether packets of a version of IP come from a router's vassals, as far as its file tells.
pub fn speaks(router: &RouterSpec, is_ipv6: bool) -> bool {
    let is_of_version = |net: &IpNet| matches!(net, IpNet::V6(_)) == is_ipv6;
    if router.addresses.is_empty() { !is_ipv6 } else { router.addresses.iter().any(is_of_version) }
}

fn packet<'a>(way: Way, router: &'a RouterSpec, is_ipv6: bool, found: Option<&'a Surroundings>) -> Packet<'a> {
    let (own, outer) = (vec![router.device.as_str()], uplinks(router, is_ipv6, found));
    let (came_by, leaves_by) = if way == Way::Out { (own, outer) } else { (outer, own) };
    let state = if way == Way::Back { ESTABLISHED } else { NEW };
    Packet { came_by, leaves_by, is_ipv6, state, is_diverted: way == Way::Port }
}

/// The interfaces towards the world: those that are named, else those of the default routes.
fn uplinks<'a>(router: &'a RouterSpec, is_ipv6: bool, found: Option<&'a Surroundings>) -> Vec<&'a str> {
    if !router.nat.is_empty() {
        return router.nat.iter().map(String::as_str).collect();
    }
    let neighbours = found.map(|found| found.neighbours.as_slice()).unwrap_or_default();
    let defaults = neighbours
        .iter()
        .filter(|to| !to.is_own && to.net.prefix_len() == 0 && matches!(to.net, IpNet::V6(_)) == is_ipv6);
    defaults.map(|to| to.interface.as_str()).filter(|name| !name.is_empty() && *name != router.device).collect()
}

fn remedy(chain: &ForwardChain, device: &str, ways: &[Way]) -> String {
    let ForwardChain { table, name, .. } = chain;
    let (program, firewall) = match table.as_str() {
        "ip filter" if name == "FORWARD" => (Some("iptables"), None),
        "ip6 filter" if name == "FORWARD" => (Some("ip6tables"), None),
        "iptables-legacy filter" | "ip6tables-legacy filter" => (table.strip_suffix(" filter"), None),
        "inet firewalld" => (
            None,
            Some(format!("firewall-cmd --permanent --zone=trusted --add-interface={device}; firewall-cmd --reload")),
        ),
        _ => (None, None),
    };
    let line = |way: &Way| match (program, way) {
        (Some(program), Way::Out) => format!("{program} -I FORWARD -i {device} -j ACCEPT"),
        (Some(program), Way::Back) => {
            format!("{program} -I FORWARD -o {device} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
        }
        (Some(program), Way::Port) => format!("{program} -I FORWARD -o {device} -m conntrack --ctstate DNAT -j ACCEPT"),
        (None, Way::Out) => format!("nft insert rule {table} {name} iifname {device} accept"),
        (None, Way::Back) => {
            format!("nft insert rule {table} {name} oifname {device} ct state established,related accept")
        }
        (None, Way::Port) => format!("nft insert rule {table} {name} oifname {device} ct status dnat accept"),
    };
    if let Some(firewall) = firewall {
        return firewall;
    }
    let mut lines: Vec<String> = ways.iter().map(line).collect();
    if chain.others.keys().any(|name| name.starts_with("ufw")) {
        lines.push(format!("(ufw: ufw route allow in on {device}; ufw route allow out on {device})"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::passage::tests::{came_by, chain, diverted, leaves_by, rule, state, unclear};
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::instance::tests::instance;
    use crate::sys::survey::filter::{Rule, Verdict};

    const ROUTER: (&str, &str) = ("tuntap-router", "emperor0 /run/t.socket");
    const ADDRESS: (&str, &str) = ("tuntap-router-address", "192.168.0.1/24");
    const ADDRESS6: (&str, &str) = ("tuntap-router-address", "fd00:1::1/64");
    const NAT: (&str, &str) = ("tuntap-router-nat", "eth0");
    const PORT: (&str, &str) = ("tuntap-router-port", "tcp 8080 192.168.0.2:80");

    fn verdicts(lines: &[(&str, &str)], chains: Vec<ForwardChain>) -> Vec<Finding> {
        filter(&instance(lines), &Filters { chains, read: vec!["nf_tables"], ..Filters::default() }, None, true)
    }

    fn verdict(lines: &[(&str, &str)], chain: ForwardChain) -> Finding {
        verdicts(lines, vec![chain]).swap_remove(0)
    }

    fn accept(conditions: &[crate::sys::survey::filter::Condition]) -> Rule {
        rule(conditions, Verdict::Accept)
    }

    #[test]
    fn all_ways_must_be_open() {
        let (out, back) = (accept(&[came_by("emperor0")]), accept(&[leaves_by("emperor0"), state(ESTABLISHED)]));
        let port = accept(&[leaves_by("emperor0"), diverted()]);
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
        let chain = ForwardChain { table: "ip6 filter".to_owned(), is_ipv6: Some(true), ..chain(true, Vec::new()) };
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
        let worst = |lines, lacks| filter(&instance(lines), &filters(lacks), None, true)[0].severity;
        assert_eq!(worst(&[ROUTER], true), Severity::Warning);
        assert_eq!(worst(&[ROUTER, ADDRESS, NAT], true), Severity::Wrong);
        assert_eq!(worst(&[ROUTER, ADDRESS, NAT], false), Severity::Warning, "the older one isn't needed");
        assert_eq!(
            filter(&instance(&[ROUTER]), &filters(true), None, true).len(),
            1,
            "nothing is fine that wasn't seen"
        );
    }
}
