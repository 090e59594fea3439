//! `make`, `make install`, `make uninstall`.

use std::path::Path;

use crate::common::uwsgi::Uwsgi;
use crate::repository::{building, command, make, quick, run};
use crate::routing::{PluginFile, assert_routes_with, assert_routes_with_lines};

#[test]
fn make_builds_for_the_uwsgi_that_it_is_told() {
    let directory = tempfile::tempdir().expect("a folder for the plugin");
    let uwsgi = Uwsgi::Pypi;
    let said = {
        let _building = building();
        run(make().arg(set("DIST", directory.path())).arg(set("UWSGI_BIN", &uwsgi.binary())).envs(quick()))
    };
    let plugin = directory.path().join("tuntap_plugin.so");
    assert!(said.contains(&plugin.display().to_string()) && said.contains(&uwsgi.version()), "{said}");
    assert_routes_with(&uwsgi.binary(), &PluginFile { path: &plugin, name: "tuntap" });
}

#[test]
fn make_without_a_uwsgi_says_what_is_missing() {
    let output = make().arg("UWSGI_BIN=/nowhere/uwsgi").output().expect("timeout can be started");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/uwsgi"));
}

#[test]
fn installed_plugin_is_loaded_by_the_lines_that_are_printed() {
    let directory = tempfile::tempdir().expect("a folder for the plugin");
    let (dist, root) = (directory.path().join("dist"), directory.path().join("root"));
    let uwsgi = Uwsgi::usual();
    let arguments =
        [set("DIST", &dist), set("UWSGI_BIN", &uwsgi.binary()), set("DESTDIR", &root), "PREFIX=/usr/local".to_owned()];
    let said = {
        let _building = building();
        run(make().arg("install").args(&arguments).envs(quick()))
    };
    let prefix = root.join("usr/local");
    let plugin = prefix.join("lib/uwsgi/plugins/tuntap_plugin.so");
    for (file, words) in [
        ("include/uwsgi_tuntap.h", "uwsgi"),
        ("share/man/man1/uwsgi-tuntap.1", "rules list"),
        ("share/man/man5/uwsgi-tuntap-options.5", "ROUTERS"),
        ("share/man/man5/uwsgi-tuntap-rules.5", "chain <in|out|route|shape>"),
        ("share/bash-completion/completions/uwsgi-tuntap", "complete "),
        ("share/zsh/site-functions/_uwsgi-tuntap", "#compdef uwsgi-tuntap"),
        ("share/fish/vendor_completions.d/uwsgi-tuntap.fish", "complete -c uwsgi-tuntap"),
    ] {
        let text = std::fs::read_to_string(prefix.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(words), "{file}");
    }
    let options = run(command(prefix.join("bin/uwsgi-tuntap")).arg("options"));
    assert!(options.contains("tuntap-router = <device> <socket> [stats] [gateway]"), "{options}");
    // DESTDIR is where a package is put together; the lines are for the place where it will be unpacked.
    let lines: String = said
        .lines()
        .map(str::trim)
        .filter(|line| line.contains(" = "))
        .map(|line| line.replace("/usr/local", &prefix.display().to_string()) + "\n")
        .collect();
    assert_eq!(lines.lines().count(), 2, "{said}");
    assert_routes_with_lines(&uwsgi.binary(), &lines, &plugin);

    run(make().arg("uninstall").args(&arguments));
    assert_eq!(files_below(&root), 0, "nothing stays");
    assert!(!prefix.join("lib/uwsgi").exists());
}

#[test]
fn install_does_not_overwrite_the_packages_plugin() {
    let output = make().args(["install", "PREFIX=/usr"]).output().expect("timeout can be started");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("PREFIX"), "{error}");
}

fn set(variable: &str, path: &Path) -> String {
    format!("{variable}={}", path.display())
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).expect("own folder").map(|entry| entry.expect("own folder").path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}
