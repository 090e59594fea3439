//! Vassals in all the ways that decide when, how often and as whom the hooks are called.

use std::net::Ipv4Addr;

use crate::common::emperor::{Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::vassal::VassalIni;
use crate::site::{
    self, NAME, NO_DEVICE, assert_peers_work, assert_works, devices_made, emperor, reload, vassal, with_app,
};

/// Fails unless the vassal works before and after a reload, with a device that it made once.
#[track_caller]
fn assert_works_through_reload(emperor: &Emperor, vassal: &VassalIni) {
    let net = emperor.start_vassal(vassal);
    assert_works(emperor, &net);
    assert_eq!(devices_made(&emperor.log), 1);
    let pid = emperor.vassal_pid(NAME);
    reload(emperor);
    assert_works(emperor, &net);
    assert_eq!(devices_made(&emperor.log), 1, "the device lives on");
    assert_eq!(emperor.vassal_pid(NAME), pid, "it was a reload, not a new start");
    assert!(!emperor.log.text().contains(NO_DEVICE), "nobody misses the device");
}

#[track_caller]
fn assert_dropped_vassal_works(lines: &[&str]) {
    let emperor = emperor();
    let vassal = lines.iter().fold(vassal(&emperor), |vassal, line| vassal.line(*line));
    assert_works_through_reload(&emperor, &vassal);
    let response = site::request(&emperor.netns, V1).expect("the application answers");
    assert!(response.ends_with("uid 65534"), "{response}");
}

#[test]
fn drops_its_privileges() {
    assert_dropped_vassal_works(&[]);
}

#[test]
fn drops_its_privileges_on_the_other_uwsgi() {
    let emperor = with_app(EmperorIni::new(Uwsgi::usual().other(), Subject::Ours).start());
    assert_works_through_reload(&emperor, &vassal(&emperor));
}

#[test]
fn drops_its_privileges_by_name() {
    let emperor = emperor();
    let vassal = vassal(&emperor).stays_root().line("uid = nobody").line("gid = nogroup");
    assert_works_through_reload(&emperor, &vassal);
    let response = site::request(&emperor.netns, V1).expect("the application answers");
    assert!(response.ends_with("uid 65534"), "{response}");
}

/// In this set-up uWSGI goes through the hooks four times.
#[test]
fn stays_root() {
    let emperor = emperor();
    let vassal = vassal(&emperor).stays_root().line("exec-as-root = echo once more >>{dir}/repeated");
    assert_works_through_reload(&emperor, &vassal);
    let repeated = std::fs::read_to_string(emperor.path("repeated")).expect("the line was run");
    assert!(repeated.lines().count() > 2, "the hooks came several times, or this proves nothing: {repeated}");
}

#[test]
fn drop_after_apps() {
    assert_dropped_vassal_works(&["drop-after-apps = true"]);
}

#[test]
fn drop_after_init() {
    assert_dropped_vassal_works(&["drop-after-init = true"]);
}

/// Each worker drops its privileges by itself, and goes through the hooks on the way.
#[test]
fn master_as_root_with_two_workers() {
    assert_dropped_vassal_works(&["master-as-root = true", "workers = 2"]);
}

// A vassal that stays root would fork each time that it goes through the hooks, which uWSGI itself does not survive.
#[test]
fn refork() {
    assert_dropped_vassal_works(&["refork = true"]);
}

#[test]
fn refork_as_root() {
    assert_dropped_vassal_works(&["refork-as-root = true"]);
}

#[test]
fn refork_post_jail() {
    assert_dropped_vassal_works(&["refork-post-jail = true"]);
}

#[test]
fn lazy_apps() {
    assert_dropped_vassal_works(&["lazy-apps = true", "workers = 2"]);
}

#[test]
fn device_exists_when_post_jail_hooks_run() {
    assert_dropped_vassal_works(&[
        "exec-post-jail = ip link show dev uwsgi0",
        "hook-post-jail = exec:ip link show dev uwsgi0",
    ]);
}

#[test]
fn two_devices() {
    let emperor = emperor();
    emperor.netns.sh("ip addr add 10.5.0.1/24 dev emperor0");
    let (gateway, second) = (Ipv4Addr::new(10, 5, 0, 1), Ipv4Addr::new(10, 5, 0, 2));
    let vassal = vassal(&emperor)
        .devices(&["uwsgi0 {dir}/t.sock", "uwsgi1 {dir}/t.sock"])
        .line("exec-as-root = ip addr replace 10.5.0.2/24 dev uwsgi1")
        .line("exec-as-root = ip link set uwsgi1 up")
        .line("exec-as-root = ping -q -c 1 -W 5 10.5.0.1");
    let net = emperor.start_vassal(&vassal);
    assert_both_devices_work(&emperor, &net, gateway, second);
    reload(&emperor);
    assert_both_devices_work(&emperor, &net, gateway, second);
}

#[track_caller]
fn assert_both_devices_work(emperor: &Emperor, net: &Net, gateway: Ipv4Addr, second: Ipv4Addr) {
    assert_peers_work(emperor, net, 2);
    assert!(emperor.stats().peer(second).is_some());
    assert!(is_reachable(&emperor.netns, second) && is_reachable(net, gateway));
}

#[test]
fn device_without_socket() {
    let emperor = emperor();
    let vassal = vassal(&emperor)
        .devices(&["uwsgi0 {dir}/t.sock", "spare0"])
        .line("exec-as-root = ip addr replace 10.9.9.9/24 dev spare0")
        .line("exec-as-root = ip link set spare0 up");
    let net = emperor.start_vassal(&vassal);
    assert_works(&emperor, &net);
    assert!(net.has_device("spare0"));
    reload(&emperor);
    assert_works(&emperor, &net);
    assert!(net.has_device("spare0"));
}
