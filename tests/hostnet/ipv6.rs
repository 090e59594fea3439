//! Hosts that have IPv6, half of it, or none.

use std::net::SocketAddr;

use crate::common::netns::{Net, Netns};
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::NOBODY;
use crate::common::wait;
use crate::world::{
    HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, SET_UP, Site, World, client_as_seen, ini, ip, ruleset, vassal,
};

const PORTS: [&str; 4] = [
    "tuntap-router-port = tcp 8080 192.168.0.2:80",
    "tuntap-router-port = tcp 8080 [fd00:77::2]:80",
    "tuntap-router-dns = 9.9.9.9",
    "tuntap-router-dns = 2620:fe::fe",
];

#[track_caller]
fn start_in(host: Netns, site: Site) -> World {
    World { emperor: ini().lines(&SET_UP).lines(&PORTS).start_in(host), site }
}

/// A vassal that asks its router for addresses.
#[track_caller]
pub fn start_auto(world: &World, name: &str) -> Net {
    let head = Uwsgi::usual().plugin_lines(Subject::Ours);
    let text = format!(
        "[uwsgi]\n{head}master = true\njailed = true\nprocesses = 1\nsocket = 127.0.0.1:3031\nuid = {NOBODY}\n\
         gid = {NOBODY}\ntuntap-device = uwsgi0 {{dir}}/t.sock auto\n"
    );
    let (mark, draft) = (world.log.mark(), world.path("draft"));
    std::fs::write(&draft, world.in_dir(&text)).expect("own folder");
    std::fs::rename(draft, world.path(&format!("vassals/{name}.ini"))).expect("own folder");
    world.wait_until_ready(mark, name);
    world.vassal_net(name)
}

fn address_count(net: &Net, family: &str) -> usize {
    net.sh(&format!("ip {family} -o addr show dev uwsgi0 scope global")).lines().count()
}

#[track_caller]
fn assert_ipv4_works(world: &World, net: &Net) {
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), 7010));
    assert_eq!(client_as_seen(net, target, &world.site.outside4, target), ip(HOST_IPV4));
}

#[test]
fn vassal_has_both_where_the_host_has_both() {
    let host = Netns::new();
    let site = Site::around(&host);
    let world = start_in(host, site);
    let net = start_auto(&world, "a");
    assert_eq!((address_count(&net, "-4"), address_count(&net, "-6")), (1, 1));
    assert_ipv4_works(&world, &net);
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), 7010));
    assert_eq!(client_as_seen(&net, target, &world.site.outside6, target), ip(HOST_IPV6));
}

/// IPv6 is off for new devices only, or everywhere.
#[test]
fn host_without_ipv6_gives_its_vassals_ipv4() {
    for off in ["net.ipv6.conf.default.disable_ipv6=1", "net.ipv6.conf.all.disable_ipv6=1"] {
        let host = Netns::new();
        let site = Site::around(&host);
        host.sh(&format!("sysctl -qw {off}"));
        let world = start_in(host, site);
        world.log.wait_for("emperor0: IPv6 is turned off on this host", wait::SHORT);
        let net = start_auto(&world, "a");
        assert_eq!((address_count(&net, "-4"), address_count(&net, "-6")), (1, 0), "{off}");
        assert_ipv4_works(&world, &net);
        let stats = world.stats();
        assert_eq!(stats.0["addresses"], serde_json::json!(["192.168.0.1/24"]));
        assert_eq!(stats.0["ports"].as_array().map(Vec::len), Some(1), "{stats:?}");
        assert!(!ruleset(&world.netns).contains("fd00:77"));
    }
}

#[test]
fn router_with_ipv6_alone_does_not_start_without_it() {
    let host = Netns::new();
    host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let lines = [SET_UP[0], "tuntap-router-address = fd00:77::1/64"];
    let mut emperor = ini().lines(&lines).launch_in(host);
    assert!(!emperor.wait_for_exit().success());
    emperor.log.wait_for("emperor0: IPv6 is turned off on this host, and the router has no IPv4 address", wait::SHORT);
}

/// A running router goes on, and has its address again once IPv6 is back.
#[test]
fn router_with_ipv6_alone_reloads_without_it() {
    let host = Netns::new();
    host.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
    let lines = [SET_UP[0], "tuntap-router-address = fd00:77::1/64"];
    let mut emperor = ini().lines(&lines).start_in(host);
    emperor.netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    let mark = emperor.log.mark();
    emperor.signal(nix::sys::signal::Signal::SIGHUP);
    emperor.log.wait_for_since(mark, "spawned uWSGI tuntap router 1", wait::LONG);
    assert!(emperor.exit_status().is_none());
    emperor.log.wait_for_since(mark, "emperor0: IPv6 is turned off on this host", wait::SHORT);
    emperor.netns.sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
    wait::until_true("the router has its address", wait::LONG, || {
        emperor.netns.sh("ip -6 addr show dev emperor0").contains("fd00:77::1/64")
    });
}

/// The host has no more than link-local addresses: vassals have IPv6 among themselves, and are told at once that the world
/// is not to be reached by it.
#[test]
fn host_with_link_local_addresses_only_says_that_there_is_no_way() {
    let host = Netns::new();
    let site = Site::around(&host);
    host.sh(&format!("ip addr del {HOST_IPV6}/64 dev up6"));
    let world = start_in(host, site);
    let net = world.start_vassal(&vassal("v1"));
    assert_ipv4_works(&world, &net);
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), 7011));
    let error = net.run(|| std::net::TcpStream::connect_timeout(&target, wait::LONG)).expect_err("there is no way");
    assert_eq!(error.kind(), std::io::ErrorKind::NetworkUnreachable, "{error}");
}

/// Some tunnels look like this.
#[test]
fn interface_that_is_too_narrow_for_ipv6_carries_ipv4() {
    let host = Netns::new();
    let site = Site::around(&host);
    host.sh("ip link set up4 mtu 1200");
    let world = start_in(host, site);
    world.log.wait_for("up4 has no IPv6", wait::SHORT);
    let net = world.start_vassal(&vassal("v1"));
    assert_ipv4_works(&world, &net);
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), 7012));
    assert_eq!(client_as_seen(&net, target, &world.site.outside6, target), ip(HOST_IPV6));
}
