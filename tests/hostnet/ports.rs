//! From outside to the vassals, by the host's ports.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::wait;
use crate::world::{
    EMPEROR_IPV6, HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, SET_UP, Site, V1_IPV6, V2_IPV6, World, any_ipv4,
    client_as_seen, ini, ip, start, vassal, vassal_at,
};

const PORTS: [&str; 4] = [
    "tuntap-router-port = tcp 8080 192.168.0.2:80",
    "tuntap-router-port = udp 5353 192.168.0.2:53",
    "tuntap-router-port = emperor0 tcp 8080 [fd00:77::2]:80",
    "tuntap-router-port = emperor0 udp 5353 [fd00:77::2]:53",
];

/// How long a client waits for an answer that doesn't come: the second request of a connection is on its way by then.
const IN_VAIN: Duration = Duration::from_secs(3);

fn mapped(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

/// A datagram there and back; the address that the server sees.
#[track_caller]
fn udp_client_as_seen(from: &Net, to: SocketAddr, server: &Net, listening: SocketAddr) -> IpAddr {
    let server =
        wait::until("the address is there and free", wait::SHORT, || server.run(|| UdpSocket::bind(listening)).ok());
    let any: SocketAddr = if to.is_ipv4() { any_ipv4(0) } else { "[::]:0".parse().expect("an address") };
    let client = from.run(|| UdpSocket::bind(any)).expect("a socket");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    }
    client.send_to(b"question", to).expect("sent");
    let mut buffer = [0; 16];
    let (_, seen) = server.recv_from(&mut buffer).expect("the question arrives");
    server.send_to(b"answer", seen).expect("sent");
    let (count, answered) = client.recv_from(&mut buffer).expect("the answer arrives");
    assert_eq!((&buffer[..count], answered), (&b"answer"[..], to));
    seen.ip()
}

#[track_caller]
fn assert_mapped(world: &World, net: &Net) {
    let (outside4, outside6) = (&world.site.outside4, &world.site.outside6);
    let (web4, web6) = (mapped("192.168.0.2", 80), mapped(V1_IPV6, 80));
    assert_eq!(client_as_seen(outside4, mapped(HOST_IPV4, 8080), net, web4), ip(OUTSIDE_IPV4));
    assert_eq!(client_as_seen(outside6, mapped(HOST_IPV6, 8080), net, web6), ip(OUTSIDE_IPV6));
    let (dns4, dns6) = (mapped("192.168.0.2", 53), mapped(V1_IPV6, 53));
    assert_eq!(udp_client_as_seen(outside4, mapped(HOST_IPV4, 5353), net, dns4), ip(OUTSIDE_IPV4));
    assert_eq!(udp_client_as_seen(outside6, mapped(HOST_IPV6, 5353), net, dns6), ip(OUTSIDE_IPV6));
}

#[test]
fn outside_hosts_reach_the_vassal_as_themselves() {
    let world = start(&PORTS);
    let net = world.start_vassal(&vassal("v1"));
    assert_mapped(&world, &net);
    // The host's own processes, by its own addresses.
    assert_eq!(client_as_seen(&world.netns, mapped(HOST_IPV4, 8080), &net, mapped("192.168.0.2", 80)), ip(HOST_IPV4));
    assert_eq!(client_as_seen(&world.netns, mapped(HOST_IPV6, 8080), &net, mapped(V1_IPV6, 80)), ip(HOST_IPV6));
}

#[test]
fn mapping_is_for_the_hosts_own_addresses_only() {
    let world = start(&PORTS);
    let net = world.start_vassal(&vassal("v1"));
    // A vassal's request to another host at that port goes to that host.
    let target = mapped(OUTSIDE_IPV4, 8080);
    assert_eq!(client_as_seen(&net, target, &world.site.outside4, target), ip(HOST_IPV4));
    for loopback in ["127.0.0.1", "::1"] {
        let target = mapped(loopback, 8080);
        assert_eq!(client_as_seen(&world.netns, target, &world.netns, target), ip(loopback));
    }
}

#[test]
fn mapping_follows_a_vassal_that_is_started_anew() {
    let world = start(&PORTS);
    let net = world.start_vassal(&vassal("v1"));
    assert_mapped(&world, &net);
    let first = world.stats().0["ports"].clone();
    let pid = world.vassal_pid("v1").expect("it runs");
    assert_eq!(
        first[0],
        serde_json::json!({
            "protocol": "tcp", "port": 8080, "address": "192.168.0.2", "target_port": 80, "peer": pid
        })
    );
    assert_eq!((&first[3]["protocol"], &first[3]["peer"]), (&"udp".into(), &pid.into()));

    let mark = world.log.mark();
    crate::common::processes::send(pid, nix::sys::signal::Signal::SIGKILL);
    world.wait_until_ready(mark, "v1");
    let net = world.vassal_net("v1");
    world.wait_for_stats("it has its address again", |stats| stats.peer(V1).is_some());
    assert_mapped(&world, &net);
    assert_ne!(world.stats().0["ports"][0]["peer"], pid);
}

