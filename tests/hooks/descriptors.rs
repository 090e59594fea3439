//! Which processes hold the tunnel's descriptors. A worker with one of them could write anything to the router, and
//! would hold its dead master's address.

use std::fs::{Permissions, create_dir, set_permissions};
use std::os::unix::fs::PermissionsExt;

use crate::common::emperor::Emperor;
use crate::common::netns::Net;
use crate::common::vassal::VassalIni;
use crate::common::wait;
use crate::site::{NAME, assert_traffic_passes, emperor, reload, vassal, write_app};
use crate::tunnel::{neighbours, owner};

/// An application that forks where it is imported, and in each process that the master forks. The children stay.
const FORKING_APP: &str = r#"
import os
import time
import uwsgi

def fork_sleeper():
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)

fork_sleeper()
uwsgi.post_fork_hook = fork_sleeper

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"uid %d" % os.getuid()]
"#;

/// Master, two workers, a mule, a spooler and a daemon, and the children forked at import and in both workers.
const LEAST_PROCESSES: usize = 9;

/// A vassal with one of each kind of process that uWSGI makes.
fn crowded(emperor: &Emperor) -> VassalIni {
    write_app(emperor, FORKING_APP);
    let spool = emperor.path("spool");
    create_dir(&spool).expect("own folder");
    set_permissions(&spool, Permissions::from_mode(0o777)).expect("own folder");
    vassal(emperor)
        .line("workers = 2")
        .line("mule = true")
        .line("spooler = {dir}/spool")
        .line("attach-daemon = sleep 600")
        .line("exec-post-jail = ls -l /proc/self/fd >>{dir}/descriptors")
        .line("exec-as-root = ls -l /proc/self/fd >>{dir}/descriptors")
}

#[track_caller]
fn wait_for_the_crowd(emperor: &Emperor) {
    wait::until_true("all kinds of processes run", wait::LONG, || {
        let processes = emperor.vassal_pid(NAME).map_or(Vec::new(), |pid| neighbours(emperor.family(), pid));
        let has_daemon = processes.iter().any(|process| process.command_line[0] == "sleep");
        has_daemon && processes.len() >= LEAST_PROCESSES
    });
    let text = emperor.log.text();
    for line in ["spawned uWSGI worker 2", "spawned uWSGI mule 1", "spawned the uWSGI spooler"] {
        assert!(text.contains(line), "`{line}` is in the log, or this proves nothing");
    }
}

#[track_caller]
fn assert_one_process_holds_the_tunnel(emperor: &Emperor, vassal: &VassalIni) {
    let net = emperor.start_vassal(vassal);
    let master = emperor.vassal_pid(NAME).expect("the vassal runs");
    assert_only_the_master_holds_it(emperor, &net, master);
    reload(emperor);
    assert_only_the_master_holds_it(emperor, &net, master);
    let children = std::fs::read_to_string(emperor.path("descriptors")).expect("the hooks' children have run");
    assert!(children.contains("/proc/") && !children.contains("/dev/net/tun"), "{children}");
}

#[track_caller]
fn assert_only_the_master_holds_it(emperor: &Emperor, net: &Net, master: i32) {
    wait_for_the_crowd(emperor);
    assert_eq!(owner(emperor, emperor.family(), master), master);
    assert_traffic_passes(emperor, net);
}

#[test]
fn only_the_master_of_a_dropped_vassal_holds_the_tunnel() {
    let emperor = emperor();
    assert_one_process_holds_the_tunnel(&emperor, &crowded(&emperor));
}

#[test]
fn only_the_master_of_a_root_vassal_holds_the_tunnel() {
    let emperor = emperor();
    assert_one_process_holds_the_tunnel(&emperor, &crowded(&emperor).stays_root());
}

#[test]
fn only_the_master_holds_the_tunnel_with_master_as_root() {
    let emperor = emperor();
    assert_one_process_holds_the_tunnel(&emperor, &crowded(&emperor).line("master-as-root = true"));
}

#[test]
fn only_the_master_holds_the_tunnel_with_drop_after_apps() {
    let emperor = emperor();
    assert_one_process_holds_the_tunnel(&emperor, &crowded(&emperor).line("drop-after-apps = true"));
}
