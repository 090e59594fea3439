//! The instance of uWSGI that a file describes.

use std::ffi::CString;
use std::fs;

use ipnet::IpNet;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::reading::Reading;
use tuntap_config::{Config, ConfigError, ConfigErrors, OptionName, RouterSpec, resolve_shapes};
use tuntap_core::policy::Policy;
use tuntap_core::policy::grant::Grant;
use tuntap_core::policy::shape::Shape;
use tuntap_live::{Base, Document, Machine, RulesFile, compile};
use tuntap_survey::access::Account;

/// An instance that a file describes.
#[derive(Debug, Clone)]
pub struct Instance {
    /// The file, as the operator wrote it.
    pub file: String,
    /// How uWSGI reads it.
    pub reading: Reading,
    /// What the plugin's options say, without the values that can't be used.
    pub config: Config,
    /// The values that can't be used.
    pub errors: Vec<ConfigError>,
    /// The rules file of each router, if it has one. The error says what is wrong with it.
    pub rules_files: Vec<Option<Result<RulesFile, String>>>,
    /// The account that the instance drops its privileges to; `None` if it stays root. The error names the user or group that
    /// doesn't exist.
    pub account: Result<Option<Account>, String>,
}

impl Instance {
    /// Checks the values, reads the rules files, and looks the user up.
    pub fn new(file: &str, reading: Reading) -> Self {
        let (config, errors) = checked(&reading.values);
        let account = find_account(&reading);
        let rules_files = config
            .routers
            .iter()
            .map(|router| router.live.rules.as_deref().map(|path| read_rules(path, router)))
            .collect();
        Self { file: file.to_owned(), reading, config, errors, rules_files, account }
    }

    /// What a router forwards by when it starts. A rules file that can't be used has no rules.
    pub fn policy(&self, router: &RouterSpec, grants: &[Grant]) -> Policy {
        let place = self.config.routers.iter().position(|other| other.device == router.device);
        let file = place.and_then(|place| self.rules_files.get(place)?.as_ref()?.as_ref().ok());
        let shapes = self.shapes(router).0;
        let document = Document::initial(&self.config, &shapes, file.unwrap_or(&RulesFile::default()));
        let grants = self.config.compile_grants(grants.to_vec());
        let base = Base { config: self.config.clone(), router: router.clone(), grants, late_shapes: Vec::new() };
        compile(&base, &document)
    }

    /// The limits of a router for users and groups that are there, and for everybody else. The errors say which ones aren't
    /// there.
    pub fn shapes(&self, router: &RouterSpec) -> (Vec<Shape>, ConfigErrors) {
        let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        let (shapes, errors) = resolve_shapes(&router.shapes, user, group);
        (shapes, ConfigErrors(errors.into_iter().map(|(_, error)| error).collect()))
    }

    /// The account that the instance drops its privileges to, if it exists and isn't root.
    pub fn account(&self) -> Option<&Account> {
        self.account.as_ref().ok()?.as_ref()
    }

    /// All values of a uWSGI option, in order.
    pub fn all(&self, option: &str) -> impl Iterator<Item = &str> {
        self.reading.all(option)
    }

    /// The last value of a uWSGI option, which is the one that counts.
    pub fn last(&self, option: &str) -> Option<&str> {
        self.reading.all(option).last()
    }

    /// Returns true if a uWSGI option is set and not switched off.
    pub fn is_on(&self, option: &str) -> bool {
        self.last(option)
            .is_some_and(|value| !["false", "off", "no", "0"].contains(&value.to_ascii_lowercase().as_str()))
    }

    /// Returns true if the instance is an Emperor, which starts vassals.
    pub fn is_emperor(&self) -> bool {
        self.last("emperor").is_some()
    }

    /// Returns true if its vassals start in network namespaces of their own.
    pub fn gives_namespaces(&self) -> bool {
        self.names_net("emperor-use-clone")
    }

    /// Returns true if it moves into a network namespace of its own.
    pub fn makes_namespace(&self) -> bool {
        self.names_net("unshare")
    }

    fn names_net(&self, option: &str) -> bool {
        self.all(option).any(|value| value.split(',').any(|word| word == "net"))
    }

