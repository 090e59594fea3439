//! Safe wrappers of the functions and settings of the uWSGI that has loaded this plugin.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use std::{io, ptr};

use nix::unistd::{Gid, Group, Uid, User};

use super::{abi, bindings};
use tuntap_device::{Identity, instance_name};
use tuntap_router::CredentialsHook;
use tuntap_sys::log::{Event, Logger, Record, is_json};
use tuntap_sys::process::{set_close_on_exec, set_nonblocking};
use tuntap_sys::socket;
use tuntap_wire::credentials::PeerCredentials;

/// The working directory when uWSGI began to read its configuration. Relative paths of the configuration begin there.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Stores the working directory before an option changes it. If it is unknown, names go without it.
pub fn note_folder() {
    let _ = FOLDER.set(std::env::current_dir().unwrap_or_default());
}

/// uWSGI's log.
pub const LOGGER: Logger = Logger(write);

/// Writes a line to uWSGI's log.
pub fn log(event: Event, line: &str) {
    LOGGER.line(event, line);
}

/// Writes a line in the form that the options want.
fn write(record: &Record<'_>) {
    let line = if is_json() { record.json() } else { record.line.to_owned() };
    // A NUL would end the line early. Only text from outside can have one.
    let line = CString::new(line.replace('\0', "\u{fffd}")).unwrap_or_default();
    // SAFETY: uwsgi_log takes a printf format and its arguments; "%s\n" takes one string that lives through the call.
    unsafe { bindings::uwsgi_log(c"%s\n".as_ptr(), line.as_ptr()) };
}

/// The uWSGI that loads this plugin is not the one that it was built for.
#[derive(Debug, thiserror::Error)]
#[error(
    "refused: this plugin was built for uWSGI {built} (ABI {built_digest:016x}) and can't be loaded by uWSGI {loading} \
     (ABI {loading_digest:016x}); build it for this binary: make UWSGI_BIN=<path>"
)]
pub struct AbiMismatch {
    built: &'static str,
    built_digest: u64,
    loading: String,
    loading_digest: u64,
}

/// Compares the ABI that this plugin was built for with that of the process it is in.
pub fn check_abi() -> Result<(), AbiMismatch> {
    let header = uwsgi_text(bindings::uwsgi_get_dot_h);
    let cflags = uwsgi_text(bindings::uwsgi_get_cflags);
    let built_digest: u64 = env!("TUNTAP_ABI_DIGEST").parse().unwrap_or_default();
    let loading_digest = abi::digest(&header, &cflags);
    if built_digest == loading_digest {
        return Ok(());
    }
    let loading = abi::version(&cflags).unwrap_or_else(|| "of an unknown version".to_owned());
    Err(AbiMismatch { built: env!("TUNTAP_UWSGI_VERSION"), built_digest, loading, loading_digest })
}

/// A text that one of uWSGI's `uwsgi_get_*` functions makes.
fn uwsgi_text(make: unsafe extern "C" fn() -> *mut c_char) -> String {
    // SAFETY: these functions take nothing, and return NULL or a string from malloc that is the caller's.
    let text = unsafe { make() };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, so that it is a NUL-terminated string.
    let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: it comes from malloc, and nothing refers to it any more.
    unsafe { libc::free(text.cast()) };
    owned
}

/// What the plugin reads from uWSGI's configuration and state.
#[derive(Debug, Clone, Copy)]
pub struct UwsgiState(bindings::tuntap_uwsgi);

impl UwsgiState {
    /// The state right now.
    pub fn read() -> Self {
        let mut state = MaybeUninit::<bindings::tuntap_uwsgi>::zeroed();
        // SAFETY: the shim fills in the structure that it is given, and knows uWSGI's layout.
        unsafe { bindings::tuntap_uwsgi_read(state.as_mut_ptr()) };
        // SAFETY: integers and pointers, for which zeros are valid, too.
        Self(unsafe { state.assume_init() })
    }

    /// uWSGI's version.
    pub fn version(&self) -> String {
        self.text(self.0.version).unwrap_or_default()
    }

