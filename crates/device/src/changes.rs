//! Compares the options of an instance's devices before and after a reload, and says what each change takes. Pure.

use std::fmt::{self, Display};

use super::greeting::rules_frame;
use super::settings::Settings;
use tuntap_config::{Config, Credentials, DeviceSpec, OptionName};

/// What it takes to apply a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A device has to be closed.
    Close,
    /// The device has to connect to its router anew.
    Connection,
    /// A device has to be made, or made anew, which takes root.
    Device,
}

/// An option with another value than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it takes to apply it.
    pub need: Need,
    text: String,
}

impl Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// All changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// One for each option.
    pub list: Vec<Change>,
    /// Names of earlier devices that have to be closed and made anew.
    pub to_remake: Vec<String>,
}

impl Changes {
    /// Returns true if one of the changes has this need.
    pub fn need(&self, need: Need) -> bool {
        self.list.iter().any(|change| change.need == need)
    }

    /// Adds a device that is lost, and that only root can make anew.
    pub fn add_lost(&mut self, device: &str, why: impl Display) {
        self.list.push(Change { need: Need::Device, text: format!("{device}: {why}") });
        self.to_remake.push(device.to_owned());
    }

    /// The changes that have this need, in one line.
    pub fn describe(&self, need: Need) -> String {
        let of_need: Vec<_> = self.list.iter().filter(|change| change.need == need).map(ToString::to_string).collect();
        of_need.join("; ")
    }

    fn add(&mut self, need: Need, text: String) {
        self.list.push(Change { need, text });
    }
}

/// The configuration of an image's devices, and the options that it comes from.
#[derive(Debug, Clone, Copy)]
pub struct Stated<'a> {
    /// The options.
    pub settings: &'a Settings,
    /// What they mean.
    pub config: &'a Config,
}

/// Compares the configuration that devices were made for with that of a new image. How long devices wait for their router,
/// and if the instance ends without it, is no change here: the new image uses its own values.
pub fn compare(before: Stated<'_>, now: Stated<'_>) -> Changes {
    let mut changes = Changes::default();
    compare_devices(&before.config.devices, &now.config.devices, &mut changes);
    if rules_frame(&before.config.device_rules) != rules_frame(&now.config.device_rules) {
        changes.add(Need::Connection, changed_option(OptionName::DeviceRule, before.settings, now.settings));
    }
    let shows = |config: &Config| config.credentials != Credentials::Off;
    if shows(before.config) != shows(now.config) && !now.config.devices.is_empty() {
        changes.add(Need::Connection, changed_option(OptionName::UseCredentials, before.settings, now.settings));
    }
    if before.config.device_offload != now.config.device_offload && !now.config.devices.is_empty() {
        changes.add(Need::Connection, changed_option(OptionName::DeviceOffload, before.settings, now.settings));
    }
    changes
}

/// A text with both values of an option that has changed.
pub fn changed_option(option: OptionName, before: &Settings, now: &Settings) -> String {
    changed(option, before.values(option), now.values(option))
}

fn changed(option: OptionName, before: impl Display, now: impl Display) -> String {
    format!("{} was {before}, and is {now} now", option.as_str())
}

fn compare_devices(before: &[DeviceSpec], now: &[DeviceSpec], changes: &mut Changes) {
    let is_in = |specs: &[DeviceSpec], name: &str| specs.iter().any(|spec| spec.name == name);
    let removed: Vec<_> = before.iter().filter(|spec| !is_in(now, &spec.name)).collect();
    let added: Vec<_> = now.iter().filter(|spec| !is_in(before, &spec.name)).collect();
    // Routes of devices depend on which others there are, and on their order.
    let have_other_siblings =
        addressed(before) != addressed(now) && addressed(before).len().max(addressed(now).len()) > 1;
    for (index, spec) in removed.iter().enumerate() {
        let leaves_routes_behind = have_other_siblings && spec.has_addresses() && !addressed(now).is_empty();
        match added.get(index) {
            Some(new) => changes.add(Need::Device, changed(OptionName::Device, device_text(spec), device_text(new))),
            None => changes.add(
                if leaves_routes_behind { Need::Device } else { Need::Close },
                changed(OptionName::Device, device_text(spec), "nothing"),
            ),
        }
    }
    for new in added.iter().skip(removed.len()) {
        changes.add(Need::Device, changed(OptionName::Device, "nothing", device_text(new)));
    }
    for new in now {
        let Some(old) = before.iter().find(|spec| spec.name == new.name) else { continue };
        let texts = setting_texts(old, new);
        if !texts.is_empty() || (have_other_siblings && (old.has_addresses() || new.has_addresses())) {
            changes.to_remake.push(new.name.clone());
        }
        texts.into_iter().for_each(|text| changes.add(Need::Device, text));
    }
    if have_other_siblings && !changes.need(Need::Device) {
        let names = |specs| addressed(specs).join(", ");
        changes.add(Need::Device, format!("the order of {}", changed(OptionName::Device, names(before), names(now))));
    }
}

