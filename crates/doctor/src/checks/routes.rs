//! The session with the host's routing daemon.

use ipnet::IpNet;
use tuntap_api::{RoutesStats, Snapshot};
use tuntap_config::{OptionName, RouterSpec, RoutesSpec};
use tuntap_survey::network::Surroundings;

use crate::finding::Finding;

/// Ports below this one only root can listen on, unless the host is set up otherwise.
const FIRST_FREE_PORT: u16 = 1024;

/// Checks who else could take part in the session.
pub fn listener(router: &RouterSpec) -> Vec<Finding> {
    let Some(RoutesSpec { address, password, .. }) = &router.hosts.routes else { return Vec::new() };
    let option = OptionName::Routes.as_str();
    let mut findings = Vec::new();
    if password.is_none() {
        findings.push(Finding::warning(
            format!(
                "{}: {option} {address} has no password: every user of this host can connect, and say which addresses others hold",
                router.device
            ),
            "write a password into a file of root with mode 600, name it behind the address, and give it to the routing daemon",
        ));
    }
    if address.port() >= FIRST_FREE_PORT {
        findings.push(Finding::warning(
            format!(
                "{}: {option} {address}: every user of this host can listen there while the router doesn't, and tell the routing \
                 daemon what they like",
                router.device
            ),
            "choose a port below 1024, such as 979",
        ));
    }
    findings
}

/// Checks what becomes of packets for addresses that nobody holds, where each address that somebody holds has a route of its
/// own. `dead_ends` are networks whose packets end in the kernel.
pub fn nobody(router: &RouterSpec, found: &Surroundings, dead_ends: &[IpNet]) -> Vec<Finding> {
    let device = &router.device;
    let of_device = found.addresses.iter().filter(|(name, _)| name == device).map(|(_, net)| *net);
    let mut networks: Vec<IpNet> = Vec::new();
    for net in router.addresses.iter().copied().chain(of_device).map(|net| net.trunc()) {
        let is_local = matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local());
        let is_known = networks.iter().any(|known| known.contains(&net));
        // The way to everything is no way to these addresses.
        let is_dead = dead_ends.iter().any(|end| end.prefix_len() > 0 && end.contains(&net));
        if net.prefix_len() < net.max_prefix_len() && !is_local && !is_known && !is_dead {
            networks.push(net);
        }
    }
    let finding = |net: IpNet| {
        let program = if net.addr().is_ipv6() { "ip -6" } else { "ip" };
        Finding::warning(
            format!(
                "{device}: all of {net} leads to this host's router, while other hosts' vassals have a route for each address, and \
                 there is no blackhole route: packets for nobody are swallowed here, and run in circles while the device is away"
            ),
            format!(
                "{program} route add blackhole {net} metric 4096; the configuration of uwsgi-tuntap bird-config has that route"
            ),
        )
    };
    networks.into_iter().map(finding).collect()
}

/// Checks how a running router stands with the routing daemon, by its statistics.
pub fn session(router: &RouterSpec, found: &Snapshot) -> Vec<Finding> {
    let device = &router.device;
    let Some(spec) = &router.hosts.routes else { return Vec::new() };
    let Some(routes) = &found.routes else {
        let line = format!("{device}: it runs without a session with the routing daemon, which its file has");
        return vec![Finding::warning(line, "reload the instance")];
    };
    let mut findings = vec![match &routes.session {
        None => disconnected(device, spec, routes),
        Some(session) if !session.survives => Finding::warning(
            format!(
                "{device}: the routing daemon {} doesn't know enhanced route refresh (RFC 7313): a router that dies takes its \
                 routes along for a moment",
                session.identifier
            ),
            "BIRD 2 and newer know it; bgpd of FRR does, too",
        ),
        Some(session) => Finding::fine(format!(
            "{device}: a session with the routing daemon {}: {} of its vassals' addresses, {} routes of other hosts",
            session.identifier, routes.claims, routes.routes
        )),
    }];
    let refused = &routes.refused;
    if refused.too_many_routes + refused.too_many_paths > 0 {
        findings.push(Finding::warning(
            format!("{device}: the routing daemon told of more routes than are kept: addresses of other hosts are not all known"),
            "export only routes for single addresses of the vassals' networks to the router",
        ));
    }
    if refused.outside + refused.not_one_address > 0 {
        findings.push(Finding::warning(
            format!(
                "{device}: the routing daemon told of routes that are not for single addresses of the router's networks"
            ),
            "export no others to the router; uwsgi-tuntap bird-config prints a configuration that doesn't",
        ));
    }
    if refused.no_holder > 0 {
        findings.push(Finding::warning(
            format!("{device}: the routing daemon told of routes that don't say who holds their addresses; they are not kept"),
            "does another router of these hosts run an older version, or does a filter of the daemon take communities away? \
             uwsgi-tuntap bird-config prints a configuration that keeps them",
        ));
    }
    if routes.strangers > 0 {
        findings.push(Finding::warning(
            format!(
                "{device}: {} connections to {} were refused, for they didn't come from {}",
                routes.strangers, spec.address, spec.from
            ),
            format!(
                "the router's log names the first one; is it the routing daemon? from=<its address> in {}",
                OptionName::Routes.as_str()
            ),
        ));
    }
    if found.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.clock_ahead > 0) {
        findings.push(Finding::warning(
            format!("{device}: the clock of another host is far ahead of this one's: which of two claims is newer is not known"),
            "have the clocks of all hosts set by NTP; the router's log names the host",
        ));
    }
    findings
}

