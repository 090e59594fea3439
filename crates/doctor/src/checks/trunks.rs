//! Trunks to routers of other hosts.

use tuntap_api::{Snapshot, TrunkStats};
use tuntap_config::{RouterSpec, TrunkPeer};

use crate::finding::Finding;

/// Checks how a running router stands with routers of other hosts, by its statistics.
pub fn standing(router: &RouterSpec, found: &Snapshot) -> Vec<Finding> {
    let device = &router.device;
    let mut findings = Vec::new();
    for peer in &router.hosts.trunks.peers {
        let id = peer.key.router_id().map(|id| id.to_string()).unwrap_or_default();
        match found.trunks.iter().find(|trunk| trunk.router == id) {
            None => findings.push(Finding::warning(
                format!("{device}: it runs without a trunk to router {id}, which its file has"),
                "reload the instance",
            )),
            Some(trunk) if trunk.state != "open" => findings.push(down(device, peer, trunk)),
            Some(trunk) => findings.extend(open(device, trunk)),
        }
    }
    // Beside a routing daemon this is said already.
    let is_ahead = found.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.clock_ahead > 0);
    if is_ahead && router.hosts.routes.is_none() {
        findings.push(Finding::warning(
            format!("{device}: the clock of another host is far ahead of this one's: which of two claims is newer is not known"),
            "have the clocks of all hosts set by NTP; the router's log names the host",
        ));
    }
    findings
}

fn down(device: &str, peer: &TrunkPeer, trunk: &TrunkStats) -> Finding {
    let what = format!(
        "{device}: no trunk to router {} (key {}) for {} s: its vassals and those of this host don't reach each other",
        trunk.router, peer.key, trunk.state_seconds
    );
    let remedy = match peer.address {
        Some(address) => format!(
            "does its router run, wait at {address}, and have this router's key (uwsgi-tuntap keys) in a tuntap-router-trunk-peer? \
             This router's log says why it can't connect"
        ),
        None => "does it connect to this host (the address in its tuntap-router-trunk-peer), and does a firewall let it? This \
                 router's log names strangers that it refuses"
            .to_owned(),
    };
    Finding::wrong(what, remedy)
}

fn open(device: &str, trunk: &TrunkStats) -> Vec<Finding> {
    let name = if trunk.name.is_empty() { String::new() } else { format!(" ({})", trunk.name) };
    let mut findings = vec![Finding::fine(format!(
        "{device}: a trunk to router {}{name}: {} addresses there, {} told",
        trunk.router, trunk.announced, trunk.told
    ))];
    let refused = &trunk.refused;
    if refused.foreign_announcement + refused.spoofed_source > 0 {
        findings.push(Finding::warning(
            format!(
                "{device}: router {}{name} announces addresses or sends packets that are outside of its networks ({})",
                trunk.router,
                trunk.networks.join(", ")
            ),
            "add the network to its tuntap-router-trunk-peer, if its vassals may have it; the router's log names the first address",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;
    use crate::instance::tests::instance;
    use tuntap_api::TrunkRefused;

    const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    #[test]
    fn neighbours_are_there_and_within_their_networks() {
        let peer = format!("{KEY} 10.0.0.0/8 192.0.2.1:4000");
        let options = [("tuntap-router", "tun0 /s"), ("tuntap-router-trunk-peer", peer.as_str())];
        let router = instance(&options).config.routers[0].clone();
        let severities = |trunks: Vec<TrunkStats>| {
            let found = Snapshot { trunks, ..Snapshot::default() };
            standing(&router, &found).iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        assert_eq!(severities(Vec::new()), [Severity::Warning]);
        let down = TrunkStats { router: "21fe31dfa154a261".to_owned(), state: "down".into(), ..TrunkStats::default() };
        assert_eq!(severities(vec![down.clone()]), [Severity::Wrong]);
        let open = TrunkStats { state: "open".into(), ..down };
        assert_eq!(severities(vec![open.clone()]), [Severity::Fine]);
        let refused = TrunkRefused { spoofed_source: 1, ..TrunkRefused::default() };
        assert_eq!(severities(vec![TrunkStats { refused, ..open }]), [Severity::Fine, Severity::Warning]);
    }
}
