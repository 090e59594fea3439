//! Settings of the host that were changed, and are restored in the end.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use tuntap_sys::log::{Event, Logger};
use tuntap_sys::sysctl::{ALL, Setting, Sysctl};

pub(super) const OFF: i32 = 0;
pub(super) const ON: i32 = 1;

/// Most interfaces whose settings are changed or remembered together. The changes are passed to the next image in its
/// environment, where a variable can have 128 KiB.
pub(super) const MAX_INTERFACES: usize = 256;

/// A value that a setting is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub(super) sysctl: Sysctl,
    pub(super) value: i32,
    /// Only change the setting if it has this value.
    pub(super) instead_of: Option<i32>,
}

impl Wanted {
    pub(super) fn on(interface: &str, setting: Setting) -> Self {
        Self { sysctl: Sysctl::new(interface, setting), value: ON, instead_of: None }
    }

    /// Returns true if the setting has another value and may be changed.
    pub fn is_due(&self) -> bool {
        self.due_value().is_some()
    }

    /// The present value, if it is another one and may be changed.
    pub fn due_value(&self) -> Option<i32> {
        self.sysctl.read().ok().filter(|value| self.is_instead_of(*value))
    }

    /// The file of the setting.
    pub fn path(&self) -> PathBuf {
        self.sysctl.path()
    }

    /// The interface of the setting.
    pub fn interface(&self) -> &str {
        &self.sysctl.interface
    }

    fn is_instead_of(&self, value: i32) -> bool {
        value != self.value && self.instead_of.is_none_or(|needed| needed == value)
    }

    /// Returns true if it is a setting of this interface.
    pub fn is_about(&self, interface: &str) -> bool {
        self.sysctl.interface == interface
    }
}

/// A needed value that can't be set.
#[derive(Debug, Error)]
#[error(
    "forwarding: {} is {before} and can't be set to {wanted} ({cause}); set it from outside, sysctl -w {}={wanted} and a file \
     in /etc/sysctl.d, or let this instance write below /proc/sys/net (for a systemd unit: ProtectKernelTunables=no)",
    .sysctl.path().display(),
    .sysctl.name()
)]
pub struct SettingError {
    sysctl: Sysctl,
    before: i32,
    wanted: i32,
    cause: io::Error,
}

/// A setting that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Change {
    sysctl: Sysctl,
    before: i32,
    after: i32,
    /// For a setting of one interface: the value for [`ALL`] at that time.
    all_before: Option<i32>,
    /// For a setting of [`ALL`]: the interfaces that had it on themselves. Restoring the setting of [`ALL`] turns theirs
    /// off, too.
    on_before: Vec<String>,
}

/// The changed settings, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Changes(Vec<Change>);

impl Changes {
    /// Returns true if a setting is among them.
    pub fn contain(&self, sysctl: &Sysctl) -> bool {
        self.0.iter().any(|change| change.sysctl == *sysctl)
    }

    /// Makes these changes, and restores settings that are not among them any more. Returns those that can't be made.
    pub fn replace(&mut self, wanted: &[Wanted], logger: Logger) -> Vec<SettingError> {
        let (kept, ended) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|change| wanted.iter().any(|wanted| wanted.sysctl == change.sysctl));
        self.0 = kept;
        Self(ended).put_back(logger);
        wanted.iter().filter_map(|wanted| self.make(wanted, logger).err()).collect()
    }

    /// Makes one change. A setting that has the value already is not written, so that it may be read-only.
    pub fn make(&mut self, wanted: &Wanted, logger: Logger) -> Result<(), SettingError> {
        let Wanted { sysctl, value, .. } = wanted;
        // An interface that was deleted has no settings.
        let Some(before) = sysctl.read().ok().filter(|before| wanted.is_instead_of(*before)) else { return Ok(()) };
        let change = Change {
            before,
            after: *value,
            all_before: of_all(sysctl).and_then(|all| all.read().ok()),
            on_before: on_by_themselves(sysctl),
            sysctl: sysctl.clone(),
        };
        let result = sysctl.write(*value);
        if let Err(cause) = result {
            return Err(SettingError { sysctl: sysctl.clone(), before, wanted: *value, cause });
        }
        logger.line(
            Event::HostChanged,
            format_args!("[tuntap-router] set {} from {before} to {value}", sysctl.path().display()),
        );
        // The device of a reloaded instance is new, while the change of an earlier image is still noted.
        if !self.contain(sysctl) {
            self.0.push(change);
        }
        Ok(())
    }

    /// Restores all settings that still have the value that was set, the last one first. Settings of interfaces that were
    /// deleted are gone.
    pub fn put_back(&mut self, logger: Logger) {
        for change in self.0.drain(..).rev() {
            let Change { sysctl, before, after, .. } = &change;
            if !sysctl.read().is_ok_and(|value| value == *after) {
                continue;
            }
            if change.is_relied_on() {
                logger.line(
                    Event::HostChanged,
                    format_args!(
                        "[tuntap-router] {} stays {after}: somebody has turned it on for all interfaces since",
                        sysctl.path().display()
                    ),
                );
            } else if let Err(error) = change.put_back() {
                logger
                    .line(Event::HostFault, format_args!("[tuntap-router] could not be set back to {before}: {error}"));
            }
        }
    }
}

