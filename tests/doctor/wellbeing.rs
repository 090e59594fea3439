//! Set-ups in which nothing is wrong, and the promise that the doctor changes nothing.

use crate::common::uwsgi::{Subject, UWSGIS, Uwsgi};
use crate::world::{ROUTER, VASSAL, World};

#[test]
fn healthy_set_up_is_well_and_nothing_of_it_is_done() {
    // All that uWSGI would do because of a file: before it starts anything, while it starts, and at its end.
    const DEEDS: &str = "exec-asap = touch {dir}/asap\nhook-asap = exec:touch {dir}/hook\n\
        exec-pre-jail = touch {dir}/jail\nexec-as-root = touch {dir}/root\nhook-as-root = exec:touch {dir}/as-root\n\
        exec-atexit = touch {dir}/atexit\nhook-atexit = exec:touch {dir}/hook-atexit\n\
        daemonize = {dir}/log\nlogto = {dir}/other-log\npidfile = {dir}/pid\nsocket = {dir}/uwsgi.sock\n\
        http-socket = 127.0.0.1:8080\nstats = {dir}/stats\nvacuum = true\nlog-master = true\n";
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        for name in ["pid", "uwsgi.sock"] {
            std::fs::write(world.path(name), "of the instance that runs").expect("own folder");
        }
        world.examine_pair(&format!("{ROUTER}{DEEDS}"), &format!("{VASSAL}{DEEDS}")).is_well();
        let pid = std::fs::read_to_string(world.path("pid")).expect("vacuum doesn't take it");
        assert_eq!(pid, "of the instance that runs");
    }
}

#[test]
fn nothing_is_done_when_uwsgi_gives_up_either() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        std::fs::write(world.path("pid"), "of the instance that runs").expect("own folder");
        // The wrong value stands after everything else.
        let lines = format!(
            "{ROUTER}pidfile = {{dir}}/pid\nvacuum = true\nexec-atexit = touch {{dir}}/x\nemperor-use-clone = nonsense\n"
        );
        world
            .examine_lines(&lines)
            .is_wrong("uWSGI doesn't get through this file", "unknown namespace subsystem: nonsense");
    }
}

#[test]
fn router_and_vassal_can_be_one_instance() {
    let world = World::usual();
    let lines =
        "master = true\ntuntap-router = emperor0 {dir}/t.sock\nunshare = net\ntuntap-device = uwsgi0 {dir}/t.sock\n";
    world.examine_lines(lines).is_well();
}

/// The README's example is the doctor's real output.
#[test]
fn readme_shows_what_is_said() {
    let world = World::new(Uwsgi::Distribution).starting(|starter| starter.descriptors(20_000));
    world.netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    world.netns.sh("iptables -P FORWARD DROP");
    let emperor = world.file("emperor.ini", ROUTER);
    let vassal = "plugin = tuntap\ntuntap-device = uwsgi0 {dir}/t.sock\nuid = 20001\ngid = 20001\n";
    let vassal = world.raw_file("vassals/app.ini", vassal);
    let said = world.examine(&[&emperor, &vassal]).text;
    let said = said
        .replace(&world.in_dir(&Uwsgi::Distribution.mounted_plugins(Subject::Ours)), "/usr/local/lib/uwsgi/plugins")
        .replace(&world.in_dir("{dir}/t.sock"), "/run/tuntap.socket")
        .replace(&world.in_dir("{dir}/"), "/etc/uwsgi/");
    let readme = include_str!("../../README.md");
    assert!(readme.contains(&said), "not in the README:\n{said}");
}
