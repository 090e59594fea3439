//! What `make UWSGI_BIN=...` says about binaries that could never load the plugin, before anything is built.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::uwsgi::Uwsgi;
use crate::repository::{QUICK_C, building, command, make, quick, run};
use crate::sources::{profile, sources};

/// Fails unless `make` refuses the binary in one line that names it, and says what to do.
#[track_caller]
fn assert_refused(binary: &Path, reason: &str) {
    let directory = tempfile::tempdir().expect("a folder for no plugin");
    let output = make()
        .arg(format!("UWSGI_BIN={}", binary.display()))
        .arg(format!("DIST={}", directory.path().display()))
        .output()
        .expect("timeout can be started");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    let named = |line: &str| line.contains(&binary.display().to_string()) && line.contains(reason);
    assert_eq!(said.lines().filter(|line| named(line)).count(), 1, "{reason}:\n{said}");
    assert!(said.contains("make UWSGI_BIN="), "what to do:\n{said}");
    assert!(!said.contains("Compiling") && !said.contains("rustc"), "nothing is built before:\n{said}");
}

/// Writes it by install(1): a process that another test starts meanwhile must not inherit a descriptor to write it, or it can't
/// be executed ("Text file busy").
fn program(directory: &Path, name: &str, text: &str) -> PathBuf {
    let (source, path) = (directory.join(format!("{name}.source")), directory.join(name));
    std::fs::write(&source, text).expect("own folder");
    let status = Command::new("install").args(["-m", "755"]).args([&source, &path]).status();
    assert!(status.expect("install(1)").success(), "{}", path.display());
    path
}

/// In a module of Python, uWSGI's symbols are out of a plugin's reach.
#[test]
fn pyuwsgi_is_refused() {
    let directory = tempfile::tempdir().expect("a folder for uWSGI");
    let sources = sources(directory.path());
    let profile_text = std::fs::read_to_string(profile()).expect("a file of ours");
    let with_pyuwsgi = directory.path().join("profile.ini");
    std::fs::write(&with_pyuwsgi, profile_text.replace("embedded_plugins =", "embedded_plugins = pyuwsgi"))
        .expect("own folder");
    {
        let _building = building();
        run(command("/usr/bin/python3")
            .args(["setup.pyuwsgi.py", "build_ext", "--inplace"])
            .env("UWSGI_PROFILE", &with_pyuwsgi)
            .envs([QUICK_C])
            .current_dir(&sources));
    }
    let script = program(
        directory.path(),
        "pyuwsgi",
        &format!(
            "#!/usr/bin/python3\nimport sys\nsys.path.insert(0, '{}')\nimport pyuwsgi\npyuwsgi.run()\n",
            sources.display()
        ),
    );
    let version = run(command(&script).arg("--version"));
    assert_eq!(version.trim(), Uwsgi::Pypi.version(), "the script starts uWSGI");
    assert_refused(&script, "can't load plugins");
}

#[test]
fn static_uwsgi_is_refused() {
    let directory = tempfile::tempdir().expect("a folder for uWSGI");
    let sources = sources(directory.path());
    {
        let _building = building();
        run(command("make")
            .arg(format!("PROFILE={}", profile().display()))
            .arg("PYTHON=/usr/bin/python3")
            .env("LDFLAGS", "-static")
            .envs([QUICK_C])
            .current_dir(&sources));
    }
    let binary = sources.join("uwsgi");
    assert_eq!(run(command(&binary).arg("--version")).trim(), Uwsgi::Pypi.version());
    assert_refused(&binary, "can't load plugins");
}

#[test]
fn programs_of_other_kinds_are_refused() {
    let directory = tempfile::tempdir().expect("a folder for programs");
    assert_refused(Path::new("/bin/true"), "is no uWSGI");
    assert_refused(Path::new("/bin/ls"), "is no uWSGI");
    assert_refused(&program(directory.path(), "script", "#!/usr/bin/python3\nprint('-DUWSGI')\n"), "is no uWSGI");
    assert_refused(&program(directory.path(), "garbage", "\u{7f}ELF and nothing more"), "is no uWSGI");
    let file = program(directory.path(), "file", "");
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("own file");
    assert_refused(&file, "is not an executable");
    assert_refused(directory.path(), "is not an executable");
    let without_a_header =
        format!("#!/bin/sh\n[ $1 != --dot-h ] && exec '{}' \"$@\"\n", Uwsgi::usual().binary().display());
    assert_refused(&program(directory.path(), "headless", &without_a_header), "--dot-h");
}

/// `make` gives the program no input, and ends it after a while.
#[test]
fn program_that_does_not_end_is_refused() {
    let directory = tempfile::tempdir().expect("a folder for a program");
    assert_refused(&program(directory.path(), "waits", "#!/bin/sh\nexec sleep 1000\n"), "is no uWSGI");
}

/// The uWSGI that the script starts can load the plugin.
#[test]
fn script_that_starts_a_uwsgi_is_taken() {
    let directory = tempfile::tempdir().expect("a folder for a script");
    let uwsgi = Uwsgi::usual().binary();
    let script = program(directory.path(), "wrapped", &format!("#!/bin/sh\nexec '{}' \"$@\"\n", uwsgi.display()));
    let said = {
        let _building = building();
        run(make()
            .arg("plugin")
            .arg(format!("UWSGI_BIN={}", script.display()))
            .arg(format!("DIST={}", directory.path().join("dist").display()))
            .envs(quick()))
    };
    assert!(said.contains(&script.display().to_string()) && directory.path().join("dist/tuntap_plugin.so").exists());
}
