//! The devices of this instance, through all the hooks that may find them missing.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::guard::die;
use super::host::{self, HostState};
use super::hostnet;
use super::options::config;
use crate::config::Credentials;
use crate::device::{Context, DeviceSet, Handover, HandoverError};
use crate::sys::{fork, process};

/// Where a reloaded image finds the description of its devices: the number of a descriptor.
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

/// Makes the devices that the instance should have where it is now. May be called any number of times, in any process.
pub fn ensure(host: &HostState) {
    if config().devices.is_empty() || ARE_WITH_PARENT.load(Ordering::Relaxed) {
        return;
    }
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
    let result =
        value.parse().map_err(|_| HandoverError::Descriptor(-1)).and_then(Handover::load).and_then(|handover| {
            handover.descriptors().for_each(host::keep_open_raw);
            DEVICES.lock().adopt(handover, &context(host))
        });
    match result {
        // A child that executes a uWSGI of its own has inherited the variable.
        Ok(()) | Err(HandoverError::OtherProcess(_)) => {}
        Err(error) => host::log(&format!("[uwsgi-tuntap] the devices did not survive the reload: {error}")),
    }
}

/// Before a reload executes the next image: leaves the devices to it.
pub fn hand_over() {
    let Some(handover) = DEVICES.lock().hand_over() else { return };
    match handover.store() {
        Ok(description) => {
            handover.descriptors().for_each(host::keep_open_raw);
            host::keep_open_raw(description.as_raw_fd());
            process::set_variable(HANDOVER_VARIABLE, &description.as_raw_fd().to_string());
            // The next image closes it.
            std::mem::forget(description);
        }
        Err(error) => host::log(&format!("[uwsgi-tuntap] the devices will not survive the reload: {error}")),
    }
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
