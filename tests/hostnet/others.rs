//! Other programs change the host's network while an Emperor runs.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::common::wait;
use crate::world::{HOST_IPV4, OUTSIDE_IPV4, client_as_seen, ip, ipv4_forwarding, start, vassal};

/// Container engines do this when they start.
#[test]
fn forwarding_that_was_turned_on_for_all_interfaces_since_stays_on() {
    let mut world = start(&[]);
    assert_eq!(ipv4_forwarding(&world.netns, "all"), 0);
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=1");
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    for interface in ["all", "up4", "up6", "lo"] {
        assert_eq!(ipv4_forwarding(&world.netns, interface), 1, "{interface}");
    }
    world.log.wait_for("somebody has turned it on for all interfaces since", wait::SHORT);
}

/// Dial-up lines and tunnels come back like this.
#[test]
fn interface_that_is_made_anew_forwards_again() {
    let mut world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let remake = || {
        world.netns.sh("ip link del up4");
        world.netns.sh(&format!("ip link add up4 type veth peer name veth0 netns {}", world.site.outside4.name()));
        world.netns.sh(&format!("ip addr add {HOST_IPV4}/24 dev up4"));
        world.netns.sh("ip link set up4 up");
        world.site.outside4.sh(&format!("ip addr add {OUTSIDE_IPV4}/24 dev veth0"));
        world.site.outside4.sh("ip link set veth0 up");
    };
    for _ in 0..2 {
        remake();
        wait::until_true("it forwards", wait::LONG, || ipv4_forwarding(&world.netns, "up4") == 1);
        let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7006));
        assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
    }
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!(ipv4_forwarding(&world.netns, "up4"), 0);
}
