//! Addresses that stand in the vassal's own ini file.

use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, EmperorIni, V1, V2};
use crate::common::processes::{freeze, thaw};
use crate::common::stats::is_attached;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::world::{EMPEROR_V6, Vassal, addresses, emperor, netns_with_v6, pings, v4, with_v6};

fn fixed(emperor: &crate::common::emperor::Emperor, name: &str, address: Ipv4Addr) -> Vassal {
    Vassal::bare(emperor, Subject::Ours, name)
        .line("tuntap-device = uwsgi0 {dir}/t.sock")
        .line(format!("tuntap-device-address = {address}/24"))
}

#[test]
fn fixed_address_needs_no_ping() {
    let emperor = with_v6(emperor()).start_in(netns_with_v6());
    let vassal = fixed(&emperor, "app", V1).line("tuntap-device-address = uwsgi0 fd00:77::22/64");
    let net = vassal.start(&emperor);
    assert_eq!(addresses(&net, "uwsgi0"), ["192.168.0.2/24", "fd00:77::22/64"]);
    // The vassal is reached before it has sent anything.
    assert!(pings(&emperor.netns, V1) && pings(&net, EMPEROR) && pings(&net, EMPEROR_V6));
}

#[test]
fn fixed_address_and_gateway_with_a_c_router() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::C).start();
    let net = fixed(&emperor, "app", V1).line("tuntap-device-gateway = 192.168.0.1").start(&emperor);
    wait::until_true("the C router knows the address", wait::LONG, || emperor.stats().peer(V1).is_some());
    assert!(pings(&emperor.netns, V1) && pings(&net, EMPEROR));
    assert!(net.sh("ip route show default").starts_with("default via 192.168.0.1 dev uwsgi0"));
}

/// A C router would take a part of the IPv6 address for an IPv4 address.
#[test]
fn fixed_ipv6_address_is_not_claimed_from_a_c_router() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::C).start_in(netns_with_v6());
    // Bytes 4 to 7 of this address could be an IPv4 address.
    let vassal = Vassal::bare(&emperor, Subject::Ours, "six")
        .line("tuntap-device = uwsgi0 {dir}/t.sock")
        .line("tuntap-device-address = fd00:77:a09:809::22/64");
    let net = vassal.start(&emperor);
    assert_eq!(addresses(&net, "uwsgi0"), ["fd00:77:a09:809::22/64"]);
    emperor.log.wait_for("as one of the C plugin: it has no IPv6", wait::SHORT);
    fixed(&emperor, "both", V1).line("tuntap-device-address = fd00:77:a09:80a::22/64").start(&emperor);
    emperor.log.wait_for("its IPv6 addresses lead nowhere", wait::SHORT);
    let stats = emperor.wait_for_stats("the C router knows the other one", |stats| stats.peer(V1).is_some());
    let found: Vec<_> = stats.peers().iter().map(|peer| peer["addr"].clone()).collect();
    assert_eq!(found.len(), 2);
    assert!(found.contains(&"".into()), "{found:?}");
}

/// A router that is only stopped is not taken for one of the C plugin: it has not even read the question.
#[test]
fn fixed_address_waits_for_a_router_that_stands_still() {
    let emperor = with_v6(emperor()).line("tuntap-router-dns = 192.0.2.53").start_in(netns_with_v6());
    std::fs::create_dir(emperor.path("etc")).expect("own folder");
    let router = emperor.router_pid();
    freeze(router);
    let vassal = fixed(&emperor, "app", V1)
        .line("tuntap-device-address = fd00:77::22/64")
        .line("tuntap-device-dns = {dir}/etc/resolv.conf")
        .line("tuntap-device-rule = out any any deny tcp 25");
    let mark = emperor.log.mark();
    vassal.add(&emperor);
    emperor.log.wait_for_since(mark, "made the device uwsgi0", wait::LONG);
    // This is longer than a router may take once it has read the question.
    sleep(Duration::from_secs(4));
    thaw(router);
    emperor.wait_until_ready(mark, "app");
    let net = emperor.vassal_net("app");
    for family in ["-4", "-6"] {
        let routes = net.sh(&format!("ip {family} route show default"));
        assert!(routes.contains("dev uwsgi0"), "{routes}");
    }
    assert!(std::fs::read_to_string(emperor.path("etc/resolv.conf")).is_ok_and(|text| text.contains("192.0.2.53")));
    wait::until_true("it is attached", wait::SHORT, || is_attached(&emperor.stats(), V1));
    assert!(pings(&emperor.netns, V1) && pings(&net, EMPEROR_V6));
    assert!(!emperor.log.since(mark).contains("answers no questions"));
    assert_eq!(emperor.router_pid(), router);
}

