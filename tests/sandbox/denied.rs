//! A C function inside the sandbox tries what the code of an attacker in the router would try.

use std::net::Ipv4Addr;

use crate::common::emperor::Emperor;
use crate::common::wait;
use crate::world::{Hook, assert_confined, next_router};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

const HEAD: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* The address of a peer whose wish was refused with this error, and no address otherwise. */
__attribute__((unused)) static uint32_t refused_with(long result, int error) {
    return result == -1 && errno == error ? 0x0500000a : 0;
}
"#;

/// The uid in a peer's credentials tells the function what to try.
#[track_caller]
fn ask(emperor: &Emperor, uid: u32) {
    emperor.connect().send_credentials(uid, 0);
}

#[test]
fn denied_syscall_ends_the_router_with_a_line_and_a_respawn() {
    let attempts = [
        ("execve", "execl(\"/bin/true\", \"true\", NULL)"),
        // Not fork(3), which blocks all signals around it since glibc 2.41: that ends the process without a line.
        ("clone", "syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)"),
        ("socket", "socket(AF_INET, SOCK_STREAM, 0)"),
        ("socket", "socket(AF_INET6, SOCK_STREAM, 0)"),
        ("socket", "socket(AF_UNIX, SOCK_DGRAM, 0)"),
        ("socket", "socket(AF_PACKET, SOCK_RAW, 0)"),
        ("setsockopt", "setsockopt(0, IPPROTO_IP, 64, &uid, sizeof uid)"),
        ("setsockopt", "setsockopt(0, IPPROTO_IPV6, IPV6_V6ONLY, &uid, sizeof uid)"),
        ("getsockopt", "getsockopt(0, IPPROTO_IPV6, IPV6_V6ONLY, &uid, &(socklen_t) { sizeof uid })"),
        ("ptrace", "ptrace(PTRACE_ATTACH, 1, 0, 0)"),
        ("mmap", "mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)"),
        ("kill", "kill(1, 0)"),
        ("ioctl", "ioctl(0, TUNSETIFF, NULL)"),
        ("setuid", "setuid(65534)"),
        ("mount", "syscall(SYS_mount, 0, 0, 0, 0, 0)"),
        ("prlimit64", "setrlimit(RLIMIT_NOFILE, &(struct rlimit) { 9, 9 })"),
    ];
    let cases: String =
        (1..).zip(&attempts).map(|(uid, (_, call))| format!("case {uid}: {call}; return 0;\n")).collect();
    let hook = Hook::compile(HEAD, &format!("switch (uid) {{\n{cases}default: return 0x0500000a;\n}}"));
    let emperor = hook.emperor("strict").start();
    for (uid, (name, call)) in (1..).zip(&attempts) {
        let before = assert_confined(&emperor);
        let mark = emperor.log.mark();
        ask(&emperor, uid);
        let line = format!("[tuntap-router] emperor0: the sandbox denied the syscall {name} (");
        emperor.log.wait_for_since(mark, &line, wait::LONG);
        emperor.log.wait_for_since(mark, "respawned uWSGI tuntap router 1", wait::LONG);
        assert_ne!(next_router(&emperor, before), before, "{call}");
        // setuid(3) has all threads change their user, and each of them is denied that.
        let lines = emperor.log.since(mark).matches("the sandbox denied").count();
        assert!(lines == 1 || *name == "setuid", "{call}: {lines} lines");
    }
    let mut peer = emperor.connect();
    peer.send_credentials(1000, 0);
    emperor.wait_for_stats("peers are served again", |stats| stats.peer(ADDRESS).is_some());
}

#[test]
fn line_about_a_denied_syscall_is_json_if_lines_are() {
    let hook = Hook::compile(HEAD, "return uid == 1 ? setuid(65534) : 0x0500000a;");
    let emperor = hook.emperor("strict").line("tuntap-log-format = json").start();
    ask(&emperor, 1);
    emperor.log.wait_for("respawned uWSGI tuntap router 1", wait::LONG);
    let text = emperor.log.text();
    let line = text.lines().find(|line| line.contains("syscall-denied")).expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["level"], &line["device"]), (&"error".into(), &"emperor0".into()), "{line}");
    assert!(
        line["text"].as_str().is_some_and(|text| text.starts_with("the sandbox denied the syscall setuid (")),
        "{line}"
    );
    assert!(line["time"].as_f64().is_some_and(|time| time > 1.7e9), "{line}");
}

/// What libraries try and can do without is refused, and the router lives.
#[test]
fn files_are_out_of_reach() {
    let attempts = [
        ("open(VICTIM, O_RDONLY)", "EACCES"),
        ("open(VICTIM, O_WRONLY | O_TRUNC)", "EACCES"),
        ("open(\"/dev/net/tun\", O_RDWR)", "EACCES"),
        ("open(\"/proc/self/mem\", O_RDWR)", "EACCES"),
        ("readlink(\"/proc/self/exe\", (char[9]) { 0 }, 9)", "EACCES"),
        ("unlink(VICTIM)", "EACCES"),
    ];
    assert_refused("strict", &attempts);
}

/// The function keeps its syscalls, but is root without capabilities.
#[test]
fn credentials_function_has_no_capability() {
    let attempts = [
        ("setuid(65534)", "EPERM"),
        ("chown(VICTIM, 65534, 65534)", "EPERM"),
        ("socket(AF_PACKET, SOCK_RAW, 0)", "EPERM"),
        ("syscall(SYS_mount, \"none\", \"/mnt\", \"tmpfs\", 0, 0)", "EPERM"),
        ("open(VICTIM, O_RDONLY) > 0 && (errno = ENOENT) ? -1 : 0", "ENOENT"),
    ];
    assert_refused("on", &attempts);
}

#[track_caller]
fn assert_refused(sandbox: &str, attempts: &[(&str, &str)]) {
    let cases: String = (1..)
        .zip(attempts)
        .map(|(uid, (call, error))| format!("case {uid}: return refused_with({call}, {error});\n"))
        .collect();
    let victim = tempfile::NamedTempFile::new().expect("a file of root's");
    let head = format!("{HEAD}#define VICTIM {:?}\n", victim.path());
    let hook = Hook::compile(&head, &format!("switch (uid) {{\n{cases}default: return 0;\n}}"));
    let emperor = hook.emperor(sandbox).start();
    let router = emperor.router_pid();
    for (uid, (call, error)) in (1..).zip(attempts) {
        let mut peer = emperor.connect();
        peer.send_credentials(uid, 0);
        emperor.wait_for_stats(&format!("{call} fails with {error}"), |stats| stats.peer(ADDRESS).is_some());
        drop(peer);
        emperor.wait_for_stats("the peer has left", |stats| stats.peers().is_empty());
    }
    assert_eq!(emperor.router_pid(), router);
    assert!(victim.path().exists());
}

/// The router works in the folder of its socket.
#[test]
fn own_socket_can_be_removed() {
    let hook = Hook::compile(HEAD, "return uid && unlink(\"t.sock\") == 0 ? 0x0500000a : 0;");
    let emperor = hook.emperor("strict").start();
    let mut peer = emperor.connect();
    peer.send_credentials(1000, 0);
    emperor.wait_for_stats("unlink succeeds", |stats| stats.peer(ADDRESS).is_some());
    assert!(!emperor.socket().exists());
}
