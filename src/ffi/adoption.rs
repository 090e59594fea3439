//! What a reload does with the devices: the old image leaves them to a child ([`tuntap_sys::keeper`]), and the new one takes
//! them over, compares its options with those that they were made for, and applies what it can. What it can't apply without
//! root ends an instance whose Emperor starts it anew; one without an Emperor goes on with what it had.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fmt, io};

use nix::unistd::Uid;

use super::devices::{self, DEVICES};
use super::guard::die;
use super::host::{self, HostState};
use super::options;
use tuntap_config::{Config, DeviceSpec, OptionName};
use tuntap_device::{Changes, Handover, HandoverError, Need, Settings, Stated, changed_option, compare};
use tuntap_sys::keeper::Keeper;
use tuntap_sys::{dumpable, process, socket};

/// Where a reloaded image finds what the one before has left ([`Handover::take`]).
const VARIABLE: &str = "UWSGI_TUNTAP_HANDOVER";

/// What stands there instead, before this process's number and the settings, if the devices belong to a parent that waits
/// for this process's end (`refork`): the reload doesn't touch them.
const WITH_PARENT: &str = "parent of ";

/// Whether this image's devices are [`WITH_PARENT`].
static ARE_WITH_PARENT: AtomicBool = AtomicBool::new(false);

/// The configuration of the image before, where that of this one can't be applied.
static KEPT: OnceLock<(Settings, Config)> = OnceLock::new();

/// The instance's name, as the first image knew it.
static NAME: OnceLock<String> = OnceLock::new();

/// The options that the devices go by.
pub fn config() -> &'static Config {
    KEPT.get().map_or_else(options::config, |(_, config)| config)
}

/// The instance's name.
pub fn name(host: &HostState) -> String {
    NAME.get().cloned().unwrap_or_else(|| host.name())
}

/// Whether the devices belong to a parent that waits for this process's end.
pub fn are_with_parent() -> bool {
    ARE_WITH_PARENT.load(Ordering::Relaxed)
}

/// As early as can be in an image that a reload has executed: nobody is to take the devices while it starts. The exec has
/// opened this process for others of its user.
pub fn protect_inherited() {
    if std::env::var_os(VARIABLE).is_some() {
        dumpable::close();
    }
}

/// In an image that a reload has executed: takes over the devices of the image before.
pub fn adopt(host: &HostState) {
    let Ok(value) = process::take_variable(VARIABLE) else {
        // The image before had no devices, or could not hand them over.
        if host.is_reload() && !options::config().devices.is_empty() && !is_root() {
            let config = Config::default();
            let changes = compare(
                Stated { settings: &Settings::default(), config: &config },
                Stated { settings: &settings(host), config: options::config() },
            );
            give_up(host, changes.describe(Need::Device), None);
        }
        return;
    };
    if let Some(told) = value.strip_prefix(WITH_PARENT) {
        return stay_with_parent(host, told);
    }
    match Handover::take(value) {
        Ok(handover) => take_over(host, handover),
        // A child that executes a uWSGI of its own has inherited the variable.
        Err(HandoverError::OtherProcess(_)) => {}
        Err(error) if is_root() => {
            host::log(&format!("[uwsgi-tuntap] the devices did not survive the reload: {error}"))
        }
        Err(error) => give_up(host, format_args!("the devices did not survive the reload: {error}"), None),
    }
}

/// Before a reload executes the next image: leaves the devices to it, with what they were made for.
pub fn hand_over(host: &HostState) {
    let mut devices = DEVICES.lock();
    if are_with_parent() || config().devices.is_empty() && devices.is_empty() {
        return;
    }
    let Some(handover) = devices.hand_over(settings(host), name(host)) else { return };
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
    process::set_variable(VARIABLE, &format!("{socket} {} {}", keeper.pid, std::process::id()));
    Ok(())
}

/// In a process whose devices belong to its parent: uWSGI doesn't call the hook before a reload in it, so that the next image
/// is told early.
pub fn announce_parent(host: &HostState) {
    let settings = serde_json::to_string(&settings(host)).unwrap_or_default();
    process::set_variable(VARIABLE, &format!("{WITH_PARENT}{} {settings}", std::process::id()));
}

fn stay_with_parent(host: &HostState, told: &str) {
    let (child, settings_before) = told.split_once(' ').unwrap_or((told, ""));
    if child != std::process::id().to_string() {
        // Another process has inherited the variable.
        return;
    }
    ARE_WITH_PARENT.store(true, Ordering::Relaxed);
    // An earlier version doesn't tell.
    let Ok(before) = serde_json::from_str::<Settings>(settings_before) else { return };
    let Some(config) = before.config() else { return };
    let now = settings(host);
    let changes =
        compare(Stated { settings: &before, config: &config }, Stated { settings: &now, config: options::config() });
    // The parent's threads know only what the parent was told.
    let mut lines: Vec<_> = changes.list.iter().map(ToString::to_string).collect();
    if config.device_required != options::config().device_required {
        lines.push(changed_option(OptionName::DeviceRequired, &before, &now));
    }
    if !lines.is_empty() {
        give_up(host, lines.join("; "), Some((before, config)));
    }
}

