//! How files are read: as uWSGI reads them, with the plugin that they load.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::common::uwsgi::{Subject, UWSGIS, Uwsgi};
use crate::world::{ROUTER, VASSAL, World};

#[test]
fn placeholders_includes_and_conditions_mean_what_they_mean_to_uwsgi() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        fs::write(world.path("more.txt"), "tuntap-router-switch = maybe\n").expect("own folder");
        world.raw_file("inherited.ini", "inherit = {dir}/deeper.ini\n");
        world.raw_file("deeper.ini", "tuntap-router-max-peers = 0\n");
        world.raw_file("included.ini", "tuntap-router = %(name)0 {dir}/t.sock\n");
        let lines = "inherit = {dir}/inherited.ini\nname = emperor\ninclude = {dir}/included.ini\n\
            for = 1 2\ntuntap-router-firewall-in = deyn%(_)\nendfor =\n\
            if-env = NOT_SET_IN_ANY_TEST\ntuntap-router-busy-poll = never\nendif =\n\
            if-plugin = tuntap\ntuntap-router-lease-default = perhaps\nendif =\n";
        let verdict = world.examine_lines(lines);
        assert_eq!(verdict.code, Some(1));
        verdict.has("ok", "device emperor0: free", "");
        verdict.has("WRONG", "tuntap-router-firewall-in = deyn1", "unknown action");
        verdict.has("WRONG", "tuntap-router-firewall-in = deyn2", "unknown action");
        verdict.has("WRONG", "tuntap-router-max-peers = 0", "from 1 to 65536");
        verdict.has("WRONG", "tuntap-router-lease-default = perhaps", "allow or deny");
        assert!(!verdict.text.contains("never"), "{}", verdict.text);
    }
}

/// The last option ends the uWSGI that reads the file; without it, that uWSGI would start.
#[test]
fn block_that_stays_open_starts_nothing() {
    for uwsgi in UWSGIS {
        for block in ["if-env = NOT_SET_IN_ANY_TEST", "for = 1 2", "if-not-exists = /nowhere"] {
            World::new(uwsgi).examine_lines(&format!("{ROUTER}{block}\n")).is_well();
        }
    }
}

#[test]
fn vassals_get_what_the_emperor_adds() {
    let world = World::usual();
    world.raw_file("plugins.ini", &world.plugin());
    let emperor = world.file(
        "emperor.ini",
        &format!("{ROUTER}vassals-include-before = {{dir}}/plugins.ini\nvassal-set = net=uwsgi0 {{dir}}/t.sock\n"),
    );
    let vassal = world.raw_file("vassals/app.ini", "jailed = true\ntuntap-device = %(net)\nuid = 20001\n");
    world.examine(&[&emperor, &vassal]).is_well();
}

#[test]
fn c_plugin_in_our_place_is_recognised() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let own = world.in_dir(&world.plugin());
        let own = own.lines().next().expect("plugins-dir");
        let c = uwsgi.plugin_lines(Subject::C);
        for lines in [c.clone(), c.replace("plugin = ", "need-plugin = ")] {
            let file = world.raw_file("file.ini", &format!("{lines}{ROUTER}"));
            world.examine(&[&file]).is_wrong("plugin = tuntap loads another plugin: ", own);
        }
    }
}

/// Debian's uWSGI then looks into its own folder, which has the C plugin.
#[test]
fn plugins_dir_that_is_missing_wrong_or_late_is_recognised() {
    const C: &str = "plugin = tuntap loads another plugin: /usr/lib/uwsgi/plugins/tuntap_plugin.so";
    let world = World::new(Uwsgi::Distribution);
    for (head, remedy) in [
        ("plugin = tuntap\n".to_owned(), "put this before plugin = tuntap: plugins-dir = "),
        ("plugins-dir = /nowhere\nplugin = tuntap\n".to_owned(), "put this before plugin = tuntap: plugins-dir = "),
        (
            format!("plugin = tuntap\n{}", world.plugin().lines().next().expect("plugins-dir")),
            "move the line plugins-dir up",
        ),
    ] {
        let file = world.raw_file("file.ini", &format!("{head}\n{ROUTER}"));
        world.examine(&[&file]).is_wrong(C, remedy);
    }
}

