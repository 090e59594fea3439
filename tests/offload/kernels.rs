//! Kernels that can do less.

use nix::sys::signal::Signal;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::netns::Netns;
use crate::common::wait;
use crate::world::{Datagrams, V1_6, V2_6, emperor, emperor_without, pair_packets, start, vassal};

/// As Linux 6.1: without TCX, and without RWF_NOWAIT for TUN devices.
#[test]
fn kernel_without_tcx_has_the_path_by_clsact() {
    let emperor = start(emperor_without("clsact", "auto").line("env = UWSGI_TUNTAP_TUN=blocking"));
    let [first, second] = [("v1", V1, V1_6), ("v2", V2, V2_6)]
        .map(|(name, address, address_6)| emperor.start_attached(&vassal(name, address, address_6)));
    let host = Datagrams::open(&first, V1, &emperor.netns, EMPEROR);
    let across = Datagrams::open(&first, V1, &second, V2);
    for is_last in [false, true] {
        host.until_in_kernel(&first);
        across.until_in_kernel(&second);
        assert!(first.sh("tc filter show dev uwsgi0 egress").contains("uwsgi-tuntap"));
        if !is_last {
            emperor.kill_router();
        }
    }
    // Without its pair, a vassal's packets go by the router, and the filter is gone.
    first.sh("ip link del tv0");
    wait::until_true("packets pass", wait::LONG, || (0..5).all(|_| host.pass()));
    wait::until_true("no filter is left, or a new pair is there", wait::LONG, || {
        first.has_device("tv0") || !first.sh("tc filter show dev uwsgi0 egress").contains("uwsgi-tuntap")
    });
}

/// As a kernel without BPF, and without RWF_NOWAIT for TUN devices.
#[test]
fn kernel_without_bpf_has_no_path_and_is_told_of_once() {
    let emperor =
        emperor_without("none", "auto").line("env = UWSGI_TUNTAP_TUN=blocking").start_in(Netns::new().with_ipv6());
    let net = emperor.start_attached(&vassal("v1", V1, V1_6));
    let flow = Datagrams::open(&net, V1, &emperor.netns, EMPEROR);
    flow.assert_all_pass(50);
    emperor.kill_router();
    wait::until_true("packets pass", wait::LONG, || (0..5).all(|_| flow.pass()));
    assert_eq!(pair_packets(&net), [0, 0]);
    let text = emperor.log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("tuntap-router-offload")).collect();
    let [line] = lines[..] else { panic!("one line: {lines:?}") };
    assert!(line.contains("all packets go by the router") && line.contains("the kernel has no BPF"), "{line}");
    assert!(!text.contains("uWSGI tuntap pairs"), "no process without a path");
    assert!(emperor.stats().0["kernel_path"].is_null(), "{}", emperor.stats().0["kernel_path"]);
    emperor.signal(Signal::SIGINT);
}

#[test]
fn kernel_that_has_to_have_the_path_and_does_not_ends_the_start() {
    let mut emperor = emperor_without("none", "on").launch();
    assert!(!emperor.wait_for_exit().success());
    let text = emperor.log.text();
    assert!(text.contains("emperor0: tuntap-router-offload = on: the kernel has no BPF"), "{text}");
}

/// Each of them starts the instance with less than it needs.
#[test]
fn what_an_instance_lacks_for_the_path_is_named() {
    for (wrapper, reason) in [
        ("setpriv --bounding-set -sys_admin --inh-caps -all", "CAP_SYS_ADMIN missing"),
        ("setpriv --bounding-set -sys_admin,-bpf --inh-caps -all", "CAP_SYS_ADMIN missing"),
        ("unshare --user --map-root-user --net", "outside of user namespaces, and no filter of system calls"),
    ] {
        let mut emperor = emperor().before(&format!("exec {wrapper} \"$@\"")).launch();
        assert!(!emperor.wait_for_exit().success(), "{wrapper}");
        let text = emperor.log.text();
        let lines: Vec<_> = text.lines().filter(|line| line.contains("tuntap-router-offload = on: ")).collect();
        assert!(matches!(lines[..], [line] if line.contains(reason)), "{wrapper}: {text}");
    }
}
