//! The proof of a build: an Emperor with a router, a vassal in a namespace of its own, and packets between them.

use std::path::Path;

use crate::common::emperor::{EMPEROR, V1};
use crate::common::instance::Instance;
use crate::common::netns::{Net, Netns};
use crate::common::probe::is_reachable;
use crate::common::starter::{self, Starter};
use crate::common::wait;

/// A plugin as a file, under the symbol that it was built for.
pub struct PluginFile<'path> {
    pub path: &'path Path,
    pub name: &'path str,
}

/// Routes with a binary that has to be told which plugin to load.
#[track_caller]
pub fn assert_routes_with(uwsgi: &Path, plugin: &PluginFile<'_>) {
    let folder = plugin.path.parent().expect("a file is in a folder").display();
    let lines = format!("plugins-dir = {folder}\nplugin = {}\n", plugin.name);
    assert_routes_with_lines(uwsgi, &lines, plugin.path);
}

/// Routes with the plugin file that some ini lines are to load.
#[track_caller]
pub fn assert_routes_with_lines(uwsgi: &Path, lines: &str, plugin: &Path) {
    let (_netns, emperor, _directory) = assert_routes(uwsgi, lines);
    emperor.assert_all_mapped(plugin);
}

/// Routes with a binary that has the plugin inside.
#[track_caller]
pub fn assert_routes_by_itself(uwsgi: &Path) {
    let (_netns, emperor, _directory) = assert_routes(uwsgi, "");
    emperor.assert_all_mapped(uwsgi);
    for process in emperor.family().members() {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        assert!(!maps.contains("_plugin.so"), "no plugin file is loaded: {maps}");
    }
}

#[track_caller]
fn assert_routes(uwsgi: &Path, plugin: &str) -> (Netns, Instance, tempfile::TempDir) {
    let directory = starter::folder();
    let vassals = directory.path().join("vassals");
    std::fs::create_dir(&vassals).expect("own folder");
    let folder = directory.path().display();
    let vassal = format!(
        "[uwsgi]\n{plugin}master = true\njailed = true\nsocket = 127.0.0.1:3031\nuid = 65534\ngid = 65534\n\
         tuntap-device = uwsgi0 {folder}/t.sock\n\
         exec-as-root = ip link set lo up\n\
         exec-as-root = ip addr replace {V1}/24 dev uwsgi0\n\
         exec-as-root = ip link set uwsgi0 up\n"
    );
    let emperor = format!(
        "[uwsgi]\n{plugin}master = true\nemperor = {folder}/vassals\nemperor-use-clone = net\n\
         tuntap-router = emperor0 {folder}/t.sock {folder}/stats.sock\n\
         exec-as-root = ip addr replace {EMPEROR}/24 dev emperor0\n\
         exec-as-root = ip link set emperor0 up\n"
    );
    let ini = directory.path().join("emperor.ini");
    std::fs::write(&ini, emperor).expect("own folder");
    std::fs::write(vassals.join("app.ini"), vassal).expect("own folder");
    let netns = Netns::new();
    let instance = Starter::program(uwsgi, directory.path()).netns(&netns).ini(&ini).start();
    wait::until_true("the vassal has its device", wait::LONG, || {
        instance.log.text().contains("made the device uwsgi0")
    });
    let net = wait::until("the vassal reaches the Emperor", wait::LONG, || {
        let net = Net::of_process(instance.family().master_of("app.ini")?).ok()?;
        is_reachable(&net, EMPEROR).then_some(net)
    });
    assert!(net.has_device("uwsgi0") && !net.has_device("emperor0"), "a namespace of its own");
    assert!(is_reachable(&netns, V1));
    (netns, instance, directory)
}