    /// Returns true if the Emperor has started this instance in its namespaces (`jailed = true`).
    pub const fn is_jailed(&self) -> bool {
        self.0.jailed != 0
    }

    /// Returns true if the instance is in its own network namespace from the beginning, and still root.
    pub fn is_born_into_its_net(&self) -> bool {
        self.is_jailed() && !self.unshares_net() && Uid::effective().is_root()
    }

    /// Returns true if a running instance executed itself anew, and this is the new image.
    pub const fn is_reload(&self) -> bool {
        self.0.is_reload != 0
    }

    /// Returns true if `unshare` gives the instance a network namespace of its own.
    pub const fn unshares_net(&self) -> bool {
        self.0.unshares_net != 0
    }

    /// Returns true if only the workers drop their privileges.
    pub const fn is_master_as_root(&self) -> bool {
        self.0.master_as_root != 0
    }

    /// Returns true if the process will fork into the background once the applications are loaded.
    pub const fn daemonizes_late(&self) -> bool {
        self.0.daemonizes_late != 0
    }

    /// Returns true if an Emperor has started the instance, and will start it again when it ends.
    pub const fn has_emperor(&self) -> bool {
        self.0.has_emperor != 0
    }

    /// The instance's name ([`instance_name()`]). Empty if it has no configuration file.
    pub fn name(&self) -> String {
        let folder = FOLDER.get().map_or(Path::new(""), PathBuf::as_path);
        instance_name(&self.text(self.0.config).unwrap_or_default(), folder)
    }

    /// Returns true if all unix sockets are in the abstract namespace.
    pub const fn has_abstract_sockets(&self) -> bool {
        self.0.abstract_socket != 0
    }

    /// Returns true if statistics are to be served in HTTP.
    pub const fn stats_http(&self) -> bool {
        self.0.stats_http != 0
    }

    /// Returns true if statistics are to be without white space.
    pub const fn stats_minified(&self) -> bool {
        self.0.stats_minified != 0
    }

    /// How long a client may be silent.
    pub fn socket_timeout(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.0.socket_timeout).unwrap_or_default().max(1))
    }

    /// The user and group of the instance once it has dropped its privileges, or now if it has.
    pub fn identity(&self) -> Result<Identity, String> {
        let (uid, gid) = (Uid::current(), Gid::current());
        if !uid.is_root() {
            return Ok(Identity { uid, gid });
        }
        let target_uid = match self.text(self.0.uid_name) {
            Some(name) => match User::from_name(&name) {
                Ok(Some(user)) => user.uid,
                _ => return Err(format!("user {name} not found")),
            },
            None => Uid::from_raw(self.0.uid),
        };
        let target_gid = match self.text(self.0.gid_name) {
            Some(name) => match Group::from_name(&name) {
                Ok(Some(group)) => group.gid,
                _ => return Err(format!("group {name} not found")),
            },
            None if self.0.gid != 0 => Gid::from_raw(self.0.gid),
            None => gid,
        };
        Ok(Identity { uid: target_uid, gid: target_gid })
    }

    /// A text about the user or group that `chown-socket` names, if it doesn't exist. uWSGI would end the process.
    pub fn missing_socket_owner(&self) -> Option<String> {
        let owner = self.text(self.0.chown_socket)?;
        let (user, group) = owner.split_once(':').map_or((owner.as_str(), None), |(user, group)| (user, Some(group)));
        let is_number = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(user) && !matches!(User::from_name(user), Ok(Some(_))) {
            return Some(format!("there is no user \"{user}\" on this machine"));
        }
        let group = group.filter(|name| !is_number(name) && !matches!(Group::from_name(name), Ok(Some(_))))?;
        Some(format!("there is no group \"{group}\" on this machine"))
    }

    #[allow(clippy::unused_self)] // the pointers are the state's
    fn text(&self, text: *const c_char) -> Option<String> {
        if text.is_null() {
            return None;
        }
        // SAFETY: not NULL, so that it is one of uWSGI's option values, which live as long as the process.
        Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }
}

