//! `tuntap-device` and the options about a device's network: `-address`, `-gateway`, `-mtu`, `-dns`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::error::{ConfigError, Problem};
use super::{OptionName, parse};
use tuntap_wire::autoconf::{Family, MAX_ADDRESSES, MIN_MTU_V4, MIN_MTU_V6, is_reserved};

/// One device of this instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Name of the TUN device.
    pub name: String,
    /// The router's socket. Without one, the device is made and left alone.
    pub socket: Option<String>,
    /// True if the router chooses its addresses.
    pub auto: bool,
    /// Addresses that it has, with the lengths of their networks' prefixes.
    pub addresses: Vec<IpNet>,
    /// Its default routers, one of each family at most. Without one it takes the one that the tuntap router names.
    pub gateways: Vec<IpAddr>,
    /// Its MTU, in bytes. Without one, the router's.
    pub mtu: Option<u16>,
    /// Where the router's DNS servers are written to, as the instance sees it in its jail.
    pub resolv_conf: Option<String>,
}

impl DeviceSpec {
    /// Returns true if the plugin configures the device's network, rather than the operator's hooks.
    pub fn has_addresses(&self) -> bool {
        self.auto || !self.addresses.is_empty()
    }

    /// The default router of a family that the options name.
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        self.gateways.iter().copied().find(|gateway| Family::of(*gateway) == family)
    }
}

/// The last word of a device whose router chooses its addresses.
const AUTO: &str = "auto";

const SYNTAX: &str = OptionName::Device.syntax();
const ADDRESS_SYNTAX: &str = OptionName::DeviceAddress.syntax();
const GATEWAY_SYNTAX: &str = OptionName::DeviceGateway.syntax();
const MTU_SYNTAX: &str = OptionName::DeviceMtu.syntax();
const DNS_SYNTAX: &str = OptionName::DeviceDns.syntax();

/// Where resolvers look for their servers (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Reads `<device>[ <socket>[ auto]]`. Everything behind the device is the socket's name, white space included, except for
/// a last word `auto`. A name in quotes is what stands in them.
pub fn parse(value: &str) -> Result<DeviceSpec, Problem> {
    let value = value.trim();
    let Some((name, rest)) = value.split_once(|letter: char| letter.is_ascii_whitespace()) else {
        return Ok(DeviceSpec { name: parse::device_name(value)?, ..DeviceSpec::default() });
    };
    let (socket, auto) = socket_and_auto(rest.trim_start())?;
    Ok(DeviceSpec {
        name: parse::device_name(name)?,
        socket: Some(parse::unix_socket(&socket)?),
        auto,
        ..DeviceSpec::default()
    })
}

fn socket_and_auto(rest: &str) -> Result<(String, bool), Problem> {
    if rest == AUTO {
        return Err(Problem::Syntax("a socket before auto: <device> <socket> auto; a socket of this name is ./auto"));
    }
    if rest.starts_with(['"', '\'']) {
        return match parse::words(rest, SYNTAX)?.as_slice() {
            [socket] => Ok((socket.clone(), false)),
            [socket, word] if word == AUTO => Ok((socket.clone(), true)),
            _ => Err(Problem::Syntax(SYNTAX)),
        };
    }
    let before_auto =
        rest.strip_suffix(AUTO).filter(|before| before.ends_with(|letter: char| letter.is_ascii_whitespace()));
    Ok(match before_auto {
        Some(socket) => (socket.trim_end().to_owned(), true),
        None => (rest.to_owned(), false),
    })
}

/// What an option says about one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    option: OptionName,
    /// The whole value, for messages.
    value: String,
    /// The device's name. `None`: the only device.
    device: Option<String>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Address(IpNet),
    Gateway(IpAddr),
    Mtu(u16),
    ResolvConf(Option<String>),
}

/// Reads `[<device>] <address/prefix>`.
pub fn address(value: &str) -> Result<Setting, Problem> {
    setting(OptionName::DeviceAddress, value, ADDRESS_SYNTAX, |word| parse::host_with_prefix(word).map(What::Address))
}

/// Reads `[<device>] <address>`.
pub fn gateway(value: &str) -> Result<Setting, Problem> {
    setting(OptionName::DeviceGateway, value, GATEWAY_SYNTAX, |word| parse::host(word).map(What::Gateway))
}

/// Reads `[<device>] <bytes>`.
pub fn mtu(value: &str) -> Result<Setting, Problem> {
    setting(OptionName::DeviceMtu, value, MTU_SYNTAX, |word| {
        let mtu = parse::number(word, MIN_MTU_V4.into(), u16::MAX.into())?;
        Ok(What::Mtu(u16::try_from(mtu).unwrap_or(u16::MAX)))
    })
}

