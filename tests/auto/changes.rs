//! Changes of a vassal's devices that a reload finds: each is applied, or the vassal is started anew and a line says
//! why.

use std::fs::File;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::netns::Net;
use crate::common::processes::send;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::world::{Vassal, addresses, emperor, emperor_on, pings, v4};

const NAME: &str = "app";
const STARTED_ANEW: &str = "this instance ends, for its Emperor to start it anew";
const KEPT: &str = "until it is stopped and started, everything about devices stays as it was";

const AUTO: &str = "tuntap-device = uwsgi0 {dir}/t.sock auto";
const PLAIN: &str = "tuntap-device = uwsgi0 {dir}/t.sock";
const SECOND: &str = "tuntap-device = uwsgi1 {dir}/t.sock auto";
const FIXED: &str = "tuntap-device-address = uwsgi0 192.168.0.77/24";

fn vassal(emperor: &Emperor, lines: &[&str]) -> Vassal {
    lines.iter().fold(Vassal::bare(emperor, Subject::Ours, NAME), Vassal::line)
}

/// Replaces the vassal's file at once, with a later time: one reload.
#[track_caller]
fn change(emperor: &Emperor, vassal: &Vassal) {
    let path = vassal.path(emperor);
    let before = path.metadata().and_then(|metadata| metadata.modified()).expect("a file has a time");
    let draft = emperor.path("changed");
    std::fs::write(&draft, vassal.text(emperor)).expect("own folder");
    let file = File::options().append(true).open(&draft).expect("own file");
    file.set_modified(SystemTime::now().max(before + Duration::from_secs(1))).expect("own file");
    std::fs::rename(&draft, &path).expect("own folder");
}

/// The namespace of a vassal that was started anew.
#[track_caller]
fn new_net(emperor: &Emperor, old_pid: i32) -> Net {
    let pid = wait::until("the vassal is started anew", wait::LONG, || {
        emperor.vassal_pid(NAME).filter(|pid| *pid != old_pid)
    });
    wait::until("it has a network", wait::LONG, || {
        let net = Net::of_process(pid).ok()?;
        pings(&net, EMPEROR).then_some(net)
    })
}

/// Changes the vassal from some lines to others. It must be started anew, with one line that says `because`, and work.
#[track_caller]
fn assert_started_anew(emperor: &Emperor, before: &[&str], now: &[&str], because: &str) -> Net {
    let because = emperor.in_dir(because);
    vassal(emperor, before).start(emperor);
    let pid = emperor.vassal_pid(NAME).expect("it runs");
    let mark = emperor.log.mark();
    change(emperor, &vassal(emperor, now));
    emperor.log.wait_for_since(mark, STARTED_ANEW, wait::LONG);
    let net = new_net(emperor, pid);
    emperor.wait_until_ready(mark, NAME);
    let log = emperor.log.since(mark);
    let lines: Vec<_> = log.lines().filter(|line| line.contains(STARTED_ANEW)).collect();
    assert!(matches!(lines.as_slice(), [line] if line.contains(&because)), "{because}: {lines:?}");
    // After the fresh start nothing differs any more: another reload leaves the vassal alone.
    let (pid, mark) = (emperor.vassal_pid(NAME), emperor.log.mark());
    emperor.touch(NAME);
    emperor.wait_until_ready(mark, NAME);
    assert!(emperor.vassal_pid(NAME) == pid && pings(&net, EMPEROR));
    vassal(emperor, now).stop(emperor);
    net
}

#[track_caller]
fn assert_renamed_device_works(uwsgi: Uwsgi) {
    let emperor = emperor_on(uwsgi).start();
    let net = assert_started_anew(
        &emperor,
        &[AUTO],
        &["tuntap-device = net0 {dir}/t.sock auto"],
        "tuntap-device was uwsgi0 {dir}/t.sock auto, and is net0 {dir}/t.sock auto now",
    );
    drop(net);
}

#[test]
fn renamed_device() {
    assert_renamed_device_works(Uwsgi::usual());
}

#[test]
fn renamed_device_on_the_other_uwsgi() {
    assert_renamed_device_works(Uwsgi::usual().other());
}

