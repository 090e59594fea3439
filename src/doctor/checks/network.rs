//! The way from a router's device to the rest of the world.

use ipnet::IpNet;

use super::filter::speaks;
use crate::config::RouterSpec;
use crate::doctor::finding::Finding;
use crate::doctor::instance::Instance;
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
}
