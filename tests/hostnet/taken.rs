//! Mapped ports that have a use already.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use crate::common::emperor::EmperorIni;
use crate::common::netns::Netns;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::reload::reload;
use crate::world::{HOST_IPV4, SET_UP, Site, World, client_as_seen, ini, ip, start, vassal};

const TCP: &str = "tuntap-router-port = tcp 2222 192.168.0.2:22";
const TCP6: &str = "tuntap-router-port = tcp 2222 [fd00:77::2]:22";
const UDP: &str = "tuntap-router-port = udp 2222 192.168.0.2:22";

#[track_caller]
fn assert_refused(host: Netns, line: &str, reason: &str) {
    let mut emperor = ini().lines(&SET_UP).line(line).launch_in(host);
    assert!(!emperor.wait_for_exit().success(), "{line}");
    emperor.log.wait_for(reason, wait::SHORT);
}

#[test]
fn port_that_the_host_serves_stops_the_start() {
    for (line, address) in [
        (TCP, "0.0.0.0:2222"),
        (TCP, "203.0.113.1:2222"),
        (TCP, "[::]:2222"),
        (TCP6, "[::]:2222"),
        (TCP6, "[2001:db8:1::1]:2222"),
    ] {
        let host = Netns::new();
        let _site = Site::around(&host);
        let _service = host.run(|| TcpListener::bind(address)).expect("the port is free");
        let protocol = "emperor0: tcp port 2222 (tuntap-router-port, to ";
        let process = format!("is served by this host itself, pid {} ", std::process::id());
        assert_refused(host, line, protocol);
        let host = Netns::new();
        let _site = Site::around(&host);
        let _service = host.run(|| TcpListener::bind(address)).expect("the port is free");
        assert_refused(host, line, &process);
    }
    let host = Netns::new();
    let _site = Site::around(&host);
    let _service = host.run(|| UdpSocket::bind("0.0.0.0:2222")).expect("the port is free");
    assert_refused(host, UDP, "emperor0: udp port 2222");
}

/// uWSGI would put its own socket in its place, and the first Emperor's vassals would meet the wrong router.
#[test]
fn socket_that_somebody_listens_on_stops_the_start() {
    let world = start(&[]);
    let folder = world.path("").display().to_string();
    for (line, reason) in [
        (format!("tuntap-router = emperor9 {folder}/t.sock"), format!("socket {folder}/t.sock: pid ")),
        (
            format!("tuntap-router = emperor9 {{dir}}/t.sock {folder}/stats.sock"),
            format!("statistics on {folder}/stats.sock: pid "),
        ),
    ] {
        let mut second = EmperorIni::new(Uwsgi::usual(), Subject::Ours).router("").line(&line).launch_in(Netns::new());
        assert!(!second.wait_for_exit().success(), "{line}");
        second.log.wait_for(&reason, wait::SHORT);
        second.log.wait_for("listens there already", wait::SHORT);
    }
    world.start_vassal(&vassal("v1"));
    world.stats();
}

#[test]
fn file_that_is_no_socket_stops_the_start_and_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("passwd");
    fs::write(&path, "root").expect("own folder");
    let line = format!("tuntap-router = emperor9 {}", path.display());
    let mut emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours).router("").line(&line).launch_in(Netns::new());
    assert!(!emperor.wait_for_exit().success());
    emperor.log.wait_for("a file of that name is there, and is no socket", wait::SHORT);
    assert_eq!(fs::read(&path).expect("it is there"), b"root");
}

#[test]
fn services_of_other_ports_protocols_and_addresses_are_in_nobodys_way() {
    let host = Netns::new();
    let site = Site::around(&host);
    let _services = host.run(|| {
        (
            TcpListener::bind("0.0.0.0:2223").expect("free"),
            TcpListener::bind("127.0.0.1:2222").expect("free"),
            UdpSocket::bind("0.0.0.0:2222").expect("free"),
        )
    });
    let emperor = ini().lines(&SET_UP).line(TCP).start_in(host);
    let world = World { emperor, site };
    let net = world.start_vassal(&vassal("v1"));
    let target = SocketAddr::from((ip(HOST_IPV4), 2222));
    client_as_seen(&world.site.outside4, target, &net, (ip("192.168.0.2"), 22).into());
}

#[test]
fn port_that_is_meant_is_mapped_all_the_same() {
    let host = Netns::new();
    let site = Site::around(&host);
    let _service = host.run(|| TcpListener::bind("0.0.0.0:2222")).expect("the port is free");
    let emperor = ini().lines(&SET_UP).line(format!("{TCP} anyway")).start_in(host);
    let world = World { emperor, site };
    let net = world.start_vassal(&vassal("v1"));
    let target = SocketAddr::from((ip(HOST_IPV4), 2222));
    client_as_seen(&world.site.outside4, target, &net, (ip("192.168.0.2"), 22).into());
}

#[test]
fn port_that_another_emperor_maps_stops_the_start() {
    let world = start(&[TCP]);
    let other = ["tuntap-router = emperor1 {dir}/t.sock", "tuntap-router-address = 192.168.9.1/24"];
    let second = |line: &str| {
        let ini = ini().lines(&other).line("tuntap-router-nat = up4").line(line.to_owned());
        ini.before(&format!("exec nsenter --net=/run/netns/{} \"$@\"", world.netns.name())).launch()
    };
    let mut emperor = second("tuntap-router-port = tcp 2222 192.168.9.2:22");
    assert!(!emperor.wait_for_exit().success());
    emperor.log.wait_for("is led elsewhere by the table inet tuntap-emperor0, chain prerouting", wait::SHORT);
    let emperor = second("tuntap-router-port = tcp 2223 192.168.9.2:22");
    emperor.log.wait_for("spawned uWSGI tuntap router 1", wait::LONG);
}

/// A running Emperor logs what is wrong, and goes on.
#[test]
fn service_that_comes_later_is_said_at_the_next_reload() {
    let mut world = start(&[TCP]);
    let _service = world.netns.run(|| TcpListener::bind("0.0.0.0:2222")).expect("the port is free");
    let mark = world.log.mark();
    reload(&world);
    world.log.wait_for_since(mark, "emperor0: tcp port 2222", wait::SHORT);
    assert!(world.emperor.exit_status().is_none());
    // The same holds for a mapping that is new.
    let _other = world.netns.run(|| TcpListener::bind("0.0.0.0:2224")).expect("the port is free");
    let path = world.path("emperor.ini");
    let text = fs::read_to_string(&path).expect("own file");
    fs::write(&path, format!("{text}tuntap-router-port = tcp 2224 192.168.0.2:22\n")).expect("own file");
    let mark = world.log.mark();
    reload(&world);
    world.log.wait_for_since(mark, "emperor0: tcp port 2224", wait::SHORT);
    assert!(world.emperor.exit_status().is_none());
    let net = world.start_vassal(&vassal("v1"));
    let target = SocketAddr::from((ip(HOST_IPV4), 2224));
    client_as_seen(&world.site.outside4, target, &net, (ip("192.168.0.2"), 22).into());
    drop(TcpStream::connect("127.0.0.1:9"));
}
