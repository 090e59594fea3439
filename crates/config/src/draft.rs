//! A configuration while its options are read.

use super::device::{self, Setting};
use super::error::{ConfigError, ConfigErrors};
use super::hostnet::{self, HostSetting};
use super::router::{self, StatsAddress};
use super::{Config, OptionName, control, metrics, protection, rules};

/// What the options have said so far. Values about a router or a device may stand before that, so they are applied at the
/// end.
#[derive(Debug, Default)]
pub struct Draft {
    /// Everything that stands for itself.
    pub config: Config,
    /// `tuntap-router-stats`
    pub default_stats: Option<StatsAddress>,
    /// Values about routers.
    pub host_settings: Vec<HostSetting>,
    /// Values about devices.
    pub device_settings: Vec<Setting>,
    errors: Vec<ConfigError>,
}

impl Draft {
    /// Reads one value of an option.
    pub fn read(&mut self, option: OptionName, value: &str) {
        if let Err(problem) = option.spec().read(self, value) {
            self.errors.push(ConfigError::new(option, value, problem));
        }
    }

    /// Gives the settings to their routers and devices, and checks what only all options together tell.
    pub fn finish(self) -> Result<Config, ConfigErrors> {
        let Self { mut config, default_stats, host_settings, device_settings, mut errors } = self;
        errors.extend(rules::too_many_device_rules(&config.device_rules));
        errors.extend(router::duplicates(&config.routers));
        errors.extend(hostnet::apply(&mut config.routers, &host_settings));
        errors.extend(device::apply(&mut config.devices, device_settings));
        if let Some(address) = default_stats {
            router::apply_default_stats(&mut config.routers, address);
        }
        protection::complete(&mut config);
        errors.extend(control::duplicates(&config.routers));
        metrics::complete(&mut config.routers);
        errors.extend(metrics::duplicates(&config.routers));
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }
}
