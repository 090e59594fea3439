//! The session with the host's routing daemon.

use tuntap_api::{RoutesStats, Snapshot};
use tuntap_config::{OptionName, RouterSpec, RoutesSpec};

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
}
