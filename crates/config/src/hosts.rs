//! What a router tells other hosts, and how: `tuntap-router-key` and `tuntap-router-routes`.

use std::net::{IpAddr, SocketAddr};

use super::error::Problem;
use super::hostnet::HostSetting;
use super::trunks::TrunksSpec;
use super::{OptionName, RouterSpec, parse};
use tuntap_core::routes::settings::{DEFAULT_ASN, DEFAULT_HOLD_TIME};

const KEY_SYNTAX: &str = OptionName::RouterKey.syntax();
const ROUTES_SYNTAX: &str = OptionName::Routes.syntax();

/// Folder of the keys of routers whose options name no other file.
pub const KEY_FOLDER: &str = "/var/lib/uwsgi-tuntap";

/// Least hold time, in seconds (RFC 4271, section 4.2).
const MIN_HOLD_TIME: u64 = 3;

/// The settings of `tuntap-router-routes`, for messages.
const ROUTES_WORDS: &str = "from=, as=, neighbour-as= or hold=";

/// What a router tells other hosts, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostsSpec {
    /// The file of its key, if the options name one.
    pub key: Option<String>,
    /// The session with the host's routing daemon.
    pub routes: Option<RoutesSpec>,
    /// Trunks to routers of other hosts.
    pub trunks: TrunksSpec,
}

/// A session with the host's routing daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutesSpec {
    /// Where the router listens.
    pub address: SocketAddr,
    /// Where the daemon connects from.
    pub from: IpAddr,
    /// The file with the password for TCP-MD5.
    pub password: Option<String>,
    /// The AS of the routers.
    pub asn: u32,
    /// The daemon's AS, if it has to be a certain one.
    pub neighbour_asn: Option<u32>,
    /// Seconds without a message after which either side counts as dead.
    pub hold_time: u16,
}

impl HostsSpec {
    /// Returns true if the router tells others of its claims, for which it needs a key.
    pub const fn needs_key(&self) -> bool {
        self.routes.is_some() || self.has_trunks()
    }

    /// Returns true if there may be trunks.
    pub const fn has_trunks(&self) -> bool {
        !self.trunks.peers.is_empty() || !self.trunks.listeners.is_empty()
    }

    /// Returns the file of the key of a router with that device.
    pub fn key_file(&self, device: &str) -> String {
        self.key.clone().unwrap_or_else(|| format!("{KEY_FOLDER}/{device}.key"))
    }
}

/// Reads `[<device>] <file>`.
pub fn key(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, KEY_SYNTAX)?;
    Ok(HostSetting::key(value, device, parse::absolute_file(&word)?))
}

/// Reads `[<device>] <addr:port> [<password file>] [from=<addr>] [as=<n>] [neighbour-as=<n>] [hold=<seconds>]`.
pub fn routes(value: &str) -> Result<HostSetting, Problem> {
    let words = parse::words(value, ROUTES_SYNTAX)?;
    // A device's name has no colon, and an address with a port has one.
    let (device, words) = match words.as_slice() {
        [device, rest @ ..] if !device.contains(':') && !rest.is_empty() => (Some(parse::device_name(device)?), rest),
        all => (None, all),
    };
    let [address, rest @ ..] = words else { return Err(Problem::Syntax(ROUTES_SYNTAX)) };
    let (password, rest) = match rest {
        [file, rest @ ..] if !file.contains('=') || file.starts_with('/') => (Some(parse::absolute_file(file)?), rest),
        all => (None, all),
    };
    let address = routes_address(address)?;
    let mut spec = RoutesSpec {
        address,
        from: address.ip(),
        password,
        asn: DEFAULT_ASN,
        neighbour_asn: None,
        hold_time: DEFAULT_HOLD_TIME,
    };
    settings(&mut spec, rest)?;
    for ip in [spec.address.ip(), spec.from] {
        if spec.password.is_none() && !ip.is_loopback() {
            return Err(Problem::RoutesWithoutPassword(ip));
        }
    }
    if spec.neighbour_asn == Some(spec.asn) {
        return Err(Problem::SameAsn(spec.asn));
    }
    Ok(HostSetting::routes(value, device, spec))
}

/// Reads the words with `=`.
fn settings(spec: &mut RoutesSpec, words: &[String]) -> Result<(), Problem> {
    let mut seen: Vec<&str> = Vec::new();
    for word in words {
        let unknown = || Problem::UnknownWord { what: "setting", word: word.clone(), expected: ROUTES_WORDS };
        let (name, value) = word.split_once('=').ok_or_else(unknown)?;
        if seen.contains(&name) {
            return Err(Problem::WordTwice(word.clone()));
        }
        seen.push(name);
        match name {
            "from" => spec.from = daemon_address(value, spec.address.ip())?,
            "as" => spec.asn = asn(value)?,
            "neighbour-as" => spec.neighbour_asn = Some(asn(value)?),
            "hold" => {
                let seconds = parse::number(value, MIN_HOLD_TIME, u16::MAX.into())?;
                spec.hold_time = u16::try_from(seconds).unwrap_or(u16::MAX);
            }
            _ => return Err(unknown()),
        }
    }
    Ok(())
}

fn asn(value: &str) -> Result<u32, Problem> {
    let number = parse::number(value, 1, u32::MAX.into())?;
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

/// An address of the routing daemon, of the family of the router's.
fn daemon_address(word: &str, own: IpAddr) -> Result<IpAddr, Problem> {
    let address = word.parse::<IpAddr>().ok().filter(|ip| ip.is_ipv4() == own.is_ipv4() && !is_unusable(*ip));
    address.ok_or_else(|| Problem::RoutesFrom { word: word.to_owned(), own })
}

const fn is_unusable(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast()
}

/// An address of this host, where its routing daemon connects.
fn routes_address(word: &str) -> Result<SocketAddr, Problem> {
    let address = parse::udp_target(word).map_err(|_| Problem::RoutesAddress(word.to_owned()))?;
    if is_unusable(address.ip()) {
        return Err(Problem::RoutesAddress(word.to_owned()));
    }
    Ok(address)
}

/// Gives a router its session with the routing daemon. Addresses of others are taken from its networks alone.
pub fn set_routes(routers: &mut [RouterSpec], index: usize, spec: &RoutesSpec) -> Result<(), Problem> {
    if routers[index].addresses.is_empty() {
        return Err(Problem::RoutesWithoutAddress);
    }
    if routers.iter().filter_map(|router| router.hosts.routes.as_ref()).any(|other| other.address == spec.address) {
        return Err(Problem::Repeated);
    }
    match routers[index].hosts.routes.replace(spec.clone()) {
        Some(_) => Err(Problem::Repeated),
        None => Ok(()),
    }
}
