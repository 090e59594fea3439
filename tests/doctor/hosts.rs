//! What a router shares with other hosts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::world::{ROUTER, World};

const LINES: &str = "tuntap-router-address = 10.77.0.1/16\ntuntap-router-key = {dir}/key\n\
    tuntap-router-routes = 127.0.0.1:979 {dir}/password\n";

/// A host whose set-up is right: the router's packets for nobody end, and it has a password.
fn world() -> World {
    let world = World::usual();
    world.netns.sh("ip route add blackhole 10.77.0.0/16 metric 4096");
    secret(&world, "password", 0o600);
    world
}

fn secret(world: &World, name: &str, mode: u32) {
    fs::write(world.path(name), "a secret\n").expect("own folder");
    fs::set_permissions(world.path(name), PermissionsExt::from_mode(mode)).expect("own file");
}

fn lines() -> String {
    format!("{ROUTER}{LINES}")
}

#[test]
fn packets_for_nobody_need_an_end() {
    let world = world();
    world.examine_lines(&lines()).is_well();
    world.netns.sh("ip route del blackhole 10.77.0.0/16 metric 4096");
    let remedy = "ip route add blackhole 10.77.0.0/16 metric 4096";
    world.examine_lines(&lines()).warns("packets for nobody are swallowed here", remedy);
    world.netns.sh(remedy);
    world.examine_lines(&lines()).is_well();
}

#[test]
fn secrets_that_others_may_open_are_told() {
    let world = world();
    for (name, what) in [("password", "the password file"), ("key", "the key file")] {
        secret(&world, name, 0o640);
        let remedy = format!("chmod 600 {}", world.path(name).display());
        world.examine_lines(&lines()).is_wrong(&format!("{} has mode 0640", world.path(name).display()), &remedy);
        secret(&world, name, 0o600);
        world.examine_lines(&lines()).is_well();
        chown(world.path(name), Some(20001), None).expect("root may");
        let verdict = world.examine_lines(&lines());
        verdict.is_wrong("belongs to uid 20001", "chown root");
        verdict.has("WRONG", what, "");
        chown(world.path(name), Some(0), None).expect("root may");
    }
    fs::remove_file(world.path("password")).expect("it is there");
    world.examine_lines(&lines()).is_wrong("password is not there", "chmod 600");
}

#[test]
fn port_that_everybody_may_have_is_told() {
    let lines = lines().replace(":979", ":9790");
    world().examine_lines(&lines).warns("every user of this host can listen there", "choose a port below 1024");
}
