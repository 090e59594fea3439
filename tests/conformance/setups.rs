//! The ways in which uWSGI is set up around the plugin.

use std::time::Duration;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::host::{Host, Subject};
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::wait;
use crate::pairs::{Pair, Router, cases};

cases!(documented_first_config_stays_up also documented_first_config_stays_up_on_the_other_host, Router: c ours);
cases!(vassal_that_stays_root_works, Pair: c_c c_ours ours_c ours_ours);
cases!(device_exists_when_the_jail_is_made, Pair: c_c c_ours ours_c ours_ours);

/// The first config of the plugin's documentation, but for `ip` in place of `ifconfig` and the machine's own NAT.
fn documented_first_config_stays_up(router: Router) {
    let mut emperor = EmperorIni::bare(router.host, router.subject)
        .lines(&[
            "emperor = {dir}/vassals",
            "emperor-use-clone = fs,net,ipc,pid,uts",
            "tuntap-router = emperor0 {dir}/t.sock",
            "exec-as-root = ip addr replace 192.168.0.1/24 dev emperor0",
            "exec-as-root = ip link set emperor0 up",
        ])
        .launch();
    if !router.is_ours() {
        let status = emperor.wait_for_exit();
        assert!(status.success(), "without a master the host ends at once, and takes the C router along: {status}");
        return;
    }
    emperor.start_vassal(&Pair { host: router.host, router: router.subject, vassal: router.subject }.vassal("v1", V1));
    assert!(is_reachable(&emperor.netns, V1));
    let log = emperor.log.text();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("tuntap") && line.contains("master")).collect();
    assert_eq!(lines.len(), 1, "one line says that the plugin enabled the master: {lines:?}");
    assert_eq!(emperor.exit_status(), None);
}

fn vassal_that_stays_root_works(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = pair.vassal("v1", V1).stays_root();
    if pair.vassal == Subject::C {
        // The hook runs several times for such a vassal, and the C plugin makes its device each time.
        emperor.add(&vassal);
        emperor.log.wait_for("uwsgi_tuntap_device()/ioctl(): Device or resource busy", wait::LONG);
        return;
    }
    let net = emperor.start_vassal(&vassal);
    assert_stable(&emperor, "v1", &net);
    let mark = emperor.log.mark();
    emperor.touch("v1");
    emperor.wait_until_ready(mark, "v1");
    assert_stable(&emperor, "v1", &net);
}

fn device_exists_when_the_jail_is_made(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = pair.vassal("v1", V1).line("exec-post-jail = ip link show dev uwsgi0");
    if pair.vassal == Subject::C {
        emperor.add(&vassal);
        emperor.log.wait_for("Device \"uwsgi0\" does not exist", wait::LONG);
        return;
    }
    emperor.start_vassal(&vassal);
    assert!(is_reachable(&emperor.netns, V1));
}

/// The vassal answers, and still is the same process a moment later.
#[track_caller]
fn assert_stable(emperor: &Emperor, name: &str, net: &Net) {
    let pid = emperor.vassal_pid(name);
    for _ in 0..5 {
        assert!(is_reachable(net, EMPEROR));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(emperor.vassal_pid(name), pid);
}

/// Ways to run a vassal in which uWSGI calls the plugin in unusual places or forks behind its back. Each works or is
/// refused at the start, with the option as the reason.
#[test]
fn unusual_vassals_work_or_are_refused_with_the_reason() {
    let pair = Pair::ours_ours(Host::usual());
    let emperor = pair.emperor().start();
    let setups: [(&str, &[&str]); 6] = [
        ("master-as-root", &["master-as-root = true", "processes = 2"]),
        ("drop-after-apps", &["drop-after-apps = true"]),
        ("drop-after-init", &["drop-after-init = true"]),
        ("refork-as-root", &["refork-as-root = true"]),
        ("refork-post-jail", &["refork-post-jail = true"]),
        ("refork", &["refork = true"]),
    ];
    for (option, lines) in setups {
        let mark = emperor.log.mark();
        let vassal = lines.iter().fold(pair.vassal("v1", V1), |vassal, line| vassal.line(*line));
        emperor.add(&vassal);
        assert_works_or_is_refused(&emperor, option, || {
            let ready = emperor.log.since(mark).contains("vassal v1.ini is ready to accept requests");
            ready && is_reachable(&emperor.netns, V1)
        });
        std::fs::remove_file(emperor.path("vassals/v1.ini")).expect("own folder");
        wait::until_true("the vassal is gone", wait::LONG, || emperor.vassal_pid("v1").is_none());
    }
}

/// An instance that makes its own namespace, without an Emperor.
#[test]
fn instances_that_unshare_work_or_are_refused_with_the_reason() {
    let host = Host::usual();
    let setups: [(&str, &[&str]); 5] = [
        ("unshare", &["uid = 65534", "gid = 65534"]),
        ("unshare", &[]),
        ("master-as-root", &["uid = 65534", "gid = 65534", "master-as-root = true", "processes = 2"]),
        ("refork-as-root", &["uid = 65534", "gid = 65534", "refork-as-root = true"]),
        ("daemonize2", &["uid = 65534", "gid = 65534", "daemonize2 = {dir}/log"]),
    ];
    for (option, lines) in setups {
        let emperor = Router::ours(host).emperor().start();
        let instance = EmperorIni::bare(host, Subject::Ours)
            .lines(&[
                "master = true",
                "unshare = net",
                "socket = 127.0.0.1:3031",
                &format!("tuntap-device = uwsgi0 {}", emperor.socket().display()),
                "exec-as-root = sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
                "exec-as-root = ip link set lo up",
                "exec-as-root = ip addr replace 192.168.0.2/24 dev uwsgi0",
                "exec-as-root = ip link set uwsgi0 up",
                "exec-as-root = ping -q -c 1 -W 5 192.168.0.1",
            ])
            .lines(lines)
            .launch();
        assert_works_or_is_refused(&instance, option, || is_reachable(&emperor.netns, V1));
    }
}

#[track_caller]
fn assert_works_or_is_refused(instance: &Emperor, option: &str, works: impl Fn() -> bool) {
    let refused = || instance.log.text().lines().any(|line| line.contains("tuntap") && line.contains(option));
    wait::until_true(&format!("`{option}` works, or is refused with the reason"), wait::LONG, || works() || refused());
    if refused() {
        return;
    }
    let mark = instance.log.mark();
    for _ in 0..10 {
        assert!(works(), "`{option}` goes on working");
        std::thread::sleep(Duration::from_millis(150));
    }
    let since = instance.log.since(mark);
    assert!(!since.contains("DAMN") && !since.contains("curse"), "`{option}` is stable:\n{since}");
}
