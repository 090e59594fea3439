//! `tuntap-router-switch`: packets between vassals pass by the Emperor's namespace.

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::netns::Net;
use crate::common::probe::{is_cut_off, is_reachable, pings_answered, tcp_round_trip};
use crate::world::{c_vassal, emperor, start_attached, total};

const SWITCH: &str = "tuntap-router-switch = true";

/// Two attached vassals; the Emperor's kernel forwards nothing between them.
#[track_caller]
fn without_forwarding(emperor: EmperorIni) -> (Emperor, Net, Net) {
    let emperor = emperor.start();
    let first = start_attached(&emperor, "v1", V1);
    let second = start_attached(&emperor, "v2", V2);
    assert!(is_reachable(&first, EMPEROR) && is_reachable(&second, EMPEROR));
    emperor.netns.sh("iptables -P FORWARD DROP");
    (emperor, first, second)
}

#[test]
fn vassals_reach_each_other_past_the_emperors_kernel() {
    let (emperor, first, second) = without_forwarding(emperor().line(SWITCH));
    let before = emperor.stats();
    assert_eq!(pings_answered(&first, V2, 5, &[]), 5);
    assert_eq!(pings_answered(&second, V1, 5, &["-s", "1472"]), 5);
    assert!(tcp_round_trip(&second, V2, &first, 20_000_000).expect("TCP between vassals"));
    let after = emperor.stats();
    assert_eq!(total(&after, "tun_tx_packets"), total(&before, "tun_tx_packets"), "the Emperor's device sees nothing");
    assert!(after.of_peer(V2, "tx_packets") < 20_000_000 / 1448, "super-packets pass whole");
    assert!(is_reachable(&first, EMPEROR) && is_reachable(&emperor.netns, V2), "the Emperor is reached as before");
}

/// Packets between vassals pass by the kernel, so that a vassal with the Emperor's own address would be the Emperor for
/// the others.
#[test]
fn switch_that_lets_anybody_claim_anything_is_warned_about() {
    const WARNING: &str = "a vassal can claim any address that is free, the host's too";
    let warned = |lines: &[&str]| emperor().lines(lines).start().log.text().contains(WARNING);
    assert!(warned(&["tuntap-router-switch = true"]));
    assert!(!warned(&["tuntap-router-switch = true", "tuntap-router-lease = 192.168.0.0/24 root"]));
    assert!(!warned(&["tuntap-router-switch = true", "tuntap-router-firewall-out = deny 192.168.0.1 0.0.0.0"]));
    assert!(!warned(&[]));
}

#[test]
fn without_the_option_the_emperors_kernel_has_its_say() {
    let (emperor, first, second) = without_forwarding(emperor());
    assert!(is_cut_off(&first, V2) && is_cut_off(&second, V1));
    emperor.netns.sh("iptables -P FORWARD ACCEPT");
    assert!(is_reachable(&first, V2), "it was the kernel that forwarded nothing");
}

#[test]
fn chain_towards_the_peers_applies() {
    assert_chain_applies("tuntap-router-firewall-in = deny 192.168.0.2 192.168.0.3");
}

#[test]
fn chain_from_the_peers_applies() {
    assert_chain_applies("tuntap-router-firewall-out = deny 192.168.0.2 192.168.0.3");
}

#[track_caller]
fn assert_chain_applies(rule: &str) {
    let (emperor, first, second) = without_forwarding(emperor().line(SWITCH).line(rule));
    assert!(is_cut_off(&first, V2) && is_cut_off(&second, V1), "neither requests nor answers pass");
    assert!(is_reachable(&first, EMPEROR) && is_reachable(&second, EMPEROR));
    assert!(emperor.stats().drops("firewall") >= 2);
}

/// Super-packets are cut on the way from peer to peer, too.
#[test]
fn c_vassal_is_reached_past_the_emperors_kernel() {
    let emperor = emperor().line(SWITCH).start();
    let ours = start_attached(&emperor, "v1", V1);
    let other = emperor.start_vassal(&c_vassal("v2", V2));
    emperor.netns.sh("iptables -P FORWARD DROP");
    assert!(tcp_round_trip(&other, V2, &ours, 200_000).expect("TCP to the C vassal"));
    assert!(tcp_round_trip(&ours, V1, &other, 200_000).expect("TCP from the C vassal"));
}
