//! Peers that write into gateways, claim what is somebody else's, and take what all share.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1, V2};
use crate::common::netns::{Net, Netns};
use crate::common::packet;
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::common::wire::{self, ASK};
use crate::world::{emperor, start_attached, total};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const HERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const V1_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 4000;
const USER: u32 = 20_001;

/// A short set-up in a namespace; its router has this gateway.
fn router(gateway: &str, network: &str) -> EmperorIni {
    EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .router(&format!("emperor0 {{dir}}/t.sock {{dir}}/stats.sock {gateway}"))
        .line(format!("tuntap-router-address = {network}"))
}

/// A packet with any source, inside of a datagram from the vassal to a gateway.
fn smuggled(from: Ipv4Addr, to: Ipv4Addr, victim: Ipv4Addr) -> Vec<u8> {
    packet::udp(from, to, PORT, &packet::udp(Ipv4Addr::new(8, 8, 8, 8), victim, 9, b"smuggled"))
}

fn hears(victim: &mut RawPeer) -> bool {
    victim.wait_for_packet(Duration::from_millis(500), |packet| packet.ends_with(b"smuggled")).is_some()
}

/// The first one's host masquerades what its vassals send, and the second router takes datagrams of that host.
#[test]
fn nobody_writes_into_the_gateway_of_another_router() {
    let (first, second) = (Netns::new(), Netns::new());
    first.join("10.77.0.1/24", &second, "10.77.0.2/24");
    let here = router("10.77.0.1:4000", "192.168.0.1/24")
        .lines(&[
            "tuntap-router-nat = veth0",
            "tuntap-router-gateway-allow = 10.77.0.2",
            "tuntap-router-route = any 192.168.1.0/24 10.77.0.2:4000",
        ])
        .start_in(first);
    let there = router("10.77.0.2:4000", "192.168.1.1/24")
        .lines(&["tuntap-router-gateway-allow = 10.77.0.1", "tuntap-router-route = any 192.168.0.0/24 10.77.0.1:4000"])
        .address(Ipv4Addr::new(192, 168, 1, 1))
        .start_in(second);
    let mut victim = RawPeer::registered(&there.socket(), FAR, Ipv4Addr::new(192, 168, 1, 1));
    let mut attacker = here.peer(V1);
    // Packets that are not for the gateway still pass.
    let capture = Capture::received_on(&there.netns, "veth0");
    attacker.send_packet(&packet::udp(V1, THERE, PORT + 1, b"another port"));
    capture.until(wait::LONG, |packet| packet.ends_with(b"another port"));

    attacker.send_packet(&smuggled(V1, THERE, FAR));
    // In fragments, in either order, with a first part of eight bytes, and with one that overlaps it.
    let whole = smuggled(V1, THERE, FAR);
    let part = |offset: usize, len: usize, more: bool| {
        let mut bytes = packet::ipv4(V1, THERE, packet::UDP, &whole[20 + offset..20 + offset + len]);
        let field = u16::try_from(offset / 8).expect("short") | u16::from(more) << 13;
        bytes[6..8].copy_from_slice(&field.to_be_bytes());
        bytes[4..6].copy_from_slice(&[7, 7]);
        let sum = packet_checksum(&bytes[..20]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let rest = whole.len() - 20 - 8;
    for parts in [[part(0, 8, true), part(8, rest, false)], [part(8, rest, false), part(0, 8, true)]] {
        parts.iter().for_each(|bytes| attacker.send_packet(bytes));
    }
    attacker.send_packet(&part(0, 16, true));
    assert!(!hears(&mut victim), "a packet with a forged source arrived");
    assert!(attacker.echo(V1, EMPEROR, wait::SHORT), "the peer lives on");
    let stats = here.stats();
    assert_eq!(stats.drops_of(V1, "to_gateway"), 4, "{}", stats.0);
    assert_eq!(total(&there.stats(), "gateway_rx_packets"), 0);
    let log = here.log.text();
    let told: Vec<_> =
        log.lines().filter(|line| line.contains("sends to the gateway of a router at 10.77.0.2")).collect();
    assert!(told.len() == 1 && told[0].contains("tuntap-router-gateway-vassal"), "{told:?}");
    // The way between the routers is unchanged.
    attacker.send_packet(&packet::udp(V1, FAR, 9, b"honest"));
    assert!(victim.wait_for_packet(wait::SHORT, |packet| packet.ends_with(b"honest")).is_some());
}

fn packet_checksum(header: &[u8]) -> u16 {
    let words = header.chunks(2).enumerate().filter(|(index, _)| *index != 5);
    let sum: u32 = words.map(|(_, word)| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded")
}

/// Vassals try each address of the host, with a gateway that is bound to one address or to all of them.
#[test]
fn nobody_writes_into_the_own_gateway() {
    for gateway in ["10.77.0.1:4000", ":4000", "[::]:4000"] {
        let netns = Netns::new().with_ipv6();
        netns.sh("ip addr add 10.77.0.1/32 dev lo");
        netns.sh("ip addr add 2001:db8::1/128 dev lo nodad");
        let emperor = router(gateway, "192.168.0.1/24").line("tuntap-router-address = fd00:77::1/64").start_in(netns);
        let mut victim = emperor.peer(V2);
        let mut attacker = emperor.peer(V1);
        let everywhere = gateway != "10.77.0.1:4000";
        let mut count = 0;
        for (to, is_gateway) in [(HERE, true), (EMPEROR, everywhere)] {
            attacker.send_packet(&smuggled(V1, to, V2));
            count += u64::from(is_gateway);
        }
        if gateway.starts_with("[::]") {
            let inner = packet::udp(Ipv4Addr::new(8, 8, 8, 8), V2, 9, b"smuggled");
            attacker.send_packet(&packet::udp6(V1_6, HERE6, PORT, &inner));
            count += 1;
        }
        // The host gets another address while the router runs.
        emperor.netns.sh("ip addr add 10.77.0.9/32 dev lo");
        if everywhere {
            wait::until_true("the new address counts", wait::LONG, || {
                attacker.send_packet(&smuggled(V1, Ipv4Addr::new(10, 77, 0, 9), V2));
                let stats = emperor.stats();
                stats.drops_of(V1, "to_gateway") > count
            });
        } else {
            emperor.wait_for_stats("packets are dropped", |stats| stats.drops_of(V1, "to_gateway") == count);
        }
        assert!(!hears(&mut victim), "{gateway}: a packet with a forged source arrived");
        assert_eq!(total(&emperor.stats(), "gateway_rx_packets"), 0, "{gateway}");
    }
}

/// What the host masquerades takes a port of the host's address. If that were the gateway's, what another router sends from
/// the port that a vassal has sent to would be the vassal's, with all that is meant for others.
#[test]
fn nobody_takes_the_gateways_port_at_the_hosts_address() {
    const OTHER_PORT: u16 = 4001;
    let (netns, there) = (Netns::new(), Netns::new());
    netns.sh(&format!("ip link add up0 type veth peer name veth0 netns {}", there.name()));
    netns.sh(&format!("ip addr add {HERE}/24 dev up0"));
    netns.sh("ip link set up0 up");
    there.sh(&format!("ip addr add {THERE}/24 dev veth0"));
    there.sh("ip link set veth0 up");
    let emperor = router(&format!("{HERE}:{PORT}"), "192.168.0.1/24")
        .line("tuntap-router-nat = up0")
        .line("tuntap-router-gateway-allow = 10.77.0.0/24")
        .start_in(netns);
    let other = there.run(|| UdpSocket::bind((THERE, OTHER_PORT))).expect("the port is free");
    other.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
    let mut attacker = emperor.peer(V1);
    let mut victim = emperor.peer(V2);
    let mut datagram = packet::udp(V1, THERE, PORT, b"mine");
    datagram[22..24].copy_from_slice(&OTHER_PORT.to_be_bytes());
    attacker.send_packet(&datagram);
    let (_, from) = other.recv_from(&mut [0; 16]).expect("it is masqueraded");
    assert!(from.ip() == HERE && from.port() != PORT, "{from}");
    let secret = packet::udp(FAR, V2, 9, b"secret");
    other.send_to(&secret, (HERE, PORT)).expect("there is a way");
    assert!(victim.wait_for_packet(wait::SHORT, |packet| packet.ends_with(b"secret")).is_some(), "the router has it");
    assert!(attacker.wait_for_packet(Duration::from_millis(300), |packet| packet.ends_with(b"secret")).is_none());
}

/// The check of packets doesn't see this way: the host sends on packets to an address that nobody has.
#[test]
fn datagrams_that_come_by_a_routers_device_are_refused() {
    for (gateway, to) in [("10.77.0.1:4000", "10.77.0.1:4000"), ("[::]:4000", "10.77.0.1:4000")] {
        let netns = Netns::new();
        netns.sh("ip addr add 10.77.0.1/32 dev lo");
        // This is without tuntap-router-address, with which the kernel lets none of this through.
        let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
            .router(&format!("emperor0 {{dir}}/t.sock {{dir}}/stats.sock {gateway}"))
            .start_in(netns);
        for command in [
            "add table ip test".to_owned(),
            "add chain ip test pre { type nat hook prerouting priority -100 ; }".to_owned(),
            format!("add rule ip test pre ip daddr 198.51.100.9 udp dport 77 dnat to {to}"),
        ] {
            let output = emperor.netns.output(&["nft", &command]);
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut victim = emperor.peer(V2);
        let mut attacker = emperor.peer(V1);
        let inner = packet::udp(Ipv4Addr::new(8, 8, 8, 8), V2, 9, b"smuggled");
        attacker.send_packet(&packet::udp(V1, Ipv4Addr::new(198, 51, 100, 9), 77, &inner));
        emperor.wait_for_stats("it is counted", |stats| stats.drops("gateway_device") == 1);
        assert!(!hears(&mut victim), "{gateway}");
        assert_eq!(total(&emperor.stats(), "gateway_rx_packets"), 0);
        // Datagrams from other senders are taken as before.
        let other = emperor.netns.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a free port");
        other.send_to(&inner, to).expect("UDP to the gateway");
        assert!(hears(&mut victim), "{gateway}");
        if gateway.starts_with('[') {
            // The kernel says of this that it comes by the router's device.
            other.send_to(&inner, (EMPEROR, PORT)).expect("UDP to the gateway");
            assert!(hears(&mut victim), "{gateway}");
        }
    }
}

#[test]
fn vassal_that_the_operator_names_may_send_to_gateways() {
    let netns = Netns::new();
    netns.sh("ip addr add 10.77.0.1/32 dev lo");
    let emperor =
        router("10.77.0.1:4000", "192.168.0.1/24").line("tuntap-router-gateway-vassal = 192.168.0.2").start_in(netns);
    let mut victim = emperor.peer(V2);
    emperor.peer(V1).send_packet(&smuggled(V1, HERE, V2));
    assert!(hears(&mut victim));
    assert_eq!((emperor.stats().drops("to_gateway"), emperor.stats().drops("gateway_device")), (0, 0));
}

/// A vassal reaches the host's addresses and what listens there, but must not learn who else is connected.
#[test]
fn statistics_at_an_address_are_not_for_peers() {
    for http in [false, true] {
        let ini = emperor().line("tuntap-router = emperor1 {dir}/t1.sock 0.0.0.0:5001");
        let emperor = if http { ini.stats_over_http() } else { ini }.start();
        let vassal = start_attached(&emperor, "v1", V1);
        let read = |net: &Net, to: Ipv4Addr| {
            let mut text = Vec::new();
            let mut stream = net.run(|| TcpStream::connect((to, 5001))).expect("somebody listens");
            stream.set_read_timeout(Some(wait::SHORT)).expect("a timeout can be set");
            if http {
                // A client that is turned away may not even get to send this.
                let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            }
            let _ = stream.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        for to in [Ipv4Addr::LOCALHOST, EMPEROR] {
            let text = read(&emperor.netns, to);
            assert!(text.contains("\"emperor1\""), "the host's own may read at {to}: {text}");
        }
        for _ in 0..3 {
            assert_eq!(read(&vassal, EMPEROR), "", "a vassal of another router of the instance");
        }
        assert!(read(&emperor.netns, EMPEROR).contains("\"stats_refused\": 3"));
    }
}

fn claim_outside(emperor: &Emperor) {
    let lan = Ipv4Addr::new(203, 0, 113, 7);
    let mut peer = emperor.connect();
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for source in [lan, EMPEROR, Ipv4Addr::new(192, 168, 0, 255), HERE] {
        for _ in 0..3 {
            peer.send_packet(&packet::udp(source, V2, 9, b"not mine"));
        }
    }
    peer.send_packet(&packet::udp6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7), HERE6, 9, b"not mine"));
    peer.send_packet(&packet::udp(V1, V2, 9, b"mine"));
    let passed = capture.until(wait::SHORT, |packet| packet.ends_with(b"mine") && packet::source(packet) == V1);
    assert!(passed.is_empty(), "{passed:x?}");
    assert_eq!(emperor.stats().drops("not_claimable"), 13);
    let told = |address: &str| {
        let text = emperor.log.text();
        text.lines().filter(|line| line.contains(&format!("can't have the address {address},"))).count()
    };
    assert_eq!((told("203.0.113.7"), told("192.168.0.1"), told("10.77.0.1")), (1, 1, 1));
}

/// The router has a network, but no IPv6 address in it.
#[test]
fn addresses_outside_of_the_network_are_not_claimed() {
    let netns = Netns::new().with_ipv6();
    netns.sh("ip addr add 10.77.0.1/32 dev lo");
    let emperor = router("", "192.168.0.1/24").start_in(netns);
    claim_outside(&emperor);
    // A claim by name gets no more.
    let mut peer = emperor.connect();
    peer.send_bytes(&wire::frame(ASK, &[1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]));
    peer.next_frame(wait::SHORT).expect("an answer");
    let wishes = ["203.0.113.7", "fd00:99::7", "10.77.0.1"].map(|it| json!({"address": it, "leased": true}));
    peer.send_bytes(&wire::frame(0x78, json!({"version": 1, "addresses": wishes}).to_string().as_bytes()));
    let answer: Value =
        serde_json::from_slice(&peer.next_frame(wait::SHORT).expect("an answer").payload).expect("JSON");
    assert_eq!(answer["addresses"], json!([]));
    let refused = answer["refused"].as_array().expect("a list");
    assert_eq!(refused.len(), 3);
    for refusal in refused {
        assert!(
            refusal["for_good"] == true
                && refusal["reason"].as_str().is_some_and(|it| it.contains("tuntap-router-claims"))
        );
    }
}

#[test]
fn option_opens_all_addresses_but_the_hosts() {
    let netns = Netns::new();
    netns.sh("ip addr add 10.77.0.1/32 dev lo");
    let emperor = router("", "192.168.0.1/24").line("tuntap-router-claims = any").start_in(netns);
    let lan = Ipv4Addr::new(203, 0, 113, 7);
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    let mut peer = emperor.connect();
    peer.send_packet(&packet::udp(HERE, V2, 9, b"the host's"));
    peer.send_packet(&packet::udp(lan, V2, 9, b"mine"));
    assert!(capture.until(wait::SHORT, |packet| packet.ends_with(b"mine")).is_empty());
    assert_eq!(emperor.stats().drops("not_claimable"), 1);
}

#[test]
fn packets_to_no_host_go_nowhere() {
    let netns = Netns::new().with_ipv6();
    netns.sh("ip addr add 10.77.0.1/24 dev lo");
    let emperor = router("", "192.168.0.1/24").line("tuntap-router-address = fd00:77::1/64").start_in(netns);
    let mut peer = emperor.peer(V1);
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    let to = ["127.0.0.1", "0.0.0.0", "255.255.255.255", "192.168.0.255", "10.77.0.255", "224.0.0.251"];
    for destination in to {
        peer.send_packet(&packet::udp(V1, destination.parse().expect("an address"), 5353, b"for no host"));
    }
    let to6 = ["::1", "::", "::ffff:10.77.0.1", "ff02::fb", "fe80::1"];
    for destination in to6 {
        peer.send_packet(&packet::udp6(V1_6, destination.parse().expect("an address"), 5353, b"for no host"));
    }
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"last"));
    let passed = capture.until(wait::SHORT, |packet| packet.ends_with(b"last"));
    assert!(passed.is_empty(), "{passed:x?}");
    assert_eq!(emperor.stats().drops_of(V1, "destination"), u64::try_from(to.len() + to6.len()).expect("few"));
}

/// One user may have any number of connections, but no more than a quarter of the network.
#[test]
fn one_user_does_not_take_the_whole_network() {
    let emperor = router("", "192.168.0.1/24").line("chmod-socket = 666").start();
    let ask = |uid: u32, name: u8| {
        let mut peer = emperor.connect_as(uid);
        peer.send_bytes(&wire::frame(ASK, &[1, 1, 0, 0, name, 0, 0, 0, 0, 0, 0, 0]));
        let frame = peer.next_frame(wait::SHORT).expect("an answer");
        let answer: Value = serde_json::from_slice(&frame.payload).expect("JSON");
        (peer, answer["addresses"].as_array().map_or(0, Vec::len), answer["refused"][0]["reason"].to_string())
    };
    let mut peers = Vec::new();
    for name in 0..70 {
        let (peer, addresses, reason) = ask(USER, name);
        assert_eq!(addresses, usize::from(name < 63), "{name}: {reason}");
        assert!(name < 63 || reason.contains("tuntap-router-max-addresses-per-uid"), "{reason}");
        peers.push(peer);
    }
    // A packet claims no more, either.
    let mut by_packet = emperor.connect_as(USER);
    let free = (2..=254).map(|host| Ipv4Addr::new(192, 168, 0, host));
    let held: Vec<String> = emperor.stats().peers().iter().map(|peer| peer["addr"].to_string()).collect();
    let free = free.into_iter().find(|address| !held.contains(&format!("\"{address}\""))).expect("one is free");
    by_packet.send_packet(&packet::udp(free, EMPEROR, 9, b"one more"));
    let stats = emperor.wait_for_stats("it is refused", |stats| stats.drops("address_share") == 1);
    assert_eq!(stats.0["limits_reached"]["max_addresses_per_uid"], 8);
    assert_eq!(ask(USER + 1, 1).1, 1, "another user has his own share");
    assert_eq!(ask(0, 1).1, 1, "and so have vassals that connect as root");
    peers.truncate(10);
    emperor.wait_for_stats("most are gone", |stats| stats.peers().len() < 20);
    assert_eq!(ask(USER, 99).1, 1, "what was given back is there again");
}
