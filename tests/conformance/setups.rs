//! The ways in which uWSGI is set up around the plugin.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni, V1};
use crate::common::netns::Net;
use crate::common::probe::is_reachable;
use crate::common::processes;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::pairs::{Pair, Router, cases};

cases!(documented_first_config_stays_up also documented_first_config_stays_up_on_the_other_uwsgi, Router: c ours);
cases!(vassal_that_stays_root_works, Pair: c_c c_ours ours_c ours_ours);
cases!(device_exists_when_the_jail_is_made, Pair: c_c c_ours ours_c ours_ours);

/// The first config of the plugin's documentation, but for `ip` in place of `ifconfig` and the machine's own NAT.
fn documented_first_config_stays_up(router: Router) {
    let mut emperor = EmperorIni::bare(router.uwsgi, router.subject)
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
    emperor
        .start_vassal(&Pair { uwsgi: router.uwsgi, router: router.subject, vassal: router.subject }.vassal("v1", V1));
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

/// Ways to run a vassal in which uWSGI calls the plugin in unusual places or forks behind its back. Each works, over a
/// reload too, or is refused at the start, with the option as the reason.
mod unusual_vassal_works_or_is_refused {
    use super::unusual_vassal;

    #[test]
    fn master_as_root() {
        unusual_vassal("master-as-root", &["master-as-root = true", "processes = 2"]);
    }

    #[test]
    fn drop_after_apps() {
        unusual_vassal("drop-after-apps", &["drop-after-apps = true"]);
    }

    #[test]
    fn drop_after_init() {
        unusual_vassal("drop-after-init", &["drop-after-init = true"]);
    }

    #[test]
    fn refork() {
        unusual_vassal("refork", &["refork = true"]);
    }

    #[test]
    fn refork_as_root() {
        unusual_vassal("refork-as-root", &["refork-as-root = true"]);
    }

    #[test]
    fn refork_post_jail() {
        unusual_vassal("refork-post-jail", &["refork-post-jail = true"]);
    }

    #[test]
    fn lazy_apps() {
        unusual_vassal("lazy-apps", &["lazy-apps = true", "processes = 2"]);
    }

    #[test]
    fn threads_and_cheaper() {
        unusual_vassal("cheaper", &["enable-threads = true", "processes = 2", "cheaper = 1"]);
    }
}

fn unusual_vassal(option: &str, lines: &[&str]) {
    let pair = Pair::ours_ours(Uwsgi::usual());
    let emperor = pair.emperor().start();
    let mark = emperor.log.mark();
    emperor.add(&lines.iter().fold(pair.vassal("v1", V1), |vassal, line| vassal.line(*line)));
    let is_ready = |mark| emperor.log.since(mark).contains("vassal v1.ini is ready to accept requests");
    if works_or_is_refused(&emperor, option, || is_ready(mark) && is_reachable(&emperor.netns, V1)) {
        let mark = emperor.log.mark();
        emperor.touch("v1");
        wait::until_true("the vassal is reloaded", wait::LONG, || is_ready(mark));
        works_or_is_refused(&emperor, option, || is_reachable(&emperor.netns, V1));
    }
}

/// Instances that make their own namespace, without an Emperor.
mod instance_that_unshares_works_or_is_refused {
    use super::unsharing_instance;

    const DROP: [&str; 2] = ["uid = 65534", "gid = 65534"];

    #[test]
    fn that_drops_its_privileges() {
        unsharing_instance("unshare", &DROP);
    }

    #[test]
    fn that_stays_root() {
        unsharing_instance("unshare", &[]);
    }

    #[test]
    fn master_as_root() {
        unsharing_instance("master-as-root", &[&DROP[..], &["master-as-root = true", "processes = 2"]].concat());
    }

    #[test]
    fn refork_as_root() {
        unsharing_instance("refork-as-root", &[&DROP[..], &["refork-as-root = true"]].concat());
    }

    #[test]
    fn daemonize2() {
        unsharing_instance("daemonize2", &[&DROP[..], &["daemonize2 = {dir}/log"]].concat());
    }
}

fn unsharing_instance(option: &str, lines: &[&str]) {
    let uwsgi = Uwsgi::usual();
    let emperor = Router::ours(uwsgi).emperor().start();
    let instance = EmperorIni::bare(uwsgi, Subject::Ours)
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
    let is_spawned = |mark, how: &str| instance.log.since(mark).contains(how);
    let start = instance.log.mark();
    let works = || is_spawned(start, "spawned uWSGI worker 1") && is_reachable(&emperor.netns, V1);
    if works_or_is_refused(&instance, option, works) {
        let mark = instance.log.mark();
        // Forks on the way make the master another process than the one that was started.
        let log = instance.log.text();
        let master =
            log.rsplit_once("spawned uWSGI master process (pid: ").and_then(|(_, rest)| rest.split(')').next());
        processes::send(master.and_then(|pid| pid.parse().ok()).expect("the log names the master"), Signal::SIGHUP);
        wait::until_true("it is reloaded", wait::LONG, || is_spawned(mark, "gracefully (RE)spawned uWSGI master"));
        works_or_is_refused(&instance, option, || is_reachable(&emperor.netns, V1));
    }
}

/// Fails unless the set-up works and goes on working, or the log names the option.
#[track_caller]
fn works_or_is_refused(instance: &Emperor, option: &str, works: impl Fn() -> bool) -> bool {
    let refused = || instance.log.text().lines().any(|line| line.contains("tuntap") && line.contains(option));
    wait::until_true(&format!("`{option}` works, or is refused with the reason"), wait::LONG, || works() || refused());
    if refused() {
        return false;
    }
    let mark = instance.log.mark();
    for _ in 0..10 {
        assert!(works(), "`{option}` goes on working");
        std::thread::sleep(Duration::from_millis(150));
    }
    let since = instance.log.since(mark);
    assert!(!since.contains("DAMN") && !since.contains("curse"), "`{option}` is stable:\n{since}");
    true
}
