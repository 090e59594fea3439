//! Values that stop the start.

use crate::common::emperor::EmperorIni;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::world::{Keys, host, peer};

#[track_caller]
fn assert_refused(lines: &[String], expected: &str) {
    let ini = EmperorIni::new(Uwsgi::usual(), Subject::Ours);
    let ini = lines.iter().fold(ini, |ini, line| ini.line(line.clone()));
    let mut emperor = ini.launch();
    assert!(!emperor.wait_for_exit().success());
    let log = emperor.log.text();
    assert!(log.contains(expected), "{expected}: {log}");
}

#[test]
fn own_key_is_no_neighbours() {
    let keys = Keys::new();
    let own = peer(&keys, 1, "10.0.0.0/8", "192.0.2.1:4000");
    assert_refused(&[format!("tuntap-router-key = {}", keys.file(1)), own], "this is the router's own key");
}

#[test]
fn key_file_that_others_may_read_is_refused() {
    let keys = Keys::new();
    keys.public(1);
    std::fs::set_permissions(keys.file(1), std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("own file");
    let other = peer(&keys, 2, "10.0.0.0/8", "192.0.2.1:4000");
    assert_refused(&[format!("tuntap-router-key = {}", keys.file(1)), other], "has mode 0644: others may open it");
}

#[test]
fn address_of_another_host_cannot_be_waited_at() {
    let keys = Keys::new();
    keys.public(1);
    let lines = [
        format!("tuntap-router-key = {}", keys.file(1)),
        peer(&keys, 2, "10.0.0.0/8", ""),
        format!("tuntap-router-trunk = {}:4000", host(9)),
    ];
    assert_refused(&lines, "tuntap-router-trunk 10.99.0.9:4000: ");
}

#[test]
fn wrong_words_stop_the_start() {
    let keys = Keys::new();
    for (line, expected) in [
        ("tuntap-router-trunk = 192.0.2.1".to_owned(), "is no address for trunks"),
        ("tuntap-router-trunk-peer = AAAA= 10.0.0.0/8 192.0.2.1:1".to_owned(), "is no public key of a router"),
        (peer(&keys, 2, "10.0.0.1/8", "192.0.2.1:1"), "10.0.0.1/8"),
        (peer(&keys, 2, "10.0.0.0/8", ""), "nobody could connect"),
        (format!("{0}\n{0}", peer(&keys, 2, "10.0.0.0/8", "192.0.2.1:1")), "is there twice"),
    ] {
        assert_refused(&[line], expected);
    }
}
