//! What the operator grants: `tuntap-router-lease`, `-lease-default`, `-device-route` and `-gateway-allow`.

use std::fmt;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::error::{ConfigError, Problem};
use super::{OptionName, parse};
use tuntap_core::policy::grant::{Grant, Holder, Uncovered};
use tuntap_core::policy::targets::TargetRange;

const GRANT_SYNTAX: &str = OptionName::Grant.syntax();

/// One `tuntap-router-lease`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSpec {
    /// The whole value, for messages.
    value: String,
    prefix: IpNet,
    holder: HolderSpec,
}

impl GrantSpec {
    /// The addresses.
    pub const fn prefix(&self) -> IpNet {
        self.prefix
    }
}

/// Whom a grant is for, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HolderSpec {
    Number(Holder),
    User(String),
    Group(String),
}

/// Reads `<address[/prefix]> <user|uid|@group|@gid>`.
pub fn grant(value: &str) -> Result<GrantSpec, Problem> {
    let words = parse::words(value, GRANT_SYNTAX)?;
    let [prefix, holder] = words.as_slice() else { return Err(Problem::Syntax(GRANT_SYNTAX)) };
    Ok(GrantSpec { value: value.to_owned(), prefix: parse::exact_prefix(prefix)?, holder: self::holder(holder)? })
}

/// Reads `<user|uid|@group|@gid>`. Digits are a number, everything else is a name.
pub(super) fn holder(word: &str) -> Result<HolderSpec, Problem> {
    let wrong = || Problem::GrantHolder(word.to_owned());
    let (name, is_group) = match word.strip_prefix('@') {
        Some(name) => (name, true),
        None => (word, false),
    };
    if name.is_empty() || name.contains([':', '\0']) {
        return Err(wrong());
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        // The kernel's "no such id".
        let id = name.parse().ok().filter(|id| *id != u32::MAX).ok_or_else(wrong)?;
        return Ok(HolderSpec::Number(if is_group { Holder::Group(id) } else { Holder::User(id) }));
    }
    Ok(if is_group { HolderSpec::Group(name.to_owned()) } else { HolderSpec::User(name.to_owned()) })
}

impl fmt::Display for HolderSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(Holder::User(id)) => write!(formatter, "{id}"),
            Self::Number(Holder::Group(id)) => write!(formatter, "@{id}"),
            Self::Number(Holder::Nobody) => formatter.write_str("nobody"),
            Self::User(name) => formatter.write_str(name),
            Self::Group(name) => write!(formatter, "@{name}"),
        }
    }
}

impl HolderSpec {
    /// Looks up the user or group that is named.
    pub(super) fn resolve(
        &self,
        user: &impl Fn(&str) -> nix::Result<Option<u32>>,
        group: &impl Fn(&str) -> nix::Result<Option<u32>>,
    ) -> Result<Holder, Problem> {
        match self {
            Self::Number(holder) => Ok(*holder),
            Self::User(name) => found("user", name, user(name)).map(Holder::User),
            Self::Group(name) => found("group", name, group(name)).map(Holder::Group),
        }
    }
}

/// The number that the look-up of a name has given. `kind` is user or group.
pub(super) fn found(kind: &'static str, name: &str, result: nix::Result<Option<u32>>) -> Result<u32, Problem> {
    let name = name.to_owned();
    match result {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(Problem::NoAccount { kind, name }),
        Err(error) => Err(Problem::Account { kind, name, error }),
    }
}

/// Reads `allow` or `deny`.
pub fn lease_default(value: &str) -> Result<Uncovered, Problem> {
    match value.trim() {
        "allow" => Ok(Uncovered::Allow),
        "deny" => Ok(Uncovered::Deny),
        other => Err(Problem::UnknownWord { what: "default", word: other.to_owned(), expected: "allow or deny" }),
    }
}

/// Looks up the users and groups that are named, and returns the grants in the order of `specs`. A grant whose user or group
/// isn't found is for nobody; the second part says why, each with the grant's place.
pub fn resolve_grants(
    specs: &[GrantSpec],
    user: impl Fn(&str) -> nix::Result<Option<u32>>,
    group: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> (Vec<Grant>, Vec<(usize, ConfigError)>) {
    let mut grants = Vec::new();
    let mut errors = Vec::new();
    for (place, spec) in specs.iter().enumerate() {
        let holder = spec.holder.resolve(&user, &group).unwrap_or_else(|problem| {
            let error = ConfigError::new(OptionName::Grant, &spec.value, problem);
            errors.push((place, error));
            Holder::Nobody
        });
        grants.push(Grant { prefix: spec.prefix, holder });
    }
    (grants, errors)
}

/// Reads `any`, `<addr[/len]>[:port]` or, for IPv6 with a port, `[<addr[/len]>]:<port>`. `any` is one range for each
/// version.
pub fn device_route(value: &str) -> Result<Vec<TargetRange>, Problem> {
    let value = value.trim();
    if value == "any" {
        let ranges = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        return Ok(ranges.map(|prefix| TargetRange { prefix, port: None }).to_vec());
    }
    let wrong = || Problem::DeviceRoute(value.to_owned());
    let (prefix, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let (prefix, behind) = rest.split_once(']').filter(|(prefix, _)| prefix.contains(':')).ok_or_else(wrong)?;
            let port = if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or_else(wrong)?) };
            (prefix, port)
        }
        None => match value.split_once(':') {
            // A second colon makes it an IPv6 address.
            Some((prefix, port)) if !port.contains(':') => (prefix, Some(port)),
            _ => (value, None),
        },
    };
    let port = port.map(|port| port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)).transpose()?;
    let prefix = parse::exact_prefix(prefix).map_err(|problem| match problem {
        Problem::Prefix(_) => wrong(),
        other => other,
    })?;
    Ok(vec![TargetRange { prefix, port }])
}

/// Reads `<addr[/len]>`.
pub fn gateway_source(value: &str) -> Result<IpNet, Problem> {
    parse::exact_prefix(value.trim())
}
