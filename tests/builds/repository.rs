//! The repository as its users have it, and the commands that they run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use parking_lot::{Mutex, MutexGuard};

/// Cargo, its target folders and uWSGI's compilers take both cores, so builds run one after another.
static BUILDS: Mutex<()> = Mutex::new(());

/// Seconds for any one command.
const LIMIT: &str = "600";

pub fn root() -> PathBuf {
    std::env::var_os("TUNTAP_REPOSITORY").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// To be held while something is built.
pub fn building() -> MutexGuard<'static, ()> {
    BUILDS.lock()
}

/// A program with a time limit.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", LIMIT]).arg(program);
    command
}

/// A profile for builds that only have to show that the plugin compiles, links, loads and routes: the release profile
/// optimizes the whole program at each of them. scripts/prepare-uwsgi has the same one, and has compiled most of it.
pub fn quick() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("../../scripts/quick.env").lines().map(|line| line.split_once('=').expect("NAME=value"))
}

/// What a quick build of uWSGI itself adds to its compiler's flags.
pub const QUICK_C: (&str, &str) = ("CFLAGS", "-O0");

/// `make` in the repository.
pub fn make() -> Command {
    let mut command = command("make");
    command.arg("--no-print-directory").current_dir(root());
    command
}

/// Runs a command to its successful end; what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("timeout can be started");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Copies the files that belong to the repository, as a checkout would have them, and shares its build cache.
pub fn check_out(to: &Path) {
    let files = run(command("git").args(["ls-files", "-z"]).current_dir(root()));
    for file in files.split_terminator('\0') {
        let target = to.join(file);
        std::fs::create_dir_all(target.parent().expect("a file is in a folder")).expect("own folder");
        std::fs::copy(root().join(file), target).expect("own folder");
    }
    std::fs::create_dir_all(root().join("target")).expect("own folder");
    std::os::unix::fs::symlink(root().join("target"), to.join("target")).expect("own folder");
}
