//! From the vassals to other networks.

use std::net::SocketAddr;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, V1};
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::world::{
    HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, V1_IPV6, client_as_seen, connect, forwarding, ip, start, vassal,
};

const TCP: u8 = 6;
const SYN: u8 = 0x02;

#[test]
fn vassal_reaches_both_outside_hosts() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    assert!(is_reachable(&world.netns, V1) && is_reachable(&net, EMPEROR));
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7001));
    assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), 7001));
    assert_eq!(client_as_seen(&net, target, &world.site.outside6, target), ip(HOST_IPV6));
}

#[test]
fn only_the_interfaces_that_are_meant_forward() {
    let world = start(&[]);
    let state = forwarding(&world.netns);
    // ip_forward, IPv4 up4, up6, lo, IPv6 all, up4, up6, accept_ra, lo
    let on = state.iter().enumerate().filter(|(index, value)| *index != 7 && *value == "1").map(|(index, _)| index);
    assert_eq!(on.collect::<Vec<_>>(), [1, 2, 5, 6], "{state:?}");
    let stats = world.stats();
    assert_eq!(stats.0["addresses"], serde_json::json!(["192.168.0.1/24", "fd00:77::1/64"]));
    assert_eq!(stats.0["nat"], serde_json::json!(["up4", "up6"]));
    assert_eq!(stats.0["ports"], serde_json::json!([]));
}

#[test]
fn device_has_its_mtu() {
    let world = start(&["tuntap-router-mtu = 1400"]);
    assert!(world.netns.sh("ip link show dev emperor0").contains("mtu 1400"));
}

/// A device that somebody deletes comes back with its address and its forwarding.
#[test]
fn deleted_device_is_set_up_again() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let router = world.router_pid();
    world.netns.sh("ip link del emperor0");
    wait::until_true("another router", wait::LONG, || world.try_stats().is_ok_and(|it| it.router_pid() != router));
    wait::until_true("the vassal is reachable", wait::LONG, || is_reachable(&net, EMPEROR));
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7001));
    assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
}

/// The vassal's link carries 1500 bytes, and the way out 1300: the SYN that comes out announces no more than fits.
#[test]
fn segment_size_fits_the_narrower_way() {
    let world = start(&[]);
    world.netns.sh("ip link set up4 mtu 1300");
    world.netns.sh("ip link set up6 mtu 1300");
    let net = world.start_vassal(&vassal("v1"));
    for (outside, address, header_len) in
        [(&world.site.outside4, OUTSIDE_IPV4, 20), (&world.site.outside6, OUTSIDE_IPV6, 40)]
    {
        let capture = Capture::received_on(outside, "veth0");
        let target = SocketAddr::from((ip(address), 7002));
        let _connection = connect(&net, target, outside, target);
        let syn = wait::until("a SYN", wait::SHORT, || {
            let packet = capture.next(wait::SHORT)?;
            let tcp = packet.get(header_len..)?;
            let protocol = if header_len == 20 { packet[9] } else { packet[6] };
            (protocol == TCP && *tcp.get(13)? == SYN).then(|| tcp.to_vec())
        });
        // The first option of Linux's SYN: kind 2, length 4, size.
        assert_eq!(syn[20..22], [2, 4]);
        let announced = usize::from(u16::from_be_bytes([syn[22], syn[23]]));
        assert_eq!(announced, 1300 - header_len - 20, "{address}");
    }
}

#[test]
fn ipv6_source_is_the_vassals_until_the_host() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let target = SocketAddr::from((ip("fd00:77::1"), 7003));
    assert_eq!(client_as_seen(&net, target, &world.netns, target), ip(V1_IPV6));
}