#[test]
fn router_that_reads_nothing_is_waited_for_no_longer_than_told() {
    let emperor = emperor().start();
    let router = emperor.router_pid();
    freeze(router);
    let mark = emperor.log.mark();
    fixed(&emperor, "app", V1).line("tuntap-device-timeout = 3").add(&emperor);
    emperor.log.wait_for_since(mark, "it has read nothing for ", wait::LONG);
    assert!(!emperor.log.since(mark).contains("vassal app.ini is ready"));
    thaw(router);
    emperor.wait_until_ready(mark, "app");
}

#[test]
fn auto_without_credentials_names_them() {
    let emperor = emperor().line("tuntap-use-credentials = true").start();
    Vassal::auto(&emperor, "app").line("tuntap-device-timeout = 1").add(&emperor);
    let line = "it has closed the connection: its log says why (one with tuntap-use-credentials takes nothing";
    emperor.log.wait_for(line, wait::LONG);
}

#[test]
fn auto_with_a_c_router_says_why_not() {
    let emperor = EmperorIni::new(Uwsgi::usual(), Subject::C).start();
    Vassal::auto(&emperor, "app").line("tuntap-device-timeout = 2").add(&emperor);
    emperor.log.wait_for("it is a router of the C plugin, which knows nothing of auto", wait::LONG);
    // The router's vassals are not affected.
    let net = emperor.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::C, "v1", V1, EMPEROR));
    assert!(pings(&net, EMPEROR));
}

#[test]
fn gateway_outside_of_the_network_is_reached() {
    let emperor = emperor().start();
    let vassal = Vassal::bare(&emperor, Subject::Ours, "app")
        .line("tuntap-device = uwsgi0 {dir}/t.sock")
        .line("tuntap-device-address = 192.168.0.2/32");
    let net = vassal.start(&emperor);
    assert_eq!(addresses(&net, "uwsgi0"), ["192.168.0.2/32"]);
    assert!(pings(&net, EMPEROR), "{}", net.sh("ip route"));
}

#[test]
fn address_of_another_peer_is_refused_by_name() {
    let emperor = emperor().start();
    let mut holder = emperor.peer(V2);
    fixed(&emperor, "app", V2).add(&emperor);
    emperor.log.wait_for("it refuses 192.168.0.3: another peer holds it", wait::LONG);
    assert!(holder.echo(V2, EMPEROR, wait::SHORT));
}

#[test]
fn address_that_is_not_leased_is_refused_by_name() {
    let emperor = emperor().line("tuntap-router-lease = 192.168.0.2 30001").start();
    fixed(&emperor, "app", V1).add(&emperor);
    emperor.log.wait_for("it refuses 192.168.0.2: it is not leased to this peer", wait::LONG);
    fixed(&emperor, "own", EMPEROR).add(&emperor);
    emperor.log.wait_for("it refuses 192.168.0.1: it is the router's own", wait::LONG);
}

#[test]
fn vassals_of_all_kinds_live_side_by_side() {
    let emperor = emperor().start();
    let c = emperor.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::C, "c", V1, EMPEROR));
    let long = emperor.start_vassal(&VassalIni::new(Uwsgi::usual(), Subject::Ours, "long", V2, EMPEROR));
    let mut raw = emperor.peer(Ipv4Addr::new(192, 168, 0, 4));
    let autos: Vec<_> = ["a", "b"].iter().map(|name| Vassal::auto(&emperor, name).start(&emperor)).collect();
    for auto in &autos {
        let address = v4(auto);
        assert!(pings(&c, address) && pings(&long, address) && pings(auto, V1) && pings(auto, V2), "{address}");
    }
    assert!(raw.echo(Ipv4Addr::new(192, 168, 0, 4), EMPEROR, wait::SHORT));
}
