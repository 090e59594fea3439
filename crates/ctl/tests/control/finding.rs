//! Finding the router without being told its socket. Each test has a network namespace of its own, whose list of sockets has
//! no others (unix(7)).

use std::fs::File;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use crate::looking::status;
use crate::router::{Router, command, fails, install, ok, text};

/// Runs a test in a network namespace of its own, which what it starts is in, too.
fn alone(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        test();
    });
    thread.join().expect("the test");
}

fn run(arguments: &[&str]) -> Output {
    command().args(arguments).output().expect("the command starts")
}

/// A router with this device.
fn router(device: &str) -> Router {
    let mut status = status();
    status.device = device.to_owned();
    Router::with(&status)
}

#[test]
fn no_router_is_said_with_what_to_check() {
    alone(|| {
        let error = fails(&run(&["status"]), 4);
        assert!(error.contains("no router was found") && error.contains("tuntap-router-control"), "{error}");
        let error = fails(&run(&["status", "--control", "emperor0"]), 4);
        assert!(error.contains("no router with the device emperor0 was found"), "{error}");
        let error = fails(&run(&["status", "--control", "/nowhere/socket"]), 4);
        assert!(error.contains("/nowhere/socket: can't connect: No such file"), "{error}");
    });
}

#[test]
fn only_router_is_used() {
    alone(|| {
        let router = router("emperor0");
        // A socket of another program, a silent one, and one that isn't named like a router's.
        let other = Router::new(|_| b"220 mail ESMTP\r\n".to_vec());
        let others_folder = other.folder().join("sockets");
        std::fs::create_dir(&others_folder).expect("own folder");
        let _unnamed = UnixListener::bind(others_folder.join("unnamed")).expect("a socket");
        let output = run(&["status"]);
        assert!(text(&output.stdout).starts_with("device      emperor0\n"), "{}", text(&output.stderr));
        let output = command().arg("status").env("UWSGI_TUNTAP_CONTROL", "").output().expect("the command starts");
        assert_eq!(output.status.code(), Some(0), "an empty variable names none");
        assert_eq!(router.requests().len(), 4, "a look and a request each");
        drop(router);
    });
}

#[test]
fn several_routers_are_told_and_chosen_by_device_or_path() {
    alone(|| {
        let routers = [router("emperor0"), router("emperor1")];
        let error = fails(&run(&["rules", "list"]), 4);
        assert!(error.contains("choose one with --control DEVICE"), "{error}");
        for (router, device) in routers.iter().zip(["emperor0", "emperor1"]) {
            let path = router.socket.to_str().expect("UTF-8");
            assert!(error.contains(&format!("\n  {device}  {path}\n")), "{error}");
            for name in [device, path] {
                let output = run(&["status", "--control", name]);
                assert!(text(&output.stdout).contains(device), "{name}: {}", text(&output.stderr));
            }
        }
        let error = fails(&run(&["status", "--control", "emperor2"]), 4);
        assert!(error.contains("the device emperor2 was found") && error.contains("; there are emperor"), "{error}");
    });
}

/// Who reads a report must not take the routers in it for all of them.
#[test]
fn report_says_how_many_routers_it_lacks() {
    alone(|| {
        let _routers: Vec<_> = (0..9).map(|number| router(&format!("emperor{number}"))).collect();
        let output = run(&["support", "--uwsgi", "true", "--output", "-"]);
        let told = text(&output.stderr);
        assert!(told.contains("routers: only the first 8 of 9 are in it: --control names another"), "{told}");
    });
}

#[test]
fn router_that_refuses_its_status_is_one() {
    alone(|| {
        let _router = Router::refusing(json!({ "code": "denied", "message": "uid 1000 may not look" }));
        let error = fails(&run(&["rules", "list"]), 1);
        assert_eq!(error, "uwsgi-tuntap: the router refuses: uid 1000 may not look\n");
    });
}

/// A router closes the connection of somebody who may do nothing. The reason is told, not that the connection is closed.
#[test]
fn refusal_of_a_router_that_was_found_is_told() {
    alone(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("router.control")).expect("a socket");
        thread::spawn(move || {
            for client in listener.incoming() {
                let refusal = b"{\"id\":null,\"error\":{\"code\":\"denied\",\"message\":\"uid 7 may not look\"}}\n";
                std::io::Write::write_all(&mut client.expect("a client"), refusal).expect("it waits");
            }
        });
        for _ in 0..10 {
            let error = fails(&run(&["rules", "list"]), 1);
            assert_eq!(error, "uwsgi-tuntap: the router refuses: uid 7 may not look\n");
        }
    });
}

#[test]
fn abstract_names_are_found() {
    alone(|| {
        let name = b"tuntap.control\0";
        let address = SocketAddr::from_abstract_name(name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a client");
                let mut requests = std::io::BufReader::new(&client);
                let mut request = String::new();
                while std::io::BufRead::read_line(&mut requests, &mut request).is_ok_and(|len| len > 0) {
                    let request: Value = serde_json::from_str(&std::mem::take(&mut request)).expect("JSON");
                    let answer = ok(&request, &json!(status()));
                    std::io::Write::write_all(&mut &client, &answer).expect("it waits");
                }
            }
        });
        for arguments in [&["status"][..], &["status", "--control", "@tuntap.control"]] {
            let output = run(arguments);
            assert!(text(&output.stdout).starts_with("device      emperor0\n"), "{}", text(&output.stderr));
        }
    });
}

/// Somebody else's socket must not be taken for a router, who could show root what he likes.
#[test]
fn sockets_of_other_users_are_left_out() {
    const LISTEN: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\ns.listen()\n\
                          print(flush=True)\nsys.stdin.read()";
    alone(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fake.control");
        nix::unistd::chown(folder.path(), Some(65_534.into()), None).expect("needs root");
        let mut fake = Command::new("python3");
        fake.args([Path::new("-c"), Path::new(LISTEN), &path]).uid(65_534).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut fake = fake.spawn().expect("python3");
        let mut line = [0];
        std::io::Read::read_exact(fake.stdout.as_mut().expect("a pipe"), &mut line).expect("it listens");
        let error = fails(&run(&["status"]), 4);
        assert!(error.contains("fake.control: it is uid 65534's, neither root's nor yours"), "{error}");
        drop(fake.stdin.take());
        fake.wait().expect("it ends");
    });
}

#[test]
fn socket_that_may_not_be_opened_is_told() {
    alone(|| {
        let _router = router("emperor0");
        let copy = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(copy.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("own folder");
        // The folder of the build may not be everybody's to look into.
        let program = copy.path().join("uwsgi-tuntap");
        install(&program, File::open(command().get_program()).expect("the command"));
        let output = Command::new(program).arg("status").uid(65_534).output().expect("the command starts");
        let error = fails(&output, 4);
        assert!(error.contains("left out: ") && error.contains("router.control: Permission denied"), "{error}");
    });
}
