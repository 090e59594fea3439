//! Forwarding, routes and networks between a router's device and the rest of the world.

use std::net::IpAddr;

use ipnet::IpNet;

use super::filter::speaks;
use super::live;
use crate::finding::{Finding, Severity};
use crate::instance::Instance;
use tuntap_config::RouterSpec;
use tuntap_core::policy::grant::Grant;
use tuntap_host::{self, Conflict, Networks};
use tuntap_survey::network::{Neighbour, Surroundings};

/// Checks that the host forwards packets of the vassals of a router's instance. The error says why the facts can't be read.
/// `is_running`: the instance runs, and its hooks have had their effect.
pub fn forwarding(instance: &Instance, found: &Result<Surroundings, String>, is_running: bool) -> Vec<Finding> {
    let found = match found {
        Ok(found) => found,
        Err(reason) => {
            let what = format!("interfaces, addresses and routes: not examined, for they can't be read: {reason}");
            return vec![Finding::warning(what, "run this check as root, in the network namespace of the router")];
        }
    };
    let routers = &instance.config.routers;
    let mut findings = Vec::new();
    let closed: Vec<Finding> = routers.iter().flat_map(|router| live::forwarding(router, found, is_running)).collect();
    for (is_ipv6, is_on, sysctl) in
        [(false, found.ipv4, "net.ipv4.ip_forward"), (true, found.ipv6, "net.ipv6.conf.all.forwarding")]
    {
        let concerned: Vec<&RouterSpec> = routers.iter().filter(|router| speaks(router, is_ipv6)).collect();
        if concerned.is_empty() {
            continue;
        }
        if is_ipv6 && !found.has_ipv6 {
            findings.push(without_ipv6(&concerned));
            continue;
        }
        let general = family_forwarding(instance, &concerned, is_on, sysctl, is_running);
        // That forwarding is on in general is of no interest if it is off for one of the interfaces.
        if closed.is_empty() || general.severity != Severity::Fine {
            findings.push(general);
        }
        findings.extend(concerned.iter().filter(|_| !is_on).filter_map(|router| closed_ports(router, is_ipv6)));
        findings.extend(default_route(found, is_ipv6));
        findings.extend(locked_settings(found, &concerned, is_ipv6));
    }
    findings.extend(closed);
    if found.strict_sources && routers.iter().any(|router| router.gateway.is_some()) {
        findings.push(Finding::warning(
            "net.ipv4.conf.*.rp_filter is strict: packets that come by the gateway are dropped unless their source is \
             routed to the router's device",
            "ip route add <the other router's network> dev <device>; or sysctl -w net.ipv4.conf.all.rp_filter=2",
        ));
    }
    for router in routers {
        findings.extend(nat_interfaces(router, found));
    }
    findings
}

fn family_forwarding(
    instance: &Instance,
    routers: &[&RouterSpec],
    is_on: bool,
    sysctl: &str,
    is_running: bool,
) -> Finding {
    if is_on {
        return Finding::fine(format!("{sysctl} is on"));
    }
    if routers.iter().all(|router| !(router.nat.is_empty() && router.ports.is_empty())) {
        return Finding::fine(format!("{sysctl} is off; tuntap-router-nat and -port see to what they need"));
    }
    let has_hook =
        instance.hooks_mention(&["forward", "/proc/sys/net"]) || instance.hooks_mention(&["forward", "sysctl"]);
    if has_hook && is_running {
        return Finding::wrong(
            format!(
                "{sysctl} is off, although a line of {} turned it on: somebody has turned it off since",
                instance.file
            ),
            format!("sysctl -w {sysctl}=1, kept in /etc/sysctl.d"),
        );
    }
    if has_hook {
        return Finding::fine(format!("{sysctl} is off; a line of {} sees to it", instance.file));
    }
    let sysctl_remedy = format!("sysctl -w {sysctl}=1, kept in /etc/sysctl.d");
    let remedy = if routers.iter().any(|router| router.addresses.is_empty()) {
        format!(
            "tuntap-router-address = <the vassals' network's first address>/<len> and tuntap-router-nat = <the interface \
             to the internet>\nor {sysctl_remedy}"
        )
    } else {
        format!("tuntap-router-nat = <the interface to the internet>; or {sysctl_remedy}")
    };
    if instance.config.switch {
        let what = format!("{sysctl} is off: vassals reach each other and this host, nothing else");
        return Finding::warning(what, remedy);
    }
    let what = format!("{sysctl} is off: vassals reach this host, nothing else, and not each other");
    // An operator who only gives the host an address may want no forwarding. One who masquerades wants it.
    let gives_address =
        |router: &&RouterSpec| !router.addresses.is_empty() || instance.hooks_mention(&[&router.device]);
    if routers.iter().all(gives_address)
        && !instance.hooks_mention(&["MASQUERADE"])
        && !instance.hooks_mention(&["masquerade"])
    {
        return Finding::warning(what, remedy);
    }
    Finding::wrong(what, remedy)
}

