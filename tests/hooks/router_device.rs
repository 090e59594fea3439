//! What the operator may do to the router's device while it runs.

use crate::common::emperor::{EMPEROR, V1};
use crate::common::probe::send_udp;
use crate::common::wait;
use crate::site::{assert_works, emperor, new_vassal_net, vassal};

#[test]
fn deleted_device_is_made_again() {
    let emperor = emperor();
    emperor.start_vassal(&vassal(&emperor));
    let router = emperor.router_pid();
    let mark = emperor.log.mark();
    emperor.netns.sh("ip link del emperor0");
    emperor.log.wait_for_since(mark, "the device emperor0 was deleted", wait::LONG);
    emperor.log.wait_for_since(mark, "respawned uWSGI tuntap router 1", wait::LONG);
    wait::until_true("the device is there again", wait::LONG, || emperor.netns.has_device("emperor0"));
    assert_ne!(emperor.router_pid(), router);
    emperor.netns.sh("ip addr add 192.168.0.1/24 dev emperor0");
    emperor.netns.sh("ip link set emperor0 up");
    // The vassals ended with their connections; the Emperor starts them anew.
    let net = new_vassal_net(&emperor);
    assert_works(&emperor, &net);
    let text = emperor.log.since(mark);
    assert_eq!(text.matches("respawned uWSGI tuntap router 1").count(), 1, "{text}");
}

#[test]
fn device_that_is_down_refuses_packets_and_nothing_else() {
    let emperor = emperor();
    let net = emperor.start_vassal(&vassal(&emperor));
    let router = emperor.router_pid();
    emperor.netns.sh("ip link set emperor0 down");
    let before = emperor.stats().drops_of(V1, "tun_refused");
    for _ in 0..10 {
        send_udp(&net, EMPEROR, 9, b"refused").expect("the vassal can send");
    }
    emperor.wait_for_stats("the packets are counted", |stats| stats.drops_of(V1, "tun_refused") == before + 10);
    emperor.netns.sh("ip link set emperor0 up");
    assert_works(&emperor, &net);
    assert_eq!(emperor.router_pid(), router);
}
