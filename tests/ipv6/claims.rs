//! Claims of IPv6 addresses.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::packet;
use crate::common::probe::{is_cut_off, pings_answered};
use crate::common::vassal::NOBODY;
use crate::common::wait;
use crate::world::{EMPEROR_6, V1_6, V1_6_OTHER, V2_6, assert_addresses, emperor, passed, peer, vassal};

/// Long enough to show that nothing comes.
const IN_VAIN: Duration = Duration::from_millis(300);

/// The addresses of a peer that has many.
fn address(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 2, number)
}

#[test]
fn peer_holds_one_address_of_ipv4_and_some_of_ipv6() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    assert!(peer.echo(V1_6, EMPEROR_6, wait::SHORT));
    assert_addresses(&emperor, &[V1_6.into()]);
    assert_eq!(emperor.stats().of_peer(V1_6, "addr_32"), 0);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT));
    assert!(peer.echo(V1_6_OTHER, EMPEROR_6, wait::SHORT));
    assert!(!peer.echo(V2, EMPEROR, IN_VAIN), "a second address of IPv4");
    assert_addresses(&emperor, &[V1.into(), V1_6.into(), V1_6_OTHER.into()]);
    assert_eq!(emperor.stats().drops_of(V1, "spoofed_source"), 1);
    assert!(peer.echo(V1_6, EMPEROR_6, wait::SHORT), "the first one is still its own");
    drop(peer);
    emperor.wait_for_stats("it leaves nothing", |stats| stats.peers().is_empty());
    assert!(emperor.connect().echo(V1_6_OTHER, EMPEROR_6, wait::SHORT), "they are free");
}

#[test]
fn vassal_has_several_addresses_of_ipv6() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    net.sh(&format!("ip -6 addr add {V1_6_OTHER}/64 dev uwsgi0 nodad"));
    let other = V1_6_OTHER.to_string();
    assert_eq!(pings_answered(&net, EMPEROR_6, 3, &["-I", &other]), 3);
    assert_eq!(pings_answered(&emperor.netns, V1_6_OTHER, 3, &[]), 3);
    assert_eq!(pings_answered(&emperor.netns, V1_6, 3, &[]), 3);
    assert_addresses(&emperor, &[V1.into(), V1_6.into(), V1_6_OTHER.into()]);
}

#[test]
fn ninth_address_is_refused() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    for number in 1..=8 {
        assert!(peer.echo(address(number), EMPEROR_6, wait::SHORT), "address {number}");
    }
    let logged = emperor.log.bytes();
    for number in 9..=200 {
        peer.send_packet(&packet::udp6(address(number), EMPEROR_6, 9, b"one more"));
    }
    assert!(peer.echo(V1, EMPEROR, wait::SHORT), "it has room for one of IPv4");
    let stats = emperor.stats();
    assert_eq!(stats.drops_of(V1, "too_many_addresses"), 192);
    let held: Vec<IpAddr> = [V1.into()].into_iter().chain((1..=8).map(|number| address(number).into())).collect();
    assert_eq!(stats.addresses(V1), held);
    assert!(emperor.log.bytes() - logged < 500, "{}", emperor.log.tail());
    assert!(peer.echo(address(3), EMPEROR_6, wait::SHORT), "it goes on using those that it has");
    let mut other = emperor.connect();
    assert!(other.echo(address(9), EMPEROR_6, wait::SHORT), "what was refused is free for another");
}

#[test]
fn address_belongs_to_its_first_holder() {
    let emperor = emperor().start();
    let mut holder = peer(&emperor, V1_6);
    let mut newcomer = peer(&emperor, V2_6);
    let mark = emperor.log.mark();
    let spoofed: Vec<_> = (0..20).map(|count| packet::udp6(V1_6, EMPEROR_6, 9, &[count])).collect();
    assert!(passed(&emperor, &mut newcomer, V2_6, &spoofed).is_empty());
    assert_eq!(emperor.stats().drops_of(V2_6, "address_held"), 20);
    let log = emperor.log.since(mark);
    assert_eq!(log.matches(&format!("address {V1_6} is held by another peer")).count(), 1, "{log}");
    assert!(holder.echo(V1_6, EMPEROR_6, wait::SHORT), "the holder is not disturbed");
    drop(holder);
    assert!(newcomer.echo(V1_6, EMPEROR_6, wait::SHORT), "the next packet takes the free address");
    assert_addresses(&emperor, &[V2_6.into(), V1_6.into()]);
}

