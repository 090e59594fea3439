//! Examinations beside instances that run.

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::probe::pings_answered;
use crate::common::uwsgi::{Subject, UWSGIS};
use crate::common::vassal::VassalIni;
use crate::common::wait::{LONG, until_true};
use crate::world::{Verdict, arguments};

/// Examines a file in the namespaces of a running Emperor.
pub fn examine(emperor: &Emperor, files: &[&str]) -> Verdict {
    Verdict::of(&emperor.beside().arguments(arguments(emperor.uwsgi, files)).output())
}

fn file(emperor: &Emperor, name: &str, lines: &str) -> String {
    let path = emperor.path(name);
    let text = format!("[uwsgi]\n{}{lines}", emperor.uwsgi.plugin_lines(Subject::Ours));
    std::fs::write(&path, emperor.in_dir(&text)).expect("own folder");
    path.to_string_lossy().into_owned()
}

#[test]
fn set_up_that_runs_is_well_and_goes_on() {
    for uwsgi in UWSGIS {
        let emperor = EmperorIni::new(uwsgi, Subject::Ours).line("vacuum = true").start();
        let vassal = VassalIni::new(uwsgi, Subject::Ours, "v1", V1, EMPEROR);
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
    let emperor = EmperorIni::new(UWSGIS[0], Subject::Ours).start();
    let lines =
        "master = true\ntuntap-router = tt1 {dir}/u.sock\ndaemonize2 = {dir}/daemon.log\npidfile2 = {dir}/pid\n";
    let ini = file(&emperor, "daemon.ini", lines);
    let mut daemon = emperor.beside().ini(ini.as_ref()).start();
    assert!(daemon.wait_for_exit().success(), "the process that was started ends");
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
    let emperor = EmperorIni::new(UWSGIS[0], Subject::Ours).start();
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
    let emperor = EmperorIni::new(UWSGIS[0], Subject::Ours).line("chmod-socket = 666").start();
    let lines = "jailed = true\ntuntap-device = uwsgi0 {dir}/t.sock\nuid = 20001\ngid = 20001\n";
    let open = file(&emperor, "a.ini", lines);
    examine(&emperor, &[&open]).has("ok", "uid 20001 may come back to ", "");
    let jail = file(&emperor, "b.ini", &format!("{lines}chroot = {{dir}}/vassals\n"));
    examine(&emperor, &[&jail]).has("ok", "chroot hides ", "");
}
