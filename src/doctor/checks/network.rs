//! The way from a router's device to the rest of the world.

use ipnet::IpNet;

use crate::config::RouterSpec;
use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
use crate::sys::survey::filter::DroppingChain;
use crate::sys::survey::network::{Neighbour, Surroundings};

/// Whether the host passes on what comes from the vassals of a router's instance. The error says why nobody knows.
pub fn forwarding(instance: &Instance, found: &Result<Surroundings, String>) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(reason) => return vec![Finding::warning(format!("interfaces and routes can't be read: {reason}"), "")],
    };
    let routers = &instance.config.routers;
    let mut findings = Vec::new();
    for (is_ipv6, is_on, sysctl) in
        [(false, found.ipv4, "net.ipv4.ip_forward"), (true, found.ipv6, "net.ipv6.conf.all.forwarding")]
    {
        let concerned: Vec<&RouterSpec> = routers.iter().filter(|router| speaks(router, is_ipv6)).collect();
        if !concerned.is_empty() {
            findings.push(family_forwarding(instance, &concerned, is_on, sysctl));
            findings.extend(default_route(found, is_ipv6));
        }
    }
    if found.strict_sources && routers.iter().any(|router| router.gateway.is_some()) {
        findings.push(Finding::warning(
            "net.ipv4.conf.*.rp_filter is strict: packets that come by the gateway are dropped unless their source is \
             routed to the router's device",
            "ip route add <the other router's network> dev <device>; or sysctl -w net.ipv4.conf.all.rp_filter=2",
        ));
    }
    for router in routers {
        findings.extend(nat_interfaces(router, found));
        findings.extend(router.addresses.iter().filter_map(|own| overlap(router, own, found)));
    }
    findings
}

/// Whether packets of a family come from a router's vassals, as far as its file tells.
fn speaks(router: &RouterSpec, is_ipv6: bool) -> bool {
    let is_of_family = |net: &IpNet| matches!(net, IpNet::V6(_)) == is_ipv6;
    if router.addresses.is_empty() { !is_ipv6 } else { router.addresses.iter().any(is_of_family) }
}

fn family_forwarding(instance: &Instance, routers: &[&RouterSpec], is_on: bool, sysctl: &str) -> Finding {
    if is_on {
        return Finding::fine(format!("{sysctl} is on"));
    }
    if routers.iter().all(|router| !(router.nat.is_empty() && router.ports.is_empty())) {
        return Finding::fine(format!("{sysctl} is off; tuntap-router-nat and -port see to what they need"));
    }
    if instance.hooks_mention(&["forward", "/proc/sys/net"]) || instance.hooks_mention(&["forward", "sysctl"]) {
        return Finding::fine(format!("{sysctl} is off; a line of {} sees to it", instance.file));
    }
    let remedy =
        format!("tuntap-router-nat = <the interface to the internet>; or sysctl -w {sysctl}=1, kept in /etc/sysctl.d");
    if instance.config.switch {
        let what = format!("{sysctl} is off: vassals reach each other and this host, nothing else");
        return Finding::warning(what, remedy);
    }
    Finding::wrong(format!("{sysctl} is off: vassals reach this host, nothing else, and not each other"), remedy)
}

fn default_route(found: &Surroundings, is_ipv6: bool) -> Option<Finding> {
    let is_default =
        |to: &Neighbour| !to.is_own && to.net.prefix_len() == 0 && matches!(to.net, IpNet::V6(_)) == is_ipv6;
    let (family, program) = if is_ipv6 { ("IPv6", "ip -6") } else { ("IPv4", "ip") };
    (!found.neighbours.iter().any(is_default)).then(|| {
        Finding::warning(
            format!("no default route for {family}: vassals reach this host's own networks at most"),
            format!("{program} route add default via <the gateway of this host's network>"),
        )
    })
}

fn nat_interfaces(router: &RouterSpec, found: &Surroundings) -> Vec<Finding> {
    let missing = router.nat.iter().filter(|name| !found.interfaces.contains(name));
    missing
        .map(|name| {
            Finding::wrong(
                format!("tuntap-router-nat = {} {name}: there is no interface {name}", router.device),
                format!("one of {} (ip -brief link)", found.interfaces.join(", ")),
            )
        })
        .collect()
}

