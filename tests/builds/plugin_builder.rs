//! `uwsgi --build-plugin <repository>`.

use std::path::{Path, PathBuf};

use crate::common::uwsgi::Uwsgi;
use crate::repository::{building, command, quick, root, run};
use crate::routing::{PluginFile, assert_routes_with};

/// uWSGI leaves the plugin in the working directory.
fn build(argument: &str, directory: &Path, name: &str) -> PathBuf {
    let _building = building();
    run(command(Uwsgi::usual().binary())
        .args(["--build-plugin", argument])
        .envs(quick())
        .env("PYTHON", "/usr/bin/python3")
        .current_dir(directory));
    directory.join(format!("{name}_plugin.so"))
}

#[test]
fn plugin_that_uwsgi_builds_routes() {
    let directory = tempfile::tempdir().expect("a folder for the plugin");
    let folder = root();
    let plugin = build(&folder.to_string_lossy(), directory.path(), "tuntap");
    assert_routes_with(&Uwsgi::usual().binary(), &PluginFile { path: &plugin, name: "tuntap" });
    let renamed = build(&format!("{} other", folder.display()), directory.path(), "other");
    assert_routes_with(&Uwsgi::usual().binary(), &PluginFile { path: &renamed, name: "other" });
}
