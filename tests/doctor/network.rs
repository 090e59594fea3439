//! The way to the rest of the world.

use crate::common::emperor::EmperorIni;
use crate::common::host::{Host, Subject};
use crate::common::netns::Netns;
use crate::world::{ROUTER, VASSAL, World};

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
    let world = World::usual().with_ipv6();
    let lines = format!("{ROUTER}tuntap-router-address = fd00:1::1/64\n");
    world.examine_lines(&lines).is_well();
    world.netns.sh("sysctl -qw net.ipv6.conf.all.forwarding=0");
    world.examine_lines(&lines).warns("net.ipv6.conf.all.forwarding is off", "net.ipv6.conf.all.forwarding=1");
    world.netns.sh("ip -6 route del default");
    let verdict = world.examine_lines(&lines);
    verdict.has("warning", "no default route for IPv6", "ip -6 route add default");
}

#[test]
fn host_without_ipv6_is_told() {
    let both = format!("{ROUTER}{NAT}tuntap-router-address = fd00:1::1/64\n");
    let world = World::usual();
    world.examine_lines(&both).warns("IPv6 is off on this host", "disable_ipv6=0");
    world.with_ipv6().examine_lines(&both).is_well();
}

#[test]
fn table_of_somebody_else_is_told() {
    let world = World::usual();
    world.netns.sh("nft add table inet tuntap-emperor0");
    world.examine_lines(ROUTER).is_well();
    let lines = format!("{ROUTER}{NAT}");
    world.examine_lines(&lines).is_wrong("the table inet tuntap-emperor0 is somebody else's", "nft delete table");
    // It is as bad as that.
    let netns = Netns::new();
    netns.sh("nft add table inet tuntap-emperor0");
    let emperor = EmperorIni::new(Host::usual(), Subject::Ours)
        .line("tuntap-router-address = 192.168.0.1/24")
        .line("tuntap-router-nat = lo0");
    netns.sh("ip link add lo0 type veth peer name lo1");
    assert!(!emperor.launch_in(netns).wait_for_exit().success());
}

#[test]
fn settings_that_cannot_be_changed_are_told() {
    let world =
        World::usual().before("mount --bind /proc/sys/net /proc/sys/net && mount -o remount,bind,ro /proc/sys/net");
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=1");
    let lines = format!("{ROUTER}{NAT}");
    world.examine_lines(&lines).is_well();
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    world.examine_lines(&lines).is_wrong("/proc/sys/net can't be written to", "--privileged");
}

#[test]
fn host_only_set_up_is_a_warning() {
    let world = World::usual();
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    let hook = "exec-as-root = ip address replace 192.168.0.1/24 dev emperor0\n";
    world.examine_lines(&format!("{ROUTER}{hook}")).warns("net.ipv4.ip_forward is off", "tuntap-router-nat");
    let masquerades = "exec-as-root = iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE\n";
    world.examine_lines(&format!("{ROUTER}{hook}{masquerades}")).is_wrong("net.ipv4.ip_forward is off", "sysctl");
}

#[test]
fn ports_that_nobody_reaches_are_a_warning() {
    let world = World::usual();
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    let port = "tuntap-router-address = 192.168.0.1/24\ntuntap-router-port = tcp 80 192.168.0.2:80\n";
    world.examine_lines(&format!("{ROUTER}{port}")).warns("nobody outside reaches it", "tuntap-router-nat = emperor0 ");
    let lines = format!("{ROUTER}{port}tuntap-router-nat = eth0\n");
    world.examine_lines(&lines).is_well();
    let fixed = |address| format!("{VASSAL}tuntap-device-address = {address}/24\n");
    world.examine_pair(&lines, &fixed("192.168.0.2")).is_well();
    world
        .examine_pair(&lines, &fixed("192.168.0.3"))
        .warns("leads to 192.168.0.2, which is leased to nobody", "tuntap-router-lease");
}
