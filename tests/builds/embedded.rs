//! uWSGI binaries with the plugin inside, built from uWSGI's sources.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::common::uwsgi::Uwsgi;
use crate::repository::{QUICK_C, building, check_out, command, quick, root, run};
use crate::routing::assert_routes_by_itself;
use crate::sources::{profile, sources};

const EMBED: &str = "UWSGI_EMBED_PLUGINS";

/// What makes uWSGI embed the plugin, by the path of the repository.
pub fn by_path() -> OsString {
    format!("tuntap={}", root().display()).into()
}

/// Builds a uWSGI binary with plugins inside.
pub fn make(sources: &Path, embed: &OsString) -> PathBuf {
    let _building = building();
    run(command("make")
        .arg(format!("PROFILE={}", profile().display()))
        .arg("PYTHON=/usr/bin/python3")
        .env(EMBED, embed)
        .envs(quick())
        .envs([QUICK_C])
        .current_dir(sources));
    sources.join("uwsgi")
}

#[test]
fn binary_with_the_plugin_from_elsewhere_routes() {
    let directory = tempfile::tempdir().expect("a folder for uWSGI");
    let sources = sources(directory.path());
    assert_routes_by_itself(&make(&sources, &by_path()));
}

#[test]
fn binary_with_the_plugin_in_place_of_uwsgis_own_routes() {
    let directory = tempfile::tempdir().expect("a folder for uWSGI");
    let sources = sources(directory.path());
    let plugin = sources.join("plugins/tuntap");
    std::fs::remove_dir_all(&plugin).expect("uWSGI has a plugin of this name");
    check_out(&plugin);
    assert_routes_by_itself(&make(&sources, &"tuntap".into()));
}

#[test]
fn binary_that_pip_installs_routes() {
    let directory = tempfile::tempdir().expect("a folder for uWSGI");
    let environment = directory.path().join("venv");
    // pip and setuptools are Debian's; nothing is fetched.
    run(command("/usr/bin/python3").args(["-m", "venv", "--system-site-packages", "--without-pip"]).arg(&environment));
    {
        let _building = building();
        run(command(environment.join("bin/python"))
            .args(["-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps", "--no-cache-dir"])
            .arg("--no-build-isolation")
            .arg(Uwsgi::Pypi.sdist())
            .env(EMBED, by_path())
            .envs(quick())
            .envs([QUICK_C])
            .env("UWSGI_PROFILE", profile()));
    }
    assert_routes_by_itself(&environment.join("bin/uwsgi"));
}
