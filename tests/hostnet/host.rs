//! Vassals reach those services of their host that the configuration names, and no others.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::packet;
use crate::common::probe::{is_cut_off, is_reachable};
use crate::common::wait;
use crate::world::{
    EMPEROR_IPV6, HOST_IPV4, HOST_IPV6, OUTSIDE_IPV4, SET_UP, Site, V1_IPV6, V2_IPV6, World, any_ipv4, client_as_seen,
    ini, ip, start, vassal,
};

const METADATA: &str = "169.254.169.254";

fn any() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 0).into()
}

fn at(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

/// Opens a connection and returns whether it was accepted, refused or not answered.
fn tcp(from: &Net, to: SocketAddr) -> Result<(), ErrorKind> {
    from.run(|| TcpStream::connect_timeout(&to, wait::SHORT)).map(drop).map_err(|error| error.kind())
}

/// Sends a datagram and returns what comes back.
fn udp(from: &Net, to: SocketAddr) -> Result<String, ErrorKind> {
    let local: SocketAddr = if to.is_ipv4() { any_ipv4(0) } else { any() };
    let socket = from.run(|| UdpSocket::bind(local).and_then(|socket| socket.connect(to).map(|()| socket)));
    let socket = socket.expect("a socket");
    socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let mut buffer = [0; 64];
    let answer = socket.send(b"question").and_then(|_| socket.recv(&mut buffer));
    answer.map(|count| String::from_utf8_lossy(&buffer[..count]).into_owned()).map_err(|error| error.kind())
}

/// A service on all addresses of a host, by both protocols. It ends with the test's process.
fn serve(net: &Net, port: u16) {
    let listener = net.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).expect("the port is free");
    thread::spawn(move || while listener.accept().is_ok() {});
    // An answer comes from the address that was asked.
    for address in net.run(addresses) {
        let socket = net.run(|| UdpSocket::bind((address, port))).expect("the port is free");
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, sender)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(b"answer", sender);
            }
        });
    }
}

/// The addresses of the namespace that the thread is in, link-local ones left out.
fn addresses() -> Vec<IpAddr> {
    let found = nix::ifaddrs::getifaddrs().expect("the kernel lists them");
    let found = found.filter_map(|interface| {
        let address = interface.address?;
        let ipv4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip())))
    });
    found.filter(|address| !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())).collect()
}

const HOSTS_ADDRESSES: [&str; 4] = ["192.168.0.1", HOST_IPV4, EMPEROR_IPV6, HOST_IPV6];

#[track_caller]
fn assert_refused(from: &Net, to: SocketAddr) {
    assert_eq!(tcp(from, to), Err(ErrorKind::ConnectionRefused), "tcp {to}");
    assert_eq!(udp(from, to), Err(ErrorKind::ConnectionRefused), "udp {to}");
}

#[track_caller]
fn assert_open(from: &Net, to: SocketAddr) {
    assert_eq!(tcp(from, to), Ok(()), "tcp {to}");
    assert_eq!(udp(from, to), Ok("answer".to_owned()), "udp {to}");
}

#[test]
fn vassal_reaches_no_service_of_its_host_and_is_told_at_once() {
    let world = start(&[]);
    serve(&world.netns, 7040);
    let net = world.start_vassal(&vassal("v1"));
    for address in HOSTS_ADDRESSES {
        assert_refused(&net, at(address, 7040));
        assert!(is_reachable(&net, ip(address)), "{address}");
    }
    // The host itself reaches it, and so do others outside of the vassals' network.
    assert_open(&world.netns, at("192.168.0.1", 7040));
    assert_open(&world.site.outside4, at(HOST_IPV4, 7040));
    assert_open(&world.site.outside6, at(HOST_IPV6, 7040));
}

/// A set-up that forwards nothing and maps nothing exposes its host as much as another one.
#[test]
fn router_with_nothing_but_an_address_protects_its_host() {
    let host = Netns::new();
    let site = Site::around(&host);
    let without_nat: Vec<_> = SET_UP.into_iter().filter(|line| !line.contains("-nat")).collect();
    let world = World { emperor: ini().lines(&without_nat).start_in(host), site };
    serve(&world.netns, 7041);
    let net = world.start_vassal(&vassal("v1"));
    for address in HOSTS_ADDRESSES {
        assert_refused(&net, at(address, 7041));
    }
    assert!(is_reachable(&net, EMPEROR));
}

#[test]
fn host_reaches_its_vassals_and_gets_their_answers() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    serve(&net, 7042);
    assert_open(&world.netns, (V1, 7042).into());
    assert_open(&world.netns, at(V1_IPV6, 7042));
    // An error message about what the host has sent is an answer, too.
    assert_refused(&world.netns, (V1, 7043).into());
    assert_refused(&world.netns, at(V1_IPV6, 7043));
}