#[test]
fn vassal_can_not_use_the_address_of_another() {
    let emperor = emperor().start();
    let holder = emperor.start_attached(&vassal("v1", V1, V1_6));
    let rival = emperor.start_attached(&vassal("v2", V2, V2_6));
    rival.sh(&format!("ip -6 addr add {V1_6}/128 dev uwsgi0 nodad"));
    let spoof = rival.output(&["ping", "-q", "-c", "2", "-W", "1", "-I", &V1_6.to_string(), &EMPEROR_6.to_string()]);
    assert!(!spoof.status.success(), "{spoof:?}");
    assert!(emperor.stats().drops_of(V2_6, "address_held") > 0);
    assert_eq!(pings_answered(&holder, EMPEROR_6, 5, &[]), 5);
    std::fs::remove_file(emperor.path("vassals/v1.ini")).expect("own folder");
    let own = V1_6.to_string();
    wait::until_true("the rival has the address once it is free", wait::LONG, || {
        pings_answered(&rival, EMPEROR_6, 1, &["-W", "1", "-I", &own]) == 1
    });
}

#[test]
fn sources_of_no_host_claim_nothing_and_fill_no_log() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    let sources = ["::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "fe80::1", "febf::1", "ff02::1", "ff0e::1"];
    let logged = emperor.log.bytes();
    let packets: Vec<_> = sources
        .iter()
        .flat_map(|source| {
            let source = source.parse().expect("an address");
            (0..50).map(move |count| packet::udp6(source, EMPEROR_6, 9, &[count]))
        })
        .collect();
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for packet in &packets {
        peer.send_packet(packet);
    }
    assert!(emperor.stats().peers().iter().all(|peer| peer["addresses"].as_array().is_some_and(Vec::is_empty)));
    assert!(peer.echo(V1_6, EMPEROR_6, wait::SHORT), "the peer still gets an address of its own");
    let seen = capture
        .until(wait::SHORT, |packet| packet::ends(packet).is_some_and(|(source, _)| source == IpAddr::from(V1_6)));
    assert!(seen.is_empty(), "{seen:x?}");
    assert_eq!(emperor.stats().drops_of(V1_6, "invalid_source"), 400);
    assert_addresses(&emperor, &[V1_6.into()]);
    assert!(emperor.log.bytes() - logged < 500, "{}", emperor.log.tail());
}

#[test]
fn lease_of_a_network_is_for_its_holder() {
    let emperor = emperor()
        .lines(&[
            "chmod-socket = 666",
            &format!("tuntap-router-lease = fd00:77:0:0:0:0:2:0/112 {NOBODY}"),
            "tuntap-router-lease = fd00:77::2 30001",
            "tuntap-router-lease = 192.168.0.0/24 30001",
        ])
        .start();
    let mut alice = emperor.connect_as(30_001);
    assert!(alice.echo(V1, EMPEROR, wait::SHORT) && alice.echo(V1_6, EMPEROR_6, wait::SHORT));
    let mark = emperor.log.mark();
    assert_eq!(passed(&emperor, &mut alice, V1_6, &[packet::udp6(address(1), EMPEROR_6, 9, b"not hers")]), [0; 0]);
    assert_eq!(passed(&emperor, &mut alice, V1_6, &[packet::udp6(V2_6, EMPEROR_6, 9, b"nobody's")]), [0; 0]);
    assert_eq!(emperor.stats().drops_of(V1, "not_leased"), 2);
    let log = emperor.log.since(mark);
    assert!(log.contains(&format!("address {} is not leased to uid 30001", address(1))), "{log}");
    let mut nobody = emperor.connect_as(NOBODY);
    for number in [1, 0xffff] {
        assert!(nobody.echo(address(number), EMPEROR_6, wait::SHORT), "address {number}");
    }
    assert!(!nobody.echo(V1_6, EMPEROR_6, IN_VAIN));
    assert_addresses(&emperor, &[V1.into(), V1_6.into()]);
}

/// A lease for IPv4 alone allows no IPv6 address where leases are needed.
#[test]
fn leases_of_ipv4_allow_no_ipv6() {
    let emperor = emperor().lines(&["chmod-socket = 666", "tuntap-router-lease = 192.168.0.0/24 30001"]).start();
    let mut alice = emperor.connect_as(30_001);
    assert!(alice.echo(V1, EMPEROR, wait::SHORT));
    assert!(!alice.echo(V1_6, EMPEROR_6, IN_VAIN));
    assert_eq!(emperor.stats().drops_of(V1, "not_leased"), 1);
    assert_addresses(&emperor, &[V1.into()]);
    assert!(is_cut_off(&emperor.netns, V1_6));
}