fn take_over(host: &HostState, handover: Handover) {
    handover.descriptors().for_each(host::keep_open_raw);
    if let Some(name) = &handover.vassal {
        let _ = NAME.set(name.clone());
    }
    let before = handover.settings.clone();
    let (inherited, lost) = handover.open();
    let had_devices = !inherited.is_empty() || !lost.is_empty();
    let now = settings(host);
    let told = before.and_then(|settings| Some((settings.config()?, settings)));
    let (mut config, before) = told.unwrap_or_else(|| {
        // An earlier version tells only which devices there are.
        let is_told = |spec: &&DeviceSpec| inherited.iter().any(|device| device.name == spec.name);
        let as_now = options::config().devices.iter().filter(is_told).cloned();
        let more =
            inherited.iter().filter(|device| !options::config().devices.iter().any(|spec| spec.name == device.name));
        let others = more.map(|device| DeviceSpec { name: device.name.clone(), ..DeviceSpec::default() });
        (Config { devices: as_now.chain(others).collect(), ..options::config().clone() }, now.clone())
    });
    if !had_devices && now.is_isolated() && !before.is_isolated() {
        // None could be made before.
        config.devices.clear();
    }
    let mut changes =
        compare(Stated { settings: &before, config: &config }, Stated { settings: &now, config: options::config() });
    let is_wanted = |name: &str| options::config().devices.iter().any(|spec| spec.name == name);
    for lost in &lost {
        let name = lost.name.as_deref().unwrap_or("a device");
        if lost.name.as_deref().is_none_or(is_wanted) {
            changes.add_lost(name, format_args!("it is gone since before the reload ({})", lost.error));
        }
    }
    if !is_root() {
        let unreachable = unreachable_router(&changes);
        if changes.need(Need::Device) || unreachable.is_some() {
            let because = unreachable.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let changed = [changes.describe(Need::Device), changes.describe(Need::Connection)];
            let changed = changed.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("; ");
            give_up(host, format_args!("{changed}{because}"), Some((before, config)));
            changes = Changes::default();
        }
    }
    for need in [Need::Close, Need::Connection, Need::Device] {
        if changes.need(need) {
            let what = match need {
                Need::Close => "closed",
                Need::Connection => "joins its router anew",
                Need::Device => "made anew",
            };
            host::log(&format!("[uwsgi-tuntap] {}: {what}", changes.describe(need)));
        }
    }
    let makes_devices = changes.need(Need::Device);
    DEVICES.lock().adopt(inherited, &changes, &devices::context(host)).unwrap_or_else(|error| die(error));
    if makes_devices && had_devices {
        // Instances that have left their first namespace themselves get no other hook for it.
        devices::ensure(host);
    }
}

/// Why a connection that has to be made anew can't be. A router that is away for a while can be waited for.
fn unreachable_router(changes: &Changes) -> Option<String> {
    if !changes.need(Need::Connection) {
        return None;
    }
    let sockets = options::config().devices.iter().filter_map(|spec| spec.socket.as_ref());
    sockets.into_iter().find_map(|name| {
        let error = socket::connect_once(name).err()?;
        let is_for_good = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound);
        is_for_good.then(|| format!("can't connect to the router at {name} any more: {error}"))
    })
}

/// What this image can't apply: ends the instance, if its Emperor will start it anew, as root. Else the instance goes on with
/// what it had, if that is known.
fn give_up(host: &HostState, changed: impl fmt::Display, kept: Option<(Settings, Config)>) {
    if host.has_emperor() {
        die(format_args!(
            "{changed}: a reload can't apply that without the privileges that are dropped; this instance ends, for its \
             Emperor to start it anew"
        ));
    }
    let meanwhile = if kept.is_some() { "everything about devices stays as it was" } else { "it has no such device" };
    host::log(&format!(
        "[uwsgi-tuntap] {changed}: a reload can't apply that without the privileges that are dropped, and no Emperor starts \
         this instance anew: until it is stopped and started, {meanwhile}"
    ));
    if let Some(kept) = kept {
        let _ = KEPT.set(kept);
    }
}

/// The options that the devices go by, for the next image.
fn settings(host: &HostState) -> Settings {
    let of_this_image = || Settings::new(options::values(), host.is_jailed() || host.unshares_net());
    KEPT.get().map_or_else(of_this_image, |(settings, _)| settings.clone())
}

fn is_root() -> bool {
    Uid::effective().is_root()
}
