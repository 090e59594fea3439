//! Others remove parts of the host's network while an Emperor runs, and the parts come back.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::netns::Net;
use crate::common::processes;
use crate::common::wait;
use crate::reload::reload;
use crate::world::{
    HOST_IPV4, OUTSIDE_IPV4, OUTSIDE_IPV6, World, client_as_seen, forwarding, ip, ipv4_forwarding, start, vassal,
};

/// The vassal reaches both outside hosts, as the host.
#[track_caller]
fn assert_reaches(world: &World, net: &Net, port: u16) {
    let target = SocketAddr::from((ip(OUTSIDE_IPV4), port));
    assert_eq!(client_as_seen(net, target, &world.site.outside4, target), ip(HOST_IPV4));
    let target = SocketAddr::from((ip(OUTSIDE_IPV6), port));
    client_as_seen(net, target, &world.site.outside6, target);
}

/// Address, state and routes of the router's device.
fn device(world: &World) -> String {
    let show = |line: &str| {
        let output = world.netns.output(&line.split_whitespace().collect::<Vec<_>>());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
        lines.sort();
        lines.join("\n")
    };
    [
        "ip -br addr show dev emperor0 scope global",
        "ip -4 route show 192.168.0.0/24 dev emperor0",
        "ip -6 route show fd00:77::/64 dev emperor0",
    ]
    .map(|line| {
        // The protocol field, which says who made a route, doesn't matter.
        let words = show(line);
        words.split_whitespace().take_while(|word| *word != "proto").collect::<Vec<_>>().join(" ")
    })
    .join("; ")
}

#[test]
fn what_the_device_loses_comes_back() {
    let world = start(&["tuntap-router-mtu = 1400"]);
    let net = world.start_vassal(&vassal("v1"));
    let before = device(&world);
    let losses: [(&[&str], &str); 5] = [
        (&["ip link set emperor0 down"], "emperor0 was taken down: mended"),
        (&["ip addr flush dev emperor0"], "emperor0 has lost its address fd00:77::1/64: mended"),
        (&["ip link set emperor0 down", "ip link set emperor0 up"], "has lost its address fd00:77::1/64: mended"),
        (&["ip route del 192.168.0.0/24 dev emperor0"], "emperor0 has lost its route to 192.168.0.0/24: mended"),
        (&["ip link set emperor0 mtu 1300"], "emperor0 was given an MTU of 1300: mended"),
    ];
    for (number, (commands, line)) in (7100..).zip(losses) {
        let mark = world.log.mark();
        commands.iter().for_each(|command| {
            // The command to set the device up may come after the plugin has done so, or before.
            world.netns.output(&command.split_whitespace().collect::<Vec<_>>());
        });
        world.log.wait_for_since(mark, line, wait::LONG);
        wait::until_true(&format!("{commands:?}: {before}"), wait::LONG, || device(&world) == before);
        assert_reaches(&world, &net, number);
        assert!(world.netns.sh("ip -o link show dev emperor0").contains("mtu 1400"));
    }
}

#[test]
fn device_gets_its_name_back() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let before = device(&world);
    world.netns.sh("ip link set emperor0 down");
    let mark = world.log.mark();
    world.netns.output(&["ip", "link", "set", "emperor0", "name", "other0"]);
    wait::until_true("it is called as before", wait::LONG, || device(&world) == before);
    assert_reaches(&world, &net, 7110);
    // The device is never in its own way, whatever its name.
    let lines = world.log.since(mark);
    assert!(lines.contains("was renamed to other0: mended") && !lines.contains("overlaps"), "{lines}");
}

/// The stranger's device gets nothing of the router's, and the router's device gets its name back once it is free.
#[test]
fn interface_of_somebody_else_by_the_devices_name_is_left_alone() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let before = device(&world);
    let mark = world.log.mark();
    world.netns.sh("ip link add stranger0 type veth peer name stranger1");
    // At once: the plugin would take its name back.
    let swap = "link set emperor0 down\\nlink set emperor0 name other0\\nlink set stranger0 name emperor0\\n";
    let output = world.netns.output(&["sh", "-c", &format!("printf '{swap}' | ip -batch -")]);
    assert!(output.status.success(), "{output:?}");
    world.log.wait_for_since(mark, "emperor0 was renamed to other0: ", wait::LONG);
    thread::sleep(Duration::from_secs(6));
    let stranger = world.netns.sh("ip -br addr show dev emperor0");
    assert!(stranger.contains("DOWN") && !stranger.contains("192.168.0."), "{stranger}");
    assert_eq!(ipv4_forwarding(&world.netns, "emperor0"), 0);
    let lines = world.log.since(mark);
    assert!(!lines.contains("overlaps") && lines.matches("was renamed to").count() < 4, "{lines}");
    world.netns.sh("ip link del emperor0");
    wait::until_true("it is called as before", wait::LONG * 2, || device(&world) == before);
    assert_reaches(&world, &net, 7115);
}

