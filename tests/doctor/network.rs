//! The way to the rest of the world.

use std::net::TcpListener;

use crate::common::emperor::EmperorIni;
use crate::common::netns::Netns;
use crate::common::uwsgi::{Subject, Uwsgi};
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
    world.examine_lines(&format!("{ROUTER}{elsewhere}")).warns("there is no interface eth7", "eth0");
}

#[test]
fn network_that_is_taken_is_told() {
    let world = World::usual();
    let of_interface = ROUTER.to_owned() + "tuntap-router-address = 203.0.113.129/25\n";
    world.examine_lines(&of_interface).is_wrong("overlaps 203.0.113.0/24, to which eth0 leads", "10.137.0.0/24");
    let lines = format!("{ROUTER}{NAT}");
    for route in ["192.168.0.128/25", "192.168.0.0/16"] {
        world.netns.sh(&format!("ip route add {route} via 203.0.113.1"));
        let what = format!("192.168.0.1/24 (tuntap-router-address) overlaps {route}, to which eth0 leads");
        world.examine_lines(&lines).is_wrong(&what, "anyway");
        let meant = lines.replace("192.168.0.1/24", "192.168.0.1/24 anyway");
        let verdict = world.examine_lines(&meant);
        verdict.is_well();
        verdict.has("ok", &format!("overlaps {route}, to which eth0 leads, which is meant"), "");
        world.netns.sh(&format!("ip route del {route}"));
    }
    world.netns.sh("ip route add 192.168.0.0/16 via 203.0.113.1 table 100");
    world.examine_lines(&lines).is_wrong("overlaps 192.168.0.0/16, to which eth0 leads", "anyway");
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
    // The instance really doesn't start.
    let netns = Netns::new();
    netns.sh("nft add table inet tuntap-emperor0");
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
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

#[test]
fn network_with_the_next_hop_or_the_dns_server_of_the_host_is_told() {
    let lines = format!("{ROUTER}{NAT}");
    // Many clouds configure a host like this: it knows nothing else of its network.
    let world = World::usual();
    world.netns.sh("ip route replace default via 192.168.0.1 dev eth0 onlink");
    world.examine_lines(&lines).is_wrong("192.168.0.1, which is the gateway by eth0", "choose a network");
    world.netns.sh("ip route replace default via 192.168.0.254 dev eth0 onlink");
    world.examine_lines(&lines).is_wrong("192.168.0.254, which is the gateway by eth0", "choose a network");
    let world = World::usual()
        .before("echo nameserver 192.168.0.53 >{dir}/resolv && mount --bind {dir}/resolv /etc/resolv.conf");
    std::fs::write(world.path("resolv"), "").expect("own folder");
    world.examine_lines(&lines).warns("192.168.0.53, which is this host's DNS server", "choose a network");
}

#[test]
fn interface_that_does_not_forward_is_told_although_others_do() {
    let world = World::usual();
    world.netns.sh("sysctl -qw net.ipv4.conf.eth0.forwarding=0");
    world
        .examine_lines(ROUTER)
        .is_wrong("net.ipv4.conf.eth0.forwarding is off", "sysctl -w net.ipv4.conf.eth0.forwarding=1");
    world.examine_lines(&format!("{ROUTER}{NAT}")).is_well();
    world.netns.sh("ip link set eth0 down");
    world.examine_lines(&format!("{ROUTER}{NAT}")).has("warning", "eth0: the interface is down", "ip link set eth0 up");
}

#[test]
fn ports_that_are_taken_are_told_before_the_start() {
    let world = World::usual();
    let port = "tuntap-router-port = tcp 2222 192.168.0.2:22\ntuntap-router-port = udp 2223 192.168.0.2:22\n";
    let lines = format!("{ROUTER}{NAT}{port}");
    world.examine_lines(&lines).is_well();
    let service = |address: &str| {
        let address = address.to_owned();
        world.netns.run(move || TcpListener::bind(address).expect("a free port"))
    };
    let inner = service("127.0.0.1:2222");
    world.examine_lines(&lines).is_well();
    drop(inner);
    let _outer = service("0.0.0.0:2222");
    world.examine_lines(&lines).is_wrong(
        "tcp port 2222 (tuntap-router-port, to 192.168.0.2:22) is served by this host itself, pid ",
        "anyway",
    );
    let meant = lines.replace("tcp 2222 192.168.0.2:22", "tcp 2222 192.168.0.2:22 anyway");
    let verdict = world.examine_lines(&meant);
    verdict.is_well();
    verdict.has("ok", "tcp port 2222 (tuntap-router-port, to 192.168.0.2:22) is served by this host itself", "");
    let stats = ROUTER.replace("t.sock\n", "t.sock 203.0.113.2:2222\n");
    world.examine_lines(&format!("{stats}{NAT}")).is_wrong("statistics 203.0.113.2:2222: pid ", "another port");
    // The second router is in a file of its own.
    let second = "tuntap-router = emperor1 {dir}/u.sock\ntuntap-router-address = 192.168.1.1/24\ntuntap-router-nat = eth0\n\
                  tuntap-router-port = udp 2223 192.168.1.2:22\n";
    let first = lines.replace("tcp 2222", "tcp 2224");
    let files = [world.file("a.ini", &first), world.file("b.ini", second)];
    world.examine(&[&files[0], &files[1]]).is_wrong("udp 2223 192.168.1.2:22: a router of ", "another port");
    // Another program's rule is for one of this host's addresses.
    world.netns.sh("nft add table ip other");
    world.netns.sh("nft add chain ip other pre { type nat hook prerouting priority -100 ; }");
    world.netns.sh("nft add rule ip other pre ip daddr 203.0.113.2 udp dport 2223 dnat to 203.0.113.9");
    world.examine_lines(&first).is_wrong(
        "udp port 2223 (tuntap-router-port, to 192.168.0.2:22) is led elsewhere by the table ip other",
        "anyway",
    );
}

#[test]
fn services_within_reach_of_a_long_set_up_are_a_warning() {
    let world = World::usual();
    let _service = world.netns.run(|| TcpListener::bind("0.0.0.0:5432").expect("a free port"));
    world.examine_lines(ROUTER).warns("vassals of emperor0 reach these services of this host: tcp 5432 (", "127.0.0.1");
    world.netns.sh("iptables -A INPUT -i emperor0 -j DROP");
    world.examine_lines(ROUTER).is_well();
}

#[test]
fn way_to_a_metadata_service_is_a_warning() {
    let world = World::usual();
    world.netns.sh("ip route add 169.254.169.254/32 dev eth0");
    world.examine_lines(ROUTER).warns("reach 169.254.169.254 by eth0", "reject any 169.254.0.0/16");
    world.examine_lines(&format!("{ROUTER}tuntap-router-firewall-out = reject any 169.254.0.0/16\n")).is_well();
}

#[test]
fn what_opens_the_whole_host_is_a_warning() {
    let world = World::usual();
    let lines = |rule| format!("{ROUTER}{NAT}tuntap-router-host = {rule}\n");
    world.examine_lines(&lines("allow")).warns("every service of this host is open to vassals", "allow <address>");
    world.examine_lines(&lines("allow tcp 5432")).is_well();
}

#[test]
fn limits_of_all_vassals_are_compared_with_what_the_host_tracks() {
    let world = World::usual();
    let most: u64 = world.netns.sh("sysctl -n net.netfilter.nf_conntrack_max").trim().parse().expect("a number");
    let lines = |each| format!("{ROUTER}{NAT}tuntap-router-max-peers = 400\ntuntap-router-max-connections = {each}\n");
    world.examine_lines(&lines(most / 400)).is_well();
    let each = most / 400 + 1;
    let what = format!("400 vassals with {each} connections each (tuntap-router-max-connections) are {}", each * 400);
    world.examine_lines(&lines(each)).warns(&what, "nf_conntrack_max");
}

#[test]
fn table_that_a_router_without_nat_needs_is_told_too() {
    let world = World::usual();
    world.netns.sh("nft add table inet tuntap-emperor0");
    let lines = format!("{ROUTER}tuntap-router-address = 192.168.0.1/24\n");
    world.examine_lines(&lines).is_wrong("the table inet tuntap-emperor0 is somebody else's", "nft delete table");
}
