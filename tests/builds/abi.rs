//! A plugin for one host, loaded by the other.

use std::ffi::OsStr;

use crate::common::host::{Host, Subject};
use crate::common::instance::Instance;
use crate::common::netns::Netns;

#[track_caller]
fn assert_refused(built_for: Host, loaded_by: Host) {
    let directory = tempfile::tempdir().expect("a folder for the log");
    let plugin = built_for.plugin(Subject::Ours);
    let folder = plugin.parent().expect("a file is in a folder");
    let arguments = ["--plugins-dir", "--plugin", "tuntap", "--master", "--socket", "127.0.0.1:3031"].map(OsStr::new);
    let uwsgi = loaded_by.uwsgi();
    let mut program = vec![uwsgi.as_os_str(), arguments[0], folder.as_os_str()];
    program.extend(&arguments[1..]);
    let netns = Netns::new();
    let mut instance = Instance::start(&netns, &program, directory.path());
    let code = instance.wait_for_exit();
    let text = instance.log.text();
    assert_eq!(code, Some(1), "an exit, not a signal:\n{text}");
    let line = text.lines().find(|line| line.contains("tuntap") && line.contains("refused")).unwrap_or_default();
    for host in [built_for, loaded_by] {
        assert!(line.contains(&host.version()), "the message names {}:\n{text}", host.version());
    }
}

#[test]
fn plugin_for_the_distributions_uwsgi_is_refused_by_pypis() {
    assert_refused(Host::Distribution, Host::Pypi);
}

#[test]
fn plugin_for_pypis_uwsgi_is_refused_by_the_distributions() {
    assert_refused(Host::Pypi, Host::Distribution);
}
