//! The same with the system calls that the process has in earnest. Each case runs in a process of its own, which is this program
//! again.

use std::fs::File;
use std::io::{Error, ErrorKind};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use tuntap_agent::SYSCALLS;
use tuntap_sys::process::{exit_at_once, pin_time_zone};
use tuntap_sys::sandbox::{restrict_syscalls, set_no_new_privileges};

use crate::host::{Host, key, listener};

/// The variable that names a case.
const CASE: &str = "TUNTAP_TEST_CONFINED";

/// The exit code of a case that went through.
const SUCCESS: i32 = 77;

/// Runs a case in a process of its own.
fn run(case: &str) -> Output {
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "confined::case_of_its_own", "--nocapture"])
        .env(CASE, case)
        .output()
        .expect("it starts")
}

/// Nothing unless one of the tests below starts it.
#[test]
fn case_of_its_own() {
    let Ok(case) = std::env::var(CASE) else { return };
    let (first, second) = (listener(), listener());
    let victim = TcpListener::bind("127.0.0.1:0").expect("a free port");
    pin_time_zone();
    set_no_new_privileges().expect("always possible");
    restrict_syscalls(&SYSCALLS, "test".to_owned()).expect("a filter");
    match case.as_str() {
        "work" => work(first, second),
        "file" => assert_eq!(File::open("/etc/passwd").expect_err("closed").kind(), ErrorKind::PermissionDenied),
        "write" => assert_eq!(File::create("/tmp/x").expect_err("closed").kind(), ErrorKind::PermissionDenied),
        "udp" => drop(UdpSocket::bind("127.0.0.1:0")),
        "bind" => drop(TcpListener::bind("127.0.0.1:0")),
        "unix" => drop(UnixListener::bind("/tmp/tuntap-test-confined")),
        "program" => drop(Command::new("/bin/true").status()),
        "folder" => drop(std::fs::create_dir("/tmp/tuntap-test-confined")),
        "option" => drop(victim.set_ttl(1)),
        other => panic!("{other}: {}", Error::last_os_error()),
    }
    exit_at_once(SUCCESS)
}

/// Two hosts whose connection breaks and comes back, so that there are more threads and a second handshake.
fn work(first: TcpListener, second: TcpListener) {
    let (one, other) = (key(), key());
    let here = Host::start_at(first, &one, &[(other.public(), None)]);
    let there = Host::start_at(second, &other, &[(one.public(), Some(here.address))]);
    for _ in 0..2 {
        let ((_, near), (_, far)) = (here.next(), there.next());
        for number in 1..100 {
            assert!(near.send_ping(number) && far.send_ping(number));
            assert!(near.pings().is_some_and(|pings| pings.contains(&number)));
            assert!(far.pings().is_some_and(|pings| pings.contains(&number)));
        }
    }
}

#[test]
fn dials_accepts_and_carries() {
    let output = run("work");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(SUCCESS), "{text}");
    assert!(!text.contains("denied"), "{text}");
}

#[test]
fn files_are_refused() {
    for case in ["file", "write"] {
        let output = run(case);
        assert_eq!(output.status.code(), Some(SUCCESS), "{case}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn all_else_ends_the_process_with_a_line() {
    for (case, call) in
        [("udp", "socket"), ("bind", "setsockopt"), ("unix", "socket"), ("folder", "mkdir"), ("option", "setsockopt")]
    {
        let output = run(case);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{case}: {text}");
        assert!(text.contains(&format!("test: the sandbox denied the syscall {call}")), "{case}: {text}");
    }
}

/// The C library blocks all signals while it starts a program, so that there may be no line.
#[test]
fn no_program_starts() {
    let output = run("program");
    assert_ne!(output.status.code(), Some(SUCCESS));
    assert!(!output.status.success());
}
