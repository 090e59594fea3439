//! The words that option values are made of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::error::Problem;
use tuntap_wire::autoconf::is_claimable;
use tuntap_wire::selector::AddressPattern;

/// Longest name of a network device, in bytes: `IFNAMSIZ` of linux/if.h less the final NUL.
const MAX_DEVICE_NAME_LEN: usize = 15;

/// Longest name of a unix socket, in bytes. uWSGI ends the process if a name is longer.
const MAX_SOCKET_NAME_LEN: usize = 102;

/// Longest path, in bytes: `PATH_MAX` of linux/limits.h less the final NUL.
const MAX_PATH_LEN: usize = 4095;

const MAX_SECONDS: u64 = 3600;

/// Longest time to poll, in microseconds. Beyond it, events are so rare that a sleep between them is no loss.
const MAX_BUSY_POLL_MICROS: u64 = 1000;

/// Splits a value at white space; quotes keep words together.
pub fn words(value: &str, syntax: &'static str) -> Result<Vec<String>, Problem> {
    shlex::split(value).ok_or(Problem::Syntax(syntax))
}

/// Splits a value into a number of words, and the device's name that may stand before them.
pub fn for_device<const N: usize>(value: &str, syntax: &'static str) -> Result<(Option<String>, [String; N]), Problem> {
    let mut words = words(value, syntax)?;
    let device = if words.len() == N + 1 { Some(device_name(&words.remove(0))?) } else { None };
    let words = words.try_into().map_err(|_| Problem::Syntax(syntax))?;
    Ok((device, words))
}

/// Reads an address that a host can have.
pub fn host(word: &str) -> Result<IpAddr, Problem> {
    word.parse().ok().filter(|address| is_claimable(*address)).ok_or_else(|| Problem::Host(word.to_owned()))
}

/// Reads an address that a host can have, with the length of its network's prefix.
pub fn host_with_prefix(word: &str) -> Result<IpNet, Problem> {
    let wrong = || Problem::HostWithPrefix(word.to_owned());
    // The standard library refuses leading zeros, which are octal in C; ipnet reads them as decimal.
    let (address, _) = word.split_once('/').ok_or_else(wrong)?;
    host(address).map_err(|_| wrong())?;
    word.parse().ok().filter(|net: &IpNet| net.prefix_len() > 0).ok_or_else(wrong)
}

/// Reads an absolute path of a file.
pub fn absolute_file(word: &str) -> Result<String, Problem> {
    let is_file = word.starts_with('/') && !word.ends_with('/') && !word.ends_with("/.") && !word.ends_with("/..");
    if is_file && word.len() <= MAX_PATH_LEN && !word.contains('\0') {
        Ok(word.to_owned())
    } else {
        Err(Problem::File(word.to_owned()))
    }
}

/// Reads `true` or `false`. An empty value is `true`.
pub fn boolean(value: &str) -> Result<bool, Problem> {
    match value.trim() {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Problem::UnknownWord { what: "value", word: other.to_owned(), expected: "true or false" }),
    }
}

/// Reads whole seconds, up to an hour.
pub fn seconds(value: &str) -> Result<Duration, Problem> {
    number(value, 0, MAX_SECONDS).map(Duration::from_secs).map_err(|_| Problem::Seconds(value.to_owned()))
}

/// Reads how long to poll, in microseconds.
pub fn busy_poll(value: &str) -> Result<Duration, Problem> {
    number(value, 0, MAX_BUSY_POLL_MICROS).map(Duration::from_micros).map_err(|_| Problem::BusyPoll(value.to_owned()))
}

/// Reads a number within bounds.
pub fn number(value: &str, min: u64, max: u64) -> Result<u64, Problem> {
    let word = value.trim();
    let number = word.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| Problem::Number { word: word.to_owned(), min, max })
}

/// Reads an address pattern. `any`, 0.0.0.0 and :: are any address; others are one host, or a network. Host bits don't count.
pub fn pattern(word: &str) -> Result<AddressPattern, Problem> {
    if word == "any" {
        return Ok(AddressPattern::Any);
    }
    let written = prefix_as_written(word)?;
    let is_any = written.addr().is_unspecified() && !word.contains('/');
    Ok(if is_any { AddressPattern::Any } else { AddressPattern::Net(written.trunc()) })
}

/// Reads addresses that somebody is allowed. Host bits are an error here, because a mistake would allow too much.
pub fn exact_prefix(word: &str) -> Result<IpNet, Problem> {
    let written = prefix_as_written(word)?;
    if written.addr() != written.network() {
        let word = word.to_owned();
        return Err(Problem::HostBits { word, network: written.trunc(), host: written.addr().into() });
    }
    Ok(written)
}

