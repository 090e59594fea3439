//! Starts a uWSGI process that reads a file and reports its options.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::reading::{Reading, Task};
use tuntap_sys::process::set_close_on_exec;

/// Longest time that uWSGI may take to read a file. It may wait for a lock (`flock-wait`) or a name server (`resolve`).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time between two looks at whether it has ended.
const INTERVAL: Duration = Duration::from_millis(5);

/// How many of the last lines of its output are shown if uWSGI gives up.
const LAST_LINES: usize = 4;

/// Variables that are meant for one process only. Another uWSGI that inherits them takes itself for a vassal, for a reloaded
/// instance, or for a service of systemd.
const NOT_TO_INHERIT: [&str; 5] =
    ["NOTIFY_SOCKET", "UWSGI_EMPEROR_FD", "UWSGI_EMPEROR_FD_CONFIG", "UWSGI_ORIGINAL_PROC_NAME", "UWSGI_RELOADS"];

/// Arguments of a uWSGI command line.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// Arguments before the file.
    pub before: Vec<String>,
    /// Arguments after the file.
    pub after: Vec<String>,
}

/// Reads a file as uWSGI would. If the file doesn't load this plugin, the command line loads `plugin`. The inner error is the
/// end of uWSGI's output if it gave up.
///
/// # Errors
/// No process can be started, or waited for.
pub fn read(file: &str, plugin: &Path, around: &Arguments) -> io::Result<Result<Reading, Vec<String>>> {
    let first = run(file, None, around)?;
    if first.is_ok() {
        return Ok(first);
    }
    let second = run(file, Some(plugin), around)?;
    Ok(second.or(first))
}

fn run(file: &str, stand_in: Option<&Path>, around: &Arguments) -> io::Result<Result<Reading, Vec<String>>> {
    let mut report = memory_file()?;
    let mut output = memory_file()?;
    set_close_on_exec(report.as_fd(), false)
        .map_err(|errno| named("fcntl, to hand a memory file over", &errno.into()))?;
    let task = Task { descriptor: report.as_raw_fd(), is_stand_in: stand_in.is_some() };
    let mut command = Command::new("/proc/self/exe");
    command.arg0(own_name()).env(Task::VARIABLE, task.render());
    NOT_TO_INHERIT.iter().for_each(|name| _ = command.env_remove(name));
    if let Some(plugin) = stand_in {
        command.arg("--plugin").arg(plugin);
    }
    // A block that the file leaves open (`if-env`, `for`) must not swallow the last option, without which uWSGI would start
    // the instance.
    command.args(&around.before).args([loader(file), file]).args(&around.after).arg("--endif");
    command.args(["--tuntap-doctor", file]);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let mut child = command.spawn().map_err(|error| named("starting /proc/self/exe, to read the file", &error))?;
    let status = wait(&mut child).map_err(|error| named("waiting for the uWSGI that reads the file", &error))?;
    let reading = contents(&mut report)?;
    if let (Some(true), Ok(reading)) = (status.map(|status| status.success()), serde_json::from_slice(&reading)) {
        return Ok(Ok(reading));
    }
    let said = String::from_utf8_lossy(&contents(&mut output)?).into_owned();
    let mut lines: Vec<String> = said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if status.is_none() {
        lines.push(format!("(nothing more within {} s)", TIMEOUT.as_secs()));
    }
    Ok(Err(lines.split_off(lines.len().saturating_sub(LAST_LINES))))
}

/// The option by which the Emperor has a vassal load its file.
fn loader(file: &str) -> &'static str {
    let path = file.split_once(".ini:").map_or(file, |(path, _)| &file[..path.len() + ".ini".len()]);
    match Path::new(path).extension().and_then(|extension| extension.to_str()) {
        Some("ini") => "--ini",
        Some("xml") => "--xml",
        Some("yml" | "yaml") => "--yaml",
        Some("js" | "json") => "--json",
        _ => "--config",
    }
}

/// The name that this process was started under. uWSGI may choose plugins by it.
fn own_name() -> OsString {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
    OsString::from_vec(if name.is_empty() { b"uwsgi".to_vec() } else { name.to_vec() })
}

fn memory_file() -> io::Result<File> {
    let made = memfd_create(c"uwsgi-tuntap-doctor", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from);
    made.map(File::from).map_err(|error| named("memfd_create, for what the other uWSGI says", &error))
}

/// Adds the step that has failed to an error. If root may not make a system call, a sandbox refuses it.
fn named(step: &str, error: &io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => {
            "; if this runs in a sandbox, as in a unit of systemd with SystemCallFilter or Restrict..., allow it there, or run \
             the doctor outside"
        }
        _ => "",
    };
    io::Error::new(error.kind(), format!("{step}: {error}{hint}"))
}

fn contents(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits for the end of a process. Returns `None` if it had to be killed.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_what_was_refused() {
        let refused = named("memfd_create", &io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(refused.starts_with("memfd_create: Operation not permitted") && refused.contains("SystemCallFilter"));
        let full = named("memfd_create", &io::Error::from_raw_os_error(libc::EMFILE)).to_string();
        assert!(!full.contains("sandbox"), "{full}");
    }

    #[test]
    fn files_are_loaded_as_the_emperor_loads_them() {
        for (file, option) in [
            ("/etc/app.ini", "--ini"),
            ("/etc/app.ini:other", "--ini"),
            ("app.yml", "--yaml"),
            ("app.yaml", "--yaml"),
            ("app.json", "--json"),
            ("app.xml", "--xml"),
            ("app.lua", "--config"),
        ] {
            assert_eq!(loader(file), option, "{file}");
        }
    }
}