    /// The addresses that hooks give to a device.
    pub fn hook_addresses(&self, device: &str) -> Vec<IpNet> {
        let about = self.hooks().filter(|line| line.split_whitespace().any(|word| word == device));
        let giving = about.filter(|line| {
            line.contains("addr")
                && ["add", "replace", "change"].iter().any(|verb| line.split_whitespace().any(|word| word == *verb))
        });
        giving
            .flat_map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<IpNet>>())
            .collect()
    }

    /// Returns true if a hook has all these words in it: then the operator may take care of something there.
    pub fn hooks_mention(&self, words: &[&str]) -> bool {
        self.hooks().any(|line| words.iter().all(|word| line.contains(word)))
    }

    /// The lines of hooks: commands that uWSGI runs, files that it writes.
    fn hooks(&self) -> impl Iterator<Item = &str> {
        let is_hook = |key: &str| ["hook-", "exec-", "call-"].iter().any(|prefix| key.starts_with(prefix));
        self.reading.options.iter().filter(move |(key, _)| is_hook(key)).map(|(_, value)| value.as_str())
    }
}

/// Reads a rules file.
fn read_rules(path: &str, router: &RouterSpec) -> Result<RulesFile, String> {
    let read = |path: &str| fs::read_to_string(path);
    let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
    let text = read(path).map_err(|error| format!("it can't be read: {error}"))?;
    let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    let machine = Machine { read: &read, user: &user, group: &group };
    RulesFile::read(&text, &machine)
        .and_then(|file| file.check_for(router).map(|()| file))
        .map_err(|error| error.to_string())
}

/// Looks up the account that uWSGI's `uid` and `gid` name. As in uWSGI, digits are a number and everything else is a name.
fn find_account(reading: &Reading) -> Result<Option<Account>, String> {
    let last = |option, immediate| reading.all(option).last().or_else(|| reading.all(immediate).last());
    let gid = match last("gid", "immediate-gid") {
        Some(group) => match group.parse() {
            Ok(gid) => Gid::from_raw(gid),
            Err(_) => Group::from_name(group).ok().flatten().ok_or_else(|| format!("gid = {group}"))?.gid,
        },
        None => Gid::current(),
    };
    let Some(user) = last("uid", "immediate-uid") else { return Ok(None) };
    let (uid, name) = match user.parse().map(Uid::from_raw) {
        Ok(uid) => (uid, User::from_uid(uid).ok().flatten().map(|user| user.name)),
        Err(_) => {
            let found = User::from_name(user).ok().flatten().ok_or_else(|| format!("uid = {user}"))?;
            (found.uid, Some(found.name))
        }
    };
    let name = name.and_then(|name| CString::new(name).ok());
    let groups = name.and_then(|name| getgrouplist(&name, gid).ok()).unwrap_or_default();
    let groups = groups.into_iter().map(Gid::as_raw).collect();
    Ok((!uid.is_root()).then(|| Account { uid: uid.as_raw(), gid: gid.as_raw(), groups }))
}

/// Makes the configuration of the values that can be used. Returns it with the errors about the others.
fn checked(values: &[(String, String)]) -> (Config, Vec<ConfigError>) {
    let known = values.iter().filter_map(|(name, value)| {
        let option = OptionName::find(name)?;
        Some((option, value.as_str()))
    });
    let mut good: Vec<(OptionName, &str)> = known.collect();
    let mut first_errors = None;
    loop {
        match Config::from_options(good.iter().copied()) {
            Ok(config) => return (config, first_errors.unwrap_or_default()),
            Err(ConfigErrors(errors)) => {
                let count = good.len();
                for (index, error) in errors.iter().enumerate() {
                    let is_same = |other: &ConfigError| (other.option, &other.value) == (error.option, &error.value);
                    if !errors[..index].iter().any(is_same) {
                        leave_out(&mut good, error);
                    }
                }
                // Errors of later rounds are consequences of values that were left out.
                first_errors.get_or_insert(errors);
                if good.len() == count {
                    return (Config::default(), first_errors.unwrap_or_default());
                }
            }
        }
    }
}

