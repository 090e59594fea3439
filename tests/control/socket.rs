//! The socket's file, and who finds it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::client::{Client, connect, socket};
use crate::common::emperor::Emperor;
use crate::common::wait;
use crate::world::{emperor, reload, with_access};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn device(emperor: &Emperor) -> String {
    Client::root(emperor).ok(&json!({"verb": "status"}))["device"].as_str().expect("a name").to_owned()
}

#[test]
fn socket_is_beside_the_routers_own_for_root_alone() {
    let mut emperor = emperor().line("chmod-socket = 666").start();
    let path = socket(&emperor);
    let found = fs::metadata(&path).expect("it is there");
    assert!(found.file_type().is_socket());
    assert_eq!((mode(&path), found.uid()), (0o600, 0));
    assert_eq!(device(&emperor), "emperor0");
    // A dead router's socket is that of the next one.
    emperor.kill_router();
    assert_eq!(device(&emperor), "emperor0");
    reload(&emperor);
    assert_eq!((device(&emperor).as_str(), mode(&path)), ("emperor0", 0o600));
    emperor.signal(Signal::SIGINT);
    assert!(emperor.wait_for_exit().success() || emperor.exit_status().is_some());
    wait::until_true("its file is removed", wait::LONG, || !path.exists());
}

#[test]
fn socket_is_where_the_options_say_and_belongs_to_whom_they_say() {
    let emperor = with_access().line("chown-socket = 30001:30001").line("tuntap-router-control = {dir}/c.sock").start();
    let path = emperor.path("c.sock");
    let found = fs::metadata(&path).expect("it is there");
    assert_eq!((mode(&path), found.uid(), found.gid()), (0o666, 30_001, 30_001));
    assert!(!socket(&emperor).exists());
    let mut client = Client::over(connect(&emperor.netns, &path, 0).expect("it listens"));
    assert_eq!(client.ok(&json!({"verb": "status"}))["level"], "admin");
}

#[test]
fn there_may_be_no_socket() {
    let emperor = emperor().line("tuntap-router-control = off").start();
    assert!(!socket(&emperor).exists());
    assert!(!emperor.log.text().contains("taking requests"));
}

#[test]
fn socket_that_a_dead_process_left_is_replaced() {
    let emperor = emperor()
        .before("python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).bind(\"t.sock.control\")'")
        .start();
    assert_eq!(device(&emperor), "emperor0");
}

/// A router whose options don't name the socket starts without it.
#[test]
fn usual_socket_that_cannot_be_is_one_line() {
    let emperor = emperor().before("mkdir t.sock.control").start();
    emperor.log.wait_for("emperor0: no requests can be taken on ", wait::SHORT);
    assert!(fs::metadata(socket(&emperor)).expect("it is there").is_dir());
}

#[test]
fn named_socket_that_cannot_be_ends_the_start() {
    for (path, part) in [("{dir}/missing/c.sock", "No such file or directory"), ("{dir}/vassals", "no socket")] {
        let mut emperor = emperor().line(format!("tuntap-router-control = {path}")).launch();
        assert!(!emperor.wait_for_exit().success());
        let line = emperor.log.text().lines().find(|line| line.contains("control socket ")).map(str::to_owned);
        assert!(line.as_ref().is_some_and(|line| line.contains(part)), "{line:?}");
    }
}

/// Somebody else's socket is left alone.
#[test]
fn socket_on_which_another_process_listens_is_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c.sock");
    let _other = UnixListener::bind(&path).expect("bind");
    let mut emperor = emperor().line(format!("tuntap-router-control = {}", path.display())).launch();
    assert!(!emperor.wait_for_exit().success());
    assert!(emperor.log.text().contains("listens there already"), "{}", emperor.log.tail());
    assert!(path.exists());
}