/// The names of devices that have addresses, in order.
fn addressed(specs: &[DeviceSpec]) -> Vec<&str> {
    specs.iter().filter(|spec| spec.has_addresses()).map(|spec| spec.name.as_str()).collect()
}

fn device_text(spec: &DeviceSpec) -> String {
    let socket = spec.socket.as_deref().map(|socket| format!(" {socket}")).unwrap_or_default();
    format!("{}{socket}{}", spec.name, if spec.auto { " auto" } else { "" })
}

/// A text for each difference between two devices of the same name.
fn setting_texts(old: &DeviceSpec, new: &DeviceSpec) -> Vec<String> {
    let list = |values: Vec<String>| if values.is_empty() { "nothing".to_owned() } else { values.join(", ") };
    let sorted = |mut values: Vec<String>| {
        values.sort();
        list(values)
    };
    let addresses = |spec: &DeviceSpec| sorted(spec.addresses.iter().map(ToString::to_string).collect());
    let gateways = |spec: &DeviceSpec| sorted(spec.gateways.iter().map(ToString::to_string).collect());
    let mtu = |spec: &DeviceSpec| list(spec.mtu.iter().map(ToString::to_string).collect());
    let dns = |spec: &DeviceSpec| list(spec.resolv_conf.iter().cloned().collect());
    let of_device = |option: OptionName, before: String, now: String| {
        (before != now).then(|| format!("{}: {}", new.name, changed(option, before, now)))
    };
    [
        of_device(OptionName::Device, device_text(old), device_text(new)),
        of_device(OptionName::DeviceAddress, addresses(old), addresses(new)),
        of_device(OptionName::DeviceGateway, gateways(old), gateways(new)),
        of_device(OptionName::DeviceMtu, mtu(old), mtu(new)),
        of_device(OptionName::DeviceDns, dns(old), dns(new)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &[(OptionName, &str)]) -> Settings {
        Settings::new(options.iter().map(|(option, value)| (*option, (*value).to_owned())), true)
    }

    fn changes(before: &[(OptionName, &str)], now: &[(OptionName, &str)]) -> Changes {
        let [before, now] = [before, now].map(settings);
        let [old, new] = [&before, &now].map(|settings| settings.config().expect("values that can be read"));
        compare(Stated { settings: &before, config: &old }, Stated { settings: &now, config: &new })
    }

    type Options<'a> = &'a [(OptionName, &'a str)];

    const DEVICE: (OptionName, &str) = (OptionName::Device, "uwsgi0 /t.sock");
    const OTHER: (OptionName, &str) = (OptionName::Device, "uwsgi1 /u.sock");
    const AUTO: (OptionName, &str) = (OptionName::Device, "uwsgi0 /t.sock auto");
    const OTHER_AUTO: (OptionName, &str) = (OptionName::Device, "uwsgi1 /u.sock auto");
    const ADDRESS: (OptionName, &str) = (OptionName::DeviceAddress, "uwsgi0 10.0.0.2/24");

    #[test]
    fn what_is_the_same_needs_nothing() {
        let spelled = (OptionName::Device, "  uwsgi0   /t.sock  ");
        let any = (OptionName::DeviceRule, "out any 10.0.0.0/8 deny");
        let zero = (OptionName::DeviceRule, "out 0.0.0.0 10.0.0.0/8 deny");
        let v6 = [(OptionName::DeviceAddress, "fd00::2/64"), (OptionName::DeviceAddress, "fd00::3/64")];
        for (before, now) in [
            (vec![DEVICE], vec![spelled]),
            (vec![DEVICE], vec![DEVICE, (OptionName::DeviceTimeout, "7"), (OptionName::DeviceRequired, "true")]),
            (vec![DEVICE], vec![DEVICE, (OptionName::DeviceOffload, "true")]),
            (vec![DEVICE, any], vec![DEVICE, any]),
            (vec![DEVICE, v6[0], v6[1]], vec![DEVICE, v6[1], v6[0]]),
            (vec![DEVICE, OTHER], vec![OTHER, DEVICE]),
            (
                vec![DEVICE, (OptionName::DeviceRule, "in any any allow"), zero],
                vec![DEVICE, (OptionName::DeviceRule, "in  any any allow"), zero],
            ),
        ] {
            assert_eq!(changes(&before, &now), Changes::default(), "{before:?} {now:?}");
        }
    }

    #[test]
    fn every_change_has_its_need_and_a_line_with_both_values() {
        let fixed = (OptionName::DeviceAddress, "10.0.0.3/24");
        let cases: [(Options<'_>, Options<'_>, Need, &str); 15] = [
            (
                &[DEVICE],
                &[(OptionName::Device, "net0 /t.sock")],
                Need::Device,
                "tuntap-device was uwsgi0 /t.sock, and is net0 /t.sock now",
            ),
            (&[DEVICE], &[DEVICE, OTHER], Need::Device, "tuntap-device was nothing, and is uwsgi1 /u.sock now"),
            (&[], &[DEVICE], Need::Device, "tuntap-device was nothing, and is uwsgi0 /t.sock now"),
            (&[DEVICE, OTHER], &[DEVICE], Need::Close, "tuntap-device was uwsgi1 /u.sock, and is nothing now"),
            (&[AUTO, OTHER_AUTO], &[AUTO], Need::Device, "was uwsgi1 /u.sock auto, and is nothing now"),
            (
                &[AUTO, OTHER_AUTO],
                &[OTHER_AUTO, AUTO],
                Need::Device,
                "the order of tuntap-device was uwsgi0, uwsgi1, and is uwsgi1, uwsgi0 now",
            ),
            (
                &[DEVICE],
                &[(OptionName::Device, "uwsgi0 /u.sock")],
                Need::Device,
                "uwsgi0: tuntap-device was uwsgi0 /t.sock, and is uwsgi0 /u.sock now",
            ),
            (
                &[AUTO],
                &[DEVICE, ADDRESS],
                Need::Device,
                "uwsgi0: tuntap-device-address was nothing, and is 10.0.0.2/24",
            ),
            (&[DEVICE, ADDRESS], &[DEVICE, fixed], Need::Device, "address was 10.0.0.2/24, and is 10.0.0.3/24 now"),
            (
                &[AUTO],
                &[AUTO, (OptionName::DeviceGateway, "10.0.0.9")],
                Need::Device,
                "tuntap-device-gateway was nothing, and is 10.0.0.9 now",
            ),
            (&[AUTO, (OptionName::DeviceMtu, "1400")], &[AUTO], Need::Device, "mtu was 1400, and is nothing now"),
            (&[AUTO], &[AUTO, (OptionName::DeviceDns, "true")], Need::Device, "is /etc/resolv.conf now"),
            (
                &[DEVICE],
                &[DEVICE, (OptionName::DeviceRule, "out any 10.0.0.0/8 deny")],
                Need::Connection,
                "tuntap-device-rule was nothing, and is out any 10.0.0.0/8 deny now",
            ),
            (
                &[DEVICE],
                &[DEVICE, (OptionName::UseCredentials, "true")],
                Need::Connection,
                "tuntap-use-credentials was nothing, and is true now",
            ),
            (
                &[DEVICE, (OptionName::DeviceOffload, "true")],
                &[DEVICE, (OptionName::DeviceOffload, "false")],
                Need::Connection,
                "tuntap-device-offload was true, and is false now",
            ),
        ];
        for (before, now, need, line) in cases {
            let changes = changes(before, now);
            assert!(changes.need(need) && changes.describe(need).contains(line), "{line}: {changes:?}");
            assert!(changes.list.iter().all(|change| change.need == need), "{changes:?}");
        }
    }

    #[test]
    fn devices_that_nothing_has_happened_to_stay() {
        let other = (OptionName::Device, "uwsgi1 /other.sock");
        assert_eq!(changes(&[DEVICE, OTHER], &[DEVICE, other]).to_remake, ["uwsgi1"]);
        assert!(changes(&[DEVICE], &[DEVICE, OTHER]).to_remake.is_empty());
        // Its routes are to be others.
        assert_eq!(changes(&[AUTO], &[AUTO, OTHER_AUTO]).to_remake, ["uwsgi0"]);
    }

    #[test]
    fn two_devices_that_are_swapped_are_both_made_anew() {
        let swapped = [(OptionName::Device, "uwsgi0 /u.sock"), (OptionName::Device, "uwsgi1 /t.sock")];
        let changes = changes(&[DEVICE, OTHER], &swapped);
        assert_eq!(changes.to_remake, ["uwsgi0", "uwsgi1"]);
        assert_eq!(changes.list.len(), 2);
    }
}
