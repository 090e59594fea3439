//! Hosts that are reloaded while a split heals, after which two vassals want one address.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::common::hosts::{Host, Hosts, vassal_address, vassal_address6};
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::vassal::VassalIni;
use crate::common::wait;

/// The address that vassals of two hosts want.
const WANTED: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 9);
const WANTED6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 9, 9);

/// How long the outcome has to stay as it is.
const STABLE: Duration = Duration::from_secs(3);

fn with_routes() -> Hosts {
    let mut hosts = Hosts::new(3);
    for host in hosts.iter_mut() {
        let ini = host.ini_with_routes();
        host.start(ini);
    }
    hosts.start_birds();
    hosts.wait_for_feeds();
    hosts
}

fn with_trunks() -> Hosts {
    let mut hosts = Hosts::new(3);
    for number in 1..=3 {
        let others: Vec<&Host> = hosts.iter().filter(|host| host.number != number).collect();
        let ini = hosts.host(number).ini_with_trunks(&others);
        hosts.host_mut(number).start(ini);
    }
    hosts
}

fn wanting(host: &Host) -> VassalIni {
    host.vassal_at("wants", WANTED, WANTED6)
}

/// The hosts that hold the address.
fn holders(hosts: &Hosts) -> Vec<u8> {
    let holds = |host: &&Host| host.emperor().stats_eventually().peer(WANTED).is_some();
    hosts.iter().filter(holds).map(|host| host.number).collect()
}

/// One host is cut off, and another one gets a vassal with the address that a vassal of the first one has. As soon as they see each
/// other, the given host is reloaded.
#[track_caller]
fn reload_while_a_split_heals(hosts: &Hosts, reloaded: u8) {
    let third: Net = hosts.host(3).start_vassal("v1", 2);
    hosts.host(1).emperor().start_attached(&wanting(hosts.host(1)));
    wait::until_true("it is reached", wait::LONG, || is_reachable(&third, WANTED));
    hosts.switch.cut(1);
    wait::until_true("it is not reached any more", wait::LONG, || !is_reachable(&third, WANTED));
    hosts.host(2).emperor().start_attached(&wanting(hosts.host(2)));
    wait::until_true("the other one is", wait::LONG, || is_reachable(&third, WANTED));
    assert_eq!(holders(hosts), [1, 2]);
    let emperor = hosts.host(reloaded).emperor();
    let router = emperor.router_pid();
    hosts.switch.heal();
    emperor.signal(Signal::SIGHUP);
    wait::until_true("the next router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    let mut since = Instant::now();
    let mut last = Vec::new();
    wait::until_true("one holder, for good", 3 * wait::LONG, || {
        let now = holders(hosts);
        if now.len() != 1 || now != last || !is_reachable(&third, WANTED) || !is_reachable(&third, WANTED6) {
            (since, last) = (Instant::now(), now);
        }
        since.elapsed() > STABLE
    });
    if reloaded == 1 {
        assert_eq!(last, [2], "a claim that was made before all was told gives way");
    }
    // Vassals of all hosts reach it, and each other.
    for host in [1, 2] {
        let net = hosts.host(host).start_vassal("v1", 2);
        wait::until_true("the holder is reached", wait::LONG, || is_reachable(&net, WANTED));
        wait::until_true("host 3, too", wait::LONG, || is_reachable(&net, vassal_address(3, 2)));
        wait::until_true("by IPv6, too", wait::LONG, || is_reachable(&net, vassal_address6(3, 2)));
    }
}

#[test]
fn older_holder_with_routes_is_reloaded() {
    reload_while_a_split_heals(&with_routes(), 1);
}

#[test]
fn newer_holder_with_routes_is_reloaded() {
    reload_while_a_split_heals(&with_routes(), 2);
}

#[test]
fn older_holder_with_trunks_is_reloaded() {
    reload_while_a_split_heals(&with_trunks(), 1);
}

#[test]
fn newer_holder_with_trunks_is_reloaded() {
    reload_while_a_split_heals(&with_trunks(), 2);
}
