//! Values that stop the start.

use crate::world::emperor;

#[track_caller]
fn assert_refused(line: &str, reason: &str) {
    let mut emperor = emperor().line(line).launch();
    assert!(!emperor.wait_for_exit().success(), "`{line}`");
    let log = emperor.log.text();
    assert!(log.lines().any(|logged| logged.contains(line) && logged.contains(reason)), "`{line}`:\n{log}");
}

#[test]
fn values_that_can_not_be_read_stop_the_start() {
    assert_refused("tuntap-router-lease = 192.168.0.2/24 nobody", "expected 192.168.0.0/24 or 192.168.0.2/32");
    assert_refused("tuntap-router-lease-default = deyn", "expected allow or deny");
    assert_refused("tuntap-router-device-route = somewhere", "expected any, a.b.c.d");
    assert_refused("tuntap-router-gateway-allow = 10.77.0.2:4000", "is no address or prefix");
}