impl Change {
    /// Returns true if somebody has turned the setting on for all interfaces since. That would have turned this one on, too.
    fn is_relied_on(&self) -> bool {
        let is_on_now = || of_all(&self.sysctl).is_some_and(|all| all.read().is_ok_and(|value| value != OFF));
        self.after == ON && self.all_before == Some(OFF) && is_on_now()
    }

    fn put_back(&self) -> io::Result<()> {
        self.sysctl.write(self.before)?;
        let still_there = self.on_before.iter().map(|name| Sysctl::new(name, self.sysctl.setting));
        still_there.filter(Sysctl::exists).try_for_each(|sysctl| sysctl.write(ON))
    }
}

/// The setting of all interfaces, for settings where that changes those of each.
fn of_all(sysctl: &Sysctl) -> Option<Sysctl> {
    let changes_single_ones = matches!(sysctl.setting, Setting::Ipv4Forwarding | Setting::Ipv6ForceForwarding);
    (changes_single_ones && sysctl.interface != ALL).then(|| Sysctl::new(ALL, sysctl.setting))
}

/// The interfaces that have a setting on, if it is a setting of all interfaces.
fn on_by_themselves(sysctl: &Sysctl) -> Vec<String> {
    if sysctl.interface != ALL {
        return Vec::new();
    }
    let is_on = |name: &String| Sysctl::new(name, sysctl.setting).read().is_ok_and(|value| value == ON);
    sysctl.setting.interfaces().into_iter().filter(is_on).take(MAX_INTERFACES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{SILENT, in_new_namespace, value};
    use tuntap_sys::tun::Tun;

    #[test]
    fn changes_are_put_back() {
        in_new_namespace(|| {
            let _devices = ["tun0", "tun1"].map(|name| Tun::create(name).expect("a device"));
            Sysctl::new("tun1", Setting::Ipv4Forwarding).write(0).expect("root");
            let wanted = ["tun0", "tun1"].map(|name| Wanted::on(name, Setting::Ipv4Forwarding));
            let before = ["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding));
            let mut changes = Changes::default();
            assert!(changes.replace(&wanted, SILENT).is_empty());
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding)), [1, 1]);
            // Another image, which wants less.
            assert!(changes.replace(&wanted[..1], SILENT).is_empty());
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding)), [1, 0]);
            changes.put_back(SILENT);
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv4Forwarding)), before);
        });
    }

    #[test]
    fn what_others_changed_meanwhile_stays() {
        in_new_namespace(|| {
            let _device = Tun::create("tun0").expect("a device");
            let sysctl = Sysctl::new("tun0", Setting::Ipv6AcceptAdvertisements);
            sysctl.write(1).expect("root");
            let mut changes = Changes::default();
            let wanted = Wanted { sysctl: sysctl.clone(), value: 2, instead_of: Some(1) };
            assert!(changes.replace(&[wanted], SILENT).is_empty());
            assert_eq!(sysctl.read().expect("it is there"), 2);
            sysctl.write(0).expect("root");
            changes.put_back(SILENT);
            assert_eq!(sysctl.read().expect("it is there"), 0);
        });
    }

    #[test]
    fn what_others_turned_on_for_all_interfaces_since_stays_on() {
        in_new_namespace(|| {
            let _device = Tun::create("tun0").expect("a device");
            let of = |interface: &str| Sysctl::new(interface, Setting::Ipv4Forwarding);
            for (all_before, all_since, in_the_end) in [(0, 0, 0), (0, 1, 1), (1, 1, 0)] {
                of(ALL).write(all_before).expect("root");
                of("tun0").write(OFF).expect("root");
                let mut changes = Changes::default();
                assert!(changes.replace(&[Wanted::on("tun0", Setting::Ipv4Forwarding)], SILENT).is_empty());
                assert_eq!(value("tun0", Setting::Ipv4Forwarding), ON);
                of(ALL).write(all_since).expect("root");
                changes.put_back(SILENT);
                assert_eq!(value("tun0", Setting::Ipv4Forwarding), in_the_end, "{all_before} {all_since}");
            }
        });
    }

    #[test]
    fn interfaces_that_were_on_by_themselves_are_so_again() {
        in_new_namespace(|| {
            let _devices = ["tun0", "tun1"].map(|name| Tun::create(name).expect("a device"));
            let of = |interface: &str| Sysctl::new(interface, Setting::Ipv6Forwarding);
            of(ALL).write(OFF).expect("root");
            of("tun1").write(ON).expect("root");
            let mut changes = Changes::default();
            assert!(changes.replace(&[Wanted::on(ALL, Setting::Ipv6Forwarding)], SILENT).is_empty());
            assert_eq!(["tun0", "tun1"].map(|name| value(name, Setting::Ipv6Forwarding)), [ON, ON]);
            changes.put_back(SILENT);
            let state = [ALL, "default", "tun0", "tun1"].map(|name| value(name, Setting::Ipv6Forwarding));
            assert_eq!(state, [OFF, OFF, OFF, ON]);
        });
    }
}
