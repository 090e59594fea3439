//! Routes to other routers over UDP: super-packets are cut for them.

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::two_emperors::{self, FAR_EMPEROR, FAR_V1};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::world::{emperor, is_attached, start_attached, total};

const LENGTH: usize = 5_000_000;

#[test]
fn attached_vassals_of_two_emperors_reach_each_other() {
    let (here, there) = two_emperors::start(emperor);
    let near = start_attached(&here, "v1", V1);
    let far = there.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "v1", FAR_V1, FAR_EMPEROR));
    there.wait_for_stats("the far vassal is attached", |stats| is_attached(stats, FAR_V1));
    // The first packet may be lost: from it the sender learns that less fits through the tunnel.
    pings_answered(&near, FAR_V1, 1, &["-s", "1472"]);
    assert_eq!(pings_answered(&near, FAR_V1, 5, &["-s", "1472"]), 5);
    assert!(tcp_round_trip(&far, FAR_V1, &near, LENGTH).expect("TCP between the vassals"));
    // The kernel counts what it was given at once as one datagram, and what was cut for a receiver as several.
    let calls = udp_counter(&here, "OutDatagrams");
    let stats = here.stats();
    let (read, sent) = (stats.of_peer(V1, "rx_packets"), total(&stats, "gateway_tx_packets"));
    // How much larger they are depends on how busy the machine is.
    assert!(sent > read, "{read} packets of the vassal became {sent}: super-packets were among them");
    assert!(sent > 2 * calls, "{sent} packets left with {calls} system calls");
    assert!(total(&stats, "gateway_tx_batches") <= calls);
    assert_eq!(stats.drops("gateway_refused"), 0);
    let stats = there.stats();
    let (received, coalesced) = (total(&stats, "gateway_rx_packets"), total(&stats, "gateway_rx_coalesced"));
    assert!(total(&stats, "gateway_rx_batches") > 0, "{}", stats.0);
    assert!(coalesced > received / 2, "{coalesced} of {received} datagrams were made super-packets again");
    for emperor in [&here, &there] {
        let log = emperor.log.text();
        assert!(!log.contains("one by one") && !log.contains("the sandbox denied"), "{log}");
    }
    assert_eq!(pings_answered(&near, EMPEROR, 1, &[]), 1);
}

/// The C router reads each datagram by itself, and sends each by itself.
#[test]
fn stream_between_our_router_and_a_c_router_is_whole() {
    let c = EmperorIni::new(Uwsgi::usual(), Subject::C);
    let (here, there) = two_emperors::start_each([emperor(), c]);
    let near = start_attached(&here, "v1", V1);
    let far = there.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::C, "v1", FAR_V1, FAR_EMPEROR));
    pings_answered(&near, FAR_V1, 1, &["-s", "1472"]);
    assert_eq!(pings_answered(&near, FAR_V1, 5, &[]), 5);
    assert!(tcp_round_trip(&far, FAR_V1, &near, LENGTH / 5).expect("TCP between the vassals"));
    let stats = here.stats();
    assert!(total(&stats, "gateway_tx_batches") > 0, "{}", stats.0);
    let before = total(&stats, "gateway_tx_batches");
    assert!(tcp_round_trip(&near, V1, &far, LENGTH / 5).expect("TCP the other way round"));
    assert!(total(&here.stats(), "gateway_tx_batches") > before);
}

/// What the kernel has said of the way counts for a few seconds. If that is wrong by then, batches don't fit any more.
#[test]
fn way_that_becomes_narrower_loses_no_stream() {
    let (here, there) = two_emperors::start(emperor);
    let near = start_attached(&here, "v1", V1);
    let far = there.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "v1", FAR_V1, FAR_EMPEROR));
    there.wait_for_stats("the far vassal is attached", |stats| is_attached(stats, FAR_V1));
    for mtu in [1500, 1300, 1400] {
        for host in [&here, &there] {
            host.netns.sh(&format!("ip link set veth0 mtu {mtu}"));
        }
        assert!(tcp_round_trip(&far, FAR_V1, &near, LENGTH).expect("TCP between the vassals"), "{mtu}");
    }
    let stats = here.stats();
    assert_eq!(stats.drops("gateway_refused"), 0, "{}", stats.0);
    assert!(total(&stats, "gateway_tx_batches") > 0 && stats.drops("too_big") > 0, "{}", stats.0);
    let log = here.log.text();
    assert!(!log.contains("one by one"), "{log}");
}

/// A counter of the kernel for UDP over IPv4 in the Emperor's namespace.
#[track_caller]
fn udp_counter(emperor: &Emperor, name: &str) -> u64 {
    let text = emperor.netns.sh("cat /proc/net/snmp");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(found, _)| *found == name).unwrap_or_else(|| panic!("no {name} in {text}"));
    value.parse().expect("a number")
}