/// Gives the instance a master process. Returns true if its configuration did not ask for one.
pub fn ensure_master() -> bool {
    // SAFETY: the shim sets a flag of uWSGI and looks through its options; both exist from the first hook on.
    unsafe { bindings::tuntap_uwsgi_ensure_master() != 0 }
}

/// The options of uWSGI's configuration, in order, with their values if they have any.
pub fn options() -> impl Iterator<Item = (&'static CStr, Option<&'static CStr>)> {
    (0..).map_while(|number| {
        let (mut key, mut value) = (ptr::null(), ptr::null());
        // SAFETY: the shim writes both pointers if there is an option of this number.
        let is_there = unsafe { bindings::tuntap_uwsgi_option(number, &raw mut key, &raw mut value) } != 0;
        // SAFETY: an option's name is a NUL-terminated string, and uWSGI never frees it.
        let key = is_there.then(|| unsafe { CStr::from_ptr(key) })?;
        // SAFETY: not NULL, so that it is as the name is.
        let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) });
        Some((key, value))
    })
}

/// Adds an option behind all others. The value must be one that uWSGI has handed over.
pub fn add_option(key: &'static CStr, value: *const c_char) {
    // SAFETY: uWSGI doesn't write to these strings, and they live for ever: a constant, and a value of uWSGI's own.
    unsafe { bindings::tuntap_uwsgi_add_option(key.as_ptr(), value) };
}

/// Returns true if uWSGI has metrics (`enable-metrics`).
pub fn has_metrics() -> bool {
    // SAFETY: the shim reads a flag of uWSGI, which is there once its options were read.
    unsafe { bindings::tuntap_uwsgi_has_metrics() != 0 }
}

/// Adds a number to uWSGI's metrics. To be called before uWSGI sets them up. The name must be of letters, digits, dots, hyphens and
/// underscores alone.
pub fn register_metric(name: &str, is_gauge: bool, value: &'static AtomicU64) {
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: uWSGI copies the name, which lives through the call. It reads 64 bits at the pointer, which stay there for ever.
    unsafe { bindings::tuntap_uwsgi_register_metric(name.as_ptr(), is_gauge.into(), value.as_ptr().cast()) };
}

/// Gives the plugin with these options another name in uWSGI, so that one of its own name can be loaded beside it.
pub fn rename_plugin(options: *const bindings::uwsgi_option, name: &'static CStr) {
    // SAFETY: the shim compares the first pointer, and uWSGI keeps the second, which lives for ever.
    unsafe { bindings::tuntap_uwsgi_rename_plugin(options.cast(), name.as_ptr()) };
}

/// The table of a plugin of this name that has other options.
pub fn other_plugin(name: &CStr, options: *const bindings::uwsgi_option) -> Option<*const c_void> {
    // SAFETY: the shim compares the string and the pointer with those in uWSGI's list.
    let table = unsafe { bindings::tuntap_uwsgi_other_plugin(name.as_ptr(), options.cast()) };
    (!table.is_null()).then_some(table)
}

/// Listens on a unix socket with uWSGI's own socket options. uWSGI ends the process if it can't.
pub fn bind_unix(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: the function wants a writable NUL-terminated string and leaves it as it was.
    listener(name, |name| unsafe { bindings::tuntap_uwsgi_bind_unix(name) })
}

/// Listens on a TCP address with uWSGI's own socket options. uWSGI ends the process if it can't.
///
/// # Errors
/// The name has no IPv4 address: uWSGI listens where nobody connects then, and says nothing.
pub fn bind_tcp(name: &str) -> io::Result<OwnedFd> {
    // In its other options `*` is every address, too.
    let name = name.strip_prefix('*').unwrap_or(name);
    // SAFETY: the function wants a writable NUL-terminated string and leaves it as it was.
    let listener = listener(name, |name| unsafe { bindings::tuntap_uwsgi_bind_tcp(name) })?;
    if socket::is_for_nobody(listener.as_fd()) {
        return Err(io::Error::other("uWSGI finds no IPv4 address for it"));
    }
    Ok(listener)
}