/// Reads `[<device>] [true|false|<path>]`.
pub fn dns(value: &str) -> Result<Setting, Problem> {
    let value = if value.trim().is_empty() { "true" } else { value };
    setting(OptionName::DeviceDns, value, DNS_SYNTAX, |word| {
        Ok(What::ResolvConf(match word {
            "true" => Some(RESOLV_CONF.to_owned()),
            "false" => None,
            path => Some(parse::absolute_file(path)?),
        }))
    })
}

fn setting(
    option: OptionName,
    value: &str,
    syntax: &'static str,
    read: impl FnOnce(&str) -> Result<What, Problem>,
) -> Result<Setting, Problem> {
    let (device, [word]) = parse::for_device(value, syntax)?;
    Ok(Setting { option, value: value.to_owned(), device, what: read(&word)? })
}

/// Gives each setting to its device. Returns those that can't be given, and what doesn't go together.
pub fn apply(devices: &mut [DeviceSpec], settings: Vec<Setting>) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for setting in settings {
        let problem = match named(devices, setting.device.as_deref()) {
            Ok(device) => device.set(setting.what).err(),
            Err(problem) => Some(problem),
        };
        if let Some(problem) = problem {
            errors.push(ConfigError::new(setting.option, setting.value, problem));
        }
    }
    errors.extend(devices.iter().filter_map(DeviceSpec::contradiction));
    for (index, device) in devices.iter().enumerate() {
        if let Some(path) = &device.resolv_conf
            && devices[..index].iter().any(|other| other.resolv_conf.as_ref() == Some(path))
        {
            errors.push(error(
                OptionName::DeviceDns,
                format!("{} {path}", device.name),
                "another path: a second device writes this one, too",
            ));
        }
    }
    errors
}

/// The device of that name; without a name the only one there is.
fn named<'a>(devices: &'a mut [DeviceSpec], name: Option<&str>) -> Result<&'a mut DeviceSpec, Problem> {
    match (name, devices) {
        (None, [only]) => Ok(only),
        (None, []) => Err(Problem::NoDevice),
        (None, _) => Err(Problem::WhichDevice),
        (Some(name), devices) => {
            devices.iter_mut().find(|device| device.name == name).ok_or_else(|| Problem::NoSuchDevice(name.to_owned()))
        }
    }
}

fn error(option: OptionName, value: String, expected: &'static str) -> ConfigError {
    ConfigError::new(option, value, Problem::Syntax(expected))
}

impl DeviceSpec {
    fn set(&mut self, what: What) -> Result<(), Problem> {
        match what {
            What::Address(_) if self.addresses.len() >= MAX_ADDRESSES => {
                return Err(Problem::Syntax("no more than 9 addresses of a device"));
            }
            What::Address(address) if address.addr().is_ipv4() && self.has_fixed(Family::V4) => {
                return Err(Problem::Syntax("one IPv4 address of a device: a router knows it by one"));
            }
            What::Address(address) => self.addresses.push(address),
            What::Gateway(gateway) if self.gateways.iter().any(|it| it.is_ipv4() == gateway.is_ipv4()) => {
                return Err(Problem::Syntax("one gateway of a family"));
            }
            What::Gateway(gateway) => self.gateways.push(gateway),
            What::Mtu(mtu) => self.mtu = Some(mtu),
            What::ResolvConf(path) => self.resolv_conf = path,
        }
        Ok(())
    }

    fn has_fixed(&self, family: Family) -> bool {
        self.addresses.iter().any(|address| Family::of(address.addr()) == family)
    }

    fn contradiction(&self) -> Option<ConfigError> {
        let orphan = self.gateways.iter().find(|gateway| !self.auto && !self.has_fixed(Family::of(**gateway)));
        let reserved = self.addresses.iter().find(|address| is_reserved(**address, address.addr()));
        let of_this = |word: &dyn std::fmt::Display| format!("{} {word}", self.name);
        if self.auto
            && let Some(address) = self.addresses.first()
        {
            let expected =
                "no address of a device with auto: its router chooses them (tuntap-router-lease fixes them there)";
            Some(error(OptionName::DeviceAddress, of_this(address), expected))
        } else if let Some(address) = reserved {
            let expected = "a host's address, which neither the first nor the last one of an IPv4 network is, nor the first \
                            one of an IPv6 network";
            Some(error(OptionName::DeviceAddress, of_this(address), expected))
        } else if let Some(gateway) = orphan {
            let expected = "a tuntap-device-address of the same family, or auto";
            Some(error(OptionName::DeviceGateway, of_this(gateway), expected))
        } else if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MIN_MTU_V6 && (self.has_fixed(Family::V6))) {
            Some(error(OptionName::DeviceMtu, of_this(&mtu), "1280 to 65535 bytes, for a device with IPv6 addresses"))
        } else if let Some(path) = self.resolv_conf.as_ref().filter(|_| !self.has_addresses() || self.socket.is_none())
        {
            let expected = "a device that asks its router: with auto, or with a socket and a tuntap-device-address";
            Some(error(OptionName::DeviceDns, of_this(path), expected))
        } else {
            None
        }
    }
}