/// Reads an address with or without a prefix length. Without one it is a single host, except for 0.0.0.0 and ::, which are
/// all addresses of their version.
fn prefix_as_written(word: &str) -> Result<IpNet, Problem> {
    let wrong = || Problem::Prefix(word.to_owned());
    // The standard library refuses leading zeros, which are octal in C; ipnet reads them as decimal.
    let address: IpAddr = word.split('/').next().and_then(|address| address.parse().ok()).ok_or_else(wrong)?;
    if word.contains('/') {
        return word.parse().map_err(|_| wrong());
    }
    let host_len = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, if address.is_unspecified() { 0 } else { host_len }).map_err(|_| wrong())
}

/// Reads address and port of another router's gateway. IPv4-mapped addresses are refused, and so are scopes, which mean
/// nothing on another machine.
pub fn udp_target(word: &str) -> Result<SocketAddr, Problem> {
    let is_plain = |target: &SocketAddr| match target {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(target) => target.scope_id() == 0 && target.ip().to_ipv4_mapped().is_none(),
    };
    let target = word.parse().ok().filter(|target: &SocketAddr| target.port() != 0 && is_plain(target));
    target.ok_or_else(|| Problem::UdpAddress(word.to_owned()))
}

/// Reads address and port to bind for UDP. `:port` is any IPv4 address; `[::]:port` is any address of both versions.
pub fn udp_bind(word: &str) -> Result<SocketAddr, Problem> {
    match word.strip_prefix(':') {
        Some(port) => {
            udp_target(&format!("{}:{port}", Ipv4Addr::UNSPECIFIED)).map_err(|_| Problem::UdpAddress(word.to_owned()))
        }
        None => udp_target(word),
    }
}

/// Reads a member of a set: an address, a network, or a range of addresses, which is as many networks as it takes.
pub fn set_member(word: &str, members: &mut Vec<IpNet>) -> Result<(), Problem> {
    let Some((first, last)) = word.split_once('-') else {
        let prefix = exact_prefix(word)?;
        if prefix.addr().is_unspecified() && !word.contains('/') {
            return Err(Problem::Unspecified(word.to_owned()));
        }
        members.push(prefix);
        return Ok(());
    };
    let address = |word: &str| word.parse::<IpAddr>().ok();
    match (address(first), address(last)) {
        (Some(IpAddr::V4(first)), Some(IpAddr::V4(last))) if first <= last => {
            members.extend(Ipv4Subnets::new(first, last, 0).map(IpNet::from));
            Ok(())
        }
        (Some(IpAddr::V6(first)), Some(IpAddr::V6(last))) if first <= last => {
            members.extend(Ipv6Subnets::new(first, last, 0).map(IpNet::from));
            Ok(())
        }
        _ => Err(Problem::Range(word.to_owned())),
    }
}

/// Reads a network device's name (the kernel's `dev_valid_name`).
pub fn device_name(word: &str) -> Result<String, Problem> {
    let wrong = word.is_empty()
        || word.len() > MAX_DEVICE_NAME_LEN
        || word == "."
        || word == ".."
        || word.contains(|letter: char| letter.is_whitespace() || letter == '/' || letter == ':' || letter == '\0');
    if wrong { Err(Problem::DeviceName(word.to_owned())) } else { Ok(word.to_owned()) }
}

/// Reads a unix socket's name: a path, or `@name` for the abstract namespace.
pub fn unix_socket(word: &str) -> Result<String, Problem> {
    if is_tcp_address(word) {
        return Err(Problem::SocketIsTcp(word.to_owned()));
    }
    let wrong = word.is_empty() || word == "@" || word.len() > MAX_SOCKET_NAME_LEN || word.contains('\0');
    if wrong { Err(Problem::SocketName(word.to_owned())) } else { Ok(word.to_owned()) }
}

/// Checks the address of a TCP listener, as uWSGI reads it: `addr:port`, `[addr]:port`, `name:port` or `:port`. uWSGI would take an
/// IPv6 address without brackets for a name, and listen nowhere.
pub fn tcp_listener(word: &str) -> Result<(), Problem> {
    let (host, port) = word.rsplit_once(':').unwrap_or((word, ""));
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err(Problem::TcpPort(word.to_owned()));
    }
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_usable = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.contains([':', '[', ']', '/', '@']),
    };
    if is_usable { Ok(()) } else { Err(Problem::TcpHost(word.to_owned())) }
}

/// Tells an address with a port, even one that is wrong, from a unix socket's name. A name of that form needs a path before it.
pub fn is_tcp_address(word: &str) -> bool {
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = word.starts_with('@') || word.contains('/');
    !is_name && word.rsplit_once(':').is_some_and(|(_, port)| is_number(port))
}
