//! `tuntap-doctor`: the uWSGI that the operator starts examines the files. For each file it starts another uWSGI, which reports
//! how it reads that file.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::guard::{die, guarded};
use super::options::{self, OPTIONS};
use super::uwsgi;
use tuntap_config::{Config, Credentials, OptionName};
use tuntap_doctor::{self, Reading, Task};
use tuntap_sys::process;

const NAME: &CStr = options::c_name(OptionName::Doctor);

/// The task of this process, if an examining uWSGI has started it.
static TASK: OnceLock<Task> = OnceLock::new();

/// The files to examine that uWSGI has passed so far.
static FILES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Reads the task of a uWSGI that was started only to read a file. Called when the plugin is loaded.
pub fn prepare() {
    let Ok(task) = process::take_variable(Task::VARIABLE) else { return };
    let task = Task::parse(&task).unwrap_or_else(|| die(format_args!("{} = {task}: not understood", Task::VARIABLE)));
    // What the file has uWSGI do at the end of an instance (vacuum, exec-atexit) must not affect one that runs.
    process::skip_exit_handlers();
    if task.is_stand_in {
        uwsgi::rename_plugin(OPTIONS.as_mut_ptr(), NAME);
    }
    let _ = TASK.set(task);
}

/// uWSGI's callback for the option: takes a file, and with the last one examines them all and ends.
pub unsafe extern "C" fn examine_file(_name: *mut c_char, value: *mut c_char, _data: *mut c_void) {
    guarded("tuntap-doctor", || {
        // SAFETY: the option has an argument, so that it is a NUL-terminated string.
        let file = unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned();
        if let Some(task) = TASK.get() {
            return tell(task, value);
        }
        let mut files = FILES.lock();
        files.push(file);
        let wanted = uwsgi::options().filter(|(key, _)| *key == NAME).count();
        if files.len() == wanted {
            let is_well = tuntap_doctor::examine(&files, &plugin_file(own_data()), &mut io::stdout().lock());
            process::exit_at_once(if is_well { 0 } else { 1 });
        }
    });
}

/// Reports how the file was read, once all of it was, and ends the process.
fn tell(task: &Task, value: *mut c_char) {
    // `inherit` adds options behind this one.
    if uwsgi::options().last().is_some_and(|(key, _)| key != NAME) {
        return uwsgi::add_option(NAME, value);
    }
    let values = options::values();
    let credentials = Config::from_options(
        values
            .iter()
            .filter(|(option, _)| *option == OptionName::UseCredentials)
            .map(|(option, value)| (*option, value.as_str())),
    );
    let symbol_is_missing = matches!(
        credentials.map(|config| config.credentials),
        Ok(Credentials::Symbol(symbol)) if uwsgi::credentials_hook(&symbol).is_none()
    );
    let reading = Reading {
        plugin: plugin_file(own_data()),
        other_plugin: uwsgi::other_plugin(c"tuntap", OPTIONS.as_mut_ptr()).map(plugin_file),
        is_stand_in: task.is_stand_in,
        values: values.into_iter().map(|(option, value)| (option.as_str().to_owned(), value)).collect(),
        options: uwsgi::options()
            .map(|(key, value)| {
                (key.to_string_lossy().into_owned(), value.unwrap_or_default().to_string_lossy().into_owned())
            })
            .collect(),
        symbol_is_missing,
    };
    let written = write(task.descriptor, &reading);
    process::exit_at_once(if written.is_ok() { 0 } else { 1 });
}

fn write(descriptor: RawFd, reading: &Reading) -> io::Result<()> {
    let descriptor = process::adopt_inherited(descriptor).ok_or(io::ErrorKind::NotFound)?;
    File::from(descriptor).write_all(&serde_json::to_vec(reading)?)
}

/// An address within this plugin.
fn own_data() -> *const c_void {
    OPTIONS.as_mut_ptr().cast_const().cast()
}

/// The file that an address of a plugin belongs to: the plugin's own file, or uWSGI's binary if the plugin is embedded.
fn plugin_file(data: *const c_void) -> PathBuf {
    // SAFETY: `Dl_info` is pointers, for which zeros are valid.
    let mut found: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr(3) takes any address, and fills in the structure if it knows it.
    let is_known = unsafe { libc::dladdr(data, &raw mut found) } != 0;
    if !is_known || found.dli_fname.is_null() {
        return PathBuf::new();
    }
    // SAFETY: a NUL-terminated path, which lives as long as the file is loaded.
    let path = unsafe { CStr::from_ptr(found.dli_fname) };
    let path = PathBuf::from(OsStr::from_bytes(path.to_bytes()));
    std::path::absolute(&path).unwrap_or(path)
}
