//! What a reload does with the devices: the new image takes them over, compares its options with those that they were made for,
//! and applies what it can. What it can't apply without root ends an instance whose Emperor starts it anew; one without an
//! Emperor goes on with what it had.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Uid;

use super::devices::{self, DEVICES};
use super::guard::die;
use super::uwsgi::{self, UwsgiState};
use super::{handover, options};
use tuntap_config::{Config, OptionName};
use tuntap_device::{
    Changes, DeviceSet, Earlier, Need, Settings, Stated, WithParent, changed_option, compare, unreachable_router,
};
use tuntap_sys::handover::{Handover, HandoverError, Received};
use tuntap_sys::log::Event;

/// True if this image's devices belong to a parent that waits for this process's end (`refork`). A reload doesn't touch them.
static ARE_WITH_PARENT: AtomicBool = AtomicBool::new(false);

/// The configuration of the image before, where that of this one can't be applied.
static KEPT: OnceLock<(Settings, Config)> = OnceLock::new();

/// The instance's name, as the first image knew it.
static NAME: OnceLock<String> = OnceLock::new();

/// The options that the devices go by.
pub fn config() -> &'static Config {
    KEPT.get().map_or_else(options::config, |(_, config)| config)
}

/// The options that the devices go by, for the next image.
pub fn settings(uwsgi: &UwsgiState) -> Settings {
    let of_this_image = || Settings::new(options::values(), uwsgi.is_jailed() || uwsgi.unshares_net());
    KEPT.get().map_or_else(of_this_image, |(settings, _)| settings.clone())
}

/// The instance's name.
pub fn name(uwsgi: &UwsgiState) -> String {
    NAME.get().cloned().unwrap_or_else(|| uwsgi.name())
}

/// Returns true if the devices belong to a parent that waits for this process's end.
pub fn are_with_parent() -> bool {
    ARE_WITH_PARENT.load(Ordering::Relaxed)
}

/// Returns true if this process has to hand over the devices, even if there are none at the moment.
pub fn hands_over(devices: &DeviceSet) -> bool {
    let has_any = !config().devices.is_empty() || !devices.is_empty();
    has_any && !are_with_parent() && !devices.are_others()
}

/// Takes over the devices of the image before, in an image that a reload has executed.
pub fn take_over(uwsgi: &UwsgiState) {
    match handover::take_rest() {
        Some(received) => {
            if let Err(error) = received.and_then(|mut received| take_over_from(uwsgi, &mut received)) {
                lose(uwsgi, &error);
            }
        }
        None => refuse_new_devices(uwsgi),
    }
}

fn take_over_from(uwsgi: &UwsgiState, received: &mut Received) -> Result<(), HandoverError> {
    if let Some(WithParent { settings }) = received.section()? {
        stay_with_parent(uwsgi, settings);
    } else if let Some(earlier) = Earlier::take_over(received)? {
        apply(uwsgi, earlier);
    } else {
        refuse_new_devices(uwsgi);
    }
    Ok(())
}

/// Gives up devices that the options of this image name, if the image before had none and this one isn't root.
fn refuse_new_devices(uwsgi: &UwsgiState) {
    if uwsgi.is_reload() && !options::config().devices.is_empty() && !is_root() {
        let config = Config::default();
        let changes = compare(
            Stated { settings: &Settings::default(), config: &config },
            Stated { settings: &settings(uwsgi), config: options::config() },
        );
        give_up(uwsgi, changes.describe(Need::Device), None);
    }
}

/// Goes on without what the image before has handed over, as at a first start. Only root can make the devices again.
fn lose(uwsgi: &UwsgiState, error: &HandoverError) {
    if is_root() {
        uwsgi::log(Event::ReloadLoss, &format!("[uwsgi-tuntap] the devices did not survive the reload: {error}"));
        if uwsgi.is_reload() && uwsgi.unshares_net() {
            // The instance is in its own namespace already, and gets no other hook for it.
            devices::ensure(uwsgi);
        }
    } else if !options::config().devices.is_empty() {
        give_up(uwsgi, format_args!("the devices did not survive the reload: {error}"), None);
    }
}