/// Whether a router's network is somewhere else already.
fn overlap(router: &RouterSpec, own: &IpNet, found: &Surroundings) -> Option<Finding> {
    let own_net = own.trunc();
    let meets = |other: &&Neighbour| {
        let net = &other.net;
        other.interface != router.device && net.prefix_len() > 0 && (net.contains(&own_net) || own_net.contains(net))
    };
    let other = found.neighbours.iter().find(meets)?;
    let option = format!("tuntap-router-address = {} {own}", router.device);
    let place = match (other.interface.as_str(), other.is_own) {
        ("", _) => format!("a route to {}", other.net),
        (interface, true) => format!("{} of {interface}", other.net),
        (interface, false) => format!("a route to {} by {interface}", other.net),
    };
    let remedy = "another network in tuntap-router-address, and in the vassals' addresses and leases";
    Some(if !other.is_own && other.net.prefix_len() < own_net.prefix_len() {
        Finding::warning(format!("{option}: hides a part of {place}"), remedy)
    } else {
        Finding::wrong(format!("{option}: overlaps with {place}"), remedy)
    })
}

/// Whether packet filters let pass what comes from a router's device and goes to it. `chains` are those that drop what no
/// rule accepts; the error says why they can't be read.
pub fn filter(instance: &Instance, chains: &Result<Vec<DroppingChain>, String>) -> Vec<Finding> {
    let routers = &instance.config.routers;
    let chains = match chains {
        Ok(chains) => chains,
        Err(reason) => {
            let what = format!("packet filters: can't be read: {reason}");
            let needs_table = routers.iter().any(|router| !(router.nat.is_empty() && router.ports.is_empty()));
            return vec![if needs_table {
                Finding::wrong(
                    what,
                    "tuntap-router-nat and -port need root, and nf_tables: modprobe nf_tables nft_nat nft_masq",
                )
            } else {
                Finding::warning(what, "run this check as root; a kernel without nf_tables has none to read")
            }];
        }
    };
    let is_open = |chain: &DroppingChain, device: &str| {
        chain.named.iter().any(|name| name == device)
            || instance.hooks_mention(&["FORWARD", device])
            || instance.hooks_mention(&["forward", device])
    };
    let closed = routers.iter().flat_map(|router| {
        let device = router.device.as_str();
        let concerned = |chain: &&DroppingChain| match chain.table.split_once(' ') {
            Some(("ip6", _)) => speaks(router, true),
            Some(("inet", _)) => true,
            _ => speaks(router, false),
        };
        let closed = chains.iter().filter(concerned).filter(move |chain| !is_open(chain, device));
        closed.map(move |chain| closed_chain(chain, device))
    });
    let mut findings: Vec<Finding> = closed.collect();
    if findings.is_empty() {
        findings.push(Finding::fine("packet filters: none drops all that is forwarded"));
    }
    findings
}

fn closed_chain(chain: &DroppingChain, device: &str) -> Finding {
    let DroppingChain { table, name, .. } = chain;
    let what = format!("{table}, chain {name}: drops what is forwarded, and none of its rules names {device}");
    let remedy = match table.as_str() {
        "iptables-legacy filter" => both_ways("iptables-legacy", device),
        "ip filter" if name == "FORWARD" => both_ways("iptables", device),
        "ip6 filter" if name == "FORWARD" => both_ways("ip6tables", device),
        _ => format!(
            "nft insert rule {table} {name} iifname {device} accept\n\
             nft insert rule {table} {name} oifname {device} ct state established,related accept\n\
             (firewalld: firewall-cmd --zone=trusted --add-interface={device})"
        ),
    };
    Finding::wrong(what, remedy)
}

