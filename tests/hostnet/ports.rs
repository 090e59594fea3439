//! From outside to the vassals, by the host's ports.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use crate::common::emperor::V1;
use crate::common::netns::Net;
use crate::common::wait;
use crate::world::{
    HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, V1_IPV6, World, any_ipv4, client_as_seen, ip, start, vassal,
};

const PORTS: [&str; 4] = [
    "tuntap-router-port = tcp 8080 192.168.0.2:80",
    "tuntap-router-port = udp 5353 192.168.0.2:53",
    "tuntap-router-port = emperor0 tcp 8080 [fd00:77::2]:80",
    "tuntap-router-port = emperor0 udp 5353 [fd00:77::2]:53",
];

fn mapped(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

/// A datagram there and back; the address that the server sees.
#[track_caller]
fn udp_client_as_seen(from: &Net, to: SocketAddr, server: &Net, listening: SocketAddr) -> IpAddr {
    let server = server.run(|| UdpSocket::bind(listening)).expect("the address is there");
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
    // What a vassal asks of others on that port is theirs.
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

/// Without a vassal the port is as good as closed, and the host's own services go on.
#[test]
fn port_of_an_absent_vassal_answers_nobody() {
    let world = start(&PORTS);
    let refused = world.site.outside4.run(|| TcpStream::connect_timeout(&mapped(HOST_IPV4, 8080), wait::SHORT));
    assert!(refused.is_err());
    assert_eq!(world.stats().0["ports"][0]["peer"], serde_json::Value::Null);
    let own = mapped(HOST_IPV4, 8081);
    assert_eq!(client_as_seen(&world.site.outside4, own, &world.netns, own), ip(OUTSIDE_IPV4));
}
