//! A plugin that was built for one uWSGI, loaded by another.

use crate::common::netns::Netns;
use crate::common::starter::Starter;
use crate::common::uwsgi::{Subject, Uwsgi};

#[track_caller]
fn assert_refused(built_for: Uwsgi, loaded_by: Uwsgi) {
    let directory = tempfile::tempdir().expect("a folder for the log");
    let plugin = built_for.plugin(Subject::Ours);
    let folder = plugin.parent().expect("a file is in a folder");
    let netns = Netns::new();
    let mut instance = Starter::program(loaded_by.binary(), directory.path())
        .netns(&netns)
        .argument("--plugins-dir")
        .argument(folder)
        .arguments(["--plugin", "tuntap", "--master", "--socket", "127.0.0.1:3031"])
        .start();
    let code = instance.wait_for_exit().code();
    let text = instance.log.text();
    assert_eq!(code, Some(1), "an exit, not a signal:\n{text}");
    let line = text.lines().find(|line| line.contains("tuntap") && line.contains("refused")).unwrap_or_default();
    for uwsgi in [built_for, loaded_by] {
        assert!(line.contains(&uwsgi.version()), "the message names {}:\n{text}", uwsgi.version());
    }
}

#[test]
fn plugin_for_the_distributions_uwsgi_is_refused_by_pypis() {
    assert_refused(Uwsgi::Distribution, Uwsgi::Pypi);
}

#[test]
fn plugin_for_pypis_uwsgi_is_refused_by_the_distributions() {
    assert_refused(Uwsgi::Pypi, Uwsgi::Distribution);
}