fn without_ipv6(routers: &[&RouterSpec]) -> Finding {
    const REMEDY: &str = "sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0; if there are no \
                          such settings, boot without ipv6.disable=1\nor leave the IPv6 addresses out";
    if routers.iter().all(|router| speaks(router, false)) {
        return Finding::warning("IPv6 is off on this host: routers and vassals have IPv4 only", REMEDY);
    }
    Finding::wrong("IPv6 is off on this host, and a router has addresses of IPv6 only", REMEDY)
}

/// Checks that mapped ports can be reached. That takes interfaces that forward, and without `tuntap-router-nat` only the
/// router's own device is made to.
fn closed_ports(router: &RouterSpec, is_ipv6: bool) -> Option<Finding> {
    let has_ports = router.ports.iter().any(|mapping| mapping.target.is_ipv6() == is_ipv6);
    (has_ports && router.nat.is_empty()).then(|| {
        Finding::warning(
            format!(
                "tuntap-router-port of {}: no interface of this host forwards, so that nobody outside reaches it",
                router.device
            ),
            format!("tuntap-router-nat = {} <the interface that clients come by>", router.device),
        )
    })
}

/// Checks that the settings which the start has to change can be changed.
fn locked_settings(found: &Surroundings, routers: &[&RouterSpec], is_ipv6: bool) -> Option<Finding> {
    let reason = found.locked.as_ref()?;
    let needs_them = routers.iter().any(|router| !(router.nat.is_empty() && router.ports.is_empty()));
    (needs_them && !found.settings_may_stay[usize::from(is_ipv6)]).then(|| {
        let family = if is_ipv6 { "IPv6" } else { "IPv4" };
        Finding::wrong(
            format!("tuntap-router-nat and -port turn forwarding of {family} on, but /proc/sys/net can't be written to: {reason}"),
            "start uWSGI as root; in a container: mount /proc/sys/net writable (docker: --privileged, or --sysctl \
             net.ipv4.ip_forward=1 and net.ipv6.conf.all.forwarding=1, which is enough before Linux 6.17)",
        )
    })
}

/// Checks that the router's table of nftables isn't somebody else's, which would stop the start.
pub fn table(router: &RouterSpec, is_taken: impl Fn(&str) -> bool) -> Option<Finding> {
    let name = router.table_name();
    (router.needs_table() && is_taken(&name)).then(|| {
        Finding::wrong(
            format!("nftables: the table inet {name} is somebody else's, and the router of {} needs it", router.device),
            format!(
                "nft list table inet {name} shows it\nnft delete table inet {name}; or another device in tuntap-router"
            ),
        )
    })
}

