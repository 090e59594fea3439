//! Names, sockets and devices, as options give them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect};

use crate::common::emperor::{EMPEROR, EmperorIni, V1};
use crate::common::probe::pings_answered;
use crate::common::processes::{freeze, thaw};
use crate::common::starter::Starter;
use crate::common::uwsgi::{Subject, UWSGIS, Uwsgi};
use crate::common::wait;
use crate::pairs::{Pair, Router, cases};

// No router takes part in this.
cases!(device_without_a_socket_is_just_made, Pair: c_c c_ours);
cases!(abstract_socket_serves_its_namespace, Pair: c_c c_ours ours_c ours_ours);
cases!(tcp_address_for_the_router_is_for_other_hosts, Router: c ours);
cases!(long_router_device_name_is_refused, Router: c ours);
cases!(long_device_name_is_refused, Pair: c_c c_ours ours_c ours_ours);
cases!(chmod_socket_is_honoured, Router: c ours);
cases!(chown_socket_is_honoured, Router: c ours);
cases!(largest_mtu_passes_packets_that_fit_a_frame, Pair: c_c c_ours ours_c ours_ours);
cases!(vassal_waits_for_a_router_that_comes_late, Pair: c_c c_ours ours_c ours_ours);
cases!(vassal_gets_through_a_full_backlog, Pair: c_c c_ours ours_c ours_ours);
cases!(help_tells_the_syntax, Router: c ours);

fn device_without_a_socket_is_just_made(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = pair.vassal("v1", V1).devices(&["foo0"]).without_ping();
    let net = emperor.start_vassal(&vassal);
    assert!(net.has_device("foo0"));
    assert!(emperor.stats().peers().is_empty());
}

/// Abstract names belong to a namespace, so the device's side runs in the router's.
fn abstract_socket_serves_its_namespace(pair: Pair) {
    let name = format!("@tuntap-test-{}", std::process::id());
    let emperor = pair.emperor().router(&format!("emperor0 {name} {{dir}}/stats.sock")).start();
    let inside = pair
        .vassal("v1", V1)
        .devices(&[&format!("uwsgi0 {name}")])
        .without_ping()
        // The packet must leave by the device although the address is near.
        .line("exec-as-root = ping -q -c 1 -W 1 -I uwsgi0 192.168.0.99 || true");
    let file = emperor.path("inside.ini");
    std::fs::write(&file, emperor.in_dir(&inside.render())).expect("own folder");
    let _inside = emperor.beside().ini(&file).start();
    let registered = wait::try_until(wait::LONG, || emperor.try_stats().ok().filter(|stats| stats.peer(V1).is_some()));
    assert!(registered.is_some(), "the device's side registers");
}

fn tcp_address_for_the_router_is_for_other_hosts(router: Router) {
    let emperor = router.emperor().router("emperor0 127.0.0.1:4444 {dir}/stats.sock");
    let emperor =
        if router.is_ours() { emperor.line("tuntap-router-key = {dir}/key").start() } else { emperor.launch() };
    emperor.stats_eventually();
    let file = emperor.path("127.0.0.1:4444").metadata();
    let listening = emperor.netns.sh("ss -Hltn");
    if router.is_ours() {
        assert!(file.is_err() && listening.contains("127.0.0.1:4444"), "{listening}");
    } else {
        // C makes a unix socket of that name in the current folder.
        assert!(file.expect("a file of that name").file_type().is_socket());
        assert!(!listening.contains("4444"), "{listening}");
    }
}

const LONG_NAME: &str = "device-name-of-17";

fn long_router_device_name_is_refused(router: Router) {
    let mut emperor = EmperorIni::bare(router.uwsgi, router.subject)
        .line("master = true")
        .line(format!("tuntap-router = {LONG_NAME} {{dir}}/t.sock {{dir}}/stats.sock"))
        .launch();
    if router.is_ours() {
        assert!(!emperor.wait_for_exit().success());
        assert!(emperor.log.text().lines().any(|line| line.contains("tuntap-router") && line.contains(LONG_NAME)));
    } else {
        emperor.stats_eventually();
        assert!(emperor.netns.has_device(&LONG_NAME[..15]), "C lets the kernel cut the name");
    }
}

fn long_device_name_is_refused(pair: Pair) {
    let emperor = pair.emperor().start();
    emperor.add(&pair.vassal("v1", V1).devices(&[&format!("{LONG_NAME} {{dir}}/t.sock")]));
    if pair.vassal == Subject::Ours {
        wait::until_true("the name is refused", wait::LONG, || {
            emperor.log.text().lines().any(|line| line.contains("tuntap-device") && line.contains(LONG_NAME))
        });
    } else {
        emperor.log.wait_for(&format!("initialized tuntap device {} ", &LONG_NAME[..15]), wait::LONG);
    }
}

fn chmod_socket_is_honoured(router: Router) {
    let mode = |emperor: &crate::common::emperor::Emperor| {
        emperor.socket().metadata().expect("the socket exists").permissions().mode() & 0o777
    };
    let usual = router.emperor().start();
    assert_eq!(mode(&usual) & 0o022, 0, "only root may connect");
    let open = router.emperor().line("chmod-socket = 666").start();
    assert_eq!(mode(&open), 0o666);
}