#[test]
fn plugin_that_is_loaded_twice_or_needed_is_fine() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let twice = world.plugin() + "plugin = tuntap\n";
        let needed = world.plugin().replace("plugin = ", "need-plugin = ");
        for head in [twice, needed] {
            let file = world.raw_file("file.ini", &format!("{head}{ROUTER}"));
            world.examine(&[&file]).is_well();
        }
    }
}

#[test]
fn file_without_the_plugin_is_told() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let file = world.raw_file("file.ini", ROUTER);
        world.examine(&[&file]).is_wrong("no line loads the plugin", "plugin = tuntap");
    }
}

/// A plugin of another build refuses by itself. The doctor passes its message on.
#[test]
fn plugin_of_another_build_is_told() {
    for uwsgi in UWSGIS {
        let world = World::new(uwsgi);
        let file = world.raw_file("file.ini", &format!("{}{ROUTER}", uwsgi.other().plugin_lines(Subject::Ours)));
        world
            .examine(&[&file])
            .is_wrong("uWSGI doesn't get through this file", "refused: this plugin was built for uWSGI");
    }
}

#[test]
fn file_that_is_missing_or_not_meant_is_told() {
    let world = World::usual();
    world.examine(&["/nowhere/app.ini"]).is_wrong("uWSGI doesn't get through this file", "No such file");
    world.examine_lines("master = true\n").is_wrong("no tuntap-router and no tuntap-device", "the right file");
}

/// The doctor asks what other users may read, not what root may read.
#[test]
fn plugin_that_the_vassal_may_not_read_is_told() {
    let world = World::usual();
    let closed = world.path("closed");
    fs::create_dir(&closed).expect("own folder");
    fs::copy(world.uwsgi.plugin(Subject::Ours), closed.join("tuntap_plugin.so")).expect("own folder");
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).expect("own folder");
    let head = "plugins-dir = {dir}/closed\nplugin = tuntap\n";
    let emperor = world.file("emperor.ini", ROUTER);
    let vassal = world.raw_file("vassals/app.ini", &format!("{head}{VASSAL}"));
    let remedy = format!("chmod o+x {}", closed.display());
    world.examine(&[&emperor, &vassal]).is_wrong("uid 20001 may not read it", &remedy);
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).expect("own folder");
    world.examine(&[&emperor, &vassal]).is_well();
    fs::set_permissions(&vassal, Permissions::from_mode(0o600)).expect("own file");
    world.examine(&[&emperor, &vassal]).is_wrong("uid 20001 may not read it", &format!("chmod o+r {vassal}"));
}

#[test]
fn file_is_examined_once_in_whatever_way_it_is_named() {
    let world = World::usual();
    let file = world.file("emperor.ini", ROUTER);
    std::os::unix::fs::symlink(&file, world.path("other.ini")).expect("own folder");
    let other = world.path("other.ini").to_string_lossy().into_owned();
    let verdict = world.examine(&[&file, &file, "./emperor.ini", &other]);
    verdict.is_well();
    assert_eq!(verdict.text.matches("emperor.ini\n").count(), 1, "{}", verdict.text);
}

#[test]
fn emperor_without_a_router_is_no_fault() {
    let world = World::usual();
    let emperor = world.file("emperor.ini", "emperor = {dir}/vassals\nemperor-use-clone = net\nmaster = true\n");
    let router = world.file("router.ini", "master = true\ntuntap-router = emperor0 {dir}/t.sock\n");
    let vassal = world.file("vassals/app.ini", VASSAL);
    world.examine(&[&emperor, &router, &vassal]).is_well();
}