#[test]
fn dns_server_that_vassals_are_told_of_is_open_if_it_is_the_host() {
    let world = start(&["tuntap-router-dns = 192.168.0.1", "tuntap-router-dns = fd00:77::1"]);
    serve(&world.netns, 53);
    serve(&world.netns, 54);
    let net = world.start_vassal(&vassal("v1"));
    for address in ["192.168.0.1", EMPEROR_IPV6] {
        assert_open(&net, at(address, 53));
        assert_refused(&net, at(address, 54));
    }
    // At its other addresses it is a service as others are.
    for address in [HOST_IPV4, HOST_IPV6] {
        assert_refused(&net, at(address, 53));
    }
}

#[test]
fn first_rule_that_matches_decides() {
    let world = start(&[
        "tuntap-router-host = deny tcp 7052",
        "tuntap-router-host = emperor0 allow tcp 7050-7054",
        "tuntap-router-host = allow fd00:77::1 udp 7052",
        "tuntap-router-host = deny 203.0.113.0/24 icmp",
        "tuntap-router-host = deny 2001:db8:1::1 icmp",
    ]);
    for port in [7049, 7050, 7052, 7054] {
        serve(&world.netns, port);
    }
    let net = world.start_vassal(&vassal("v1"));
    for address in HOSTS_ADDRESSES {
        let refused = Err(ErrorKind::ConnectionRefused);
        for (port, expected) in [(7049, refused), (7050, Ok(())), (7052, refused), (7054, Ok(()))] {
            assert_eq!(tcp(&net, at(address, port)), expected, "{address} {port}");
        }
        let expected =
            if address == EMPEROR_IPV6 { Ok("answer".to_owned()) } else { Err(ErrorKind::ConnectionRefused) };
        assert_eq!(udp(&net, at(address, 7052)), expected, "{address}");
    }
    for (address, is_open) in [("192.168.0.1", true), (EMPEROR_IPV6, true), (HOST_IPV4, false), (HOST_IPV6, false)] {
        assert_eq!(!is_cut_off(&net, ip(address)), is_open, "{address}");
    }
}

#[test]
fn host_that_is_open_by_a_word_is_open() {
    let world = start(&["tuntap-router-host = allow"]);
    serve(&world.netns, 7044);
    let net = world.start_vassal(&vassal("v1"));
    for address in HOSTS_ADDRESSES {
        assert_open(&net, at(address, 7044));
    }
}

/// The metadata services of clouds, which tell an instance its secrets, are closed, whether they are beyond an
/// interface or on the host itself.
#[test]
fn link_local_addresses_are_out_of_reach_unless_they_are_named() {
    let world = start(&["tuntap-router-host = allow tcp 80", "tuntap-router-host = allow 169.254.169.254 udp 80"]);
    let net = world.start_vassal(&vassal("v1"));
    let outside = &world.site.outside4;
    outside.sh(&format!("ip addr add {METADATA}/32 dev lo"));
    outside.sh("ip addr add 169.254.170.2/32 dev lo");
    world.netns.sh(&format!("ip route add 169.254.0.0/16 via {OUTSIDE_IPV4}"));
    world.netns.sh("ip addr add 169.254.170.3/32 dev lo");
    world.netns.sh("ip addr add fd00:ec2::254/128 dev lo");
    serve(outside, 80);
    serve(&world.netns, 80);
    assert_open(&world.netns, at(METADATA, 80));
    for address in [METADATA, "169.254.170.2", "169.254.170.3", "fd00:ec2::254"] {
        assert_eq!(tcp(&net, at(address, 80)), Err(ErrorKind::ConnectionRefused), "{address}");
    }
    assert_eq!(udp(&net, at(METADATA, 80)), Ok("answer".to_owned()));
    assert_eq!(udp(&net, at("169.254.170.2", 80)), Err(ErrorKind::ConnectionRefused));
    assert_eq!(tcp(&net, at("192.168.0.1", 80)), Ok(()));
}

/// A rule that names an address holds for what is forwarded, too, and for new connections only.
#[test]
fn rule_closes_a_network_beyond_the_host() {
    let world = start(&["tuntap-router-host = deny 203.0.113.0/24", "tuntap-router-port = tcp 8080 192.168.0.2:80"]);
    let net = world.start_vassal(&vassal("v1"));
    serve(&world.site.outside4, 7045);
    assert_refused(&net, at(OUTSIDE_IPV4, 7045));
    let asked = client_as_seen(&world.site.outside4, at(HOST_IPV4, 8080), &net, at("192.168.0.2", 80));
    assert_eq!(asked, ip(OUTSIDE_IPV4));
}

