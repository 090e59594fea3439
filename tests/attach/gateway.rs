//! Routes to other routers over UDP: super-packets are cut for them.

use std::net::Ipv4Addr;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::host::{Host, Subject};
use crate::common::netns::Netns;
use crate::common::probe::{pings_answered, tcp_round_trip};
use crate::common::vassal::VassalIni;
use crate::world::{emperor, is_attached, start_attached, total};

const LENGTH: usize = 5_000_000;

#[test]
fn attached_vassals_of_two_emperors_reach_each_other() {
    let (first, second) = (Netns::new(), Netns::new());
    first.join("10.77.0.1/24", &second, "10.77.0.2/24");
    let (far_emperor, far_vassal) = (Ipv4Addr::new(192, 168, 1, 1), Ipv4Addr::new(192, 168, 1, 2));
    let here = emperor()
        .router("emperor0 {dir}/t.sock {dir}/stats.sock 10.77.0.1:4000")
        .line("tuntap-router-route = 192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000")
        .start_in(first);
    let there = emperor()
        .router("emperor0 {dir}/t.sock {dir}/stats.sock 10.77.0.2:4000")
        .address(far_emperor)
        .line("tuntap-router-route = 192.168.1.0/24 192.168.0.0/24 10.77.0.1:4000")
        .start_in(second);
    let near = start_attached(&here, "v1", V1);
    let far = there.start_vassal(&VassalIni::new(Host::usual(), Subject::Ours, "v1", far_vassal, far_emperor));
    there.wait_for_stats("the far vassal is attached", |stats| is_attached(stats, far_vassal));
    // The first one may be lost: its sender learns from it that less fits through the tunnel.
    pings_answered(&near, far_vassal, 1, &["-s", "1472"]);
    assert_eq!(pings_answered(&near, far_vassal, 5, &["-s", "1472"]), 5);
    assert!(tcp_round_trip(&far, far_vassal, &near, LENGTH).expect("TCP between the vassals"));
    let stats = here.stats();
    let (read, sent) = (stats.of_peer(V1, "rx_packets"), total(&stats, "gateway_tx_packets"));
    // How much larger they are depends on how busy the machine is.
    assert!(sent > read, "{read} packets of the vassal became {sent}: super-packets were among them");
    assert_eq!(stats.drops("gateway_refused"), 0);
    assert_eq!(pings_answered(&near, EMPEROR, 1, &[]), 1);
}