/// The router runs on without effect: it still has the device.
#[test]
fn device_that_was_moved_to_another_namespace_is_a_line() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let mark = world.log.mark();
    world.netns.sh(&format!("ip link set emperor0 netns {}", world.site.outside4.name()));
    world.log.wait_for_since(mark, "emperor0 isn't in this network namespace any more", wait::LONG);
    drop(net);
    reload(&world);
    wait::until_true("it is there again", wait::LONG, || world.netns.has_device("emperor0"));
}

/// On a busy host, such as one with containers, there is always something to look at.
#[test]
fn what_can_not_be_mended_is_one_line() {
    let world = start(&[]);
    world.start_vassal(&vassal("v1"));
    let mark = world.log.mark();
    world.netns.sh("sysctl -qw net.ipv6.conf.emperor0.disable_ipv6=1");
    let line = "emperor0 has lost its address fd00:77::1/64: ";
    world.log.wait_for_since(mark, line, wait::LONG);
    for _ in 0..30 {
        world.netns.sh("ip addr add 192.0.2.77/32 dev lo");
        world.netns.sh("ip addr del 192.0.2.77/32 dev lo");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(world.log.since(mark).matches(line).count(), 1);
    let mark = world.log.mark();
    world.netns.sh("sysctl -qw net.ipv6.conf.emperor0.disable_ipv6=0");
    world.log.wait_for_since(mark, "emperor0 has lost its address fd00:77::1/64: mended", wait::LONG);
}

/// `sysctl --system` does this.
#[test]
fn forwarding_that_is_reset_is_turned_on_again() {
    let world = start(&[]);
    let net = world.start_vassal(&vassal("v1"));
    let before = forwarding(&world.netns);
    let resets: [&[&str]; 3] = [
        &["sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv4.ip_forward=0"],
        &["sysctl -qw net.ipv4.conf.up4.forwarding=0"],
        &["sysctl -qw net.ipv6.conf.all.forwarding=1", "sysctl -qw net.ipv6.conf.all.forwarding=0"],
    ];
    for (number, commands) in (7120..).zip(resets) {
        commands.iter().for_each(|command| _ = world.netns.sh(command));
        wait::until_true("it is as before", wait::LONG, || forwarding(&world.netns) == before);
        assert_reaches(&world, &net, number);
    }
    if world.netns.output(&["test", "-e", "/proc/sys/net/ipv6/conf/all/force_forwarding"]).status.success() {
        for interface in ["emperor0", "up6"] {
            world.netns.sh(&format!("sysctl -qw net.ipv6.conf.{interface}.force_forwarding=0"));
        }
        wait::until_true("it is as before", wait::LONG, || forwarding(&world.netns) == before);
        assert_reaches(&world, &net, 7124);
    }
}

/// Two programs that undo each other's work: neither wins, and no log is filled.
#[test]
fn other_program_that_insists_is_left_alone() {
    let world = start(&[]);
    world.start_vassal(&vassal("v1"));
    let mark = world.log.mark();
    let line = "/proc/sys/net/ipv4/conf/up4/forwarding is 0, again and again";
    wait::until_true("it is given up", wait::LONG * 3, || {
        world.netns.sh("sysctl -qw net.ipv4.conf.up4.forwarding=0");
        thread::sleep(Duration::from_millis(50));
        world.log.since(mark).contains(line)
    });
    let mended = world.log.since(mark).matches("set /proc/sys/net/ipv4/conf/up4/forwarding from 0 to 1").count();
    assert!((2..=5).contains(&mended), "{mended}");
    assert_eq!(ipv4_forwarding(&world.netns, "up4"), 0);
    // Other changes are still mended.
    world.netns.sh("sysctl -qw net.ipv4.conf.emperor0.forwarding=0");
    wait::until_true("it forwards", wait::LONG, || ipv4_forwarding(&world.netns, "emperor0") == 1);
    assert_eq!(ipv4_forwarding(&world.netns, "up4"), 0);
}

#[test]
fn what_is_lost_comes_back_after_a_reload_and_after_the_routers_death_too() {
    let world = start(&[]);
    let before = device(&world);
    let lose = || {
        world.netns.sh("ip addr flush dev emperor0");
        wait::until_true("the addresses are there", wait::LONG, || device(&world) == before);
    };
    reload(&world);
    lose();
    let router = world.router_pid();
    processes::send(router, Signal::SIGKILL);
    wait::until_true("there is another router", wait::LONG, || {
        world.try_stats().is_ok_and(|stats| stats.router_pid() != router)
    });
    lose();
}