/// A service that is open to vassals gets nothing from others, and nothing that is not meant for one host. Packets of a
/// peer keep their order, so only the last one arrives.
#[test]
fn strangers_and_odd_destinations_reach_nothing_of_the_host() {
    const PORT: u16 = 7046;
    let world = start(&["tuntap-router-host = allow"]);
    world.netns.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.emperor0.route_localnet=1");
    let socket = world.netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))).expect("the port is free");
    socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let group = world.netns.run(|| UdpSocket::bind(any_ipv4(PORT + 1))).expect("the port is free");
    group.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &EMPEROR).expect("the device can");
    let v2: Ipv6Addr = V2_IPV6.parse().expect("an address");
    let emperor: Ipv6Addr = EMPEROR_IPV6.parse().expect("an address");

    let mut stranger = world.connect();
    stranger.send_packet(&packet::udp(Ipv4Addr::new(203, 0, 113, 77), EMPEROR, PORT, b"stranger"));
    stranger.send_packet(&packet::udp6("fd00:66::2".parse().expect("an address"), emperor, PORT, b"stranger6"));
    stranger.send_packet(&packet::udp6("2001:db8:1::77".parse().expect("an address"), emperor, PORT, b"neighbour6"));
    stranger.send_packet(&packet::udp6(v2, "ff02::1".parse().expect("an address"), PORT, b"multicast6"));
    stranger.send_packet(&packet::udp6(v2, emperor, PORT, b"honest6"));
    assert_eq!(next(&socket), "honest6");

    let mut honest = world.peer(V2);
    for (destination, text) in [
        (Ipv4Addr::LOCALHOST, "loopback"),
        (Ipv4Addr::new(127, 1, 2, 3), "another loopback"),
        (Ipv4Addr::new(192, 168, 0, 255), "broadcast"),
        (Ipv4Addr::new(203, 0, 113, 255), "another broadcast"),
        (Ipv4Addr::BROADCAST, "limited broadcast"),
        (Ipv4Addr::new(224, 0, 0, 1), "multicast"),
        (EMPEROR, "honest"),
    ] {
        honest.send_packet(&packet::udp(V2, destination, PORT, text.as_bytes()));
    }
    assert_eq!(next(&socket), "honest");
    honest.send_packet(&packet::udp(V2, Ipv4Addr::new(224, 0, 0, 251), PORT + 1, b"group"));
    honest.send_packet(&packet::udp(V2, EMPEROR, PORT + 1, b"honest"));
    assert_eq!(next(&group), "honest");
}

#[track_caller]
fn next(socket: &UdpSocket) -> String {
    let mut buffer = [0; 64];
    let count = socket.recv(&mut buffer).expect("one arrives");
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

/// A peer with a lease in another network is no stranger.
#[test]
fn leased_address_outside_of_the_networks_is_no_stranger() {
    let world = start(&["tuntap-router-host = allow udp 7048", "tuntap-router-lease = 10.66.0.2 root"]);
    let socket = world.netns.run(|| UdpSocket::bind(any_ipv4(7048))).expect("the port is free");
    socket.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    world.connect().send_packet(&packet::udp(Ipv4Addr::new(10, 66, 0, 2), EMPEROR, 7048, b"leased"));
    assert_eq!(next(&socket), "leased");
}

/// Connections that exist go on when the table is made anew, and what the new configuration opens is open at once.
#[test]
fn rules_of_the_host_change_with_a_reload() {
    let world = start(&[]);
    serve(&world.netns, 7047);
    let net = world.start_vassal(&vassal("v1"));
    assert_refused(&net, (EMPEROR, 7047).into());
    let path = world.path("emperor.ini");
    let text = std::fs::read_to_string(&path).expect("own file");
    std::fs::write(&path, format!("{text}\ntuntap-router-host = allow udp 7047\n")).expect("own file");
    let mark = world.log.mark();
    crate::reload::reload(&world);
    world.wait_until_ready(mark, "v1");
    let net = world.vassal_net("v1");
    wait::until_true("it is open", wait::LONG, || udp(&net, (EMPEROR, 7047).into()).is_ok());
    assert_eq!(tcp(&net, (EMPEROR, 7047).into()), Err(ErrorKind::ConnectionRefused));
}

/// Bytes pass both ways through a rule that opens one port.
#[test]
fn connection_to_an_open_service_carries_bytes() {
    let world = start(&["tuntap-router-host = allow tcp 7060"]);
    let net = world.start_vassal(&vassal("v1"));
    let listener = world.netns.run(|| TcpListener::bind((EMPEROR, 7060))).expect("the port is free");
    let mut near = net.run(|| TcpStream::connect_timeout(&(EMPEROR, 7060).into(), wait::SHORT)).expect("it is open");
    let (mut far, client) = listener.accept().expect("a connection");
    assert_eq!(client.ip(), IpAddr::from(V1));
    let bytes = vec![7; 300_000];
    thread::scope(|scope| {
        scope.spawn(|| near.write_all(&bytes).expect("the connection lives"));
        far.set_read_timeout(Some(wait::LONG)).expect("a timeout can be set");
        let mut received = vec![0; bytes.len()];
        far.read_exact(&mut received).expect("the connection lives");
        assert_eq!(received, bytes);
    });
}
