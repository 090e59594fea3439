//! Hosts whose routers tell each other by BGP, each over its host's BIRD, which addresses their vassals hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};

use nix::sys::signal::Signal;

use crate::common::bird::is_since;
use crate::common::hosts::{Hosts, Told, address_of, gateway_of, gateway6_of, vassal_address, vassal_address6};
use crate::common::netns::Net;
use crate::common::packet;
use crate::common::probe::is_reachable;
use crate::common::raw_peer::RawPeer;
use crate::common::series::Series;
use crate::common::stream::Stream;
use crate::common::wait;
use crate::common::wire;
use crate::monitor::Monitor;

/// Hosts with an Emperor and BIRD each, all of which have found each other.
fn hosts(count: u8) -> Hosts {
    hosts_telling(count, &[])
}

fn hosts_telling(count: u8, told: &[(u8, &[Told])]) -> Hosts {
    ready(Hosts::new(count), told)
}

/// The same, which lose no route because one of them is slow.
fn patient_hosts(count: u8) -> Hosts {
    let mut hosts = Hosts::new(count);
    hosts.bfd = false;
    ready(hosts, &[])
}

fn ready(mut hosts: Hosts, told: &[(u8, &[Told])]) -> Hosts {
    for host in hosts.iter_mut() {
        let ini = host.ini_with_routes();
        host.start(ini);
    }
    hosts.start_birds_telling(told);
    hosts.wait_for_feeds();
    hosts
}

/// A peer of a host's router that holds an address.
#[track_caller]
fn peer(hosts: &Hosts, host: u8, address: Ipv4Addr) -> RawPeer {
    RawPeer::registered(&hosts.host(host).emperor().socket(), address, gateway_of(host))
}

/// Waits until these hosts send packets for an address to another one.
#[track_caller]
fn wait_for_way(hosts: &Hosts, from: &[u8], address: impl Into<IpAddr>, to: u8) {
    let address = address.into();
    for host in from {
        wait::until_true(&format!("host {host} sends packets for {address} to host {to}"), wait::LONG, || {
            hosts.host(*host).leads_to(address, to)
        });
    }
}

/// Waits until these hosts send packets for an address to no other one.
#[track_caller]
fn wait_for_no_way(hosts: &Hosts, from: &[u8], address: impl Into<IpAddr>) {
    let address = address.into();
    for host in from {
        wait::until_true(&format!("host {host} sends packets for {address} nowhere"), wait::LONG, || {
            hosts.host(*host).way_to(address).is_none_or(|way| way.via.is_none())
        });
    }
}

/// The addresses of the first vassal of a host.
fn addresses(host: u8) -> [IpAddr; 2] {
    [vassal_address(host, 2).into(), vassal_address6(host, 2).into()]
}

/// Starts a vassal on each host, and waits until all hosts know it.
#[track_caller]
fn start_vassals(hosts: &Hosts) -> Vec<Net> {
    let nets = hosts.iter().map(|host| host.start_vassal("v1", 2)).collect();
    wait_for_all_ways(hosts);
    nets
}

#[track_caller]
fn wait_for_all_ways(hosts: &Hosts) {
    let all: Vec<u8> = hosts.iter().map(|host| host.number).collect();
    for host in &all {
        let others: Vec<u8> = all.iter().copied().filter(|other| other != host).collect();
        addresses(*host).iter().for_each(|address| wait_for_way(hosts, &others, *address, *host));
    }
}

#[test]
fn vassals_of_all_hosts_reach_each_other() {
    let hosts = hosts(3);
    let nets = start_vassals(&hosts);
    for (net, other) in [(&nets[0], 2), (&nets[1], 3), (&nets[2], 1)] {
        assert!(addresses(other).iter().all(|address| is_reachable(net, *address)), "the vassal of host {other}");
    }
    let stream = Stream::open(&nets[0], &nets[2], vassal_address6(3, 2));
    stream.end();
}

