//! uWSGI's own sources, for tests that build it in some way.

use std::path::{Path, PathBuf};

use crate::common::uwsgi::Uwsgi;
use crate::repository::{command, root, run};

/// A build profile with hardly any plugins.
pub fn profile() -> PathBuf {
    root().join("tests/builds/small.ini")
}

/// A copy of uWSGI's sources, in which nothing has been built.
pub fn sources(parent: &Path) -> PathBuf {
    let (from, to) = (Uwsgi::Pypi.sources(), parent.join("uwsgi"));
    run(command("cp").arg("-a").args([&from, &to]));
    to
}
