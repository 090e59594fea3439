//! A router's file and a vassal's that contradict each other or themselves.

use crate::common::uwsgi::UWSGIS;
use crate::world::{ROUTER, VASSAL, World};

#[test]
fn device_without_a_network_namespace_is_told() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let free = VASSAL.replace("jailed = true\n", "");
        world.examine_pair(ROUTER, &free).is_wrong("no network namespace of its own", "jailed = true here");
        let emperor = ROUTER.replace("emperor-use-clone = net\n", "emperor-use-clone = pid\n");
        world
            .examine_pair(&emperor, VASSAL)
            .is_wrong("gives its vassals no network namespace", "emperor-use-clone = net");
    }
}

#[test]
fn privileges_that_are_dropped_too_early_are_told() {
    let world = World::usual();
    let unshared = VASSAL.replace("jailed = true", "unshare = net\nmaster-as-root = true");
    world.examine_pair(ROUTER, &unshared).is_wrong("unshare = net with master-as-root", "leave master-as-root out");
    world
        .examine_pair(&format!("{ROUTER}uid = 20001\n"), VASSAL)
        .is_wrong("uid = 20001: without root", "leave uid and gid out");
    world
        .examine_pair(&format!("{ROUTER}emperor-tyrant = true\n"), VASSAL)
        .is_wrong("emperor-tyrant in", "leave emperor-tyrant out");
    let router = "master = true\ntuntap-router = emperor0 {dir}/t.sock\nuid = 20001\n";
    world.examine_lines(router).warns("uid = 20001: after a reload", "leave uid and gid out");
}

#[test]
fn sockets_that_differ_are_told() {
    let world = World::usual();
    let other = VASSAL.replace("t.sock", "other.sock");
    let remedy = world.in_dir("the routers of these files listen on {dir}/t.sock");
    world.examine_pair(ROUTER, &other).is_wrong("other.sock: no tuntap-router has this socket", &remedy);
}

#[test]
fn credentials_on_one_side_are_told() {
    const SHOWN: &str = "tuntap-use-credentials = true\n";
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let (emperor, vassal) = (format!("{ROUTER}{SHOWN}"), format!("{VASSAL}{SHOWN}"));
        world.examine_pair(&emperor, &vassal).is_well();
        world.examine_pair(&emperor, VASSAL).is_wrong("has tuntap-use-credentials, and this file hasn't", "true here");
        world.examine_pair(ROUTER, &vassal).is_wrong("this file has tuntap-use-credentials", "true in");
    }
}

#[test]
fn leases_that_nobody_can_have_are_told() {
    const SHOWN: &str = "tuntap-use-credentials = true\n";
    let world = World::usual();
    let emperor = format!("{ROUTER}tuntap-router-lease = 10.0.0.2 20001\n");
    world
        .examine_pair(&emperor, VASSAL)
        .is_wrong("doesn't show who it is", "tuntap-use-credentials = true here and in");
    let (emperor, vassal) = (format!("{emperor}{SHOWN}"), format!("{VASSAL}{SHOWN}"));
    world.examine_pair(&emperor, &vassal).is_well();
    let other = vassal.replace("20001", "20002");
    world
        .examine_pair(&emperor, &other)
        .is_wrong("no tuntap-router-lease is for uid 20002", "tuntap-router-lease = <addr> 20002");
    let nobody = VASSAL.replace("uid = 20001", "uid = nobody-of-this-name");
    world.examine_pair(ROUTER, &nobody).is_wrong("uid = nobody-of-this-name: not on this machine", "misspelt");
    let unknown = format!("{ROUTER}tuntap-router-lease = 10.0.0.2 nobody-of-this-name\n");
    world
        .examine_lines(&unknown)
        .warns("tuntap-router-lease = 10.0.0.2 nobody-of-this-name: there is no user", "is it misspelt?");
}

#[test]
fn addresses_that_nobody_can_have_are_told() {
    const NETWORK: &str = "tuntap-router-address = 10.0.0.1/24\n";
    let world = World::usual();
    let auto = VASSAL.replace("t.sock", "t.sock auto");
    world
        .examine_pair(ROUTER, &auto)
        .is_wrong("uwsgi0: auto, but the router of ", "tuntap-router-address = <addr/len>");
    let emperor = format!("{ROUTER}{NETWORK}");
    world.examine_pair(&emperor, &auto).is_well();
    let closed = format!("{emperor}tuntap-router-firewall-out = deny\n");
    world.examine_pair(&closed, &auto).is_wrong("lets nothing pass from the router's networks", "allow");
    let fixed = |address| format!("{VASSAL}tuntap-device-address = {address}/24\n");
    world.examine_pair(&emperor, &fixed("10.0.0.2")).is_well();
    world
        .examine_pair(&emperor, &fixed("10.0.1.2"))
        .is_wrong("in none of the networks of", "an address of 10.0.0.0/24");
}

#[test]
fn unleased_address_is_enough_for_auto() {
    const SHOWN: &str = "tuntap-use-credentials = true\n";
    let world = World::usual();
    let emperor = format!("{ROUTER}{SHOWN}tuntap-router-address = 10.0.0.1/24\ntuntap-router-lease = 10.0.0.9 20009\n");
    let auto = VASSAL.replace("t.sock", "t.sock auto") + SHOWN;
    world.examine_pair(&emperor, &auto).is_well();
    let plain = format!("{VASSAL}{SHOWN}");
    world.examine_pair(&emperor, &plain).is_wrong("no tuntap-router-lease is for uid 20001", "auto");
    world.examine_pair(&format!("{emperor}tuntap-router-lease-default = allow\n"), &plain).is_well();
}

#[test]
fn two_routers_need_two_networks() {
    let world = World::usual();
    let router = |device: &str, net: &str| {
        world.file(
            &format!("{device}.ini"),
            &format!("master = true\ntuntap-router = {device} {{dir}}/{device}.sock\ntuntap-router-address = {net}\n"),
        )
    };
    let (one, two) = (router("tt0", "10.0.0.1/24"), router("tt1", "10.0.1.1/24"));
    world.examine(&[&one, &two]).is_well();
    let two = router("tt1", "10.0.0.129/25");
    world.examine(&[&one, &two]).is_wrong("tuntap-router-address 10.0.0.129/25: a router of ", "another network");
}

#[test]
fn symbol_that_is_nowhere_is_told() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let lines = format!("{ROUTER}tuntap-use-credentials = no_such_function\n");
        world
            .examine_lines(&lines)
            .is_wrong("no_such_function: no plugin and no library has this symbol", "plugin = <file>");
        // Any function that the uWSGI process has will do.
        world.examine_lines(&lines.replace("no_such_function", "getpid")).is_well();
    }
}