#[test]
fn address_of_a_peer_that_ended_is_withdrawn() {
    let hosts = hosts(3);
    let address = vassal_address(1, 9);
    let held = peer(&hosts, 1, address);
    wait_for_way(&hosts, &[2, 3], address, 1);
    drop(held);
    wait_for_no_way(&hosts, &[2, 3], address);
}

#[test]
fn addresses_of_a_killed_emperor_are_withdrawn() {
    let hosts = hosts(3);
    let address = vassal_address(1, 9);
    let _held = peer(&hosts, 1, address);
    wait_for_way(&hosts, &[2, 3], address, 1);
    hosts.host(1).kill_emperor();
    wait_for_no_way(&hosts, &[2, 3], address);
}

#[test]
fn killed_router_loses_no_route() {
    let hosts = patient_hosts(3);
    let nets = start_vassals(&hosts);
    let monitor = Monitor::start(&hosts.host(3).netns);
    let pings = Series::start(&nets[2], vassal_address(1, 2));
    let stream = Stream::open(&nets[0], &nets[2], vassal_address(3, 2));
    hosts.host(1).emperor().kill_router();
    pings.wait_until_answered("answers by the next router");
    stream.wait_until_passing("the stream goes on");
    stream.end();
    // What comes last has passed everything that came before.
    let last = vassal_address(1, 99);
    let _held = peer(&hosts, 1, last);
    monitor.wait_for(&last.to_string());
    let lost: Vec<String> = monitor.lines().into_iter().filter(|line| is_loss(line)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert!(pings.end().answered > 0);
}

/// The Emperor ends with its router and all vassals, and comes back with them. The routing daemon notices only that claims have new
/// times.
#[test]
fn reload_loses_no_route() {
    let hosts = patient_hosts(2);
    let [first, second] = [1, 2].map(|number| hosts.host(number).start_vassal("v1", number + 1));
    drop(first);
    wait_for_way(&hosts, &[2], vassal_address(1, 2), 1);
    wait_for_way(&hosts, &[2], vassal_address6(1, 2), 1);
    let session = || hosts.host(1).bird().established_since("tuntap");
    let before = session();
    let monitor = Monitor::start(&hosts.host(2).netns);
    let emperor = hosts.host(1).emperor();
    // Peers that don't come back.
    let gone = [90, 91, 92].map(|number| vassal_address(1, number));
    for address in gone {
        let _held = peer(&hosts, 1, address);
        wait_for_way(&hosts, &[2], address, 1);
        let (mark, router) = (emperor.log.mark(), emperor.router_pid());
        emperor.signal(Signal::SIGHUP);
        emperor.wait_until_ready(mark, "v1");
        emperor.log.wait_for_since(mark, "of the router before this one", wait::LONG);
        assert_ne!(emperor.router_pid(), router);
        wait::until_true("the vassal is reached", wait::LONG, || is_reachable(&second, vassal_address(1, 2)));
        wait::until_true("by IPv6, too", wait::LONG, || is_reachable(&second, vassal_address6(1, 2)));
    }
    // Claims that aren't made again are withdrawn at the end of all that the next router tells.
    gone.iter().for_each(|address| monitor.wait_for(&format!("Deleted {address}")));
    let last = vassal_address(1, 99);
    let held = peer(&hosts, 1, last);
    monitor.wait_for(&last.to_string());
    let is_gone = |line: &String| gone.iter().any(|address| line.starts_with(&format!("Deleted {address} ")));
    let lost: Vec<String> = monitor.lines().into_iter().filter(|line| is_loss(line) && !is_gone(line)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let after = session();
    assert!(is_since(before, after), "the session is the one from before the reloads: {before}, {after}");
    drop(held);
    monitor.wait_for(&format!("Deleted {last}"));
}

/// True for the end of a route to a vassal.
fn is_loss(line: &str) -> bool {
    line.starts_with("Deleted 10.77.") || line.starts_with("Deleted fd00:77:")
}

#[test]
fn address_moves_when_its_holder_has_ended() {
    let hosts = hosts(3);
    let address = vassal_address(1, 9);
    let held = peer(&hosts, 1, address);
    wait_for_way(&hosts, &[2, 3], address, 1);
    let socket = hosts.host(2).emperor().socket();
    let mut other = RawPeer::connect(&socket);
    let log = &hosts.host(2).emperor().log;
    let refused = format!("can't have the address {address}: a vassal of another host holds it");
    wait::until_true("a claim is refused", wait::LONG, || {
        other.try_send_bytes(&claim(address, 2)).expect("the router reads");
        log.text().contains(&refused)
    });
    assert!(hosts.host(2).emperor().stats().peer(address).is_none());
    drop(held);
    wait::until_true("a claim is granted", wait::LONG, || other.echo(address, gateway_of(2), wait::SHORT));
    wait_for_way(&hosts, &[1, 3], address, 2);
    assert_eq!(log.text().matches(&refused).count(), 1, "it was logged once");
}

/// A frame that claims an address.
fn claim(address: Ipv4Addr, host: u8) -> Vec<u8> {
    wire::frame(wire::PACKET, &packet::echo_request(address, gateway_of(host), 1, 84))
}

#[test]
fn after_a_split_the_newest_holder_has_the_address_everywhere() {
    let hosts = hosts(3);
    let address = vassal_address(1, 9);
    let _older = peer(&hosts, 1, address);
    wait_for_way(&hosts, &[2, 3], address, 1);
    hosts.switch.cut(1);
    wait_for_no_way(&hosts, &[2, 3], address);
    let _newer = peer(&hosts, 2, address);
    wait_for_way(&hosts, &[3], address, 2);
    assert!(hosts.host(1).emperor().stats().peer(address).is_some(), "nobody has told host 1");
    hosts.switch.heal();
    wait_for_way(&hosts, &[1, 3], address, 2);
    let emperor = hosts.host(1).emperor();
    emperor.log.wait_for(&format!("has lost the address {address}"), wait::LONG);
    emperor.wait_for_stats("the older holder has lost it", |stats| stats.peer(address).is_none());
    assert!(hosts.host(2).emperor().stats().peer(address).is_some());
    assert!(!hosts.host(2).emperor().log.text().contains("has lost the address"));
}

/// A host's Emperor starts while the kernel has routes to vassals of other hosts.
#[test]
fn emperor_starts_where_others_vassals_are_known() {
    let mut hosts = hosts(2);
    let address = vassal_address(2, 9);
    let _held = peer(&hosts, 2, address);
    wait_for_way(&hosts, &[1], address, 2);
    hosts.host_mut(1).end_emperor();
    wait::until_true("the router's device is gone", wait::LONG, || !hosts.host(1).netns.has_device("emperor0"));
    assert!(hosts.host(1).leads_to(address, 2), "BIRD goes on");
    let ini = hosts.host(1).ini_with_routes();
    hosts.host_mut(1).start(ini);
    hosts.wait_for_feeds();
    let own = vassal_address(1, 9);
    let _held = peer(&hosts, 1, own);
    wait_for_way(&hosts, &[2], own, 1);
    wait_for_way(&hosts, &[1], address, 2);
}

#[test]
fn cut_one_way_is_one_for_both_sides() {
    let hosts = hosts(3);
    let (first, second) = (vassal_address(1, 9), vassal_address(2, 9));
    let _held = [peer(&hosts, 1, first), peer(&hosts, 2, second)];
    wait_for_way(&hosts, &[2, 3], first, 1);
    wait_for_way(&hosts, &[1, 3], second, 2);
    hosts.switch.cut_from(1);
    wait_for_no_way(&hosts, &[2, 3], first);
    wait_for_no_way(&hosts, &[1], second);
    assert!(hosts.host(3).leads_to(second, 2), "the others still have each other");
    hosts.switch.heal();
    wait_for_way(&hosts, &[2, 3], first, 1);
    wait_for_way(&hosts, &[1, 3], second, 2);
}

#[test]
fn killed_bird_comes_back() {
    let mut hosts = hosts(2);
    let nets = start_vassals(&hosts);
    let pings = Series::start(&nets[1], vassal_address(1, 2));
    let bird = hosts.host_mut(1).bird.as_mut().expect("BIRD runs");
    bird.kill();
    wait_for_no_way(&hosts, &[2], vassal_address(1, 2));
    let bird = hosts.host_mut(1).bird.as_mut().expect("BIRD runs");
    bird.start_again();
    wait_for_all_ways(&hosts);
    pings.wait_until_answered("answers after BIRD has come back");
}

/// A host whose clock is wrong keeps others from an address as long as it is there, but takes it from nobody.
#[test]
fn clock_that_is_ahead_takes_no_address() {
    let address = vassal_address(3, 9);
    let far = Told::new(address, 3, 4_000_000_000_000);
    let mut hosts = hosts_telling(3, &[(3, &[far])]);
    // Host 3 has told already. A host that hasn't heard of it holds the address.
    hosts.switch.cut(3);
    wait_for_no_way(&hosts, &[1, 2], address);
    let mut held = peer(&hosts, 1, address);
    hosts.switch.heal();
    let emperor = hosts.host(1).emperor();
    emperor.log.wait_for("the clock of another host, or of this one, is wrong", wait::LONG);
    assert!(held.echo(address, gateway_of(1), wait::SHORT), "the holder keeps it");
    assert!(emperor.stats().peer(address).is_some());
    hosts.host_mut(3).end_emperor();
}

/// Hosts whose interface to each other masquerades, too. Vassals of both open connections to each other, with their own addresses,
/// and strangers beside them open none.
#[test]
fn hosts_that_masquerade_let_each_others_vassals_in_and_no_strangers() {
    let mut hosts = Hosts::new(3);
    for number in [1, 2] {
        let host = hosts.host_mut(number);
        let ini = host.ini_with_routes().line("tuntap-router-nat = eth0");
        host.start(ini);
    }
    hosts.start_birds();
    let nets = [1, 2].map(|number| hosts.host(number).start_vassal("v1", 2));
    wait_for_way(&hosts, &[2], vassal_address(1, 2), 1);
    wait_for_way(&hosts, &[2], vassal_address6(1, 2), 1);
    wait_for_way(&hosts, &[1], vassal_address(2, 2), 2);
    wait_for_way(&hosts, &[1], vassal_address6(2, 2), 2);
    for (from, to) in [(1, 2), (2, 1)] {
        let [from_net, to_net] = [from, to].map(|number: u8| &nets[usize::from(number) - 1]);
        for (own, other) in addresses(from).into_iter().zip(addresses(to)) {
            let server = to_net.run(|| TcpListener::bind((other, 7777))).expect("a free port");
            let client = from_net.run(|| TcpStream::connect_timeout(&SocketAddr::new(other, 7777), wait::LONG));
            client.unwrap_or_else(|error| panic!("{own} to {other}: {error}"));
            assert_eq!(server.accept().expect("the connection").1.ip(), own, "it isn't masqueraded");
        }
    }
    // The third host knows the ways, as everybody in its network may.
    let stranger = &hosts.host(3).netns;
    let is_let_in = |from: Ipv4Addr| {
        let from = from.to_string();
        let target = vassal_address(1, 2).to_string();
        stranger.output(&["ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", &from, &target]).status.success()
    };
    assert!(hosts.host(3).leads_to(vassal_address(1, 2), 1), "it knows the way");
    assert!(!is_let_in(address_of(3)), "as itself");
    let nobody = vassal_address(3, 9);
    stranger.sh(&format!("ip addr add {nobody}/32 dev lo"));
    assert!(!is_let_in(nobody), "with an address of nobody");
    assert!(
        nets[0].output(&["ping", "-n", "-c", "1", "-W", "5", &address_of(3).to_string()]).status.success(),
        "out it goes"
    );
}

/// One host after the other gets a new Emperor, as for another version.
#[test]
fn hosts_are_renewed_one_by_one() {
    let hosts = hosts(3);
    let nets = start_vassals(&hosts);
    // Host 2 and host 3 notice nothing of host 1.
    let pings = Series::start(&nets[1], vassal_address(3, 2));
    let stream = Stream::open(&nets[1], &nets[2], vassal_address(3, 2));
    let emperor = hosts.host(1).emperor();
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.wait_until_ready(mark, "v1");
    wait_for_all_ways(&hosts);
    stream.end();
    let pings = pings.end();
    assert!(pings.longest_loss <= 1, "{pings:?}");
    for host in &hosts[1..] {
        let mark = host.emperor().log.mark();
        host.emperor().signal(Signal::SIGHUP);
        host.emperor().wait_until_ready(mark, "v1");
        wait_for_all_ways(&hosts);
    }
    let net = hosts.host(1).emperor().vassal_net("v1");
    assert!(addresses(3).iter().all(|address| is_reachable(&net, *address)));
}

/// As many vassals as a host may have, each with a claim of its own.
#[test]
fn a_thousand_claims_reach_another_host_and_leave_it() {
    const COUNT: u16 = 1000;
    let hosts = hosts(2);
    let socket = hosts.host(1).emperor().socket();
    let addresses = (0..COUNT).map(|number| Ipv4Addr::from_bits(vassal_address(128, 0).to_bits() + u32::from(number)));
    let mut peers: Vec<(Ipv4Addr, RawPeer)> = addresses.map(|address| (address, RawPeer::connect(&socket))).collect();
    for (address, peer) in &mut peers {
        peer.send_bytes(&claim(*address, 1));
    }
    let on = |host: u8| hosts.host(host).netns.sh("ip route show root 10.77.128.0/17").lines().count();
    wait::until_true("all are routes of the other host", 3 * wait::LONG, || on(2) == usize::from(COUNT));
    assert!(peers.iter().step_by(97).all(|(address, _)| hosts.host(2).leads_to(*address, 1)));
    assert_eq!(hosts.host(2).holdings(), u64::from(COUNT), "its router knows them");
    assert_eq!(on(1), usize::from(COUNT), "they lead to the device of their own host");
    drop(peers);
    wait::until_true("none is left", 3 * wait::LONG, || on(2) == 0 && on(1) == 0);
    wait::until_true("its router has forgotten them", wait::LONG, || hosts.host(2).holdings() == 0);
}

/// Of few peers, each of which has as many as it may.
#[test]
fn twenty_thousand_claims_reach_another_host_and_leave_it() {
    const EACH: u32 = 8;
    const COUNT: u32 = 20_000;
    let hosts = hosts(2);
    let socket = hosts.host(1).emperor().socket();
    let first = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0x8000, 0).to_bits();
    let nth = |number: u32| Ipv6Addr::from_bits(first + u128::from(number));
    let claim = |number| packet::echo_request6(nth(number), gateway6_of(1), 1, 84);
    let peers: Vec<RawPeer> = (0..COUNT / EACH)
        .map(|peer| {
            let mut connection = RawPeer::connect(&socket);
            let claims = (0..EACH).flat_map(|number| wire::frame(wire::PACKET, &claim(peer * EACH + number)));
            connection.send_bytes(&claims.collect::<Vec<u8>>());
            connection
        })
        .collect();
    let on = |host: u8| {
        let routes = hosts.host(host).netns.sh("ip -6 route show root fd00:77::8000:0/97");
        routes.lines().filter(|line| !line.contains('/')).count()
    };
    let all = usize::try_from(COUNT).expect("small");
    wait::until_true("its router holds all of them", 3 * wait::LONG, || {
        hosts.host(1).emperor().stats_eventually().0["routes"]["claims"] == COUNT
    });
    wait::until_true("all are routes of the other host", 3 * wait::LONG, || on(2) == all);
    assert!((0..COUNT).step_by(1999).all(|number| hosts.host(2).leads_to(nth(number), 1)));
    wait::until_true("its router knows them", 3 * wait::LONG, || hosts.host(2).holdings() == u64::from(COUNT));
    assert_eq!(on(1), all, "they lead to the device of their own host");
    drop(peers);
    wait::until_true("none is left", 3 * wait::LONG, || on(2) == 0 && on(1) == 0);
    wait::until_true("its router has forgotten them", wait::LONG, || hosts.host(2).holdings() == 0);
}
