//! What the host lacks when an Emperor starts or reloads.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use nix::sys::signal::Signal;

use crate::common::netns::Net;
use crate::common::wait;
use crate::reload::reload;
use crate::world::{
    HOST_IPV4, OUTSIDE_IPV4, SET_UP, Site, World, client_as_seen, ini, ip, ipv4_forwarding, start, start_in, vassal,
};

#[track_caller]
fn assert_reaches(world: &World, net: &Net, port: u16) {
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), port));
    assert_eq!(client_as_seen(net, target, &world.site.outside4, target), ip(HOST_IPV4));
}

fn replace_in_ini(world: &World, from: &str, to: &str) {
    let path = world.path("emperor.ini");
    let text = fs::read_to_string(&path).expect("own file");
    assert!(text.contains(from), "{from} in {text}");
    fs::write(&path, text.replace(from, to)).expect("own file");
}

/// Adds an interface with its addresses, up, behind which there is another host.
fn add_line(world: &World) -> crate::common::netns::Netns {
    let beyond = crate::common::netns::Netns::new();
    world.netns.sh(&format!("ip link add wan1 type veth peer name veth0 netns {}", beyond.name()));
    world.netns.sh("ip addr add 198.51.100.1/24 dev wan1");
    world.netns.sh("ip link set wan1 up");
    beyond.sh("ip addr add 198.51.100.2/24 dev veth0");
    beyond.sh("ip link set veth0 up");
    beyond
}

#[test]
fn interface_that_is_away_joins_when_it_is_there() {
    let mut world = start(&["tuntap-router-nat = wan1"]);
    world.log.wait_for("emperor0: there is no interface wan1 (tuntap-router-nat) at the moment", wait::SHORT);
    let net = world.start_vassal(&vassal("v1"));
    assert_reaches(&world, &net, 7200);
    let beyond = add_line(&world);
    wait::until_true("it forwards", wait::LONG, || ipv4_forwarding(&world.netns, "wan1") == 1);
    let target = SocketAddr::from((ip("198.51.100.2"), 7200));
    assert_eq!(client_as_seen(&net, target, &beyond, target), ip("198.51.100.1"));
    let lines = world.log.text().matches("there is no interface wan1").count();
    assert_eq!(lines, 1, "it is said once");
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!(ipv4_forwarding(&world.netns, "wan1"), 0);
}

/// Interfaces come and go, as dial-up lines and VPNs do: one is away, the other one was renamed.
#[test]
fn reload_goes_on_without_interfaces_that_are_gone() {
    let mut world = start(&["tuntap-router-nat = wan1"]);
    let _beyond = add_line(&world);
    world.netns.sh("ip link set up6 name away6");
    world.netns.sh("ip link del wan1");
    for number in [7210, 7211] {
        reload(&world);
        assert!(world.emperor.exit_status().is_none());
        let net = world.start_vassal(&vassal(&format!("v{number}")));
        assert_reaches(&world, &net, number);
        fs::remove_file(world.path(&format!("vassals/v{number}.ini"))).expect("own file");
    }
    world.netns.sh("ip link set away6 down");
    world.netns.sh("ip link set away6 name up6");
    world.netns.sh("ip link set up6 up");
    wait::until_true("it forwards", wait::LONG, || ipv4_forwarding(&world.netns, "up6") == 1);
}

/// The folder of its socket is gone: the router waits until it is there.
#[test]
fn reload_goes_on_without_the_sockets_folder() {
    let host = crate::common::netns::Netns::new();
    let site = Site::around(&host);
    let lines = SET_UP.map(|line| line.replace("{dir}/t.sock", "{dir}/run/t.sock"));
    let ini = lines.iter().fold(ini(), |ini, line| ini.line(line.clone()));
    let mut emperor = ini.line("exec-asap = mkdir -p {dir}/run").launch_in(host);
    emperor.stats_eventually();
    // From now on nobody makes the folder.
    let path = emperor.path("emperor.ini");
    let text = fs::read_to_string(&path).expect("own file");
    fs::write(&path, text.lines().filter(|line| !line.starts_with("exec-asap")).collect::<Vec<_>>().join("\n"))
        .expect("own file");
    fs::remove_dir_all(emperor.path("run")).expect("own folder");
    emperor.signal(Signal::SIGHUP);
    emperor.log.wait_for("run/t.sock: No such file or directory", wait::LONG);
    emperor.log.wait_for("it is tried again, and its vassals wait", wait::SHORT);
    assert!(emperor.exit_status().is_none());
    fs::create_dir(emperor.path("run")).expect("own folder");
    emperor.log.wait_for("emperor0: it is possible now", wait::LONG);
    wait::until_true("the router answers", wait::LONG, || emperor.try_stats().is_ok());
    assert!(emperor.path("run/t.sock").exists());
    let addresses = emperor.netns.sh("ip -br addr show dev emperor0");
    assert!(addresses.contains("192.168.0.1/24"), "{addresses}");
    assert!(emperor.exit_status().is_none());
    drop(site);
}

