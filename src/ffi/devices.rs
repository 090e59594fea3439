//! The devices of this instance, in all the hooks that may find them missing.

use nix::unistd::Uid;
use parking_lot::Mutex;

use super::guard::die;
use super::hostnet;
use super::reload::{self, config};
use super::uwsgi::{self, UwsgiState};
use tuntap_config::Credentials;
use tuntap_device::{Context, DeviceSet};
use tuntap_sys::log::Event;
use tuntap_sys::net::shares_namespace_with_parent;
use tuntap_sys::{dumpable, fork};

/// How often `daemonize2` forks.
const DAEMONIZE_FORKS: u32 = 2;

pub(super) static DEVICES: Mutex<DeviceSet> = Mutex::new(DeviceSet::new());

/// Ends an instance whose options can't work. Called before anything else.
pub fn refuse_impossible(uwsgi: &UwsgiState) {
    if !config().devices.is_empty() && uwsgi.unshares_net() && uwsgi.is_master_as_root() {
        die(
            "tuntap-device: unshare = net with master-as-root gives each worker a network namespace of its own, and none \
             after a reload; leave master-as-root out, or run the instance under an Emperor with emperor-use-clone = net",
        );
    }
}

/// Logs why there will be no device, or one in the wrong namespace. Called before any hook of the configuration: hooks that
/// configure the device would fail first, and say only that it is missing.
pub fn foretell(uwsgi: &UwsgiState) {
    if config().devices.is_empty() || uwsgi.is_reload() || uwsgi.unshares_net() {
        return;
    }
    let names: Vec<_> = config().devices.iter().map(|spec| spec.name.as_str()).collect();
    let problem = if !Uid::effective().is_root() {
        "it can't be made: the instance doesn't start as root (emperor-tyrant in its Emperor's file has that effect)"
    } else if uwsgi.is_jailed() {
        if !uwsgi.has_emperor() || shares_namespace_with_parent() != Some(true) {
            return;
        }
        "it is made in the Emperor's own network namespace, where hooks would change the host's network: this vassal got \
         none of its own (emperor-use-clone = net is missing in its Emperor's file)"
    } else if uwsgi.has_emperor() {
        "it is not made, and hooks that want to configure it will fail: jailed = true is missing in this vassal's file"
    } else {
        "it is not made, and hooks that want to configure it will fail: unshare = net is missing, which gives an instance without \
         Emperor a network namespace of its own"
    };
    uwsgi::log(Event::DeviceMissing, &format!("[uwsgi-tuntap] {}: {problem}", names.join(", ")));
}

/// Keeps this process closed to others of its user while it holds devices, after each step that may have opened it.
pub fn protect() {
    if holds_any() {
        dumpable::close();
    }
}

/// Returns true if this process holds a device, or a connection to a router.
pub fn holds_any() -> bool {
    !DEVICES.lock().is_empty() && fork::owns_descriptors()
}

/// Makes the devices that the instance should have in its present namespace. May be called any number of times, in any process.
pub fn ensure(uwsgi: &UwsgiState) {
    if config().devices.is_empty() || reload::are_with_parent() {
        return;
    }
    dumpable::close();
    let mut devices = DEVICES.lock();
    devices.ensure(&context(uwsgi)).unwrap_or_else(|error| die(format_args!("tuntap-device {error}")));
}

/// Restarts the devices' threads in a process that put itself into the background.
pub fn resume(uwsgi: &UwsgiState) {
    let mut devices = DEVICES.lock();
    if !devices.is_empty() {
        devices.resume(&context(uwsgi)).unwrap_or_else(|error| die(format_args!("tuntap-device {error}")));
    }
}

/// Writes the devices' files into the jail, right before the instance drops its privileges, when its root directory is final. May
/// be called any number of times.
pub fn complete_jail() {
    DEVICES.lock().write_resolv_confs().unwrap_or_else(|error| die(format_args!("tuntap-device {error}")));
}

/// Logs that devices are missing, and prepares for the forks that put the process into the background. Called once the
/// applications are loaded, which is the last moment for both.
pub fn check(uwsgi: &UwsgiState) {
    let mut devices = DEVICES.lock();
    if reload::are_with_parent() || devices.are_others() {
        return reload::announce_parent(uwsgi);
    }
    if !config().devices.is_empty() && devices.is_empty() && !uwsgi.is_master_as_root() {
        uwsgi::log(
            Event::DeviceMissing,
            "[uwsgi-tuntap] no tuntap-device was made: the instance must start as root, and in a network namespace of \
             its own (jailed = true under an Emperor with emperor-use-clone = net, or unshare = net)",
        );
    }
    if (!devices.is_empty() || hostnet::has_descriptor()) && uwsgi.daemonizes_late() {
        devices.pause();
        fork::follow_forks(DAEMONIZE_FORKS);
    }
}

/// What all devices of the instance have in common.
pub fn context(uwsgi: &UwsgiState) -> Context {
    let identity = (config().credentials != Credentials::Off)
        .then(|| uwsgi.identity().unwrap_or_else(|error| die(format_args!("tuntap-use-credentials: {error}"))));
    Context {
        specs: config().devices.clone(),
        rules: config().device_rules.clone(),
        identity,
        timeout: config().device_timeout,
        required: config().device_required,
        router_only: !config().device_offload,
        vassal: reload::name(uwsgi),
        logger: uwsgi::LOGGER,
        keep_open: uwsgi::keep_open,
    }
}
