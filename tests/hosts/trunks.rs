//! Hosts whose routers have trunks between each other.

use std::net::{IpAddr, Ipv4Addr};

use nix::sys::signal::Signal;

use crate::common::hosts::{Host, Hosts, gateway_of, vassal_address, vassal_address6};
use crate::common::netns::Net;
use crate::common::packet;
use crate::common::probe::is_reachable;
use crate::common::processes;
use crate::common::raw_peer::RawPeer;
use crate::common::series::Series;
use crate::common::stream::Stream;
use crate::common::wait;
use crate::common::wire;

/// Addresses of a router itself, which its neighbours are told, too.
const OWN: u64 = 2;

/// Hosts of which each has a trunk to each other one.
fn hosts(count: u8) -> Hosts {
    let mut hosts = Hosts::new(count);
    for number in 1..=count {
        let others: Vec<&Host> = hosts.iter().filter(|host| host.number != number).collect();
        let ini = hosts.host(number).ini_with_trunks(&others);
        hosts.host_mut(number).start(ini);
    }
    hosts
}

#[track_caller]
fn peer(hosts: &Hosts, host: u8, address: Ipv4Addr) -> RawPeer {
    RawPeer::registered(&hosts.host(host).emperor().socket(), address, gateway_of(host))
}

#[track_caller]
fn wait_for_holdings(hosts: &Hosts, host: u8, count: u64) {
    wait::until_true(&format!("host {host} knows of {count} addresses elsewhere"), wait::LONG, || {
        hosts.host(host).holdings() == count
    });
}

fn addresses(host: u8) -> [IpAddr; 2] {
    [vassal_address(host, 2).into(), vassal_address6(host, 2).into()]
}

/// Starts a vassal on each host, and waits until all reach each other.
#[track_caller]
fn start_vassals(hosts: &Hosts) -> Vec<Net> {
    let nets: Vec<Net> = hosts.iter().map(|host| host.start_vassal("v1", 2)).collect();
    assert_reach_each_other(hosts, &nets);
    nets
}

#[track_caller]
fn assert_reach_each_other(hosts: &Hosts, nets: &[Net]) {
    for (host, net) in hosts.iter().zip(nets) {
        for other in hosts.iter().filter(|other| other.number != host.number) {
            for address in addresses(other.number) {
                let what = format!("the vassal of host {} reaches {address}", host.number);
                wait::until_true(&what, wait::LONG, || is_reachable(net, address));
            }
        }
    }
}

#[test]
fn vassals_of_all_hosts_reach_each_other() {
    let hosts = hosts(3);
    let nets = start_vassals(&hosts);
    for (from, to, address) in [(0, 2, addresses(3)[0]), (1, 0, addresses(1)[1])] {
        Stream::open(&nets[from], &nets[to], address).end();
    }
}

#[test]
fn address_of_a_peer_that_ended_is_withdrawn() {
    let hosts = hosts(2);
    let held = peer(&hosts, 1, vassal_address(1, 9));
    wait_for_holdings(&hosts, 2, OWN + 1);
    drop(held);
    wait_for_holdings(&hosts, 2, OWN);
}

#[test]
fn addresses_of_a_killed_emperor_are_withdrawn() {
    let hosts = hosts(2);
    let _held = peer(&hosts, 1, vassal_address(1, 9));
    wait_for_holdings(&hosts, 2, OWN + 1);
    hosts.host(1).kill_emperor();
    wait_for_holdings(&hosts, 2, 0);
}

#[test]
fn address_moves_when_its_holder_has_ended() {
    let hosts = hosts(2);
    let address = vassal_address(1, 9);
    let held = peer(&hosts, 1, address);
    wait_for_holdings(&hosts, 2, OWN + 1);
    let emperor = hosts.host(2).emperor();
    let mut other = RawPeer::connect(&emperor.socket());
    let refused = format!("can't have the address {address}: a vassal of another host holds it");
    let claim = wire::frame(wire::PACKET, &packet::echo_request(address, gateway_of(2), 1, 84));
    wait::until_true("a claim is refused", wait::LONG, || {
        other.try_send_bytes(&claim).expect("the router reads");
        emperor.log.text().contains(&refused)
    });
    drop(held);
    wait::until_true("a claim is granted", wait::LONG, || other.echo(address, gateway_of(2), wait::SHORT));
    wait_for_holdings(&hosts, 1, OWN + 1);
}

#[test]
fn after_a_split_the_newest_holder_has_the_address() {
    let hosts = hosts(2);
    let address = vassal_address(1, 9);
    let _older = peer(&hosts, 1, address);
    wait_for_holdings(&hosts, 2, OWN + 1);
    hosts.switch.cut(1);
    wait_for_holdings(&hosts, 2, 0);
    let _newer = peer(&hosts, 2, address);
    hosts.switch.heal();
    let emperor = hosts.host(1).emperor();
    emperor.log.wait_for(&format!("has lost the address {address}"), wait::LONG);
    emperor.wait_for_stats("the older holder has lost it", |stats| stats.peer(address).is_none());
    wait_for_holdings(&hosts, 1, OWN + 1);
    assert!(hosts.host(2).emperor().stats().peer(address).is_some());
}

#[test]
fn killed_router_keeps_the_trunk() {
    let hosts = hosts(2);
    let nets = start_vassals(&hosts);
    let pings = Series::start(&nets[1], vassal_address(1, 2));
    let stream = Stream::open(&nets[0], &nets[1], vassal_address(2, 2));
    hosts.host(1).emperor().kill_router();
    pings.wait_until_answered("answers by the next router");
    stream.wait_until_passing("the stream goes on");
    stream.end();
}

#[test]
fn cut_ends_nothing_that_outlives_it() {
    let hosts = hosts(2);
    let nets = start_vassals(&hosts);
    let stream = Stream::open(&nets[0], &nets[1], vassal_address(2, 2));
    hosts.switch.cut(1);
    wait_for_holdings(&hosts, 2, 0);
    hosts.switch.heal();
    stream.wait_until_passing("the stream goes on");
    stream.end();
    assert_reach_each_other(&hosts, &nets);
}

/// Emperors are reloaded one after the other, as for another version.
#[test]
fn hosts_are_renewed_one_by_one() {
    let hosts = hosts(2);
    start_vassals(&hosts);
    for host in hosts.iter() {
        let emperor = host.emperor();
        let mark = emperor.log.mark();
        processes::send(emperor.master_pid(), Signal::SIGHUP);
        emperor.wait_until_ready(mark, "v1");
        let nets: Vec<Net> = hosts.iter().map(|host| host.emperor().vassal_net("v1")).collect();
        assert_reach_each_other(&hosts, &nets);
    }
}