/// Tells the next image early that the devices belong to this process's parent: uWSGI doesn't call the hook before a reload in
/// such a process.
pub fn announce_parent(uwsgi: &UwsgiState) {
    let mut handover = Handover::default();
    if let Err(error) = handover.add(&with_parent(uwsgi)).and_then(|()| handover.announce()) {
        uwsgi::log(Event::ReloadLoss, &format!("[uwsgi-tuntap] a reload will not know whose the devices are: {error}"));
    }
}

/// What the next image has to know of devices that belong to this process's parent.
pub fn with_parent(uwsgi: &UwsgiState) -> WithParent {
    WithParent { settings: settings(uwsgi) }
}

fn stay_with_parent(uwsgi: &UwsgiState, before: Settings) {
    ARE_WITH_PARENT.store(true, Ordering::Relaxed);
    // Another version may have options whose values this one can't read.
    let Some(config) = before.config() else { return };
    let now = settings(uwsgi);
    let changes =
        compare(Stated { settings: &before, config: &config }, Stated { settings: &now, config: options::config() });
    // The parent's threads go by the parent's options.
    let mut lines: Vec<_> = changes.list.iter().map(ToString::to_string).collect();
    if config.device_required != options::config().device_required {
        lines.push(changed_option(OptionName::DeviceRequired, &before, &now));
    }
    if !lines.is_empty() {
        give_up(uwsgi, lines.join("; "), Some((before, config)));
    }
}

/// Goes on with the devices of the image before, as this one's options want them.
fn apply(uwsgi: &UwsgiState, earlier: Earlier) {
    let _ = NAME.set(earlier.vassal.clone());
    let (before, config, mut changes) =
        earlier.compare(Stated { settings: &settings(uwsgi), config: options::config() });
    if !is_root() {
        let reconnects = changes.need(Need::Connection);
        let unreachable = reconnects.then(|| unreachable_router(&options::config().devices)).flatten();
        if changes.need(Need::Device) || unreachable.is_some() {
            let because = unreachable.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let changed = [changes.describe(Need::Device), changes.describe(Need::Connection)];
            let changed = changed.iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("; ");
            give_up(uwsgi, format_args!("{changed}{because}"), Some((before, config)));
            changes = Changes::default();
        }
    }
    log_changes(&changes);
    let makes_devices = changes.need(Need::Device) && earlier.had_devices();
    DEVICES.lock().take_over(earlier.inherited, &changes, &devices::context(uwsgi)).unwrap_or_else(|error| die(error));
    if makes_devices {
        // Instances that have left their first namespace themselves get no other hook for it.
        devices::ensure(uwsgi);
    }
}

/// Logs what has changed, and what happens to the devices for that.
fn log_changes(changes: &Changes) {
    for (need, what) in
        [(Need::Close, "closed"), (Need::Connection, "joins its router anew"), (Need::Device, "made anew")]
    {
        if changes.need(need) {
            uwsgi::log(Event::ReloadChanges, &format!("[uwsgi-tuntap] {}: {what}", changes.describe(need)));
        }
    }
}

/// Ends an instance that can't apply its options, if its Emperor will start it anew, as root. Else the instance goes on with
/// what it had, if that is known.
fn give_up(uwsgi: &UwsgiState, changed: impl fmt::Display, kept: Option<(Settings, Config)>) {
    if uwsgi.has_emperor() {
        die(format_args!(
            "{changed}: a reload can't apply that without the privileges that are dropped; this instance ends, for its \
             Emperor to start it anew"
        ));
    }
    let meanwhile = if kept.is_some() { "everything about devices stays as it was" } else { "it has no such device" };
    uwsgi::log(
        Event::ReloadChanges,
        &format!(
            "[uwsgi-tuntap] {changed}: a reload can't apply that without the privileges that are dropped, and no Emperor starts \
         this instance anew: until it is stopped and started, {meanwhile}"
        ),
    );
    if let Some(kept) = kept {
        let _ = KEPT.set(kept);
    }
}

fn is_root() -> bool {
    Uid::effective().is_root()
}
