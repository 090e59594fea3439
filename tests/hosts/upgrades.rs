//! Another build of the plugin comes to hosts one by one, as in an upgrade: for a while it speaks with the one before.

use std::net::IpAddr;

use nix::sys::signal::Signal;

use crate::common::bird::is_since;
use crate::common::emperor::{Emperor, EmperorIni};
use crate::common::hosts::{Host, Hosts, vassal_address, vassal_address6};
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::stream::Stream;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::monitor::Monitor;

/// The build of the upgrade. Of uWSGIs from PyPI there is one build only, of which another file comes.
fn next_build() -> Subject {
    if Uwsgi::usual() == Uwsgi::Distribution { Subject::Faulty } else { Subject::Ours }
}

fn addresses(host: u8) -> [IpAddr; 2] {
    [vassal_address(host, 2).into(), vassal_address6(host, 2).into()]
}

/// Starts three hosts with a vassal each.
fn start(hosts: &mut Hosts, ini: impl Fn(&Hosts, u8) -> EmperorIni) {
    for number in 1..=3 {
        let ini = ini(hosts, number).own_plugin();
        hosts.host_mut(number).start(ini);
    }
}

fn start_vassals(hosts: &Hosts) -> Vec<Net> {
    let nets = hosts.iter().map(|host| host.emperor().start_attached(&host.vassal("v1", 2).own_plugin())).collect();
    assert_reach_each_other(hosts);
    nets
}

#[track_caller]
fn assert_reach_each_other(hosts: &Hosts) {
    for (host, other) in hosts.iter().flat_map(|host| hosts.iter().map(move |other| (host, other))) {
        let net = host.emperor().vassal_net("v1");
        for address in addresses(other.number) {
            let what = format!("the vassal of host {} reaches {address}", host.number);
            wait::until_true(&what, wait::LONG, || is_reachable(&net, address));
        }
    }
}

/// Replaces the plugin of a host, and reloads its instance.
#[track_caller]
fn upgrade(host: &Host) {
    let emperor: &Emperor = host.emperor();
    let router = emperor.router_pid();
    emperor.replace_plugin(next_build());
    assert!(!emperor.runs_own_plugin(router), "it goes on with the one before");
    let mark = emperor.log.mark();
    emperor.signal(Signal::SIGHUP);
    emperor.wait_until_ready(mark, "v1");
    let all = [emperor.master_pid(), emperor.router_pid(), emperor.vassal_pid("v1").expect("it is ready")];
    assert_eq!(all.map(|pid| emperor.runs_own_plugin(pid)), [true; 3], "host {}", host.number);
}

/// Upgrades the first host while a stream between the others goes on, then these, with streams between both builds meanwhile.
#[track_caller]
fn upgrade_one_by_one(hosts: &Hosts) {
    let nets = start_vassals(hosts);
    let stream = Stream::open(&nets[1], &nets[2], vassal_address(3, 2));
    upgrade(hosts.host(1));
    assert_reach_each_other(hosts);
    let upgraded = hosts.host(1).emperor().vassal_net("v1");
    Stream::open(&upgraded, &nets[1], vassal_address(2, 2)).end();
    Stream::open(&nets[2], &upgraded, vassal_address6(1, 2)).end();
    stream.wait_until_passing("the stream between the others");
    stream.end();
    let stream = Stream::open(&upgraded, &nets[2], vassal_address(3, 2));
    upgrade(hosts.host(2));
    assert_reach_each_other(hosts);
    stream.end();
    upgrade(hosts.host(3));
    assert_reach_each_other(hosts);
}

#[test]
fn hosts_with_trunks_are_upgraded_one_by_one() {
    let mut hosts = Hosts::new(3);
    start(&mut hosts, |hosts, number| {
        let others: Vec<&Host> = hosts.iter().filter(|host| host.number != number).collect();
        hosts.host(number).ini_with_trunks(&others)
    });
    upgrade_one_by_one(&hosts);
}

#[test]
fn hosts_with_routes_are_upgraded_one_by_one_and_lose_none() {
    let mut hosts = Hosts::new(3);
    hosts.bfd = false;
    start(&mut hosts, |hosts, number| hosts.host(number).ini_with_routes());
    hosts.start_birds();
    hosts.wait_for_feeds();
    let sessions =
        |hosts: &Hosts| -> Vec<f64> { hosts.iter().map(|host| host.bird().established_since("tuntap")).collect() };
    let before = sessions(&hosts);
    assert_eq!(before.len(), 3);
    let monitor = Monitor::start(&hosts.host(3).netns);
    upgrade_one_by_one(&hosts);
    for host in hosts.iter() {
        host.emperor().wait_for_stats("all is told", |stats| stats.0["routes"]["waiting"] == 0);
    }
    let lost: Vec<String> = monitor.lines().into_iter().filter(|line| line.starts_with("Deleted")).collect();
    let of_vassals =
        |line: &&String| [1, 2].iter().any(|host| addresses(*host).iter().any(|at| line.contains(&at.to_string())));
    assert!(!lost.iter().any(|line| of_vassals(&line)), "{lost:?}");
    let after = sessions(&hosts);
    let are_same = before.iter().zip(&after).all(|(before, after)| is_since(*before, *after));
    assert!(are_same, "the sessions are those from before the upgrade: {before:?}, {after:?}");
}
