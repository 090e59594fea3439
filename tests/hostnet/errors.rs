//! ICMP errors of vassals about packets that they never got: about connections of the host, or of other vassals.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::common::emperor::{EMPEROR, V2};
use crate::common::packet;
use crate::common::wait;
use crate::world::{EMPEROR_IPV6, HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, OUTSIDE_IPV6, V2_IPV6, World, ip, start};

const PORT: u16 = 7075;
/// The MTU that the forger announces.
const SHORT_MTU: u16 = 1300;

fn v4(address: IpAddr) -> Ipv4Addr {
    let IpAddr::V4(address) = address else { panic!("{address}") };
    address
}

fn v6(address: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(address) = address else { panic!("{address}") };
    address
}

/// An ICMP error of this kind and code, about a datagram between two others. `rest` stands before what is quoted.
fn error(from: IpAddr, to: IpAddr, [kind, code]: [u8; 2], rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0][..], &rest, quoted].concat();
    if from.is_ipv4() {
        packet::complete(&mut message, 2, from, to, packet::ICMP);
        packet::ipv4(v4(from), v4(to), packet::ICMP, &message)
    } else {
        packet::complete(&mut message, 2, from, to, packet::ICMPV6);
        packet::ipv6(v6(from), v6(to), packet::ICMPV6, &message)
    }
}

fn quoted(from: IpAddr, to: IpAddr) -> Vec<u8> {
    const LONG: [u8; 1372] = [7; 1372];
    if from.is_ipv4() {
        packet::udp(v4(from), v4(to), PORT, &LONG)
    } else {
        packet::udp6(v6(from), v6(to), PORT, &LONG)
    }
}

fn too_long(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Vec<u8> {
    let [high, low] = SHORT_MTU.to_be_bytes();
    error(from, to, if from.is_ipv4() { [3, 4] } else { [2, 0] }, [0, 0, high, low], quoted)
}

fn path_mtu_is_short(world: &World, to: IpAddr) -> bool {
    world.netns.sh(&format!("ip route get {to}")).contains(&format!("mtu {SHORT_MTU}"))
}

/// A socket of the host that has sent a datagram there from [`PORT`].
fn host_socket(world: &World, own: IpAddr, to: IpAddr) -> UdpSocket {
    let socket = world.netns.run(|| UdpSocket::bind(SocketAddr::new(own, PORT))).expect("the port is free");
    socket.connect((to, PORT)).expect("there is a way");
    socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    socket.send(b"x").expect("there is a way");
    socket
}

/// A host that believed such an error would send short packets to a host outside, or none any more.
#[test]
fn nobody_has_errors_about_connections_of_others() {
    let world = start(&[]);
    let mut peer = world.peer(V2);
    assert!(peer.echo(ip(V2_IPV6), ip(EMPEROR_IPV6), wait::SHORT));
    let ways = [(IpAddr::from(V2), HOST_IPV4, OUTSIDE_IPV4), (ip(V2_IPV6), HOST_IPV6, OUTSIDE_IPV6)];
    for (count, (own, host, outside)) in (1..).zip(ways.map(|(own, host, outside)| (own, ip(host), ip(outside)))) {
        let _socket = host_socket(&world, host, outside);
        peer.send_packet(&too_long(own, host, &quoted(host, outside)));
        world.emperor.wait_for_stats("it is counted", |stats| stats.drops_of(V2, "foreign_error") == count);
        assert!(!path_mtu_is_short(&world, outside), "{outside}: the host believes it");
    }
}

/// Errors about packets that the vassal got do pass; otherwise their senders would wait in vain.
#[test]
fn errors_about_own_packets_pass() {
    let world = start(&[]);
    let mut peer = world.peer(V2);
    assert!(peer.echo(ip(V2_IPV6), ip(EMPEROR_IPV6), wait::SHORT));
    let refused = [(IpAddr::from(V2), EMPEROR.into(), [3, 3]), (ip(V2_IPV6), ip(EMPEROR_IPV6), [1, 4])];
    for (own, host, kind) in refused {
        let socket = host_socket(&world, host, own);
        let got = peer.wait_for_packet(wait::SHORT, |it| packet::ends(it) == Some((host, own)) && it.ends_with(b"x"));
        peer.send_packet(&too_long(own, host, &quoted(host, own)));
        wait::until_true("the host believes it", wait::SHORT, || path_mtu_is_short(&world, own));
        peer.send_packet(&error(own, host, kind, [0; 4], &got.expect("the datagram arrives")));
        // The first error may be that of the packet before.
        let told = [(); 2].map(|()| socket.recv(&mut [0; 8]).expect_err("nobody answers").kind());
        assert!(told.contains(&ErrorKind::ConnectionRefused), "{own}: {told:?}");
    }
    assert_eq!(world.emperor.stats().drops_of(V2, "foreign_error"), 0);
}
