//! Options that don't go together stop the start.

use crate::common::emperor::EmperorIni;
use crate::common::uwsgi::{Subject, Uwsgi};

fn refused(lines: &[&str], because: &str) {
    let mut instance = EmperorIni::bare(Uwsgi::usual(), Subject::Ours).lines(lines).launch();
    let status = instance.wait_for_exit();
    assert!(!status.success(), "{lines:?}");
    assert!(instance.log.text().contains(because), "{lines:?}: {}", instance.log.tail());
}

#[test]
fn contradictions_stop_the_start() {
    let device = "tuntap-device = uwsgi0 /run/t.socket";
    refused(&["tuntap-device = uwsgi0 /run/t.socket auto", "tuntap-device-address = 10.0.0.5/24"], "with auto");
    refused(&["tuntap-device-address = 10.0.0.5/24"], "there is no tuntap-device here");
    refused(&[device, "tuntap-device-gateway = 10.0.0.1"], "expected a tuntap-device-address of the same family");
    refused(&[device, "tuntap-device-dns = true"], "expected a device that asks its router");
    refused(&[device, "tuntap-device-address = uwsgi1 10.0.0.5/24"], "there is no tuntap-device \"uwsgi1\"");
    refused(&["tuntap-device = uwsgi0 auto"], "a socket before auto");
}
