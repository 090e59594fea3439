//! Networks of routers that the host uses already.

use std::fs;

use crate::common::netns::Netns;
use crate::common::wait;
use crate::reload::reload;
use crate::world::{SET_UP, Site, ini, start};

/// Each line has what the host has before, and what the start says about it.
#[test]
fn network_that_the_host_has_already_stops_the_start() {
    let cases: [(&[&str], &str); 7] = [
        (&["ip addr add 192.168.0.5/24 dev up4"], "overlaps 192.168.0.0/24, to which up4 leads"),
        (&["ip addr add 192.168.0.1/24 dev up4"], "overlaps 192.168.0.1/24, which up4 has"),
        (&["ip route add 192.168.0.0/16 via 203.0.113.2"], "overlaps 192.168.0.0/16, to which up4 leads"),
        (&["ip route add 192.168.0.128/25 via 203.0.113.2 table 100"], "overlaps 192.168.0.128/25, to which up4 leads"),
        (&["ip route add default via 192.168.0.1 dev up4 onlink"], "overlaps 192.168.0.1, which is the gateway by up4"),
        (&["ip addr add 192.168.0.9/32 dev up4"], "overlaps 192.168.0.9/32, which up4 has"),
        (&["ip -6 route add fd00::/16 dev up6"], "overlaps fd00::/16, to which up6 leads"),
    ];
    for (commands, reason) in cases {
        let host = Netns::new();
        let _site = Site::around(&host);
        commands.iter().for_each(|command| _ = host.sh(command));
        let before = (host.sh("ip -4 route show table all"), host.sh("nft list ruleset"));
        let mut emperor = ini().lines(&SET_UP).launch_in(host);
        assert!(!emperor.wait_for_exit().success(), "{commands:?}");
        emperor.log.wait_for(reason, wait::SHORT);
        emperor.log.wait_for("emperor0: its network", wait::SHORT);
        assert_eq!((emperor.netns.sh("ip -4 route show table all"), emperor.netns.sh("nft list ruleset")), before);
    }
}

#[test]
fn routes_to_everything_are_no_conflict_and_what_is_meant_is_none() {
    let host = Netns::new();
    let _site = Site::around(&host);
    for route in ["default", "0.0.0.0/1", "128.0.0.0/1"] {
        host.sh(&format!("ip route add {route} via 203.0.113.2"));
    }
    // Not every kernel has them.
    if host.output(&["ip", "link", "add", "red", "type", "vrf", "table", "77"]).status.success() {
        host.sh("ip link set red up");
        host.sh("ip route add 192.168.0.0/24 dev up4 table 77");
    }
    host.sh("ip route add 192.168.0.0/16 via 203.0.113.2 table 100");
    let lines =
        SET_UP.map(|line| if line.contains("192.168.0.1/24") { format!("{line} anyway") } else { line.to_owned() });
    let ini = lines.iter().fold(ini(), |ini, line| ini.line(line.clone()));
    let emperor = ini.start_in(host);
    emperor.netns.sh("ip route del 192.168.0.0/16 via 203.0.113.2 table 100");
    assert!(!emperor.log.text().contains("overlaps"));
}

/// A running Emperor logs what is wrong, and goes on.
#[test]
fn network_that_comes_later_is_said_and_ends_nothing() {
    let mut world = start(&[]);
    world.netns.sh("ip addr add 192.168.0.5/24 dev up4");
    let line =
        "emperor0: its network 192.168.0.1/24 (tuntap-router-address) overlaps 192.168.0.0/24, to which up4 leads";
    world.log.wait_for(line, wait::LONG);
    let mark = world.log.mark();
    reload(&world);
    world.log.wait_for_since(mark, line, wait::SHORT);
    let vassals = fs::read_dir(world.path("vassals")).expect("own folder");
    assert_eq!(vassals.count(), 0);
    assert!(world.emperor.exit_status().is_none());
}
