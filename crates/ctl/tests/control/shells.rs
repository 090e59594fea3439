//! What shells, man(1) and uWSGI get of the command.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::router::{command, content, install, text};

fn shown(arguments: &[&str]) -> String {
    let output = command().args(arguments).output().expect("the command starts");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn completions_can_be_read_by_their_shells() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let script = shown(&["completions", shell]);
        for word in ["rules", "confirm", "doctor", "control"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let file = folder.path().join(shell);
        std::fs::write(&file, script).expect("own folder");
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(output.status.success(), "{shell}: {}", text(&output.stderr)),
            // Only bash is everywhere.
            Err(error) => assert!(shell != "bash" && error.kind() == std::io::ErrorKind::NotFound, "{shell}: {error}"),
        }
    }
}

#[test]
fn man_pages_are_those_of_the_repository() {
    for (words, page) in [
        (&["man"][..], include_str!("../../../../docs/man/uwsgi-tuntap.1")),
        (&["man", "options"], include_str!("../../../../docs/man/uwsgi-tuntap-options.5")),
        (&["man", "rules"], include_str!("../../../../docs/man/uwsgi-tuntap-rules.5")),
    ] {
        assert_eq!(shown(words), page);
    }
}

/// A uWSGI that tells its arguments and ends with 1, as the doctor does if something is wrong.
#[test]
fn doctor_is_uwsgis() {
    let folder = tempfile::tempdir().expect("a folder");
    let uwsgi = folder.path().join("uwsgi");
    install(&uwsgi, content("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 1\n"));
    let uwsgi = uwsgi.to_str().expect("UTF-8");
    let doctor = |arguments: &[&str]| command().arg("doctor").args(arguments).output().expect("the command starts");

    let output = doctor(&["--uwsgi", uwsgi, "--plugins-dir", "/plugins", "/etc/emperor.ini", "app.ini"]);
    let wanted =
        "--plugins-dir\n/plugins\n--plugin\ntuntap\n--tuntap-doctor\n/etc/emperor.ini\n--tuntap-doctor\napp.ini\n";
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), (wanted, Some(1)));

    let output = doctor(&["--uwsgi", "/nowhere/uwsgi", "--plugins-dir", "/plugins", "app.ini"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("/nowhere/uwsgi: No such file"), "{}", text(&output.stderr));

    // As `make install` lays them out, and as Debian's package does, beside the C plugin.
    let bin = folder.path().join("bin");
    let plugins = folder.path().join("lib/uwsgi/plugins");
    let packaged = folder.path().join("lib/uwsgi/tuntap-rs");
    for folder in [&bin, &plugins, &packaged] {
        std::fs::create_dir_all(folder).expect("own folder");
    }
    let installed = bin.join("uwsgi-tuntap");
    install(&installed, File::open(command().get_program()).expect("the command"));
    let run = || Command::new(&installed).args(["doctor", "--uwsgi", uwsgi, "app.ini"]).output().expect("it starts");
    let output = run();
    assert_eq!(output.status.code(), Some(5));
    assert!(text(&output.stderr).contains("name its folder with --plugins-dir"), "{}", text(&output.stderr));
    for plugins in [plugins, packaged] {
        std::fs::write(plugins.join("tuntap_plugin.so"), "").expect("own folder");
        let shown = text(&run().stdout);
        let end = plugins.strip_prefix(folder.path()).expect("it is in there");
        assert!(shown.lines().nth(1).is_some_and(|folder| Path::new(folder).ends_with(end)), "{shown}");
    }
}