fn listener(name: &str, bind: impl Fn(*mut c_char) -> c_int) -> io::Result<OwnedFd> {
    let mut bytes = CString::new(name)?.into_bytes_with_nul();
    let fd = bind(bytes.as_mut_ptr().cast());
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: uWSGI made the descriptor for us and doesn't keep it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_close_on_exec(fd.as_fd(), true)?;
    set_nonblocking(fd.as_fd())?;
    Ok(fd)
}

/// Keeps a descriptor open where uWSGI closes those it doesn't know: in a reloaded image, before and after it binds
/// its sockets, and before an exec.
pub fn keep_open(fd: BorrowedFd<'_>) {
    // SAFETY: the function adds a number to a list.
    unsafe { bindings::uwsgi_add_safe_fd(fd.as_raw_fd()) };
}

/// Registers a uWSGI gateway process: it runs `body`, and the master starts it again when it dies.
pub fn register_gateway(
    name: &'static CStr,
    body: unsafe extern "C" fn(c_int, *mut c_void),
    data: *mut c_void,
) -> Result<GatewayProcess, &'static str> {
    // SAFETY: uWSGI keeps name and data for ever; the name is static, and what data means is up to `body`. uWSGI
    // doesn't write to the name, although its prototype says so.
    let gateway = unsafe { bindings::register_gateway(name.as_ptr().cast_mut(), Some(body), data) };
    NonNull::new(gateway).map(GatewayProcess).ok_or("the host has no place for another gateway (64 at most)")
}

/// A gateway process in uWSGI's own list.
#[derive(Debug)]
pub struct GatewayProcess(NonNull<bindings::uwsgi_gateway>);

// SAFETY: it points into memory that uWSGI shares with all of its processes and never gives back.
unsafe impl Send for GatewayProcess {}

impl GatewayProcess {
    /// Its process number, once it runs.
    pub fn pid(&self) -> Option<libc::pid_t> {
        // SAFETY: the shim reads one field of a structure that uWSGI keeps for ever.
        Some(unsafe { bindings::tuntap_uwsgi_gateway_pid(self.0.as_ptr().cast()) }).filter(|&pid| pid > 0)
    }

    /// Has the master end the process within a second or two, and start it again. To be called only in the master.
    pub fn end(&self) {
        // SAFETY: the shim writes one number in memory that uWSGI keeps for ever; the structure is of uWSGI's list.
        unsafe { bindings::tuntap_uwsgi_end_gateway(self.0.as_ptr().cast()) };
    }
}

/// Has the master run its cycle as soon as a descriptor is readable. To be called only from that cycle. Returns true if it
/// will.
pub fn master_watch(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: takes an open descriptor.
    unsafe { bindings::tuntap_uwsgi_master_watch(fd.as_raw_fd()) >= 0 }
}

/// Ends [`master_watch`] for a descriptor. To be called before it is closed, because children may have copies.
pub fn master_unwatch(fd: BorrowedFd<'_>) {
    // SAFETY: takes an open descriptor.
    unsafe { bindings::tuntap_uwsgi_master_unwatch(fd.as_raw_fd()) };
}

/// Finds the function that turns credentials into an address, in uWSGI or in any of its plugins.
pub fn credentials_hook(symbol: &str) -> Option<CredentialsHook> {
    let name = CString::new(symbol).ok()?;
    // SAFETY: dlsym(3) takes a handle, here the global scope, and a NUL-terminated name.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if ptr::eq(address, ptr::null()) {
        return None;
    }
    type Hook = unsafe extern "C" fn(libc::pid_t, libc::uid_t, libc::gid_t) -> u32;
    // SAFETY: the operator named a function with the prototype of include/uwsgi_tuntap.h; there is no way to check.
    let hook = unsafe { std::mem::transmute::<*mut c_void, Hook>(address) };
    Some(Box::new(move |credentials: PeerCredentials| {
        // SAFETY: the function has the prototype of `Hook`, by the word of the operator. The arguments are plain numbers.
        let address = unsafe { hook(credentials.pid, credentials.uid, credentials.gid) };
        (address != 0).then(|| Ipv4Addr::from(address.to_ne_bytes()))
    }))
}