fn disconnected(device: &str, spec: &RoutesSpec, routes: &RoutesStats) -> Finding {
    let because = routes.last_error.as_ref().map(|error| format!(" (the last one ended: {error})")).unwrap_or_default();
    let password = if spec.password.is_some() { ", the same password" } else { "" };
    Finding::wrong(
        format!(
            "{device}: the routing daemon has no session with the router{because}: no other host knows its vassals, and they can \
             take addresses of others"
        ),
        format!(
            "does it run, and connect to {} as AS {}{password}? uwsgi-tuntap bird-config prints BIRD's configuration; birdc show \
             protocols all tuntap",
            spec.address,
            spec.neighbour_asn.map_or_else(|| "other than the router's".to_owned(), |asn| asn.to_string())
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;
    use tuntap_api::{ElsewhereStats, RoutesRefused, RoutesSession};

    fn router(routes: &str) -> RouterSpec {
        let options =
            [("tuntap-router", "tun0 /s"), ("tuntap-router-address", "10.0.0.1/24"), ("tuntap-router-routes", routes)];
        instance(&options).config.routers[0].clone()
    }

    fn texts(findings: &[Finding]) -> Vec<(Severity, &str)> {
        findings.iter().map(|finding| (finding.severity, finding.what.as_str())).collect()
    }

    #[test]
    fn others_must_not_take_part() {
        assert_eq!(texts(&listener(&router("127.0.0.1:979 /etc/password"))), []);
        let findings = listener(&router("127.0.0.1:1024"));
        assert!(matches!(texts(&findings)[..], [(Severity::Warning, one), (Severity::Warning, other)]
            if one.contains("no password") && other.contains("can listen there")));
    }

    #[test]
    fn session_is_there_and_survives() {
        let router = router("127.0.0.1:979 /etc/password");
        let with = |routes: RoutesStats| Snapshot { routes: Some(routes), ..Snapshot::default() };
        let idle = RoutesStats { last_error: Some("it takes nothing".to_owned()), ..RoutesStats::default() };
        let findings = session(&router, &with(idle));
        assert!(matches!(texts(&findings)[..], [(Severity::Wrong, what)] if what.contains("it takes nothing")));
        let good = RoutesSession { survives: true, ..RoutesSession::default() };
        let good = RoutesStats { session: Some(good), ..RoutesStats::default() };
        assert!(matches!(texts(&session(&router, &with(good.clone())))[..], [(Severity::Fine, _)]));
        let frail = RoutesStats { session: Some(RoutesSession::default()), ..RoutesStats::default() };
        let findings = session(&router, &with(frail));
        assert!(matches!(texts(&findings)[..], [(Severity::Warning, what)] if what.contains("RFC 7313")));
        assert!(matches!(texts(&session(&router, &Snapshot::default()))[..], [(Severity::Warning, _)]));
        let refused = RoutesRefused { too_many_paths: 1, outside: 1, ..RoutesRefused::default() };
        let elsewhere = ElsewhereStats { clock_ahead: 1, ..ElsewhereStats::default() };
        let odd = Snapshot { elsewhere: Some(elsewhere), ..with(RoutesStats { refused, ..good }) };
        let warnings = session(&router, &odd).iter().filter(|it| it.severity == Severity::Warning).count();
        assert_eq!(warnings, 3);
    }

    #[test]
    fn strangers_and_routes_of_nobody_are_told() {
        let router = router("127.0.0.1:979 /etc/password from=127.0.0.2");
        let good = RoutesSession { survives: true, ..RoutesSession::default() };
        let refused = RoutesRefused { no_holder: 1, ..RoutesRefused::default() };
        let stats = RoutesStats { session: Some(good), strangers: 2, refused, ..RoutesStats::default() };
        let findings = session(&router, &Snapshot { routes: Some(stats), ..Snapshot::default() });
        assert!(
            matches!(texts(&findings)[..], [(Severity::Fine, _), (Severity::Warning, nobody), (Severity::Warning, stranger)]
            if nobody.contains("don't say who") && stranger.contains("2 connections") && stranger.contains("127.0.0.2")),
            "{findings:?}"
        );
    }

    #[test]
    fn packets_for_nobody_have_an_end() {
        let router = router("127.0.0.1:979 /etc/password");
        let net = |text: &str| text.parse::<IpNet>().expect("a network");
        let address = |name: &str, text: &str| (name.to_owned(), net(text));
        let found = |addresses| Surroundings { addresses, ..Surroundings::default() };
        let told = |addresses: Vec<(String, IpNet)>, ends: &[IpNet]| {
            let findings = nobody(&router, &found(addresses), ends);
            findings.iter().map(|finding| finding.remedy[0].clone()).collect::<Vec<_>>()
        };
        assert!(matches!(&told(Vec::new(), &[])[..], [one] if one.starts_with("ip route add blackhole 10.0.0.0/24 ")));
        assert!(told(Vec::new(), &[net("10.0.0.0/8")]).is_empty());
        assert_eq!(told(Vec::new(), &[net("10.0.0.0/25"), net("0.0.0.0/0")]).len(), 1, "a part, and everything");
        let more = vec![
            address("tun0", "10.0.0.1/24"),
            address("tun0", "10.0.7.1/32"),
            address("tun0", "fe80::1/64"),
            address("tun0", "fd00:77::1/64"),
            address("eth0", "192.0.2.1/24"),
        ];
        assert!(
            matches!(&told(more, &[])[..], [_, other] if other.starts_with("ip -6 route add blackhole fd00:77::/64 "))
        );
    }
}