#[test]
fn added_devices() {
    let emperor = emperor().start();
    for (before, now) in [(vec![AUTO], vec![AUTO, SECOND]), (vec![], vec![SECOND])] {
        let line = "tuntap-device was nothing, and is uwsgi1 {dir}/t.sock auto now";
        assert_started_anew(&emperor, &before, &now, line);
    }
}

#[test]
fn other_socket_and_other_order() {
    let emperor = emperor().start();
    std::os::unix::fs::symlink("t.sock", emperor.path("link.sock")).expect("own folder");
    let linked = "tuntap-device = uwsgi0 {dir}/link.sock auto";
    let line = "uwsgi0: tuntap-device was uwsgi0 {dir}/t.sock auto, and is uwsgi0 {dir}/link.sock auto now";
    assert_started_anew(&emperor, &[AUTO], &[linked], line);
    let line = "the order of tuntap-device was uwsgi0, uwsgi1, and is uwsgi1, uwsgi0 now";
    assert_started_anew(&emperor, &[AUTO, SECOND], &[SECOND, AUTO], line);
    assert_started_anew(&emperor, &[AUTO, SECOND], &[SECOND], "was uwsgi0 {dir}/t.sock auto, and is nothing now");
}

#[test]
fn addresses_gateways_mtu_and_dns() {
    let emperor = emperor().line("tuntap-router-dns = 192.168.0.1").start();
    std::fs::create_dir(emperor.path("etc")).expect("own folder");
    let dns = "tuntap-device-dns = {dir}/etc/resolv.conf";
    for (before, now, line) in [
        (vec![AUTO], vec![PLAIN, FIXED], "tuntap-device-address was nothing, and is 192.168.0.77/24 now"),
        (vec![PLAIN, FIXED], vec![AUTO], "tuntap-device-address was 192.168.0.77/24, and is nothing now"),
        (
            vec![PLAIN, FIXED],
            vec![PLAIN, "tuntap-device-address = 192.168.0.78/24"],
            "tuntap-device-address was 192.168.0.77/24, and is 192.168.0.78/24 now",
        ),
        (vec![AUTO], vec![AUTO, "tuntap-device-gateway = 192.168.0.9"], "-gateway was nothing, and is 192.168.0.9 now"),
        (vec![AUTO], vec![AUTO, "tuntap-device-mtu = 1400"], "-mtu was nothing, and is 1400 now"),
        (vec![AUTO], vec![AUTO, dns], "-dns was nothing, and is {dir}/etc/resolv.conf now"),
    ] {
        assert_started_anew(&emperor, &before, &now, line);
    }
    assert!(emperor.path("etc/resolv.conf").exists());
}

/// uWSGI forks again in these, and the devices stay with the first process, which a reload doesn't touch.
#[test]
fn reforked_vassals() {
    let emperor = emperor().start();
    for fork in ["refork = true", "refork-as-root = true", "refork-post-jail = true"] {
        let net0 = "tuntap-device = net0 {dir}/t.sock auto";
        assert_started_anew(&emperor, &[fork, AUTO], &[fork, net0], "and is net0 {dir}/t.sock auto now");
        let line = "tuntap-device-required was nothing, and is true now";
        assert_started_anew(&emperor, &[fork, AUTO], &[fork, AUTO, "tuntap-device-required = true"], line);
    }
}

#[test]
fn vassal_that_drops_its_privileges_late() {
    let emperor = emperor().start();
    let now = ["drop-after-apps = true", "tuntap-device = net0 {dir}/t.sock auto"];
    assert_started_anew(&emperor, &["drop-after-apps = true", AUTO], &now, "and is net0 {dir}/t.sock auto now");
}

/// The operator has read the hint and adds what was missing.
#[test]
fn vassal_that_is_jailed_from_now_on() {
    let emperor = emperor().start();
    let jailed = vassal(&emperor, &[AUTO]);
    jailed.without("jailed = true").start(&emperor);
    let pid = emperor.vassal_pid(NAME).expect("it runs");
    change(&emperor, &jailed);
    emperor.log.wait_for("tuntap-device was nothing, and is uwsgi0", wait::LONG);
    new_net(&emperor, pid);
}

