//! Machines that lack something.

use std::panic::resume_unwind;

use nix::errno::Errno;
use nix::libc;

use crate::common::emperor::EmperorIni;
use crate::common::netns::Netns;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::world::{ROUTER, World, hide};

#[test]
fn control_device_that_is_missing_or_wrong_is_told() {
    const EMPTY: &str = "mount -t tmpfs none /dev/net";
    for (line, what, remedy) in [
        (EMPTY.to_owned(), "/dev/net/tun is missing", "modprobe tun"),
        (format!("{EMPTY} && touch /dev/net/tun"), "/dev/net/tun is not the character device 10:200", "mknod"),
        (format!("{EMPTY} && mknod /dev/net/tun c 10 254"), "/dev/net/tun is not the character device 10:200", "mknod"),
    ] {
        World::usual().before(&line).examine_lines(ROUTER).is_wrong(what, remedy);
    }
}

#[test]
fn missing_privileges_are_told() {
    let without = |capabilities: &'static str| World::usual().starting(|starter| starter.bounding_set(capabilities));
    without("-sys_admin").examine_lines(ROUTER).is_wrong("no network namespace can be made", "as root");
    let alone = ROUTER.replace("emperor-use-clone = net\n", "").replace("emperor = {dir}/vassals\n", "");
    // A container may have a router alone.
    without("-sys_admin").examine_lines(&alone).is_well();
    without("-net_admin,-sys_admin").examine_lines(&alone).is_wrong("no TUN device can be made", "CAP_NET_ADMIN");
}

#[test]
fn what_is_refused_to_others_than_root_is_a_warning() {
    let line = "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200";
    let world = World::usual().before(line).starting(|starter| starter.user(20001));
    let verdict =
        world.examine_lines(&format!("{ROUTER}tuntap-router-address = 10.0.0.1/24\ntuntap-router-nat = eth0\n"));
    assert_eq!(verdict.code, Some(0), "{}", verdict.text);
    assert!(verdict.text.starts_with("this examination\n"), "{}", verdict.text);
    verdict.has("warning", "runs without root", "sudo");
    verdict.has("warning", "/dev/net/tun can't be opened", "as root");
    verdict.has("warning", "t.sock: can't be made in", "as root");
    verdict.has("warning", "packet filters: can't be read", "as root");
}

#[test]
fn kernel_without_landlock_is_a_warning() {
    // The thread ends with its seccomp filter, which can't be taken off again.
    let examined = std::thread::spawn(|| {
        hide(libc::SYS_landlock_create_ruleset, Vec::new(), Errno::ENOSYS);
        World::usual().examine_lines(ROUTER).warns("kernel without landlock", "lsm=landlock");
    });
    examined.join().unwrap_or_else(|panic| resume_unwind(panic));
}

/// A unit of systemd with a SystemCallFilter does this.
#[test]
fn step_that_a_sandbox_refuses_is_named() {
    let examined = std::thread::spawn(|| {
        hide(libc::SYS_memfd_create, Vec::new(), Errno::EPERM);
        let verdict = World::usual().examine_lines(ROUTER);
        let line = verdict.text.lines().find(|line| line.starts_with("the examination failed: ")).unwrap_or_default();
        assert!(line.contains("memfd_create") && line.contains("SystemCallFilter"), "{}", verdict.text);
        assert_eq!(verdict.code, Some(1));
    });
    examined.join().unwrap_or_else(|panic| resume_unwind(panic));
}

#[test]
fn few_descriptors_are_a_warning() {
    let world = World::usual().starting(|starter| starter.descriptors(600));
    world.examine_lines(ROUTER).warns("descriptors: 600 at most, room for 268 vassals of 1024", "LimitNOFILE=2112");
    world.examine_lines(&format!("{ROUTER}max-fd = 100000\n")).is_well();
}

#[test]
fn queue_that_the_kernel_refuses_is_told() {
    const SHORT: &str = "sysctl -qw net.core.somaxconn=50";
    let world = World::usual();
    world.netns.sh(SHORT);
    world.examine_lines(ROUTER).is_wrong("listen = 100, but net.core.somaxconn is 50", "net.core.somaxconn=100");
    world.examine_lines(&format!("{ROUTER}listen = 50\n")).is_well();
    // The instance really doesn't start.
    let netns = Netns::new();
    netns.sh(SHORT);
    assert!(!EmperorIni::new(Uwsgi::usual(), Subject::Ours).launch_in(netns).wait_for_exit().success());
}

#[test]
fn device_that_exists_is_told() {
    let world = World::usual();
    world.netns.sh("ip link add emperor0 type veth peer name eth2");
    world.examine_lines(ROUTER).is_wrong("device emperor0: exists, and is no TUN device", "ip link delete emperor0");
    world.netns.sh("ip link delete emperor0");
    world.netns.sh("ip tuntap add emperor0 mode tap");
    world
        .examine_lines(ROUTER)
        .is_wrong("device emperor0: exists, and is no TUN device (tap)", "ip link delete emperor0");
    world.netns.sh("ip link delete emperor0");
    world.netns.sh("ip tuntap add emperor0 mode tun");
    world.examine_lines(ROUTER).is_well();
}
