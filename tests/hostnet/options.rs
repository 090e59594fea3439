//! Values that stop the start.

use crate::common::emperor::EmperorIni;
use crate::common::uwsgi::{Subject, Uwsgi};

#[track_caller]
fn assert_refused(lines: &[&str], reason: &str) {
    let ini = EmperorIni::new(Uwsgi::usual(), Subject::Ours).router("").line("tuntap-router = emperor0 {dir}/t.sock");
    let mut emperor = ini.lines(lines).launch();
    assert!(!emperor.wait_for_exit().success());
    assert!(emperor.log.text().contains(reason), "{reason} in {}", emperor.log.text());
}

#[test]
fn mapping_to_nowhere_stops_the_start() {
    let lines = ["tuntap-router-address = 10.0.0.1/24", "tuntap-router-port = tcp 80 10.0.1.2:80"];
    assert_refused(&lines, "tuntap-router-port = tcp 80 10.0.1.2:80: 10.0.1.2 is in none of the router's networks");
}

/// The instance would set up one network, leave it, and look for it in another one.
#[test]
fn instance_that_leaves_the_hosts_network_stops_the_start() {
    let lines = ["tuntap-router-address = 10.0.0.1/24", "unshare = net"];
    assert_refused(&lines, "which unshare = net makes this instance leave");
}

/// uWSGI takes every name; the lines say what nobody reads.
#[test]
fn name_of_no_option_is_a_line() {
    let lines = ["tuntap-router-address = 10.0.0.1/24", "tuntap-router-firewal-out = deny", "tuntap-router-mtu = x"];
    assert_refused(
        &lines,
        "tuntap-router-firewal-out: there is no such option, and nobody reads it; is tuntap-router-firewall-out meant?",
    );
}
