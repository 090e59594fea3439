//! `tuntap-router-control` and `-control-access`.

use std::fmt;

use super::error::{ConfigError, Problem};
use super::grants::{self, HolderSpec};
use super::hostnet::HostSetting;
use super::{ControlSocket, OptionName, RouterSpec, StatsAddress, parse};
use tuntap_api::control::Level;
use tuntap_core::policy::grant::Holder;

/// Most `tuntap-router-control-access` of one router.
pub const MAX_ACCESS: usize = 256;

const SOCKET_SYNTAX: &str = OptionName::Control.syntax();
const ACCESS_SYNTAX: &str = OptionName::ControlAccess.syntax();

/// One `tuntap-router-control-access`, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSpec {
    level: Level,
    holder: HolderSpec,
}

impl fmt::Display for AccessSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::View => "view",
            Level::Operate => "operate",
            Level::Admin => "admin",
        };
        let holder = self.holder.to_string();
        write!(formatter, "{level} {}", shlex::try_quote(&holder).unwrap_or_else(|_| holder.as_str().into()))
    }
}

/// What a user or a group may do on a control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlAccess {
    /// Up to which level.
    pub level: Level,
    /// The user or the group.
    pub holder: Holder,
}

/// Reads `[<device>] <socket|off>`.
pub fn socket(value: &str) -> Result<HostSetting, Problem> {
    let (device, [word]) = parse::for_device(value, SOCKET_SYNTAX)?;
    let socket = if word == "off" { ControlSocket::Off } else { ControlSocket::Path(parse::unix_socket(&word)?) };
    Ok(HostSetting::control(value, device, socket))
}

/// Reads `[<device>] <view|operate|admin> <user|uid|@group|@gid>`.
pub fn access(value: &str) -> Result<HostSetting, Problem> {
    let (device, [level, holder]) = parse::for_device(value, ACCESS_SYNTAX)?;
    let level = match level.as_str() {
        "view" => Level::View,
        "operate" => Level::Operate,
        "admin" => Level::Admin,
        _ => return Err(Problem::UnknownWord { what: "level", word: level, expected: "view, operate or admin" }),
    };
    let access = AccessSpec { level, holder: grants::holder(&holder)? };
    Ok(HostSetting::control_access(value, device, access))
}

/// Sets a router's control socket, once.
pub fn set_socket(router: &mut RouterSpec, socket: &ControlSocket) -> Result<(), Problem> {
    if router.live.control != ControlSocket::default() {
        return Err(Problem::Repeated);
    }
    router.live.control = socket.clone();
    Ok(())
}

/// Errors about control sockets whose names other sockets of the instance have, too.
pub fn duplicates(routers: &[RouterSpec]) -> Vec<ConfigError> {
    let mut taken: Vec<&str> = Vec::new();
    for router in routers {
        taken.extend(router.socket.as_deref());
        if let Some(StatsAddress::Unix(name)) = &router.stats {
            taken.push(name);
        }
    }
    let mut errors = Vec::new();
    for router in routers {
        let ControlSocket::Path(path) = &router.live.control else { continue };
        if taken.contains(&path.as_str()) {
            let value = format!("{} {path}", router.device);
            errors.push(ConfigError::new(OptionName::Control, value, Problem::Duplicate("socket")));
        }
        taken.push(path);
    }
    errors
}

/// Looks up the users and groups that are named. The second part says which ones weren't found; these may do nothing.
pub fn resolve_access(
    specs: &[AccessSpec],
    user: impl Fn(&str) -> nix::Result<Option<u32>>,
    group: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> (Vec<ControlAccess>, Vec<ConfigError>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for spec in specs {
        match spec.holder.resolve(&user, &group) {
            Ok(holder) => found.push(ControlAccess { level: spec.level, holder }),
            Err(problem) => errors.push(ConfigError::new(OptionName::ControlAccess, spec.to_string(), problem)),
        }
    }
    (found, errors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const ROUTER: (OptionName, &str) = (OptionName::Router, "a /run/a");

    fn config(options: &[(OptionName, &str)]) -> Result<Config, String> {
        Config::from_options(options.iter().copied()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn control_socket_is_beside_the_routers_own_unless_it_is_named() {
        let path = |options: &[(OptionName, &str)]| {
            let router = config(options).expect("valid options").routers.remove(0);
            router.control_path()
        };
        assert_eq!(path(&[ROUTER]).as_deref(), Some("/run/a.control"));
        assert_eq!(path(&[(OptionName::Router, "a @a")]), None);
        assert_eq!(path(&[ROUTER, (OptionName::Control, "a /run/c")]).as_deref(), Some("/run/c"));
        assert_eq!(path(&[ROUTER, (OptionName::Control, "off")]), None);
    }

    #[test]
    fn sockets_and_levels_that_make_no_sense_are_refused() {
        for (options, part) in [
            (&[(OptionName::Control, "/run/a")][..], "has the same socket"),
            (&[(OptionName::Control, "/run/c"), (OptionName::Control, "/run/d")], "is there twice"),
            (&[(OptionName::Control, "b /run/c")], "no tuntap-router with the device b"),
            (&[(OptionName::ControlAccess, "root 0")], "unknown level \"root\", expected view, operate or admin"),
            (&[(OptionName::ControlAccess, "view @")], "is no user or group"),
            (&[(OptionName::ControlAccess, "view")], "expected [<device>] <view|operate|admin>"),
        ] {
            let options: Vec<_> = [ROUTER].into_iter().chain(options.iter().copied()).collect();
            let error = config(&options).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_are_looked_up_and_missing_ones_are_named() {
        let options = ["view 7", "operate alice", "a admin @staff", "view bob"];
        let all: Vec<_> = [ROUTER].into_iter().chain(options.map(|value| (OptionName::ControlAccess, value))).collect();
        let specs = config(&all).expect("valid options").routers.remove(0).live.access;
        let id = |name: &str| Ok(matches!(name, "alice" | "staff").then_some(9));
        let (found, errors) = resolve_access(&specs, id, id);
        let access = |level, holder| ControlAccess { level, holder };
        assert_eq!(
            found,
            [
                access(Level::View, Holder::User(7)),
                access(Level::Operate, Holder::User(9)),
                access(Level::Admin, Holder::Group(9)),
            ]
        );
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["tuntap-router-control-access = view bob: there is no user \"bob\" on this machine"]);
    }
}