/// The vassal is not started over and over for something that it can't get.
#[test]
fn vassal_that_never_had_its_device_just_reloads() {
    let emperor = emperor().start();
    vassal(&emperor, &[AUTO]).without("jailed = true").start(&emperor);
    let (pid, mark) = (emperor.vassal_pid(NAME), emperor.log.mark());
    emperor.touch(NAME);
    emperor.wait_until_ready(mark, NAME);
    assert_eq!(emperor.vassal_pid(NAME), pid);
    assert!(!emperor.log.text().contains(STARTED_ANEW));
}

/// Starts the vassal, changes it, and returns its namespace once the same process serves again.
#[track_caller]
fn reload_into(emperor: &Emperor, before: &Vassal, now: &Vassal) -> Net {
    let net = before.start(emperor);
    assert!(pings(&net, EMPEROR));
    let (pid, mark) = (emperor.vassal_pid(NAME), emperor.log.mark());
    change(emperor, now);
    emperor.wait_until_ready(mark, NAME);
    assert_eq!(emperor.vassal_pid(NAME), pid, "it reloads");
    assert!(!emperor.log.since(mark).contains(STARTED_ANEW));
    net
}

#[test]
fn what_needs_no_root_is_applied() {
    let emperor = emperor().start();
    let spare = "tuntap-device = spare0";
    let now = ["tuntap-device-timeout = 7", "tuntap-device-required = true", AUTO];
    let net = reload_into(&emperor, &vassal(&emperor, &[AUTO, spare]), &vassal(&emperor, &now));
    assert!(pings(&net, EMPEROR) && !net.has_device("spare0"));
    assert_eq!(emperor.log.text().matches(&format!("peer {} joined", v4(&net))).count(), 1, "its connection stays");
}

#[test]
fn vassal_that_is_root_applies_everything() {
    let emperor = emperor().start();
    for options in [vec![], vec!["master-as-root = true", "uid = 65534", "gid = 65534"]] {
        let with = |lines: &[&str]| {
            let root = vassal(&emperor, lines).stays_root();
            options.iter().fold(root, Vassal::line)
        };
        let steps = [
            (vec![AUTO], vec!["tuntap-device = net0 {dir}/t.sock auto"], "net0"),
            (vec![AUTO], vec![PLAIN, FIXED], "uwsgi0"),
            (vec![PLAIN, FIXED], vec![AUTO, SECOND], "uwsgi1"),
        ];
        for (before, now, device) in steps {
            let net = reload_into(&emperor, &with(&before), &with(&now));
            wait::until_true("the network works", wait::LONG, || pings(&net, EMPEROR));
            assert_eq!(addresses(&net, device).len(), 1, "{device}");
            with(&now).stop(&emperor);
        }
    }
}

#[test]
fn rules_and_credentials_are_told_on_another_connection() {
    const RULE: &str = "tuntap-device-rule = out any 203.0.113.0/24 deny";
    let emperor = emperor().line("chmod-socket = 666").start();
    let net = reload_into(&emperor, &vassal(&emperor, &[AUTO]), &vassal(&emperor, &[AUTO, RULE]));
    wait::until_true("it is back", wait::LONG, || pings(&net, EMPEROR));
    let stats =
        emperor.wait_for_stats("the rule applies", |stats| stats.peer(v4(&net)).is_some_and(|peer| peer["rules"] == 1));
    assert_eq!(stats.drops("rules_frozen"), 0);
    let line = "tuntap-device-rule was nothing, and is out any 203.0.113.0/24 deny now: joins its router anew";
    assert!(emperor.log.text().contains(line));
}

/// A router that only root may connect to, as it is without chmod-socket.
#[test]
fn rules_that_only_root_could_tell() {
    let emperor = emperor().start();
    let rule = "tuntap-device-rule = out any 203.0.113.0/24 deny";
    let line = "tuntap-device-rule was nothing, and is out any 203.0.113.0/24 deny now (can't connect to the router at";
    assert_started_anew(&emperor, &[AUTO], &[AUTO, rule], line);
}