fn chown_socket_is_honoured(router: Router) {
    let emperor = router.emperor().line("chown-socket = 65534:65534").start();
    let owner = emperor.socket().metadata().expect("the socket exists").uid();
    assert_eq!(
        owner,
        if router.subject == Subject::Ours { 65534 } else { 0 },
        "the C plugin does not look at the option"
    );
}

/// Frames end at 8,188 bytes, whatever the devices' MTU.
fn largest_mtu_passes_packets_that_fit_a_frame(pair: Pair) {
    let emperor = pair.emperor().mtu(9000).start();
    let net = emperor.start_vassal(&pair.vassal("v1", V1).mtu(9000));
    // 28 bytes of headers.
    assert_eq!(pings_answered(&net, EMPEROR, 3, &["-M", "do", "-s", "8160"]), 3);
    assert_eq!(pings_answered(&emperor.netns, V1, 3, &["-M", "do", "-s", "8160"]), 3);
    if (pair.router, pair.vassal) == (Subject::Ours, Subject::Ours) {
        // These two don't frame their packets, and may pass larger ones.
        return;
    }
    assert_eq!(pings_answered(&emperor.netns, V1, 2, &["-M", "do", "-s", "8161"]), 0);
    let stats = emperor.stats();
    if pair.router == Subject::Ours {
        assert!(stats.drops("too_big") >= 1, "{}", stats.0);
        let route = emperor.netns.sh(&format!("ip route get {V1}"));
        assert!(route.contains("mtu 8188"), "the sender is told: {route}");
    } else {
        assert_eq!(stats.of_peer(V1, "dropped"), 2);
    }
    assert_eq!(pings_answered(&net, EMPEROR, 2, &["-M", "do", "-s", "8161"]), 0);
    assert_eq!(pings_answered(&net, EMPEROR, 3, &[]), 3, "smaller packets pass as before");
}

fn vassal_waits_for_a_router_that_comes_late(pair: Pair) {
    let emperor = pair.emperor().start();
    let late = emperor.path("late.sock");
    emperor.add(&pair.vassal("v1", V1).devices(&[&format!("uwsgi0 {}", late.display())]));
    wait::until_true("the vassal misses its router", wait::LONG, || {
        let log = emperor.log.text();
        log.contains("No such file or directory") || log.contains("late.sock")
    });
    std::fs::hard_link(emperor.socket(), &late).expect("a socket's file can have two names");
    wait::until_true("the vassal is reachable", wait::LONG, || pings_answered(&emperor.netns, V1, 1, &[]) == 1);
}

fn vassal_gets_through_a_full_backlog(pair: Pair) {
    let emperor = pair.emperor().start();
    let router = emperor.router_pid();
    freeze(router);
    let mut waiting = Vec::new();
    while let Ok(connection) = try_connect(&emperor.socket()) {
        waiting.push(connection);
    }
    let mark = emperor.log.mark();
    emperor.add(&pair.vassal("v1", V1));
    if pair.vassal == Subject::C {
        emperor.log.wait_for_since(mark, "uwsgi_connect(): Resource temporarily unavailable", wait::LONG);
    } else {
        emperor.log.wait_for_since(mark, "tuntap", wait::LONG);
    }
    thaw(router);
    wait::until_true("the vassal is reachable", wait::LONG, || pings_answered(&emperor.netns, V1, 1, &[]) == 1);
    drop(waiting);
}

/// Connects without waiting for room in the backlog.
fn try_connect(socket: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let client = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(client.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(client)
}

/// A uWSGI that looks for plugins where this one is.
fn loading(uwsgi: Uwsgi, plugin: &Path) -> Starter {
    let starter = Starter::program(uwsgi.binary(), Path::new("/"));
    starter.argument("--plugins-dir").argument(plugin.parent().expect("a file is in a folder"))
}

fn help_tells_the_syntax(router: Router) {
    let plugin = router.uwsgi.plugin(router.subject);
    let help = loading(router.uwsgi, &plugin).arguments(["--plugin", "tuntap", "--help"]).output().text();
    for (option, syntax) in [
        ("--tuntap-router ", "<device> <socket> [stats] [gateway]"),
        ("--tuntap-device ", "<device>[ <socket>"),
        ("--tuntap-use-credentials", ""),
        ("--tuntap-router-firewall-in", "<src"),
        ("--tuntap-router-firewall-out", "<src"),
        ("--tuntap-router-route", "<src"),
        ("--tuntap-router-stats", ""),
        ("--tuntap-device-rule", "<src"),
    ] {
        let line = help.lines().find(|line| line.trim_start().starts_with(option));
        assert!(line.is_some_and(|line| line.contains(syntax)), "`{option}`: {line:?}");
    }
}

#[test]
fn plugin_of_another_uwsgi_is_refused() {
    for uwsgi in UWSGIS {
        let starter = loading(uwsgi, &uwsgi.other().plugin(Subject::Ours));
        let finished = starter.arguments(["--need-plugin", "tuntap", "--socket", "127.0.0.1:0"]).output();
        let (log, status) = (finished.text(), finished.output.status);
        assert!(status.code().is_some_and(|code| code != 0), "it ends by itself, not by a signal: {status}");
        let versions = UWSGIS.map(Uwsgi::version);
        let named = log.lines().any(|line| line.contains("tuntap") && versions.iter().all(|name| line.contains(name)));
        assert!(named, "one line names both versions:\n{log}");
    }
}
