//! Compares what a running router has with what its file says. A difference means that somebody has changed the machine or the
//! file since the start.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::filter::{speaks, uplinks};
use crate::finding::Finding;
use crate::instance::Instance;
use tuntap_config::RouterSpec;
use tuntap_survey::interface::Process;
use tuntap_survey::network::{LinkState, Surroundings};
use tuntap_survey::peers::{Peer, PeerLink};
use tuntap_sys::netlink::nftables::MODULES;

/// A router that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunningRouter {
    /// The processes that have its device open, the instance's master first.
    pub processes: Vec<Process>,
    /// Those of `processes` that are stopped by a signal.
    pub stopped: Vec<Process>,
    /// True if it accepts connections.
    pub answers: bool,
    /// True if its socket's file is gone.
    pub has_no_file: bool,
}

impl RunningRouter {
    /// The remedy that makes everything anew.
    fn reload(&self) -> String {
        match self.processes.first() {
            Some(master) => format!("kill -HUP {} reloads the instance, which starts its vassals anew", master.pid),
            None => "reload the instance, which starts its vassals anew".to_owned(),
        }
    }
}

/// Checks that the router's processes run and accept connections.
pub fn processes(router: &RouterSpec, running: &RunningRouter) -> Vec<Finding> {
    let socket = router.socket.as_deref().unwrap_or_default();
    let mut findings: Vec<Finding> = running
        .stopped
        .iter()
        .map(|process| {
            Finding::wrong(
                format!("router of {}: {process} is stopped", router.device),
                format!("kill -CONT {}; who stopped it: a shell (Ctrl-Z), a debugger, a freezer", process.pid),
            )
        })
        .collect();
    if running.has_no_file {
        findings.push(Finding::wrong(
            format!("router of {}: it runs, but the file {socket} is gone, so that no vassal finds it", router.device),
            format!(
                "{}; what removed it? a second instance of the same file, or something that tidies its folder",
                running.reload()
            ),
        ));
    } else if !running.answers {
        findings.push(Finding::wrong(
            format!("router of {}: it hangs: {socket} is connected to, and nobody takes the connection", router.device),
            format!("the router's log; {}", running.reload()),
        ));
    }
    findings
}

/// Checks that the device is up and has the addresses and the MTU that the file says.
pub fn device(instance: &Instance, router: &RouterSpec, found: &Surroundings, running: &RunningRouter) -> Vec<Finding> {
    let name = router.device.as_str();
    let Some(link) = found.link(name) else { return Vec::new() };
    let mut wanted = router.addresses.clone();
    wanted.extend(instance.hook_addresses(name));
    let has = |net: &IpNet| found.addresses.iter().any(|(interface, own)| interface == name && own == net);
    let mut findings = Vec::new();
    let is_used = !wanted.is_empty() || found.addresses.iter().any(|(interface, _)| interface == name);
    if !link.is_up && is_used {
        findings.push(Finding::wrong(
            format!("device {name}: is down, so that no packet passes"),
            format!("ip link set {name} up; {}", running.reload()),
        ));
    }
    let missing: Vec<&IpNet> = wanted.iter().filter(|net| !has(net)).collect();
    let (v6, v4): (Vec<&IpNet>, Vec<&IpNet>) = missing.into_iter().partition(|net| net.addr().is_ipv6());
    if !v6.is_empty() && link.lacks_ipv6 {
        findings.extend(found.has_ipv6.then(|| {
            Finding::wrong(
                format!("device {name}: IPv6 is turned off on it, so that it lost {}", list(&v6)),
                format!("sysctl -w net.ipv6.conf.{name}.disable_ipv6=0; then {}", running.reload()),
            )
        }));
    } else {
        findings.extend(without(name, &v6, running));
    }
    findings.extend(without(name, &v4, running));
    if let Some(mtu) = router.mtu.map(u32::from).filter(|mtu| *mtu != link.mtu) {
        findings.push(Finding::wrong(
            format!("device {name}: its MTU is {}, and the file says {mtu}", link.mtu),
            format!("ip link set {name} mtu {mtu}; {}", running.reload()),
        ));
    }
    if findings.is_empty() && !wanted.is_empty() {
        findings.push(Finding::fine(format!("device {name}: up, with {}", list(&wanted.iter().collect::<Vec<_>>()))));
    }
    findings
}

fn without(name: &str, missing: &[&IpNet], running: &RunningRouter) -> Option<Finding> {
    (!missing.is_empty()).then(|| {
        let add = missing.iter().map(|net| format!("ip addr add {net} dev {name}")).collect::<Vec<_>>().join("; ");
        Finding::wrong(
            format!("device {name}: hasn't {}: this host finds no way to the vassals of that network", list(missing)),
            format!("{add}; {}", running.reload()),
        )
    })
}

