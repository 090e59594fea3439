//! What stops the start, and says why.

use std::os::unix::fs::PermissionsExt;

use crate::common::wait;
use crate::world::{FEED, Secrets, emperor};

#[track_caller]
fn refuses(secrets: &Secrets, line: &str, reason: &str) {
    let emperor = emperor(secrets).line(line).launch();
    emperor.log.wait_for(reason, wait::LONG);
}

#[test]
fn password_and_key_have_to_be_safe() {
    let secrets = Secrets::new();
    let line = |name: &str| format!("tuntap-router-routes = {FEED} {}", secrets.path(name).display());
    refuses(&secrets, &line("missing"), "missing: No such file");
    secrets.write("empty", "");
    refuses(&secrets, &line("empty"), "its first line is empty");
    secrets.write("long", &"x".repeat(81));
    refuses(&secrets, &line("long"), "longer than 80 bytes");
    let open = secrets.write("open", "secret");
    std::fs::set_permissions(&open, PermissionsExt::from_mode(0o644)).expect("own file");
    refuses(&secrets, &line("open"), "has mode 0644");
    std::fs::write(secrets.path("key"), "nothing").expect("own folder");
    std::fs::set_permissions(secrets.path("key"), PermissionsExt::from_mode(0o600)).expect("own file");
    refuses(&secrets, &line("password"), "holds no private key");
}

#[test]
fn port_above_1023_is_warned_of() {
    let secrets = Secrets::new();
    let emperor = emperor(&secrets).line("tuntap-router-routes = 127.0.0.1:9790").start();
    emperor.log.wait_for("other users of this host can listen on a port above 1023", wait::SHORT);
}
