//! Sockets where there should be none, and none where there should be.

use std::os::unix::net::UnixListener;

use crate::world::{ROUTER, VASSAL, World};

#[test]
fn router_without_a_place_for_its_socket_is_told() {
    let world = World::usual();
    let elsewhere = ROUTER.replace("t.sock", "none/t.sock");
    world.examine_lines(&elsewhere).is_wrong("there is no folder", "mkdir -p");
    std::fs::write(world.path("t.sock"), "").expect("own folder");
    world.examine_lines(ROUTER).is_wrong("is no socket", "rm ");
    let long = ROUTER.replace("t.sock", &"x".repeat(110));
    let verdict = world.examine_lines(&long);
    assert_eq!(verdict.code, Some(1));
    verdict.has("WRONG", "tuntap-router = emperor0", "at most 102 bytes");
    let name = format!("{ROUTER}abstract-socket = true\n").replace("t.sock", "u.sock");
    world.examine_lines(&name).is_wrong("abstract-socket", "leave abstract-socket out");
}

#[test]
fn socket_of_somebody_else_is_told() {
    let world = World::usual();
    let somebody = UnixListener::bind(world.path("t.sock")).expect("bind");
    let own = format!("pid {}", std::process::id());
    world.examine_lines(ROUTER).is_wrong(&own, "stop that process");
    drop(somebody);
    world.examine_lines(ROUTER).is_well();
}

#[test]
fn statistics_without_a_place_of_their_own_are_told() {
    let world = World::usual();
    let with_stats = ROUTER.replace("t.sock", "t.sock {dir}/stats");
    world.examine_lines(&with_stats).is_well();
    let somebody = UnixListener::bind(world.path("stats")).expect("bind");
    let own = format!("pid {}", std::process::id());
    world.examine_lines(&with_stats).is_wrong(&own, "another socket for the statistics");
    drop(somebody);
    std::fs::remove_file(world.path("stats")).expect("own file");
    std::fs::write(world.path("stats"), "").expect("own folder");
    world.examine_lines(&with_stats).is_wrong("is no socket", "rm ");
    world
        .examine_lines(&ROUTER.replace("t.sock", "t.sock {dir}/none/stats"))
        .is_wrong("there is no folder", "mkdir -p");
}

#[test]
fn vassal_without_a_router_is_told() {
    let world = World::usual();
    world.examine_lines(VASSAL).is_wrong("t.sock: no such socket", "start the router first");
    world.examine_lines(&VASSAL.replace("t.sock", "none/t.sock")).is_wrong("there is no folder", "visible from here");
    std::fs::write(world.path("t.sock"), "").expect("own folder");
    world.examine_lines(VASSAL).is_wrong("that file is no socket", "tuntap-router");
    std::fs::remove_file(world.path("t.sock")).expect("own file");
    drop(UnixListener::bind(world.path("t.sock")).expect("bind"));
    world.examine_lines(VASSAL).is_wrong("nobody listens there, it was left behind", "start the router");
    world.examine_lines(&VASSAL.replace("{dir}/t.sock", "@tuntap")).is_wrong("an @name can't be reached", "a path");
}