fn list(nets: &[&IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Checks that all interfaces that packets come by forward them. `is_running`: the router runs, so that the settings which it
/// turns on at its start should be on.
pub fn forwarding(router: &RouterSpec, found: &Surroundings, is_running: bool) -> Vec<Finding> {
    let sees_to_it = !(router.nat.is_empty() && router.ports.is_empty());
    if sees_to_it && !is_running {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for is_ipv6 in [false, true].into_iter().filter(|is_ipv6| speaks(router, *is_ipv6)) {
        let is_on_for_all = if is_ipv6 { found.ipv6 } else { found.ipv4 };
        // If nothing is forwarded at all, `network::forwarding` says so.
        if !(sees_to_it || is_on_for_all) {
            continue;
        }
        let names = std::iter::once(router.device.as_str()).chain(uplinks(router, is_ipv6, Some(found)));
        let links = names.filter_map(|name| found.link(name)).filter(|link| !(is_ipv6 && link.lacks_ipv6));
        let is_off = |link: &&LinkState| (if is_ipv6 { link.ipv6 } else { link.ipv4 }) == Some(false);
        let mut closed: Vec<String> = links.filter(is_off).map(|link| sysctl(found, &link.name, is_ipv6)).collect();
        closed.dedup();
        if let [first, ..] = closed.as_slice() {
            let family = if is_ipv6 { "IPv6" } else { "IPv4" };
            let what = format!("{} off: {family} doesn't pass between vassals and the world", are(&closed));
            let others = format!(
                "look for what sets it in /etc/sysctl.d, {first} or net.ip{}.ip_forward",
                if is_ipv6 { "v6" } else { "v4" }
            );
            let set = closed.iter().map(|name| format!("{name}=1")).collect::<Vec<_>>().join(" ");
            findings.push(Finding::wrong(what, format!("sysctl -w {set}\n{others}")));
        }
    }
    findings
}

fn are(names: &[String]) -> String {
    format!("{} {}", names.join(" and "), if names.len() == 1 { "is" } else { "are" })
}

fn sysctl(found: &Surroundings, interface: &str, is_ipv6: bool) -> String {
    match (is_ipv6, found.forwards_ipv6_by_interface) {
        (false, _) => format!("net.ipv4.conf.{interface}.forwarding"),
        (true, true) => format!("net.ipv6.conf.{interface}.force_forwarding"),
        (true, false) => "net.ipv6.conf.all.forwarding".to_owned(),
    }
}

/// Checks that the router's own table of nftables is the one that its file makes.
///
/// `wanted` has the tables that it may be, each as a map from chains to numbers of rules: one list for the host as it is now,
/// one for the host as it may have been at the start. In each list the whole table comes first; the list is empty if the router
/// needs no table. `tables` are those that exist.
pub fn table(
    router: &RouterSpec,
    wanted: &[Vec<BTreeMap<String, usize>>],
    tables: &BTreeMap<String, BTreeMap<String, usize>>,
    running: &RunningRouter,
) -> Option<Finding> {
    let name = router.table_name();
    let is_needed = wanted.iter().any(|tables| !tables.is_empty());
    let is_known = |found| wanted.iter().any(|tables| tables.contains(found));
    let is_whole = |found| wanted.iter().any(|tables| tables.first() == Some(found));
    match tables.get(&name) {
        None if !is_needed => None,
        None => Some(Finding::wrong(
            format!(
                "nftables: there is no table inet {name}: nothing is masqueraded, no port is mapped, and vassals reach every \
                 service of this host; it was taken away or couldn't be made, or the file has changed since the start"
            ),
            running.reload(),
        )),
        Some(_) if !is_needed => Some(Finding::warning(
            format!(
                "nftables: the table inet {name} is there, and by this file it shouldn't: the file has changed since the start"
            ),
            running.reload(),
        )),
        Some(found) if !is_known(found) => Some(Finding::wrong(
            format!(
                "nftables: the table inet {name} isn't what this file makes: it was changed, or the file has changed since the \
                 start"
            ),
            running.reload(),
        )),
        Some(found) if !is_whole(found) => Some(Finding::warning(
            format!(
                "nftables: the table inet {name} is in place, but without all of its limits and protection, which this kernel \
                 couldn't make at the start"
            ),
            format!("{}; {}", MODULES.map(|module| format!("modprobe {module}")).join("; "), running.reload()),
        )),
        Some(_) => Some(Finding::fine(format!("nftables: the table inet {name} is in place"))),
    }
}

/// Checks that peers' devices still have the addresses that the peers hold. `peers` is `None` if the router serves no
/// statistics; the error says why they can't be read.
pub fn peers(router: &RouterSpec, peers: Option<&Result<Vec<Peer>, String>>) -> Vec<Finding> {
    let device = &router.device;
    let peers = match peers {
        None => {
            let what = format!("peers of {device}: not examined, for tuntap-router names no statistics");
            return vec![Finding::fine(what)];
        }
        Some(Err(reason)) => {
            let remedy =
                format!("is the statistics' address in tuntap-router = {device} right, and was it there at the start?");
            return vec![Finding::warning(format!("peers of {device}: not examined: {reason}"), remedy)];
        }
        Some(Ok(peers)) => peers,
    };
    let mut findings: Vec<Finding> = peers.iter().filter_map(peer).collect();
    if findings.is_empty() {
        let count = peers.iter().filter(|peer| !peer.addresses.is_empty()).count();
        findings.push(Finding::fine(format!("peers of {}: {count} with addresses", router.device)));
    }
    findings
}

fn peer(peer: &Peer) -> Option<Finding> {
    let who = format!("peer {}, uid {}", peer.process, peer.uid);
    let links = match peer.network.as_ref()? {
        Ok(links) => links,
        Err(reason) => {
            return Some(Finding::warning(
                format!("{who}: its network namespace can't be seen: {reason}"),
                "run this check as root",
            ));
        }
    };
    let holder = |address: &std::net::IpAddr| links.iter().find(|link: &&PeerLink| link.addresses.contains(address));
    let lost: Vec<String> = peer.addresses.iter().filter(|it| holder(it).is_none()).map(ToString::to_string).collect();
    let remedy =
        "stop and start this vassal (touch its file after moving it away and back); its device gets everything anew";
    if !lost.is_empty() {
        return Some(Finding::wrong(format!("{who}: its device hasn't {} any more", lost.join(", ")), remedy));
    }
    let down = peer.addresses.iter().filter_map(holder).find(|link| !link.is_up)?;
    Some(Finding::wrong(format!("{who}: its device {} is down", down.name), remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;

    const LINES: [(&str, &str); 4] = [
        ("tuntap-router", "emperor0 /run/t.socket"),
        ("tuntap-router-address", "10.0.0.1/24"),
        ("tuntap-router-address", "fd00::1/64"),
        ("tuntap-router-nat", "eth0"),
    ];

    fn link(name: &str) -> LinkState {
        LinkState {
            name: name.to_owned(),
            is_up: true,
            mtu: 1500,
            ipv4: Some(true),
            ipv6: Some(true),
            lacks_ipv6: false,
        }
    }

    /// The host of a router with these lines, as it should be.
    fn well() -> Surroundings {
        let address = |text: &str| ("emperor0".to_owned(), text.parse().expect("an address"));
        Surroundings {
            has_ipv6: true,
            forwards_ipv6_by_interface: true,
            links: vec![link("emperor0"), link("eth0")],
            addresses: vec![address("10.0.0.1/24"), address("fd00::1/64")],
            ..Surroundings::default()
        }
    }

    fn wrong(findings: &[Finding]) -> Vec<&str> {
        findings.iter().filter(|it| it.severity == Severity::Wrong).map(|it| it.what.as_str()).collect()
    }

    #[test]
    fn device_is_as_the_file_says() {
        let it = instance(&LINES);
        let look = |found: &Surroundings| device(&it, &it.config.routers[0], found, &RunningRouter::default());
        assert_eq!(look(&well()), [Finding::fine("device emperor0: up, with 10.0.0.1/24, fd00::1/64")]);
        let mut one_family = well();
        one_family.addresses.pop();
        assert!(wrong(&look(&one_family))[0].starts_with("device emperor0: hasn't fd00::1/64:"));
        let mut off = one_family.clone();
        off.links[0].lacks_ipv6 = true;
        assert!(wrong(&look(&off))[0].contains("IPv6 is turned off on it"));
        off.has_ipv6 = false;
        assert_eq!(wrong(&look(&off)).len(), 0, "the host's matter");
        let mut down = well();
        down.links[0].is_up = false;
        assert!(wrong(&look(&down))[0].contains("is down"));
    }

    #[test]
    fn mtu_is_that_of_the_file() {
        let it = instance(&[&LINES[..], &[("tuntap-router-mtu", "1400")]].concat());
        let findings = device(&it, &it.config.routers[0], &well(), &RunningRouter::default());
        assert_eq!(wrong(&findings), ["device emperor0: its MTU is 1500, and the file says 1400"]);
    }

    #[test]
    fn each_interface_forwards_for_each_family() {
        let it = instance(&LINES);
        let router = &it.config.routers[0];
        assert_eq!(forwarding(router, &well(), true), []);
        let mut off = well();
        off.links[1].ipv6 = Some(false);
        let findings = forwarding(router, &off, true);
        assert!(wrong(&findings)[0].starts_with("net.ipv6.conf.eth0.force_forwarding is off: IPv6"), "{findings:?}");
        assert_eq!(forwarding(router, &off, false), [], "the start turns it on");
        off.forwards_ipv6_by_interface = false;
        assert_eq!(findings.len(), 1);
        assert!(forwarding(router, &off, true)[0].what.starts_with("net.ipv6.conf.all.forwarding is off"));
        off.links.iter_mut().for_each(|link| link.ipv4 = Some(false));
        assert_eq!(forwarding(router, &off, true).len(), 2);
    }

    #[test]
    fn long_set_up_needs_each_interface_too() {
        let it = instance(&LINES[..1]);
        let router = &it.config.routers[0];
        let mut found = Surroundings { ipv4: true, ..well() };
        found.links[0].ipv4 = Some(false);
        assert_eq!(forwarding(router, &found, true).len(), 1);
        found.ipv4 = false;
        assert_eq!(forwarding(router, &found, true), [], "said elsewhere");
    }

    #[test]
    fn table_is_there_with_all_its_rules() {
        let it = instance(&LINES);
        let router = &it.config.routers[0];
        let chains = |rules| BTreeMap::from([("forward".to_owned(), rules)]);
        let tables = |rules| BTreeMap::from([("tuntap-emperor0".to_owned(), chains(rules))]);
        let severity = |wanted: Option<usize>, found: BTreeMap<_, _>| {
            let wanted: Vec<_> = wanted.map(chains).into_iter().collect();
            table(router, &[wanted.clone(), wanted], &found, &RunningRouter::default()).map(|finding| finding.severity)
        };
        assert_eq!(severity(Some(2), tables(2)), Some(Severity::Fine));
        assert_eq!(severity(Some(2), tables(1)), Some(Severity::Wrong));
        assert_eq!(severity(Some(2), BTreeMap::new()), Some(Severity::Wrong));
        assert_eq!(severity(None, tables(1)), Some(Severity::Warning));
        assert_eq!(severity(None, BTreeMap::new()), None);
        let look = |at_start: Vec<_>| {
            let wanted = [vec![chains(3), chains(2)], at_start];
            table(router, &wanted, &tables(2), &RunningRouter::default()).map(|finding| finding.severity)
        };
        assert_eq!(look(vec![chains(3), chains(2)]), Some(Severity::Warning), "what this kernel can make");
        assert_eq!(look(vec![chains(2), chains(1)]), Some(Severity::Fine), "the whole one, without IPv6");
    }

    #[test]
    fn router_that_hangs_or_is_stopped_is_told() {
        let it = instance(&LINES);
        let process = Process { pid: 7, command: "uwsgi".to_owned() };
        let running = RunningRouter { processes: vec![process.clone()], answers: true, ..RunningRouter::default() };
        assert_eq!(processes(&it.config.routers[0], &running), []);
        let hung = processes(&it.config.routers[0], &RunningRouter { answers: false, ..running.clone() });
        assert!(hung[0].remedy[0].contains("kill -HUP 7"), "{hung:?}");
        let gone = processes(&it.config.routers[0], &RunningRouter { has_no_file: true, ..running.clone() });
        assert!(gone[0].what.contains("the file /run/t.socket is gone"), "{gone:?}");
        assert_eq!(processes(&it.config.routers[0], &RunningRouter { stopped: vec![process], ..running }).len(), 1);
    }

    #[test]
    fn peers_have_what_they_hold() {
        let it = instance(&LINES);
        let address = "10.0.0.2".parse().expect("an address");
        let look = |links: Vec<PeerLink>| {
            let process = Process { pid: 9, command: "uwsgi".to_owned() };
            let peer = Peer { process, uid: 20001, addresses: vec![address], network: Some(Ok(links)) };
            peers(&it.config.routers[0], Some(&Ok(vec![peer]))).swap_remove(0)
        };
        let uwsgi0 = |is_up, addresses| vec![PeerLink { name: "uwsgi0".to_owned(), is_up, addresses }];
        assert_eq!(look(uwsgi0(true, vec![address])), Finding::fine("peers of emperor0: 1 with addresses"));
        assert_eq!(look(uwsgi0(true, Vec::new())).severity, Severity::Wrong);
        assert_eq!(look(uwsgi0(false, vec![address])).severity, Severity::Wrong);
    }
}
