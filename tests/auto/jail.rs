//! Jails in which there is nothing that could configure a network, and resolv.conf in them.

use std::fs;
use std::os::unix::fs::symlink;

use crate::common::emperor::{EMPEROR, Emperor, EmperorIni};
use crate::common::wait;
use crate::world::{Vassal, emperor, pings, v4};

const DNS: &str = "tuntap-router-dns = 192.0.2.53";
const WRITTEN: &str = "nameserver 192.0.2.53\n";

/// A folder that becomes a vassal's root.
fn jail(emperor: &Emperor) -> std::path::PathBuf {
    let jail = emperor.path("jail");
    fs::create_dir_all(jail.join("etc")).expect("own folder");
    jail
}

#[test]
fn empty_chroot_has_a_network() {
    let emperor = emperor().line(DNS).start();
    let jail = jail(&emperor);
    let vassal = Vassal::auto(&emperor, "app").line("chroot = {dir}/jail").line("tuntap-device-dns = true");
    let net = vassal.start(&emperor);
    assert!(pings(&net, EMPEROR) && pings(&emperor.netns, v4(&net)));
    let pid = emperor.vassal_pid("app").expect("it runs");
    assert_eq!(fs::read_link(format!("/proc/{pid}/root")).expect("own process"), jail);
    let found: Vec<_> = fs::read_dir(&jail).expect("own folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(found, ["etc"], "nothing that could be executed");
    let text = fs::read_to_string(jail.join("etc/resolv.conf")).expect("it was written");
    assert!(text.ends_with(WRITTEN), "{text}");
}

#[test]
fn servers_of_both_families_are_written() {
    let emperor = emperor().line(DNS).line("tuntap-router-dns = fd00:53::53").start();
    let jail = jail(&emperor);
    Vassal::auto(&emperor, "app").line("chroot = {dir}/jail").line("tuntap-device-dns = true").start(&emperor);
    let text = fs::read_to_string(jail.join("etc/resolv.conf")).expect("it was written");
    assert!(text.ends_with(&format!("{WRITTEN}nameserver fd00:53::53\n")), "{text}");
}

/// The Emperor bears it into a mount namespace, and uWSGI moves it to a root of its own.
#[test]
fn root_of_its_own_has_a_network() {
    let emperor = emperor().line(DNS).line("emperor-use-clone = net,fs").start();
    let jail = jail(&emperor);
    fs::create_dir(jail.join("old")).expect("own folder");
    let vassal = Vassal::auto(&emperor, "app")
        .line("exec-post-jail = mount --make-rprivate /")
        .line("exec-post-jail = mount --bind {dir}/jail {dir}/jail")
        .line("pivot_root = {dir}/jail {dir}/jail/old")
        .line("hook-as-root = umount:/old detach")
        .line("tuntap-device-dns = uwsgi0 /etc/resolv.conf");
    vassal.add(&emperor);
    wait::until_true("it has written the file", wait::LONG, || {
        fs::read_to_string(jail.join("etc/resolv.conf")).is_ok_and(|text| text.ends_with(WRITTEN))
    });
    let net = emperor.vassal_net("app");
    wait::until_true("it has a network", wait::LONG, || pings(&net, EMPEROR));
}

/// An Emperor whose /etc is a copy of the machine's, so that a failure harms nobody.
fn emperor_with_etc() -> EmperorIni {
    let steps = [
        "cp -a /etc {dir}/etc",
        "rm -f {dir}/etc/resolv.conf",
        "cp {dir}/mine {dir}/etc/resolv.conf",
        "mount --bind {dir}/etc /etc",
    ];
    emperor().line(DNS).line(format!("exec-asap = echo host >{{dir}}/mine && {}", steps.join(" && ")))
}

#[track_caller]
fn assert_host_keeps_its_file(emperor: &Emperor) {
    assert_eq!(fs::read_to_string(emperor.path("etc/resolv.conf")).expect("there"), "host\n");
    assert!(!fs::exists(emperor.path("etc/.resolv.conf.tuntap")).expect("own folder"), "no draft either");
}

#[test]
fn hosts_own_file_is_refused() {
    let emperor = emperor_with_etc().start();
    Vassal::auto(&emperor, "app").line("tuntap-device-dns").add(&emperor);
    emperor.log.wait_for("/etc/resolv.conf: that is the host's own file, which a vassal must not replace", wait::LONG);
    assert_host_keeps_its_file(&emperor);
    // The same folder by another name.
    Vassal::auto(&emperor, "two").line("tuntap-device-dns = {dir}/etc/resolv.conf").add(&emperor);
    let line = emperor.in_dir("{dir}/etc/resolv.conf: that is the host's own file");
    emperor.log.wait_for(&line, wait::LONG);
    assert_host_keeps_its_file(&emperor);
}

/// In a mount namespace of its own the host's folders are still the host's.
#[test]
fn hosts_own_file_is_refused_in_a_copy_of_its_mounts() {
    let emperor = emperor_with_etc().line("emperor-use-clone = net,fs").start();
    Vassal::auto(&emperor, "app").line("tuntap-device-dns = /etc/resolv.conf").add(&emperor);
    emperor.log.wait_for("that is the host's own file", wait::LONG);
    assert_host_keeps_its_file(&emperor);
}

/// A vassal's user may have put links where root is going to write.
#[test]
fn links_are_not_followed() {
    let emperor = emperor_with_etc().start();
    let (home, precious) = (emperor.path("home"), emperor.path("precious"));
    fs::create_dir(&home).expect("own folder");
    fs::write(&precious, "precious").expect("own folder");
    symlink(&precious, home.join("resolv.conf")).expect("own folder");
    let vassal = Vassal::auto(&emperor, "app").line("tuntap-device-dns = {dir}/home/resolv.conf");
    vassal.start(&emperor);
    assert!(fs::read_to_string(home.join("resolv.conf")).expect("there").ends_with(WRITTEN));
    assert_eq!(fs::read_to_string(&precious).expect("there"), "precious");

    symlink("/etc", emperor.path("link")).expect("own folder");
    Vassal::auto(&emperor, "two").line("tuntap-device-dns = {dir}/link/resolv.conf").add(&emperor);
    emperor.log.wait_for("link/resolv.conf: Too many levels of symbolic links", wait::LONG);
}

#[test]
fn router_without_servers_has_nothing_written() {
    let emperor = emperor().start();
    let jail = jail(&emperor);
    Vassal::auto(&emperor, "app").line("chroot = {dir}/jail").line("tuntap-device-dns").start(&emperor);
    assert!(emperor.log.text().contains("the router names no DNS servers"));
    assert!(!jail.join("etc/resolv.conf").exists());
}
