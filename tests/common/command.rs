//! The command `uwsgi-tuntap`, as a test of the whole workspace has built it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The command. If only this package's tests are built, it is built now; later it is the one that is there, as with the plugin.
pub fn uwsgi_tuntap() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(find_or_build).clone()
}

fn find_or_build() -> PathBuf {
    // Tests are in target/<profile>/deps, and the command is beside that folder.
    let test = std::env::current_exe().expect("a test has a file");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("a folder of cargo's");
    let path = profile.join("uwsgi-tuntap");
    if !path.exists() {
        let target = profile.parent().expect("a target directory");
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--locked", "--package", "tuntap-ctl", "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(built.expect("cargo").success() && path.exists(), "cargo build --package tuntap-ctl");
    }
    path
}
