use std::collections::{HashMap, HashSet};

use super::*;
use crate::PeerStats;

fn golden() -> Snapshot {
    Snapshot::from_json(include_bytes!("../../tests/statistics.json")).expect("the statistics of a router")
}

fn render(snapshot: &Snapshot, max_users: usize) -> String {
    let users = HashMap::from([(20_001, "alice".to_owned())]);
    let departed = Departed { uid: 20_001, tx: 1, rx: 2, tx_packets: 3, rx_packets: 4, drops: DropCounts::default() };
    let rules = vec![RuleTotals { id: 7, packets: 70, bytes: 700 }];
    let metrics = Metrics { snapshot, departed: vec![departed], users: &users, max_users, rules };
    metrics.render(Format::Prometheus)
}

/// The value of a sample.
fn value<'a>(text: &'a str, sample: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
}

#[test]
fn samples_have_the_numbers_of_the_statistics() {
    let golden = golden();
    let text = render(&golden, 10);
    let router = format!(
        "uwsgi_tuntap_router_info{{device=\"emperor0\",version=\"{}\",uwsgi_version=\"2.0.28\"}}",
        golden.plugin_version
    );
    for (sample, expected) in [
        (router.as_str(), "1"),
        ("uwsgi_tuntap_uptime_seconds{device=\"emperor0\"}", "93784"),
        ("uwsgi_tuntap_device_packets_total{device=\"emperor0\",direction=\"in\"}", "1"),
        ("uwsgi_tuntap_device_bytes_total{device=\"emperor0\",direction=\"out\"}", "4"),
        ("uwsgi_tuntap_dropped_packets_total{device=\"emperor0\",reason=\"firewall\"}", "3"),
        ("uwsgi_tuntap_dropped_packets_total{device=\"emperor0\",reason=\"trunk_hops\"}", "0"),
        ("uwsgi_tuntap_limits_reached_total{device=\"emperor0\",reason=\"max_unclaimed\"}", "4"),
        ("uwsgi_tuntap_flows{device=\"emperor0\"}", "4000"),
        ("uwsgi_tuntap_policy_pending{device=\"emperor0\"}", "1"),
        ("uwsgi_tuntap_rule_packets_total{device=\"emperor0\",rule=\"7\"}", "70"),
        ("uwsgi_tuntap_rule_bytes_total{device=\"emperor0\",rule=\"7\"}", "700"),
        ("uwsgi_tuntap_uplink_limit_bytes_per_second{device=\"emperor0\",direction=\"out\"}", "12500000"),
        ("uwsgi_tuntap_uplink_delay_seconds{device=\"emperor0\",direction=\"out\"}", "0.000900"),
        ("uwsgi_tuntap_kernel_verdicts{device=\"emperor0\"}", "102"),
        ("uwsgi_tuntap_kernel_verdicts_refused_total{device=\"emperor0\"}", "104"),
        ("uwsgi_tuntap_kernel_packets_total{device=\"emperor0\"}", "107"),
        ("uwsgi_tuntap_kernel_bytes_total{device=\"emperor0\"}", "108"),
        ("uwsgi_tuntap_elsewhere_addresses{device=\"emperor0\"}", "20003"),
        ("uwsgi_tuntap_routes_up{device=\"emperor0\"}", "1"),
        ("uwsgi_tuntap_trunk_up{device=\"emperor0\",trunk=\"fedcba9876543210\"}", "1"),
        ("uwsgi_tuntap_trunk_refused_total{device=\"emperor0\",trunk=\"fedcba9876543210\",reason=\"loop\"}", "70"),
        ("uwsgi_tuntap_trunk_round_trip_seconds{device=\"emperor0\",trunk=\"fedcba9876543210\"}", "0.000055"),
        ("uwsgi_tuntap_peers{device=\"emperor0\"}", "2"),
        ("uwsgi_tuntap_peers_attached{device=\"emperor0\"}", "1"),
        ("uwsgi_tuntap_peer_connections{device=\"emperor0\",peer=\"alice\"}", "1"),
        ("uwsgi_tuntap_peer_connections{device=\"emperor0\",peer=\"0\"}", "1"),
        ("uwsgi_tuntap_peer_bytes_total{device=\"emperor0\",peer=\"alice\",direction=\"in\"}", "123457"),
        ("uwsgi_tuntap_peer_bytes_total{device=\"emperor0\",peer=\"alice\",direction=\"out\"}", "654323"),
        ("uwsgi_tuntap_peer_packets_total{device=\"emperor0\",peer=\"alice\",direction=\"in\"}", "1003"),
        ("uwsgi_tuntap_peer_dropped_packets_total{device=\"emperor0\",peer=\"alice\",reason=\"queue_full\"}", "2"),
        ("uwsgi_tuntap_peer_delay_seconds{device=\"emperor0\",peer=\"alice\",direction=\"out\"}", "0.003100"),
    ] {
        assert_eq!(value(&text, sample), Some(expected), "{sample}");
    }
    let labels = ["device", "version", "uwsgi_version", "peer", "direction", "reason", "rule", "trunk"];
    for pair in text.lines().filter_map(|line| line.split_once('{')).flat_map(|(_, rest)| rest.split(',')) {
        assert!(pair.split_once("=\"").is_some_and(|(label, _)| labels.contains(&label)), "{pair}");
    }
}

/// A scraper refuses a text with two samples of the same name and labels, or with a family in two pieces.
#[test]
fn samples_and_families_are_unique() {
    let text = render(&golden(), 10);
    let mut seen = HashSet::new();
    for line in text.lines() {
        // "# HELP name", "# TYPE name", or a name with its labels.
        let words = if line.starts_with('#') { 3 } else { 1 };
        let key: Vec<_> = line.split(' ').take(words).collect();
        assert!(seen.insert(key.clone()), "{key:?} is there twice");
    }
    assert!(seen.len() > 200, "{text}");
}

#[test]
fn number_of_users_is_bounded_and_may_be_none() {
    let peer = |uid| PeerStats { uid, tx: 1, ..PeerStats::default() };
    let snapshot = Snapshot { peers: (0..30_000).rev().map(peer).collect(), ..Snapshot::default() };
    let text = render(&snapshot, 3);
    let of_users = text.lines().filter(|line| line.starts_with("uwsgi_tuntap_peer_connections{")).count();
    assert_eq!(of_users, 3);
    assert_eq!(value(&text, "uwsgi_tuntap_users_left_out{device=\"\"}"), Some("29997"));
    let none = render(&snapshot, 0);
    assert!(!none.contains("peer=\""), "{none}");
    assert_eq!(value(&none, "uwsgi_tuntap_peers{device=\"\"}"), Some("30000"));
}

#[test]
fn number_of_rules_is_bounded() {
    let snapshot = Snapshot::default();
    let rules: Vec<_> = (0..5000).map(|id| RuleTotals { id, packets: 1, bytes: 1 }).collect();
    let (users, departed) = (HashMap::new(), Vec::new());
    let text =
        Metrics { snapshot: &snapshot, departed, users: &users, max_users: 0, rules }.render(Format::OpenMetrics);
    assert_eq!(text.matches("rule=\"").count(), 2 * MAX_RULES);
    assert_eq!(value(&text, "uwsgi_tuntap_rules_left_out{device=\"\"}"), Some("3000"));
}