/// Without its vassal the port is as good as closed: requests go to the vassal's address, and not to the host's own
/// service at that port. Other ports go on.
#[test]
fn port_of_an_absent_vassal_answers_nobody() {
    let world = start(&PORTS);
    let mapped_port = mapped(HOST_IPV4, 8080);
    let _hosts_own = world.netns.run(|| TcpListener::bind(any_ipv4(8080))).expect("the port is free");
    let error = world.site.outside4.run(|| TcpStream::connect_timeout(&mapped_port, IN_VAIN)).expect_err("nobody");
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::HostUnreachable), "{error:?}");
    // The router drops the request, because no vassal has the address.
    assert!(world.stats().drops("no_peer") > 0, "{:?}", world.stats());
    assert_eq!(world.stats().0["ports"][0]["peer"], serde_json::Value::Null);
    let own = mapped(HOST_IPV4, 8081);
    assert_eq!(client_as_seen(&world.site.outside4, own, &world.netns, own), ip(OUTSIDE_IPV4));
}

/// By the host's own address, with and without the short way between vassals. The host has asked, as far as they can see.
#[test]
fn vassals_reach_each_other_and_themselves_by_the_hosts_ports() {
    for switch in ["tuntap-router-switch = false", "tuntap-router-switch = true"] {
        let lines: Vec<_> = PORTS.into_iter().chain([switch]).collect();
        let world = start(&lines);
        let (first, second) = (world.start_vassal(&vassal("v1")), world.start_vassal(&vassal_at("v2", V2, V2_IPV6)));
        for asking in [&first, &second] {
            let (web4, web6) = (mapped("192.168.0.2", 80), mapped(V1_IPV6, 80));
            assert_eq!(
                client_as_seen(asking, mapped(HOST_IPV4, 8080), &first, web4),
                IpAddr::from(EMPEROR),
                "{switch}"
            );
            assert_eq!(client_as_seen(asking, mapped(HOST_IPV6, 8080), &first, web6), ip(EMPEROR_IPV6), "{switch}");
            let (dns4, dns6) = (mapped("192.168.0.2", 53), mapped(V1_IPV6, 53));
            assert_eq!(udp_client_as_seen(asking, mapped(HOST_IPV4, 5353), &first, dns4), IpAddr::from(EMPEROR));
            assert_eq!(udp_client_as_seen(asking, mapped(HOST_IPV6, 5353), &first, dns6), ip(EMPEROR_IPV6));
        }
        assert_mapped(&world, &first);
    }
}

/// The router has as many mappings as it may have; the test tries the first, the last and one between.
#[test]
fn most_ports_that_a_router_may_have_all_work() {
    const MAX: u16 = 512;
    let lines: Vec<_> = (0..MAX)
        .map(|index| format!("tuntap-router-port = tcp {} 192.168.0.2:{}", 10_000 + index, 20_000 + index))
        .collect();
    let world = start(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let net = world.start_vassal(&vassal("v1"));
    for index in [0, MAX / 2, MAX - 1] {
        let (outer, inner) = (mapped(HOST_IPV4, 10_000 + index), mapped("192.168.0.2", 20_000 + index));
        assert_eq!(client_as_seen(&world.site.outside4, outer, &net, inner), ip(OUTSIDE_IPV4));
    }
}

/// Ports alone turn on nothing but the device. What comes from outside needs an interface that forwards.
#[test]
fn ports_without_nat_are_for_this_host_and_a_line_says_so() {
    let host = Netns::new();
    let site = Site::around(&host);
    let without_nat = SET_UP.into_iter().filter(|line| !line.contains("-nat")).chain([PORTS[0]]);
    let emperor = ini().lines(&without_nat.collect::<Vec<_>>()).start_in(host);
    let world = World { emperor, site };
    world.log.wait_for("tuntap-router-nat = emperor0 <interface>", wait::SHORT);
    assert!(!world.log.text().contains("net.ipv6.conf.all.forwarding is off"), "no port is of IPv6");
    let net = world.start_vassal(&vassal("v1"));
    let (outer, inner) = (mapped(HOST_IPV4, 8080), mapped("192.168.0.2", 80));
    assert_eq!(client_as_seen(&world.netns, outer, &net, inner), ip(HOST_IPV4));
    let refused = world.site.outside4.run(|| TcpStream::connect_timeout(&outer, Duration::from_secs(1)));
    assert!(refused.is_err());
    world.netns.sh("sysctl -qw net.ipv4.conf.up4.forwarding=1");
    assert_eq!(client_as_seen(&world.site.outside4, outer, &net, inner), ip(OUTSIDE_IPV4));
}