fn both_ways(program: &str, device: &str) -> String {
    format!(
        "{program} -I FORWARD -i {device} -j ACCEPT\n\
         {program} -I FORWARD -o {device} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         (ufw: ufw route allow in on {device})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Severity;
    use crate::doctor::instance::tests::instance;

    const ROUTER: (&str, &str) = ("tuntap-router", "emperor0 /run/t.socket");
    fn neighbour(net: &str, interface: &str, is_own: bool) -> Neighbour {
        Neighbour { net: net.parse().expect("a network"), interface: interface.to_owned(), is_own }
    }

    /// A host with one interface, which forwards.
    fn open() -> Surroundings {
        Surroundings {
            ipv4: true,
            ipv6: true,
            strict_sources: false,
            interfaces: vec!["eth0".to_owned()],
            neighbours: vec![
                neighbour("203.0.113.0/24", "eth0", true),
                neighbour("0.0.0.0/0", "eth0", false),
                neighbour("::/0", "eth0", false),
                neighbour("10.0.0.0/8", "vpn0", false),
            ],
        }
    }

    fn worst(lines: &[(&str, &str)], found: Surroundings) -> Finding {
        let findings = forwarding(&instance(lines), &Ok(found));
        findings.into_iter().max_by_key(|finding| finding.severity).expect("a finding")
    }

    fn severity(lines: &[(&str, &str)], found: Surroundings) -> Severity {
        worst(lines, found).severity
    }

    const ADDRESS: (&str, &str) = ("tuntap-router-address", "192.168.0.1/24");
    const ADDRESS6: (&str, &str) = ("tuntap-router-address", "fd00:1::1/64");

    #[test]
    fn host_must_forward() {
        assert_eq!(severity(&[ROUTER], open()), Severity::Fine);
        let off = Surroundings { ipv4: false, ipv6: false, ..open() };
        assert_eq!(severity(&[ROUTER], off.clone()), Severity::Wrong);
        assert_eq!(severity(&[ROUTER, ("tuntap-router-switch", "true")], off.clone()), Severity::Warning);
        let sets = ("exec-as-root", "echo 1 >/proc/sys/net/ipv4/ip_forward");
        assert_eq!(severity(&[ROUTER, sets], off.clone()), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS, ("tuntap-router-nat", "eth0")], off.clone()), Severity::Fine);
        let only_ipv4 = Surroundings { ipv4: true, ..off };
        assert_eq!(severity(&[ROUTER, ADDRESS], only_ipv4.clone()), Severity::Fine);
        assert!(worst(&[ROUTER, ADDRESS, ADDRESS6], only_ipv4).what.starts_with("net.ipv6.conf.all.forwarding is off"));
    }

    #[test]
    fn missing_routes_and_strict_sources_are_warnings() {
        let local = |net| Surroundings { neighbours: vec![neighbour(net, "eth0", false)], ..open() };
        assert_eq!(severity(&[ROUTER], local("::/0")), Severity::Warning);
        assert_eq!(severity(&[ROUTER], local("0.0.0.0/0")), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS6], local("0.0.0.0/0")), Severity::Warning);
        let strict = Surroundings { strict_sources: true, ..open() };
        assert_eq!(severity(&[ROUTER], strict.clone()), Severity::Fine);
        let gateway = ("tuntap-router", "emperor0 /run/t.socket \"\" 127.0.0.1:999");
        assert_eq!(severity(&[gateway], strict), Severity::Warning);
    }

    #[test]
    fn networks_must_be_free() {
        let address = |net| [ROUTER, ("tuntap-router-address", net)];
        assert_eq!(severity(&address("192.168.0.1/24"), open()), Severity::Fine);
        let taken = worst(&address("203.0.113.129/25"), open());
        assert_eq!(taken.severity, Severity::Wrong);
        assert_eq!(
            taken.what,
            "tuntap-router-address = emperor0 203.0.113.129/25: overlaps with 203.0.113.0/24 of eth0"
        );
        assert_eq!(severity(&address("10.9.0.1/24"), open()), Severity::Warning, "a part of a network behind a VPN");
        let mut running = open();
        running.neighbours.push(neighbour("192.168.0.0/24", "emperor0", true));
        assert_eq!(severity(&address("192.168.0.1/24"), running), Severity::Fine, "its own");
    }

    #[test]
    fn nat_needs_its_interface() {
        let missing = worst(&[ROUTER, ADDRESS, ("tuntap-router-nat", "eth7")], open());
        assert_eq!(missing.severity, Severity::Wrong);
        assert!(missing.remedy[0].contains("eth0"), "{missing:?}");
    }

    #[test]
    fn dropping_chain_must_name_the_device() {
        let chain = |named: &[&str]| DroppingChain {
            table: "ip filter".to_owned(),
            name: "FORWARD".to_owned(),
            named: named.iter().map(|name| (*name).to_owned()).collect(),
        };
        let verdict =
            |lines: &[(&str, &str)], chains: Vec<DroppingChain>| filter(&instance(lines), &Ok(chains))[0].clone();
        assert_eq!(verdict(&[ROUTER], Vec::new()).severity, Severity::Fine);
        assert_eq!(verdict(&[ROUTER], vec![chain(&["emperor0"])]).severity, Severity::Fine);
        let own = ("exec-as-root", "iptables -I FORWARD -i emperor0 -j ACCEPT");
        assert_eq!(verdict(&[ROUTER, own], vec![chain(&[])]).severity, Severity::Fine);
        let closed = verdict(&[ROUTER], vec![chain(&[])]);
        assert_eq!(closed.severity, Severity::Wrong);
        assert_eq!(closed.remedy[0], "iptables -I FORWARD -i emperor0 -j ACCEPT");
        let ip6 = DroppingChain { table: "ip6 filter".to_owned(), ..chain(&[]) };
        assert_eq!(verdict(&[ROUTER], vec![ip6.clone()]).severity, Severity::Fine, "no IPv6, as far as is known");
        assert_eq!(verdict(&[ROUTER, ADDRESS6], vec![ip6]).severity, Severity::Wrong);
        let unreadable = |lines: &[(&str, &str)]| filter(&instance(lines), &Err("EPERM".to_owned()))[0].severity;
        assert_eq!(unreadable(&[ROUTER]), Severity::Warning);
        assert_eq!(unreadable(&[ROUTER, ADDRESS, ("tuntap-router-nat", "eth0")]), Severity::Wrong);
    }
}