/// Finds networks that routers of two files have.
pub fn shared_networks(instance: &Instance, others: &[&Instance]) -> Vec<Finding> {
    let own = instance
        .config
        .routers
        .iter()
        .flat_map(|router| router.addresses.iter().filter(|net| !router.meant.addresses.contains(net)));
    let clash = |own: &IpNet| {
        let own_net = own.trunc();
        let find = |other: &&&Instance| {
            let nets = other.config.routers.iter().flat_map(|router| &router.addresses);
            nets.map(IpNet::trunc).any(|net| net.contains(&own_net) || own_net.contains(&net))
        };
        let other = others.iter().find(find)?;
        Some(Finding::wrong(
            format!("tuntap-router-address {own}: a router of {} has that network, or a part of it", other.file),
            "another network in one of the two, or \"anyway\" behind the address if that is meant",
        ))
    };
    own.filter_map(clash).collect()
}

/// Finds port mappings to addresses that no vassal will have. `leases` are the router's, `vassals` its vassals as far as they
/// are known.
pub fn orphaned_ports(instance: &Instance, leases: &[Grant], vassals: &[&Instance]) -> Vec<Finding> {
    let fixed: Vec<IpAddr> = vassals
        .iter()
        .flat_map(|vassal| &vassal.config.devices)
        .flat_map(|device| device.addresses.iter().map(IpNet::addr))
        .collect();
    let may_be_taken = !instance.config.compile_grants(leases.to_vec()).bind_addresses();
    let is_orphan = |address: &IpAddr| {
        let is_leased = leases.iter().any(|lease| lease.prefix.contains(address));
        !(is_leased || fixed.contains(address) || (may_be_taken && vassals.is_empty()))
    };
    let mut targets: Vec<IpAddr> = Vec::new();
    for mapping in instance.config.routers.iter().flat_map(|router| &router.ports) {
        let address = mapping.target.ip();
        if is_orphan(&address) && !targets.contains(&address) {
            targets.push(address);
        }
    }
    let finding = |address| {
        Finding::warning(
            format!(
                "tuntap-router-port leads to {address}, which is leased to nobody, and in none of these vassals' files"
            ),
            format!(
                "tuntap-router-lease = {address} <the vassal's user> here, with tuntap-use-credentials here and there\n\
                 or tuntap-device-address = {address}/<len> in the vassal's file"
            ),
        )
    };
    targets.into_iter().map(finding).collect()
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
    let down = router.nat.iter().filter(|name| found.link(name).is_some_and(|link| !link.is_up));
    let down = down.map(|name| {
        Finding::warning(
            format!("tuntap-router-nat = {} {name}: the interface is down", router.device),
            format!("ip link set {name} up"),
        )
    });
    missing
        .map(|name| {
            Finding::warning(
                format!(
                    "tuntap-router-nat = {} {name}: there is no interface {name} at the moment: vassals reach nothing by it \
                     until it is there",
                    router.device
                ),
                format!("is it misspelt? there are {} (ip -brief link)", found.interfaces.join(", ")),
            )
        })
        .chain(down)
        .collect()
}