/// Somebody has renamed the device inside the namespace. To the plugin it stays the same device.
#[test]
fn device_that_a_hook_has_renamed_lives_on() {
    let emperor = emperor().start();
    let renamed = vassal(&emperor, &[AUTO])
        .line("exec-as-root = ip link set uwsgi0 down")
        .line("exec-as-root = ip link set uwsgi0 name eth0")
        .line("exec-as-root = ip link set eth0 up")
        .line("exec-as-root = ip route replace default via 192.168.0.1 dev eth0");
    let net = reload_into(&emperor, &renamed, &renamed);
    assert!(pings(&net, EMPEROR) && net.has_device("eth0") && !net.has_device("uwsgi0"));
    emperor.log.wait_for("uwsgi0 lives on after the reload, as eth0", wait::LONG);
    let address = emperor.stats().peers()[0]["addr"].as_str().map(str::to_owned);
    let router = emperor.router_pid();
    send(router, Signal::SIGKILL);
    wait::until_true("it comes back to the next router", wait::LONG, || {
        emperor.try_stats().is_ok_and(|stats| stats.router_pid() != router) && pings(&net, EMPEROR)
    });
    assert_eq!(emperor.stats().peers()[0]["addr"].as_str().map(str::to_owned), address);
}

#[test]
fn deleted_device() {
    let emperor = emperor().start();
    let net = vassal(&emperor, &[AUTO]).start(&emperor);
    let pid = emperor.vassal_pid(NAME).expect("it runs");
    net.sh("ip link del uwsgi0");
    new_net(&emperor, pid);
}

/// At this moment the old image has stopped its threads, and the new one has not looked yet.
#[test]
fn device_that_is_deleted_in_the_middle_of_a_reload() {
    let emperor = emperor().start();
    let delete = "hook-asap = exec:test ! -e {dir}/delete || ip link del uwsgi0";
    let deleted = vassal(&emperor, &[AUTO]).stays_root().line(delete);
    deleted.start(&emperor);
    std::fs::write(emperor.path("delete"), "").expect("own folder");
    let mark = emperor.log.mark();
    emperor.touch(NAME);
    emperor.wait_until_ready(mark, NAME);
    emperor.log.wait_for("uwsgi0: it is gone since before the reload", wait::SHORT);
    let net = emperor.vassal_net(NAME);
    wait::until_true("the network works", wait::LONG, || pings(&net, EMPEROR));
}

/// No Emperor would start this instance anew: it goes on with what it has, and says so.
#[test]
fn instance_without_emperor_keeps_its_network() {
    let emperor = emperor().start();
    let ini = EmperorIni::bare(emperor.uwsgi, Subject::Ours)
        .lines(&["unshare = net", "processes = 1", "master = true", "uid = 65534", "gid = 65534"])
        .lines(&["socket = 127.0.0.1:3031", "exec-as-root = ip link set lo up"])
        .line(format!("tuntap-device = uwsgi0 {} auto", emperor.socket().display()));
    let instance = ini.launch();
    instance.log.wait_for("spawned uWSGI worker 1", wait::LONG);
    let net = Net::of_process(instance.master_pid()).expect("it runs");
    assert!(pings(&net, EMPEROR));
    let address: Ipv4Addr = v4(&net);
    let path = instance.path("emperor.ini");
    let text = std::fs::read_to_string(&path).expect("own file");
    let reload = |text: &str| {
        std::fs::write(&path, text).expect("own file");
        let mark = instance.log.mark();
        send(instance.master_pid(), Signal::SIGHUP);
        instance.log.wait_for_since(mark, "spawned uWSGI worker 1", wait::LONG);
        (instance.log.since(mark), v4(&net))
    };
    let renamed = text.replace("= uwsgi0", "= net0");
    for _ in 0..2 {
        let (log, still) = reload(&renamed);
        assert!(log.contains(KEPT) && log.contains("and is net0"), "{log}");
        assert!(still == address && pings(&net, EMPEROR), "{log}");
    }
    let (log, still) = reload(&text);
    assert!(!log.contains(KEPT) && still == address && pings(&net, EMPEROR), "{log}");
}
