//! Examinations beside instances that run.

use std::process::{Command, Stdio};

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::host::{HOSTS, Subject};
use crate::common::probe::pings_answered;
use crate::common::processes::VARIABLE;
use crate::common::vassal::VassalIni;
use crate::common::wait::{LONG, until_true};
use crate::world::{Verdict, command_line};

/// Examines a file in the namespaces of a running Emperor.
pub fn examine(emperor: &Emperor, files: &[&str]) -> Verdict {
    let plugins = emperor.in_dir(&emperor.host.mounted_plugins(Subject::Ours));
    let uwsgi = emperor.in_dir(&emperor.host.mounted_uwsgi().to_string_lossy());
    let output = Command::new("timeout")
        .args(["-s", "KILL", "60", "nsenter", "--net", "--mount", "--root", "-t", &emperor.master_pid().to_string()])
        .args(command_line(&uwsgi, &plugins, files))
        .output()
        .expect("timeout can be started");
    Verdict::of(&output)
}

fn file(emperor: &Emperor, name: &str, lines: &str) -> String {
    let path = emperor.path(name);
    let text = format!("[uwsgi]\n{}{lines}", emperor.host.plugin_lines(Subject::Ours));
    std::fs::write(&path, emperor.in_dir(&text)).expect("own folder");
    path.to_string_lossy().into_owned()
}

#[test]
fn set_up_that_runs_is_well_and_goes_on() {
    for host in HOSTS {
        let emperor = EmperorIni::new(host, Subject::Ours).line("vacuum = true").start();
        let vassal = VassalIni::new(host, Subject::Ours, "v1", V1, EMPEROR);
        let net = emperor.start_vassal(&vassal);
        let files = ["emperor.ini", "vassals/v1.ini"].map(|name| emperor.path(name).to_string_lossy().into_owned());
        let router = emperor.router_pid();
        let verdict = examine(&emperor, &[&files[0], &files[1]]);
        // The test's namespace has no way out.
        verdict.warns("no default route for IPv4", "");
        verdict.has("ok", "device emperor0: the router's", "");
        verdict.has("ok", "t.sock: this router runs, pid ", "");
        verdict.has("ok", "uwsgi0 to ", "");
        verdict.has("ok", "only root may connect to ", "");
        assert_eq!(pings_answered(&net, EMPEROR, 2, &[]), 2);
        assert_eq!(emperor.router_pid(), router);
        assert!(emperor.socket().exists());
        let peers = emperor.wait_for_stats("the examination's connections are gone", |stats| stats.peers().len() == 1);
        assert!(peers.peer(V1).is_some());
    }
}

#[test]
fn set_up_that_runs_in_the_background_is_well() {
    let emperor = EmperorIni::new(HOSTS[0], Subject::Ours).start();
    let lines =
        "master = true\ntuntap-router = tt1 {dir}/u.sock\ndaemonize2 = {dir}/daemon.log\npidfile2 = {dir}/pid\n";
    let ini = file(&emperor, "daemon.ini", lines);
    let uwsgi = emperor.in_dir(&emperor.host.mounted_uwsgi().to_string_lossy());
    let started = Command::new("timeout")
        .args(["-s", "KILL", "60", "nsenter", "--net", "--mount", "--root", "-t", &emperor.master_pid().to_string()])
        .args([&uwsgi, "--ini", &ini])
        .env(VARIABLE, emperor.family().marker())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("timeout can be started");
    assert!(started.success());
    until_true("the daemon has its device", LONG, || emperor.netns.has_device("tt1"));
    let mut verdict = examine(&emperor, &[&ini]);
    until_true("the daemon listens", LONG, || {
        verdict = examine(&emperor, &[&ini]);
        verdict.text.contains("u.sock: this router runs, pid ")
    });
    verdict.warns("no default route for IPv4", "");
    verdict.has("ok", "device tt1: the router's", "");
}

#[test]
fn second_router_is_told_who_is_there() {
    let emperor = EmperorIni::new(HOSTS[0], Subject::Ours).start();
    let master = format!("pid {}", emperor.master_pid());
    let socket = file(&emperor, "a.ini", "tuntap-router = other0 {dir}/t.sock\n");
    let verdict = examine(&emperor, &[&socket]);
    verdict.is_wrong(&master, "stop that process");
    verdict.has("WRONG", "listens there already", "");
    let device = file(&emperor, "b.ini", "tuntap-router = emperor0 {dir}/u.sock\n");
    let verdict = examine(&emperor, &[&device]);
    verdict.is_wrong("device emperor0: exists, and is held by", "name another device");
    verdict.has("WRONG", &master, "");
}

#[test]
fn way_back_to_the_router_is_told() {
    let emperor = EmperorIni::new(HOSTS[0], Subject::Ours).line("chmod-socket = 666").start();
    let lines = "jailed = true\ntuntap-device = uwsgi0 {dir}/t.sock\nuid = 20001\ngid = 20001\n";
    let open = file(&emperor, "a.ini", lines);
    examine(&emperor, &[&open]).has("ok", "uid 20001 may come back to ", "");
    let jail = file(&emperor, "b.ini", &format!("{lines}chroot = {{dir}}/vassals\n"));
    examine(&emperor, &[&jail]).has("ok", "chroot hides ", "");
}