/// Another program has the port of the statistics.
#[test]
fn reload_goes_on_without_a_port_that_somebody_has() {
    let mut world = start(&[]);
    let taken = world.netns.run(|| TcpListener::bind("127.0.0.1:7220")).expect("the port is free");
    replace_in_ini(
        &world,
        "tuntap-router = emperor0 {dir}/t.sock {dir}/stats.sock".replace("{dir}", &dir(&world)).as_str(),
        &"tuntap-router = emperor0 {dir}/t.sock 127.0.0.1:7220".replace("{dir}", &dir(&world)),
    );
    world.signal(Signal::SIGHUP);
    world.log.wait_for("statistics on 127.0.0.1:7220: Address already in use", wait::LONG);
    assert!(world.emperor.exit_status().is_none());
    drop(taken);
    world.log.wait_for("emperor0: it is possible now", wait::LONG);
    let net = world.start_vassal(&vassal("v1"));
    assert_reaches(&world, &net, 7220);
}

fn dir(world: &World) -> String {
    world.in_dir("{dir}")
}

/// A gateway and statistics on addresses that come with an interface.
#[test]
fn address_that_the_host_is_yet_to_get_is_bound_all_the_same() {
    let host = crate::common::netns::Netns::new();
    let site = Site::around(&host);
    let router = "tuntap-router = emperor0 {dir}/t.sock 198.51.100.1:7230 198.51.100.1:7231";
    let emperor = ini().line(router).line("tuntap-router-address = 192.168.0.1/24").launch_in(host);
    emperor.log.wait_for("spawned uWSGI tuntap router 1", wait::LONG);
    emperor.log.wait_for("doesn't have the address 198.51.100.1 of its gateway yet", wait::SHORT);
    let world = World { emperor, site };
    let _beyond = add_line(&world);
    let stats = wait::until("statistics", wait::LONG, || {
        world.netns.run(|| std::net::TcpStream::connect("198.51.100.1:7230")).ok()
    });
    drop(stats);
}

/// A table of this name came into being while the router had none.
#[test]
fn reload_goes_on_without_a_table_that_somebody_else_has() {
    let host = crate::common::netns::Netns::new();
    let mut world = start_in(host, &[]);
    let path = world.path("emperor.ini");
    let text = fs::read_to_string(&path).expect("own file");
    // Without an address a router has no table.
    let without: Vec<_> = text.lines().filter(|line| !line.starts_with("tuntap-router-")).collect();
    fs::write(&path, without.join("\n")).expect("own file");
    reload(&world);
    world.netns.sh("nft add table inet tuntap-emperor0");
    fs::write(&path, &text).expect("own file");
    let mark = world.log.mark();
    reload(&world);
    world.log.wait_for_since(mark, "table inet tuntap-emperor0 is somebody else's", wait::SHORT);
    assert!(world.emperor.exit_status().is_none());
    assert_eq!(ipv4_forwarding(&world.netns, "up4"), 0, "nothing is forwarded without it");
    world.netns.sh("nft delete table inet tuntap-emperor0");
    world.log.wait_for_since(mark, "made the nftables table inet tuntap-emperor0", wait::LONG);
    wait::until_true("it forwards", wait::LONG, || ipv4_forwarding(&world.netns, "up4") == 1);
    let net = world.start_vassal(&vassal("v1"));
    assert_reaches(&world, &net, 7240);
}