/// Finds networks of a router that somebody else has already, by the same rules as the start. The error says why the host's
/// networks can't be read.
pub fn conflicts(router: &RouterSpec, networks: &Result<Networks, String>) -> Vec<Finding> {
    if router.addresses.is_empty() {
        return Vec::new();
    }
    let networks = match networks {
        Ok(networks) => networks,
        Err(reason) => {
            let what =
                format!("tuntap-router-address of {}: not examined, for routes can't be read: {reason}", router.device);
            return vec![Finding::warning(what, "run this check as root, in the network namespace of the router")];
        }
    };
    let finding = |conflict: Conflict| {
        if conflict.is_meant {
            Finding::fine(format!("{}, which is meant (anyway)", conflict.words()))
        } else if conflict.is_uncertain {
            Finding::warning(conflict.what(), Conflict::REMEDY)
        } else {
            Finding::wrong(conflict.what(), Conflict::REMEDY)
        }
    };
    tuntap_host::conflicts(router, networks).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::tests::instance;
    use tuntap_core::policy::grant::Holder;
    use tuntap_sys::netlink::Route;

    const ROUTER: (&str, &str) = ("tuntap-router", "emperor0 /run/t.socket");
    fn neighbour(net: &str, interface: &str, is_own: bool) -> Neighbour {
        Neighbour { net: net.parse().expect("a network"), interface: interface.to_owned(), is_own }
    }

    /// A host with one interface, which forwards.
    fn open() -> Surroundings {
        Surroundings {
            ipv4: true,
            ipv6: true,
            has_ipv6: true,
            settings_may_stay: [true; 2],
            locked: None,
            strict_sources: false,
            interfaces: vec!["eth0".to_owned()],
            neighbours: vec![
                neighbour("203.0.113.0/24", "eth0", true),
                neighbour("0.0.0.0/0", "eth0", false),
                neighbour("::/0", "eth0", false),
            ],
            ..Surroundings::default()
        }
    }

    fn worst(lines: &[(&str, &str)], found: Surroundings) -> Finding {
        let findings = forwarding(&instance(lines), &Ok(found), false);
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
        let closed = worst(&[ROUTER], off.clone());
        assert_eq!(closed.severity, Severity::Wrong);
        assert!(closed.remedy[0].contains("tuntap-router-address") && closed.remedy[0].contains("tuntap-router-nat"));
        assert_eq!(severity(&[ROUTER, ("tuntap-router-switch", "true")], off.clone()), Severity::Warning);
        let sets = ("exec-as-root", "echo 1 >/proc/sys/net/ipv4/ip_forward");
        assert_eq!(severity(&[ROUTER, sets], off.clone()), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS, ("tuntap-router-nat", "eth0")], off.clone()), Severity::Fine);
        let only_ipv4 = Surroundings { ipv4: true, ..off };
        assert_eq!(severity(&[ROUTER, ADDRESS], only_ipv4.clone()), Severity::Fine);
        assert!(worst(&[ROUTER, ADDRESS, ADDRESS6], only_ipv4).what.starts_with("net.ipv6.conf.all.forwarding is off"));
    }

    #[test]
    fn host_may_be_all_that_is_wanted() {
        let off = Surroundings { ipv4: false, ipv6: false, ..open() };
        let hook = |line| ("exec-as-root", line);
        let address = hook("ip address replace 192.168.0.1/24 dev emperor0");
        assert_eq!(severity(&[ROUTER, address], off.clone()), Severity::Warning);
        assert_eq!(severity(&[ROUTER, ADDRESS], off.clone()), Severity::Warning);
        let masquerades = hook("iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE");
        assert_eq!(severity(&[ROUTER, address, masquerades], off), Severity::Wrong);
    }

    #[test]
    fn ports_need_an_interface_that_forwards() {
        let port = ("tuntap-router-port", "tcp 80 192.168.0.2:80");
        let off = Surroundings { ipv4: false, ..open() };
        assert_eq!(severity(&[ROUTER, ADDRESS, port], off.clone()), Severity::Warning);
        assert_eq!(severity(&[ROUTER, ADDRESS, port], open()), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS, port, ("tuntap-router-nat", "eth0")], off), Severity::Fine);
    }

    #[test]
    fn host_without_ipv6_is_told() {
        let without = Surroundings { has_ipv6: false, ..open() };
        assert_eq!(severity(&[ROUTER, ADDRESS], without.clone()), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS, ADDRESS6], without.clone()), Severity::Warning);
        assert_eq!(severity(&[ROUTER, ADDRESS6], without), Severity::Wrong);
    }

    #[test]
    fn locked_settings_matter_where_they_must_change() {
        let nat = ("tuntap-router-nat", "eth0");
        let locked = |may_stay| Surroundings {
            locked: Some("EROFS".to_owned()),
            settings_may_stay: [may_stay, false],
            ..open()
        };
        assert_eq!(severity(&[ROUTER, ADDRESS, nat], locked(false)), Severity::Wrong);
        assert_eq!(severity(&[ROUTER, ADDRESS, nat], locked(true)), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS], locked(false)), Severity::Fine);
        assert_eq!(severity(&[ROUTER, ADDRESS, ADDRESS6, nat], locked(true)), Severity::Wrong);
    }

    #[test]
    fn table_must_be_free_where_it_is_needed() {
        let taken =
            |lines: &[(&str, &str)]| table(&instance(lines).config.routers[0], |name| name == "tuntap-emperor0");
        assert!(taken(&[ROUTER, ADDRESS]).is_some());
        assert_eq!(taken(&[ROUTER]), None);
    }

    #[test]
    fn two_files_have_two_networks() {
        let other = |net| instance(&[ROUTER, ("tuntap-router-address", net)]);
        let own = other("10.0.0.1/24");
        assert_eq!(shared_networks(&own, &[&other("10.0.1.1/24"), &other("fd00::1/64")]), []);
        assert_eq!(shared_networks(&own, &[&other("10.0.0.129/25")]).len(), 1);
        assert_eq!(shared_networks(&other("10.0.0.129/25 anyway"), &[&own]), []);
    }

    #[test]
    fn port_leads_to_somebody() {
        let router = [
            ROUTER,
            ADDRESS,
            ("tuntap-router-port", "tcp 80 192.168.0.2:80"),
            ("tuntap-router-port", "udp 80 192.168.0.2:80"),
        ];
        let lease = |prefix: &str| Grant { prefix: prefix.parse().expect("a prefix"), holder: Holder::User(1) };
        let device = ("tuntap-device", "uwsgi0 /run/t.socket");
        let vassal = |address| instance(&[device, ("tuntap-device-address", address)]);
        let count = |leases: &[Grant], vassals: &[&Instance]| orphaned_ports(&instance(&router), leases, vassals).len();
        assert_eq!(count(&[], &[]), 0, "nobody knows");
        assert_eq!(count(&[], &[&vassal("192.168.0.2/24")]), 0);
        assert_eq!(count(&[], &[&vassal("192.168.0.3/24")]), 1, "once for both ports");
        assert_eq!(count(&[lease("192.168.0.2/32")], &[&vassal("192.168.0.3/24")]), 0);
        assert_eq!(count(&[lease("192.168.0.9/32")], &[]), 1, "nobody may have it");
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
    fn networks_are_judged_as_the_start_does() {
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let found = |resolver: &str| Networks {
            routes: vec![Route {
                destination: net("203.0.113.0/24"),
                gateway: None,
                index: Some(2),
                metric: 0,
                table: 254,
            }],
            resolvers: vec![resolver.parse().expect("an address")],
            ..Networks::default()
        };
        let look = |address: &str, resolver: &str| {
            let it = instance(&[ROUTER, ("tuntap-router-address", address)]);
            conflicts(&it.config.routers[0], &Ok(found(resolver))).first().map(|finding| finding.severity)
        };
        assert_eq!(look("192.168.0.1/24", "203.0.113.1"), None);
        assert_eq!(look("203.0.113.129/25", "203.0.113.1"), Some(Severity::Wrong));
        assert_eq!(look("203.0.113.129/25 anyway", "203.0.113.1"), Some(Severity::Fine));
        assert_eq!(look("192.168.0.1/24", "192.168.0.53"), Some(Severity::Warning));
        let it = instance(&[ROUTER, ADDRESS]);
        let unknown = conflicts(&it.config.routers[0], &Err("EPERM".to_owned()));
        assert_eq!(unknown[0].severity, Severity::Warning);
        let it = instance(&[ROUTER]);
        assert_eq!(conflicts(&it.config.routers[0], &Err("EPERM".to_owned())), [], "it has no network");
    }

    #[test]
    fn nat_needs_its_interface() {
        let missing = worst(&[ROUTER, ADDRESS, ("tuntap-router-nat", "eth7")], open());
        assert_eq!(missing.severity, Severity::Warning, "it joins when it is there");
        assert!(missing.remedy[0].contains("eth0"), "{missing:?}");
    }
}
