//! The way to the rest of the world.

use crate::world::{ROUTER, World};

#[test]
fn forwarding_that_is_off_is_told() {
    let world = World::usual();
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    world.examine_lines(ROUTER).is_wrong("net.ipv4.ip_forward is off", "sysctl -w net.ipv4.ip_forward=1");
    let sets = "exec-as-root = echo 1 >/proc/sys/net/ipv4/ip_forward\n";
    world.examine_lines(&format!("{ROUTER}{sets}")).is_well();
}

#[test]
fn missing_default_route_is_a_warning() {
    let world = World::usual();
    world.netns.sh("ip route del default");
    world.examine_lines(ROUTER).warns("no default route for IPv4", "ip route add default");
}

#[test]
fn strict_sources_are_a_warning_where_there_is_a_gateway() {
    let world = World::usual();
    world.netns.sh("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    world.examine_lines(ROUTER).is_well();
    let gateway = "tuntap-router = emperor1 {dir}/u.sock \"\" 127.0.0.1:999\n";
    world.examine_lines(&format!("{ROUTER}{gateway}")).warns("rp_filter is strict", "rp_filter=2");
}

const NAT: &str = "tuntap-router-address = 192.168.0.1/24\ntuntap-router-nat = eth0\n";

#[test]
fn router_that_sees_to_its_host_is_well() {
    let world = World::usual();
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    world.examine_lines(&format!("{ROUTER}{NAT}")).is_well();
    let elsewhere = NAT.replace("eth0", "eth7");
    world.examine_lines(&format!("{ROUTER}{elsewhere}")).is_wrong("there is no interface eth7", "eth0");
}

#[test]
fn network_that_is_taken_is_told() {
    let world = World::usual();
    let of_interface = ROUTER.to_owned() + "tuntap-router-address = 203.0.113.129/25\n";
    world.examine_lines(&of_interface).is_wrong("overlaps with 203.0.113.0/24 of eth0", "another network");
    world.netns.sh("ip route add 192.168.0.128/25 via 203.0.113.1");
    world
        .examine_lines(&format!("{ROUTER}{NAT}"))
        .is_wrong("overlaps with a route to 192.168.0.128/25 by eth0", "another");
    world.netns.sh("ip route del 192.168.0.128/25");
    world.netns.sh("ip route add 192.168.0.0/16 via 203.0.113.1");
    world
        .examine_lines(&format!("{ROUTER}{NAT}"))
        .warns("hides a part of a route to 192.168.0.0/16 by eth0", "another");
}

#[test]
fn forwarding_of_ipv6_is_its_own_matter() {
    let world = World::usual();
    let verdict = world.examine_lines(&format!("{ROUTER}tuntap-router-address = fd00:1::1/64\n"));
    verdict.is_wrong("net.ipv6.conf.all.forwarding is off", "net.ipv6.conf.all.forwarding=1");
    verdict.has("warning", "no default route for IPv6", "ip -6 route add default");
}
