//! The devices of this instance, through all the hooks that may find them missing.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::guard::die;
use super::host::{self, HostState};
use super::hostnet;
use super::options::config;
use crate::config::Credentials;
use crate::device::{Context, DeviceSet, Handover, HandoverError};
use crate::sys::keeper::Keeper;
use crate::sys::{dumpable, fork, process};

/// Where a reloaded image finds its devices: see [`take_handover`].
const HANDOVER_VARIABLE: &str = "UWSGI_TUNTAP_HANDOVER";

/// What stands there instead, before this process's number, if the devices belong to a parent that waits for this
/// process's end (`refork`): the reload doesn't touch them.
const WITH_PARENT: &str = "parent of ";

/// How often `daemonize2` forks.
const DAEMONIZE_FORKS: u32 = 2;

/// Whether this image's devices are [`WITH_PARENT`].
static ARE_WITH_PARENT: AtomicBool = AtomicBool::new(false);

static DEVICES: Mutex<DeviceSet> = Mutex::new(DeviceSet::new());

/// Before anything else: refuses what can't work.
pub fn refuse_impossible(host: &HostState) {
    if !config().devices.is_empty() && host.unshares_net() && host.is_master_as_root() {
        die(
            "tuntap-device: unshare = net with master-as-root gives each worker a network namespace of its own, and none \
             after a reload; leave master-as-root out, or run the instance under an Emperor with emperor-use-clone = net",
        );
    }
}

/// As early as can be in an image that a reload has executed: nobody is to take the devices while it starts. The exec has
/// opened this process for others of its user.
pub fn protect_inherited() {
    if std::env::var_os(HANDOVER_VARIABLE).is_some() {
        dumpable::close();
    }
}

/// Keeps this process closed to others of its user while it holds devices, whatever the host has done to its privileges.
pub fn protect() {
    if holds_any() {
        dumpable::close();
    }
}

/// Whether this process holds a device, or a connection to a router.
pub fn holds_any() -> bool {
    !DEVICES.lock().is_empty() && fork::owns_descriptors()
}

/// Makes the devices that the instance should have where it is now. May be called any number of times, in any process.
pub fn ensure(host: &HostState) {
    if config().devices.is_empty() || ARE_WITH_PARENT.load(Ordering::Relaxed) {
        return;
    }
    dumpable::close();
    let mut devices = DEVICES.lock();
    devices.ensure(&context(host)).unwrap_or_else(|error| die(format_args!("tuntap-device {error}")));
}

/// In an image that a reload has executed: takes over the devices of the image before.
pub fn adopt(host: &HostState) {
    let Ok(value) = process::take_variable(HANDOVER_VARIABLE) else { return };
    if let Some(child) = value.strip_prefix(WITH_PARENT) {
        // Another process has inherited the variable.
        let is_ours = child == std::process::id().to_string();
        return ARE_WITH_PARENT.store(is_ours, Ordering::Relaxed);
    }
    let result = take_handover(&value).and_then(|handover| {
        handover.descriptors().for_each(host::keep_open_raw);
        DEVICES.lock().adopt(handover, &context(host))
    });
    match result {
        // A child that executes a uWSGI of its own has inherited the variable.
        Ok(()) | Err(HandoverError::OtherProcess(_)) => {}
        Err(error) => host::log(&format!("[uwsgi-tuntap] the devices did not survive the reload: {error}")),
    }
}

/// What stands in the variable: the socket of the process that keeps the descriptors, its number, and this process's.
fn take_handover(value: &str) -> Result<Handover, HandoverError> {
    let numbers: Vec<i32> = value.split(' ').map_while(|word| word.parse().ok()).collect();
    let [socket, pid, owner] = numbers[..] else { return Err(HandoverError::Descriptor(-1)) };
    if u32::try_from(owner) != Ok(std::process::id()) {
        return Err(HandoverError::OtherProcess(owner));
    }
    let socket = process::adopt_inherited(socket).ok_or(HandoverError::Descriptor(socket))?;
    let mut kept = Keeper { socket, pid }.take().map_err(HandoverError::Keeper)?.into_iter();
    let mut handover = Handover::load(kept.next().ok_or(HandoverError::Descriptor(-1))?)?;
    handover.renumber(kept);
    Ok(handover)
}

/// Before a reload executes the next image: leaves the devices to it.
pub fn hand_over() {
    let Some(handover) = DEVICES.lock().hand_over() else { return };
    if let Err(error) = leave_to_keeper(&handover) {
        host::log(&format!("[uwsgi-tuntap] the devices will not survive the reload: {error}"));
    }
    // The set has forgotten them. The process is open to others of its user from the exec on, and must not have them then.
    handover.descriptors().filter_map(process::adopt_inherited).for_each(drop);
}

fn leave_to_keeper(handover: &Handover) -> Result<(), HandoverError> {
    let description = handover.store()?;
    let descriptors: Vec<_> = std::iter::once(description.as_raw_fd()).chain(handover.descriptors()).collect();
    let keeper = Keeper::start(&descriptors).map_err(|errno| HandoverError::Keeper(errno.into()))?;
    process::set_close_on_exec(keeper.socket.as_fd(), false).map_err(|errno| HandoverError::Keeper(errno.into()))?;
    // The next image closes it.
    let socket = keeper.socket.into_raw_fd();
    host::keep_open_raw(socket);
    process::set_variable(HANDOVER_VARIABLE, &format!("{socket} {} {}", keeper.pid, std::process::id()));
    Ok(())
}

/// Goes on in a process that put itself into the background.
pub fn resume(host: &HostState) {
    let mut devices = DEVICES.lock();
    if !devices.is_empty() {
        devices.resume(&context(host)).unwrap_or_else(|error| die(format_args!("tuntap-device {error}")));
    }
}

/// Right before the instance drops its privileges, when it has the root that it is going to have: writes what belongs into
/// its jail. May be called any number of times.
pub fn complete_jail() {
    DEVICES.lock().write_resolv_confs().unwrap_or_else(|error| die(format_args!("tuntap-device {error}")));
}

/// Once the applications are loaded: the last moment to see that the devices are missing, and to prepare for the forks
/// that put the process into the background.
pub fn check(host: &HostState) {
    let mut devices = DEVICES.lock();
    let are_with_parent = ARE_WITH_PARENT.load(Ordering::Relaxed) || !devices.is_empty() && !fork::owns_descriptors();
    if are_with_parent {
        // uWSGI doesn't call master_cleanup in such a process.
        process::set_variable(HANDOVER_VARIABLE, &format!("{WITH_PARENT}{}", std::process::id()));
        return;
    }
    if !config().devices.is_empty() && devices.is_empty() && !host.is_master_as_root() {
        host::log(
            "[uwsgi-tuntap] no tuntap-device was made: the instance must start as root, and in a network namespace of \
             its own (jailed = true under an Emperor with emperor-use-clone = net, or unshare = net)",
        );
    }
    if (!devices.is_empty() || hostnet::has_descriptor()) && host.daemonizes_late() {
        devices.pause();
        fork::follow_forks(DAEMONIZE_FORKS);
    }
}

fn context(host: &HostState) -> Context {
    let identity = (config().credentials != Credentials::Off)
        .then(|| host.identity().unwrap_or_else(|error| die(format_args!("tuntap-use-credentials: {error}"))));
    Context {
        specs: config().devices.clone(),
        rules: config().device_rules.clone(),
        identity,
        timeout: config().device_timeout,
        required: config().device_required,
        vassal: host.name(),
        logger: host::LOGGER,
        keep_open: host::keep_open,
    }
}
