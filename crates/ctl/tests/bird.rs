//! `uwsgi-tuntap bird-config`.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

fn bird_config(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uwsgi-tuntap"));
    command.arg("bird-config").args(arguments).output().expect("the command starts")
}

#[track_caller]
fn shown(arguments: &[&str]) -> String {
    let output = bird_config(arguments);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

/// BIRD takes the whole text as it is.
#[track_caller]
fn assert_parses(text: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bird.conf");
    std::fs::write(&path, text).expect("own folder");
    let bird = Command::new("bird").arg("-p").arg("-c").arg(&path).output();
    let output = bird.expect("bird can be started: scripts/setup test installs it");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn ini_file_says_most_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, "a secret\nmore\n").expect("own folder");
    std::fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("own file");
    let ini = folder.path().join("emperor.ini");
    let routes = format!("127.0.0.1:979 {} as=65001 neighbour-as=65000 hold=30", password.display());
    let text = format!(
        "[uwsgi]\nmaster = true\ntuntap-router = tun7 /run/s\ntuntap-router-address = 10.77.0.1/16\n\
         tuntap-router-address=fd00:77::1/64\n; tuntap-router-mtu = 1\ntuntap-router-routes = {routes}\n"
    );
    std::fs::write(&ini, text).expect("own folder");
    let ini = ini.to_str().expect("text");
    let text =
        shown(&["--router-id", "10.99.0.1", "--ini", ini, "--neighbour", "10.99.0.2", "--neighbour", "10.99.0.3,7"]);
    assert_has(
        &text,
        &[
            "router id 10.99.0.1;",
            "10.77.0.0/16{32,32}",
            "fd00:77::/64{128,128}",
            "neighbor 127.0.0.1 port 979 as 65001;",
            "as 65000;",
            "password \"a secret\";",
            "hold time 30;",
            "ifname = \"tun7\";",
            "neighbor 10.99.0.2 as 65000;",
            "neighbor 10.99.0.3 as 7;",
        ],
    );
    // The file alone is enough. Each host has another address, so BIRD finds its own.
    let text = shown(&["--ini", ini]);
    assert_has(&text, &["router id from -\"lo\", -\"tun7\", \"*\";", "neighbor 127.0.0.1 port 979 as 65001;"]);
    assert_parses(&text);
    let all = ["--router-id", "10.99.0.1", "--ini", ini, "--neighbour", "10.99.0.2", "--bfd"];
    assert_parses(&shown(&all));
    let other =
        shown(&["--router-id", "10.99.0.1", "--ini", ini, "--device", "tun7", "--as", "9", "--network", "10.1.0.0/24"]);
    assert_has(&other, &["10.1.0.0/24{32,32}", "local 127.0.0.1 as 9;"]);
    let failed = bird_config(&["--router-id", "10.99.0.1", "--ini", ini, "--device", "tun8"]);
    assert_eq!(failed.status.code().map(|code| code != 0), Some(true));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("there is no such tuntap-router"), "{failed:?}");
}

#[test]
fn arguments_alone_are_enough() {
    let all = [
        "--router-id",
        "10.99.0.1",
        "--listen",
        "[::1]:979",
        "--device",
        "emperor0",
        "--network",
        "fd00:77::/64",
        "--bfd",
    ];
    assert_has(&shown(&all), &["neighbor ::1 port 979 as 64513;", "protocol bfd", "fd00:77::/64{128,128}"]);
    let failed = bird_config(&all[..2]);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("name --listen"), "{failed:?}");
    let failed = bird_config(&[&all[..6], &["--password-file", "/nonexistent"]].concat());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("/nonexistent"), "{failed:?}");
}
