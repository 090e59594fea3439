//! The options of an instance's devices, which the next image compares with its own.

use serde::{Deserialize, Serialize};

use tuntap_config::{Config, OptionName};

/// The options about devices, as they were given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    options: Vec<(String, String)>,
    /// True if the instance is to be in a network namespace of its own.
    is_isolated: bool,
}

impl Settings {
    /// Takes the options about devices from all options.
    pub fn new(options: impl IntoIterator<Item = (OptionName, String)>, is_isolated: bool) -> Self {
        let of_devices = options.into_iter().filter(|(option, _)| is_about_devices(*option));
        Self { options: of_devices.map(|(option, value)| (option.as_str().to_owned(), value)).collect(), is_isolated }
    }

    /// Returns true if the instance is to be in a network namespace of its own.
    pub const fn is_isolated(&self) -> bool {
        self.is_isolated
    }

    /// The configuration that the options describe. `None` if they come from another version and this one can't read a value.
    /// Options that this version doesn't have are ignored.
    pub fn config(&self) -> Option<Config> {
        let known = self.options.iter().filter_map(|(name, value)| {
            let option = OptionName::find(name)?;
            is_about_devices(option).then_some((option, value.as_str()))
        });
        Config::from_options(known).ok()
    }

    /// The values of an option, as text for the log.
    pub fn values(&self, option: OptionName) -> String {
        let values: Vec<_> =
            self.options.iter().filter(|(name, _)| name == option.as_str()).map(|(_, value)| value.trim()).collect();
        if values.is_empty() { "nothing".to_owned() } else { values.join(", ") }
    }
}

const fn is_about_devices(option: OptionName) -> bool {
    matches!(
        option,
        OptionName::Device
            | OptionName::UseCredentials
            | OptionName::DeviceRule
            | OptionName::DeviceAddress
            | OptionName::DeviceGateway
            | OptionName::DeviceMtu
            | OptionName::DeviceDns
            | OptionName::DeviceTimeout
            | OptionName::DeviceRequired
            | OptionName::DeviceOffload
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_devices_are_told_to_the_next_image() {
        let given = [
            (OptionName::Device, "uwsgi0 /t.sock"),
            (OptionName::Router, "emperor0 /u.sock"),
            (OptionName::DeviceAddress, "10.0.0.2/24"),
        ];
        let settings = Settings::new(given.map(|(option, value)| (option, value.to_owned())), true);
        let text = serde_json::to_string(&settings).expect("plain values");
        let told: Settings = serde_json::from_str(&text).expect("its own format");
        let config = told.config().expect("values that were checked");
        assert_eq!((config.devices.len(), config.routers.len(), told.is_isolated()), (1, 0, true));
        assert_eq!(told.values(OptionName::DeviceAddress), "10.0.0.2/24");
        assert_eq!(told.values(OptionName::DeviceMtu), "nothing");
    }

    #[test]
    fn options_of_other_versions_are_passed_over() {
        let read = |text: &str| serde_json::from_str::<Settings>(text).expect("the format").config();
        assert!(read(r#"{"options":[["tuntap-device-colour","red"]],"is_isolated":true}"#).is_some());
        assert!(read(r#"{"options":[["tuntap-device-mtu","red"]],"is_isolated":true}"#).is_none());
    }
}