/// Removes the value that an error is about. That is the last one of the option which equals the error's value, or else the
/// last one that contains the last word of it, since errors about several values put them together. If there is none, all
/// values of the option are removed.
fn leave_out(values: &mut Vec<(OptionName, &str)>, error: &ConfigError) {
    let last_word = error.value.split_whitespace().last().unwrap_or_default();
    let find = |test: &dyn Fn(&str) -> bool| {
        values.iter().rposition(|(option, value)| option.as_str() == error.option && test(value))
    };
    let found = find(&|value| value == error.value)
        .or_else(|| find(&|value| value.split_whitespace().any(|word| word == last_word)));
    match found {
        Some(index) => drop(values.remove(index)),
        None => values.retain(|(option, _)| option.as_str() != error.option),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An instance with these lines.
    pub fn instance(lines: &[(&str, &str)]) -> Instance {
        let pairs: Vec<(String, String)> =
            lines.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let values = pairs.iter().filter(|(key, _)| key.starts_with("tuntap-")).cloned().collect();
        Instance::new("test.ini", Reading { values, options: pairs, ..Reading::default() })
    }

    #[test]
    fn wrong_values_do_not_hide_the_others() {
        let it = instance(&[
            ("tuntap-router", "emperor0 /run/t.socket"),
            ("tuntap-router-switch", "maybe"),
            ("tuntap-router-max-peers", "none"),
        ]);
        assert_eq!(it.errors.len(), 2);
        assert_eq!(it.config.routers.len(), 1);
    }

    #[test]
    fn values_that_are_wrong_together_do_not_hide_the_others() {
        let router = ("tuntap-router", "emperor0 /run/t.socket");
        let second = ("tuntap-router", "emperor1 /run/t.socket /run/stats");
        let ipv6 = ("tuntap-router-address", "fd00:77::1/64");
        let device = ("tuntap-device", "uwsgi0 /run/t.socket auto");
        let rules = [("tuntap-device-rule", "out any any deny"); 400];
        for (wrong, errors) in [
            (vec![router, second], 1),
            (vec![router, router], 2),
            (vec![router, ipv6, ("tuntap-router-mtu", "emperor0 1000")], 1),
            (vec![router, device, ("tuntap-device-address", "10.0.0.2/24")], 1),
            (vec![router, ("tuntap-router-nat", "eth0"), ("tuntap-router-address", "10.0.0.0/24")], 2),
            (vec![router, rules[0]].into_iter().chain(rules).collect(), 1),
        ] {
            let it = instance(&wrong);
            assert_eq!((it.errors.len(), it.config.routers.len()), (errors, 1), "{:?}", it.errors);
        }
    }

    #[test]
    fn options_are_read_as_uwsgi_reads_them() {
        let it = instance(&[("jailed", ""), ("master", "true"), ("master", "No"), ("unshare", "pid,net")]);
        assert!(it.is_on("jailed"));
        assert!(!it.is_on("master"), "the last one counts");
        assert!(!it.is_on("vacuum"));
        assert!(it.makes_namespace());
        assert!(!it.gives_namespaces());
    }

    #[test]
    fn account_is_what_the_instance_drops_to() {
        let it = instance(&[("uid", "20001"), ("gid", "20002")]);
        let account = it.account().expect("not root");
        assert_eq!((account.uid, account.gid), (20001, 20002));
        assert_eq!(instance(&[("uid", "root")]).account, Ok(None));
        assert_eq!(instance(&[("gid", "20002")]).account, Ok(None));
        assert_eq!(instance(&[("uid", "nobody-of-this-name")]).account, Err("uid = nobody-of-this-name".to_owned()));
    }

    #[test]
    fn hooks_are_the_lines_that_are_run() {
        let it = instance(&[("exec-as-root", "echo 1 >/proc/sys/net/ipv4/ip_forward"), ("comment", "nft forward")]);
        assert!(it.hooks_mention(&["ip_forward"]));
        assert!(!it.hooks_mention(&["nft"]));
        let line = "ip addr add 10.0.0.1/24 dev emperor0; ip -6 addr replace fd00::1/64 dev emperor0";
        let it = instance(&[("exec-as-root", line), ("exec-as-root", "ip addr del 10.0.0.2/24 dev emperor0")]);
        assert_eq!(it.hook_addresses("emperor0").len(), 2);
        assert_eq!(it.hook_addresses("emperor"), []);
    }
}
