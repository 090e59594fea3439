//! Packets over trunks.

use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::stats::is_attached;
use crate::common::wait;
use crate::world::{
    Keys, PORT, emperor, host, hosts, inside, number, peer, start_vassal, two_hosts, two_routers, vassal,
    wait_for_pings, wait_open,
};

const LENGTH: usize = 4_000_000;

/// As many packets as a transfer takes one way without super-packets, at the MTU of these vassals.
const WIRE_PACKETS: u64 = LENGTH as u64 / 1448;

#[test]
fn vassals_of_two_hosts_reach_each_other_by_whole_super_packets() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let (near, far) = (start_vassal(&here, 1, 2), start_vassal(&there, 2, 2));
    wait_for_pings(&near, inside(2, 2));
    assert_eq!(pings_answered(&far, inside(1, 2), 3, &[]), 3);
    let before = number(&here, "/tx_packets");
    assert!(tcp_round_trip(&far, inside(2, 2), &near, LENGTH).expect("TCP"));
    let packets = number(&here, "/tx_packets") - before;
    assert!(packets < WIRE_PACKETS, "{packets} packets for {LENGTH} bytes both ways");
    for emperor in [&here, &there] {
        let log = emperor.log.text();
        assert!(!log.contains("the sandbox denied"), "{log}");
    }
}

#[test]
fn hosts_reach_vassals_of_others() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let network = |number: u8| format!("tuntap-router-address = {}/24", inside(number, 1));
    let here = emperor(&keys, 1).line(network(1)).line(peer(&keys, 2, "10.77.2.0/24", "")).start_in(first);
    let address = format!("{}:{PORT}", host(1));
    let there = emperor(&keys, 2).line(network(2)).line(peer(&keys, 1, "10.77.1.0/24", &address)).start_in(second);
    wait_open(&here, 1);
    let far = start_vassal(&there, 2, 2);
    here.netns.sh("ip route add 10.77.2.0/24 dev emperor0");
    wait_for_pings(&here.netns, inside(2, 2));
    assert!(tcp_round_trip(&far, inside(2, 2), &here.netns, LENGTH).expect("TCP"));
    // With a network of its own a host takes nothing new from elsewhere by its router's device.
    assert_eq!(pings_answered(&far, inside(1, 1), 1, &["-W", "1"]), 0);
}

/// Vassals of different MTUs. A stream has none, so that each packet arrives as it was sent.
#[test]
fn nothing_hangs_between_small_and_large_mtu() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let near = here.start_vassal(&vassal(1, "small", inside(1, 2)).mtu(1500));
    let far = there.start_vassal(&vassal(2, "large", inside(2, 2)).mtu(8188));
    here.wait_for_stats("it is attached", |stats| is_attached(stats, inside(1, 2)));
    there.wait_for_stats("it is attached", |stats| is_attached(stats, inside(2, 2)));
    wait_for_pings(&near, inside(2, 2));
    assert!(tcp_round_trip(&far, inside(2, 2), &near, LENGTH).expect("TCP to the large one"));
    assert!(tcp_round_trip(&near, inside(1, 2), &far, LENGTH).expect("TCP to the small one"));
    assert_eq!(pings_answered(&far, inside(1, 2), 2, &["-s", "8000"]), 2);
    assert_eq!(pings_answered(&far, inside(1, 2), 2, &["-M", "do", "-s", "8100"]), 2);
    assert_eq!(pings_answered(&near, inside(2, 2), 2, &["-s", "8000"]), 2);
}

#[test]
fn address_moves_between_hosts() {
    let keys = Keys::new();
    let (here, there) = two_routers(&keys);
    let far = start_vassal(&there, 2, 2);
    let moving = inside(1, 9);
    here.start_vassal(&vassal(1, "moving", moving));
    wait_for_pings(&far, moving);
    // While it is held here, nobody there gets it.
    there.netns.sh(&format!("ip route add {moving} dev emperor0"));
    let net = there.start_vassal(&vassal(1, "other", moving).without_ping());
    wait::until_true("its claim is refused", wait::LONG, || {
        pings_answered(&net, inside(2, 1), 1, &["-W", "1"]);
        there.stats().drops("held_elsewhere") > 0
    });
    std::fs::remove_file(here.path("vassals/moving.ini")).expect("its file is there");
    wait_for_pings(&net, inside(2, 1));
    wait_for_pings(&far, moving);
    assert!(there.stats().peer(moving).is_some() && here.stats().peer(moving).is_none());
}

/// Three hosts in a ring, all of which relay: everybody is reached, on the shortest way, and nothing goes round.
#[test]
fn ring_of_trunks_has_no_loop() {
    let keys = Keys::new();
    let (_lan, [one, two, three]) = hosts();
    let mut emperors = Vec::new();
    for (own, netns) in (1..).zip([one, two, three]) {
        let mut ini = emperor(&keys, own);
        for other in (1..=3).filter(|other| *other != own) {
            let address = if other < own { format!("{}:{PORT} relay", host(other)) } else { "relay".to_owned() };
            ini = ini.line(peer(&keys, other, "10.77.0.0/16", &address));
        }
        emperors.push(ini.start_in(netns));
    }
    emperors.iter().for_each(|emperor| wait_open(emperor, 2));
    let vassals: Vec<_> = (1..).zip(&emperors).map(|(own, emperor)| start_vassal(emperor, own, 2)).collect();
    for (own, net) in (1..).zip(&vassals) {
        for other in (1..=3).filter(|other| *other != own) {
            wait_for_pings(net, inside(other, 2));
        }
    }
    // Nobody has it, so that it goes nowhere instead of round and round.
    assert_eq!(pings_answered(&vassals[0], inside(3, 99), 1, &["-W", "1"]), 0);
    for emperor in &emperors {
        assert_eq!(emperor.stats().drops("trunk_hops"), 0);
    }
    // Without the direct way, the third host relays.
    emperors[1].netns.sh(&format!("ip route add blackhole {}/32", host(1)));
    wait_open(&emperors[0], 1);
    wait_for_pings(&vassals[0], inside(2, 2));
    assert!(tcp_round_trip(&vassals[1], inside(2, 2), &vassals[0], LENGTH).expect("TCP"));
}

#[test]
fn trunk_comes_up_once_both_hosts_are_there() {
    let keys = Keys::new();
    let (first, second) = two_hosts();
    let address = format!("{}:{PORT}", host(1));
    let there = emperor(&keys, 2).line(peer(&keys, 1, "10.77.0.0/16", &address)).start_in(second);
    there.log.wait_for("can't connect with router", wait::LONG);
    let here = emperor(&keys, 1).line(peer(&keys, 2, "10.77.0.0/16", "")).start_in(first);
    wait_open(&there, 1);
    wait_open(&here, 1);
}
