//! From the vassals to other networks.

use std::net::SocketAddr;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, V1};
use crate::common::netns::Netns;
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::world::{
    HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, SET_UP, Site, State, V1_IPV6, World, client_as_seen, connect,
    forwarding, ini, ip, start, vassal,
};

const TCP: u8 = 6;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;

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
    let host = Netns::new();
    let site = Site::around(&host);
    let mut before = forwarding(&host);
    let world = World { emperor: ini().lines(&SET_UP).start_in(host), site };
    let state = forwarding(&world.netns);
    let mut changed = vec![("ipv4/conf/up4/forwarding", 1), ("ipv4/conf/up6/forwarding", 1)];
    if state.contains_key("ipv6/conf/up6/force_forwarding") {
        changed.extend([("ipv6/conf/up4/force_forwarding", 1), ("ipv6/conf/up6/force_forwarding", 1)]);
    } else {
        // Before Linux 6.17: all of IPv6, with what advertisements tell.
        changed.extend(["all", "default"].map(|name| (known(&state, name, "forwarding"), 1)));
        changed.extend(["default", "up4", "up6"].map(|name| (known(&state, name, "accept_ra"), 2)));
    }
    for (name, value) in changed {
        assert_eq!(state[name], value, "{name}: {state:?}");
        before.insert(name, value);
    }
    assert_eq!(state, before);
    let stats = world.stats();
    assert_eq!(stats.0["addresses"], serde_json::json!(["192.168.0.1/24", "fd00:77::1/64"]));
    assert_eq!(stats.0["nat"], serde_json::json!(["up4", "up6"]));
    assert_eq!(stats.0["ports"], serde_json::json!([]));
}

fn known(state: &State, interface: &str, setting: &str) -> &'static str {
    let name = format!("ipv6/conf/{interface}/{setting}");
    state.keys().find(|known| **known == name).expect("the kernel has it")
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
        assert_eq!(announced(&capture, header_len, SYN), 1300 - header_len - 20, "{address}");
    }
}

/// The outside host's link carries 1500 bytes, the router's device 1300 and the vassal's own 1500 again: both ends of a
/// connection from outside are told what fits.
#[test]
fn segment_size_of_connections_from_outside_fits_the_router() {
    let world = start(&[
        "tuntap-router-mtu = 1300",
        "tuntap-router-port = tcp 8080 192.168.0.2:80",
        "tuntap-router-port = tcp 8080 [fd00:77::2]:80",
    ]);
    let net = world.start_vassal(&vassal("v1").mtu(1500));
    for (outside, host, vassal, header_len) in
        [(&world.site.outside4, HOST_IPV4, "192.168.0.2", 20), (&world.site.outside6, HOST_IPV6, V1_IPV6, 40)]
    {
        let at_the_vassal = Capture::received_on(&net, "uwsgi0");
        let outside_of_it = Capture::received_on(outside, "veth0");
        let listening = SocketAddr::from((ip(vassal), 80));
        let _connection = connect(outside, SocketAddr::from((ip(host), 8080)), &net, listening);
        let fitting = 1300 - header_len - 20;
        assert_eq!(announced(&at_the_vassal, header_len, SYN), fitting, "{host}, the SYN");
        assert_eq!(announced(&outside_of_it, header_len, SYN_ACK), fitting, "{host}, its answer");
    }
}

/// The segment size in the next packet with these flags.
#[track_caller]
fn announced(capture: &Capture, header_len: usize, flags: u8) -> usize {
    let tcp = wait::until("a SYN", wait::SHORT, || {
        let packet = capture.next(wait::SHORT)?;
        let tcp = packet.get(header_len..)?;
        let protocol = if header_len == 20 { packet[9] } else { packet[6] };
        (protocol == TCP && *tcp.get(13)? == flags).then(|| tcp.to_vec())
    });
    // The first option of Linux's SYN: kind 2, length 4, size.
    assert_eq!(tcp[20..22], [2, 4]);
    usize::from(u16::from_be_bytes([tcp[22], tcp[23]]))
}

#[test]
fn ipv6_source_is_the_vassals_until_the_host() {
    let world = start(&["tuntap-router-host = allow tcp 7003"]);
    let net = world.start_vassal(&vassal("v1"));
    let target = SocketAddr::from((ip("fd00:77::1"), 7003));
    assert_eq!(client_as_seen(&net, target, &world.netns, target), ip(V1_IPV6));
}
