//! Where an instance of uWSGI logs to: files that its master has open, and the journal of its unit. Nobody has to know that to
//! report a fault.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;

/// Most descriptors of a process that are looked at.
const MAX_FDS: usize = 10_000;

/// Standard output and standard error, which are a log however they were opened.
const STANDARD_FDS: [&str; 2] = ["1", "2"];

/// A log that a process writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLog {
    /// The descriptor, as a path in /proc: the file may have no name here, or another one.
    pub fd: PathBuf,
    /// Its name, as the kernel tells it.
    pub name: PathBuf,
}

/// The regular files that a process appends to, or has as its standard output or standard error, each once. With `log-master`, the
/// standard error leads to the master itself, which has the log open besides.
pub fn files_of(pid: i32) -> Vec<HeldLog> {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for fd in fds.take(MAX_FDS).filter_map(Result::ok) {
        let (path, number) = (fd.path(), fd.file_name());
        let is_standard = STANDARD_FDS.iter().any(|standard| number == *standard);
        let Ok(stat) = fs::metadata(&path) else { continue };
        if !stat.is_file() || !is_written(pid, &number.to_string_lossy(), is_standard) {
            continue;
        }
        let Ok(name) = fs::read_link(&path) else { continue };
        let file = (stat.dev(), stat.ino());
        if !seen.contains(&file) {
            seen.push(file);
            found.push(HeldLog { fd: path, name });
        }
    }
    // The order in a folder of /proc is that of the numbers, but nothing says so.
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// Returns true for a descriptor that logs are written by: open for writing, and at the end of the file unless it is a standard one.
fn is_written(pid: i32, number: &str, is_standard: bool) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).map(OFlag::from_bits_retain);
    flags.is_some_and(|flags| {
        let is_for_reading = flags & OFlag::O_ACCMODE == OFlag::O_RDONLY;
        !is_for_reading && (is_standard || flags.contains(OFlag::O_APPEND))
    })
}

/// The unit of systemd that a process belongs to, of the system's own manager.
pub fn unit_of(pid: i32) -> Option<String> {
    unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// The last service in a process's list of cgroups (cgroups(7)): `0::/system.slice/uwsgi.service/below`. What the manager of a user
/// has started is in another journal.
fn unit_in(cgroups: &str) -> Option<String> {
    cgroups.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_systemds = number == "0" || controllers == "name=systemd";
        let names = || path.split('/');
        let is_users = names().any(|name| name.starts_with("user@"));
        names().rfind(|name| name.ends_with(".service")).filter(|_| is_systemds && !is_users).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[test]
    fn files_that_a_process_appends_to_are_its_logs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let append = |name: &str| OpenOptions::new().create(true).append(true).open(path(name)).expect("own folder");
        let mut log = append("log");
        let _twice = append("log");
        let _other = fs::write(path("data"), "x").and_then(|()| OpenOptions::new().write(true).open(path("data")));
        let _read = fs::File::open(path("data")).expect("own folder");
        log.write_all(b"line").expect("own file");
        let own = i32::try_from(std::process::id()).expect("a pid");
        let found: Vec<_> = files_of(own).into_iter().filter(|log| log.name.starts_with(folder.path())).collect();
        assert_eq!(found.iter().map(|log| &log.name).collect::<Vec<_>>(), [&path("log")]);
        // It is the file itself, not another one of that name.
        fs::rename(path("log"), path("old")).and_then(|()| fs::write(path("log"), "another")).expect("own folder");
        assert_eq!(fs::read(&found[0].fd).expect("it is open"), b"line");
        assert!(files_of(0).is_empty() && unit_of(0).is_none());
    }

    #[test]
    fn unit_is_the_innermost_service_of_the_system() {
        for (cgroups, unit) in [
            ("0::/system.slice/uwsgi-emperor.service\n", Some("uwsgi-emperor.service")),
            ("0::/system.slice/system-uwsgi.slice/uwsgi@a.service/vassals/one\n", Some("uwsgi@a.service")),
            ("12:cpu:/x.service\n1:name=systemd:/system.slice/uwsgi.service\n", Some("uwsgi.service")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n", None),
            ("0::/user.slice/user-0.slice/session-3.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit_in(cgroups).as_deref(), unit, "{cgroups}");
        }
    }
}
