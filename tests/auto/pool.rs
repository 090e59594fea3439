//! A router that has no address left.

use crate::common::emperor::EmperorIni;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{Vassal, emperor, netns_with_v6, v4, with_v6};

#[test]
fn third_of_two_addresses_is_refused_with_a_line() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours)
        .lines(&["tuntap-router-address = 192.168.0.1/30", "tuntap-router-address = 192.168.5.1/30"])
        .start();
    let first = Vassal::auto(&emperor, "a");
    let mut found = [v4(&first.start(&emperor)), v4(&Vassal::auto(&emperor, "b").start(&emperor))];
    found.sort_unstable();
    assert_eq!(found.iter().map(|it| it.octets()).collect::<Vec<_>>(), [[192, 168, 0, 2], [192, 168, 5, 2]]);
    let third = Vassal::auto(&emperor, "c");
    let mark = emperor.log.mark();
    third.add(&emperor);
    emperor.log.wait_for_since(mark, "[uwsgi-tuntap] uwsgi0: no agreement with the router at ", wait::LONG);
    let line = "it refuses ipv4: all ipv4 addresses of the router's networks are taken";
    emperor.log.wait_for_since(mark, line, wait::LONG);
    emperor.log.wait_for_since(mark, "asked for ipv4 and doesn't get it: all ipv4 addresses", wait::LONG);
    // Once a vassal leaves, its address is free.
    first.stop(&emperor);
    wait::until_true("the third one has an address", wait::LONG * 3, || {
        emperor.try_stats().is_ok_and(|stats| stats.peers().iter().filter(|peer| peer["addr"] != "").count() == 2)
    });
}

#[test]
fn router_without_networks_is_named() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::Ours).start();
    Vassal::auto(&emperor, "app").add(&emperor);
    emperor.log.wait_for("it has no network to give addresses from (its options tuntap-router-address)", wait::LONG);
}

#[test]
fn chain_that_lets_nothing_pass_is_named() {
    let emperor = emperor().line("tuntap-router-firewall-out = deny").start();
    Vassal::auto(&emperor, "app").add(&emperor);
    emperor.log.wait_for("it refuses ipv4: the router lets nothing pass from it", wait::LONG);
}

/// A chain that speaks of IPv4 only denies IPv6, and vassals have IPv4 then.
#[test]
fn family_that_the_chain_shuts_out_is_left_out() {
    let emperor =
        with_v6(emperor()).line("tuntap-router-firewall-out = allow 192.168.0.0/24 any").start_in(netns_with_v6());
    emperor.log.wait_for("no tuntap-router-firewall-out is about IPv6: this chain denies all IPv6 packets", wait::LONG);
    let net = Vassal::auto(&emperor, "app").start(&emperor);
    let address = v4(&net);
    assert!(net.sh("ip -6 -o addr show dev uwsgi0 scope global").is_empty());
    emperor.log.wait_for("asked for ipv6 and doesn't get it: the router lets nothing pass from it", wait::SHORT);
    let stats = emperor.stats();
    let peer = stats.peer(address).expect("it holds its address");
    assert_eq!(peer["addresses"].as_array().map(Vec::len), Some(1));
}
