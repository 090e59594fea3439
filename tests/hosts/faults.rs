//! What the tests' own network does to hosts without a router, whose BIRDs tell each other of addresses.

use std::net::IpAddr;

use crate::common::hosts::{Hosts, Told, vassal_address, vassal_address6};
use crate::common::wait;

/// Three hosts, of which each tells of two addresses, as if it had a vassal.
fn hosts() -> Hosts {
    let told = [1, 2, 3].map(|host| addresses(host).map(|address| Told::new(address, host.into(), 1_700_000_000_000)));
    let mut hosts = Hosts::new(3);
    let all = [(1, &told[0][..]), (2, &told[1][..]), (3, &told[2][..])];
    hosts.start_birds_telling(&all);
    wait_for_all(&hosts);
    hosts
}

fn addresses(host: u8) -> [IpAddr; 2] {
    [vassal_address(host, 2).into(), vassal_address6(host, 2).into()]
}

#[track_caller]
fn wait_for_all(hosts: &Hosts) {
    for here in 1..=3 {
        for there in (1..=3).filter(|there| *there != here) {
            wait_for_way(hosts, here, there);
        }
    }
}

#[track_caller]
fn wait_for_way(hosts: &Hosts, here: u8, there: u8) {
    wait::until_true(&format!("a way from {here} to {there}"), wait::LONG, || {
        addresses(there).iter().all(|address| hosts.host(here).leads_to(*address, there))
    });
}

#[track_caller]
fn wait_for_no_way(hosts: &Hosts, here: u8, there: u8) {
    wait::until_true(&format!("no way from {here} to {there}"), wait::LONG, || {
        addresses(there).iter().all(|address| hosts.host(here).way_to(*address).is_none())
    });
}

/// Host 1 is alone, and the others don't notice anything of each other.
#[track_caller]
fn assert_alone(hosts: &Hosts) {
    for other in [2, 3] {
        wait_for_no_way(hosts, 1, other);
        wait_for_no_way(hosts, other, 1);
    }
    assert!(hosts.host(2).leads_to(vassal_address(3, 2), 3) && hosts.host(3).leads_to(vassal_address(2, 2), 2));
}

#[test]
fn host_that_is_cut_off_is_alone_until_it_is_healed() {
    let hosts = hosts();
    hosts.switch.cut(1);
    assert_alone(&hosts);
    hosts.switch.heal();
    wait_for_all(&hosts);
}

#[test]
fn host_that_only_hears_is_alone_too() {
    let hosts = hosts();
    hosts.switch.cut_from(1);
    assert_alone(&hosts);
    hosts.switch.heal();
    wait_for_all(&hosts);
}

#[test]
fn unplugged_host_is_alone_until_it_is_plugged() {
    let hosts = hosts();
    hosts.switch.unplug(1);
    assert_alone(&hosts);
    hosts.switch.plug(1);
    wait_for_all(&hosts);
}

#[test]
fn killed_bird_comes_back() {
    let mut hosts = hosts();
    hosts.host_mut(1).bird.as_mut().expect("BIRD runs").kill();
    for other in [2, 3] {
        wait_for_no_way(&hosts, other, 1);
    }
    hosts.host_mut(1).bird.as_mut().expect("BIRD runs").start_again();
    wait_for_all(&hosts);
}
