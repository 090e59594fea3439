//! The host after the end of an Emperor.

use nix::sys::signal::Signal;

use crate::common::netns::Netns;
use crate::common::wait;
use crate::rules::add_hosts_own;
use crate::world::{SET_UP, Site, State, World, forwarding, ini, ruleset, vassal};

fn start_and_end(signal: Signal) -> (World, String, State) {
    let host = Netns::new();
    let site = Site::around(&host);
    add_hosts_own(&host);
    let (rules, state) = (ruleset(&host), forwarding(&host));
    let emperor = ini().lines(&SET_UP).line("tuntap-router-port = tcp 8080 192.168.0.2:80").start_in(host);
    let world = World { emperor, site };
    world.start_vassal(&vassal("v1"));
    assert_ne!(ruleset(&world.netns), rules);
    assert_ne!(forwarding(&world.netns), state);
    world.signal(signal);
    (world, rules, state)
}

#[test]
fn stopped_emperor_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let (mut world, rules, state) = start_and_end(signal);
        world.emperor.wait_for_exit();
        assert_eq!(ruleset(&world.netns), rules, "{signal}");
        assert_eq!(forwarding(&world.netns), state, "{signal}");
        wait::until_true("all processes are gone", wait::LONG, || world.family().members().is_empty());
        wait::until_true("its device is gone", wait::LONG, || !world.netns.has_device("emperor0"));
    }
}

/// After such a death no process is left that could put the settings of interfaces back.
#[test]
fn killed_emperor_leaves_settings_behind_and_nothing_else() {
    let (world, rules, _) = start_and_end(Signal::SIGKILL);
    wait::until_true("the table is gone", wait::SHORT, || ruleset(&world.netns) == rules);
    wait::until_true("all processes are gone", wait::LONG, || world.family().members().is_empty());
    wait::until_true("its device is gone", wait::LONG, || !world.netns.has_device("emperor0"));
}

#[test]
fn setting_that_was_on_before_stays_on() {
    let host = Netns::new();
    let site = Site::around(&host);
    host.sh("sysctl -qw net.ipv4.conf.up6.forwarding=1");
    let emperor = ini().lines(&SET_UP).start_in(host);
    let mut world = World { emperor, site };
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!(world.netns.sh("sysctl -n net.ipv4.conf.up6.forwarding").trim(), "1");
    assert_eq!(world.netns.sh("sysctl -n net.ipv4.conf.up4.forwarding").trim(), "0");
}

/// An instance in the background holds its tables in another process than the first one.
#[test]
fn emperor_in_the_background_keeps_its_table() {
    let host = Netns::new();
    let _site = Site::around(&host);
    let before = ruleset(&host);
    let mut emperor = ini().lines(&SET_UP).line("daemonize2 = {dir}/log").launch_in(host);
    assert!(emperor.wait_for_exit().success(), "the process that was started ends");
    wait::until_true("the router answers", wait::LONG, || emperor.try_stats().is_ok());
    assert_ne!(ruleset(&emperor.netns), before);
    let router = emperor.try_stats().expect("the router answers").router_pid();
    let master = emperor.family().members().into_iter().find(|it| it.pid == router).expect("it runs").parent;
    crate::common::processes::send(master, Signal::SIGINT);
    wait::until_true("the daemon ends", wait::LONG, || emperor.family().members().is_empty());
    assert_eq!(ruleset(&emperor.netns), before);
}

/// A device that the operator has made outlives its router and keeps what it had before. What the router gave it goes.
#[test]
fn persistent_device_keeps_its_own_and_nothing_of_the_router() {
    let host = Netns::new();
    let site = Site::around(&host);
    host.sh("ip tuntap add emperor0 mode tun");
    host.sh("ip addr add 192.168.7.1/24 dev emperor0");
    let addresses = |host: &Netns| {
        let text = host.sh("ip -o addr show dev emperor0 scope global");
        text.lines().filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect::<Vec<_>>()
    };
    let emperor = ini().lines(&SET_UP).line("tuntap-router-address = 192.168.5.1/24").start_in(host);
    let mut world = World { emperor, site };
    assert_eq!(addresses(&world.netns), ["192.168.7.1/24", "192.168.0.1/24", "192.168.5.1/24", "fd00:77::1/64"]);
    // The instance reloads with one address less.
    let path = world.path("emperor.ini");
    let text = std::fs::read_to_string(&path).expect("own file");
    std::fs::write(&path, text.replace("tuntap-router-address = 192.168.5.1/24", "")).expect("own file");
    crate::reload::reload(&world);
    assert_eq!(addresses(&world.netns), ["192.168.7.1/24", "192.168.0.1/24", "fd00:77::1/64"]);
    world.signal(Signal::SIGINT);
    world.emperor.wait_for_exit();
    assert_eq!(addresses(&world.netns), ["192.168.7.1/24"]);
    assert!(!world.netns.sh("ip link show dev emperor0").contains(",UP"));
}
