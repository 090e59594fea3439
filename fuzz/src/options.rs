//! Option values, as uWSGI hands them over.
//!
//! Input: words such as `tuntap-device=uwsgi0`, each ended by a NUL. Words that are not UTF-8, or name no option of ours,
//! never reach the configuration.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use tuntap_plugin::config::{Config, ConfigErrors, Credentials, DeviceSpec, OptionName, Sandbox, resolve_leases};
use tuntap_plugin::policy::lease::{Holder, Lease, Uncovered};
use tuntap_plugin::policy::pattern::{Action, Rule};
use tuntap_plugin::policy::targets::TargetRange;
use tuntap_plugin::wire::rule::{Direction, MAX_RULES, MaskedAddress, PeerRule, RuleAction};

/// Reads the options, one by one and together.
pub fn check(data: &[u8]) {
    let options: Vec<(OptionName, &str)> = data.split(|byte| *byte == 0).filter_map(option).collect();
    let alone: Vec<_> = options.iter().map(|option| Config::from_options([*option])).collect();
    let errors_alone: Vec<_> =
        alone.iter().flat_map(|result| result.as_ref().err()).flat_map(|errors| &errors.0).collect();

    for (&(option, value), result) in options.iter().zip(&alone) {
        check_number(option, value, result.as_ref());
        if let Ok(config) = result {
            check_understood(config);
            check_action(option, value, config);
            check_word(option, value, config);
            check_grant(option, value, config);
            if option == OptionName::Lease {
                check_lease(value, config);
            }
        }
    }
    match Config::from_options(options.iter().copied()) {
        Ok(config) => {
            assert!(errors_alone.is_empty(), "passed over: {errors_alone:?}");
            check_understood(&config);
        }
        Err(errors) => {
            let first: Vec<_> = errors.0.iter().take(errors_alone.len()).collect();
            assert_eq!(first, errors_alone, "every wrong value is named, in order");
            for error in &errors.0 {
                let line = error.to_string();
                assert!(line.starts_with(&format!("{} = {}: ", error.option, error.value)), "{line}");
                assert!(options.iter().any(|(option, _)| option.as_str() == error.option), "{line}");
            }
        }
    }
}

fn option(word: &[u8]) -> Option<(OptionName, &str)> {
    let (name, value) = str::from_utf8(word).ok()?.split_once('=')?;
    let option = OptionName::ALL.into_iter().find(|option| option.as_str() == name)?;
    Some((option, value))
}

fn check_understood(config: &Config) {
    check_bounds(config);
    check_again(config);
}

/// The rule of a chain says what was written. An action alone is for every packet.
fn check_action(option: OptionName, value: &str, config: &Config) {
    let chain = match option {
        OptionName::FirewallIn => &config.firewall_in,
        OptionName::FirewallOut => &config.firewall_out,
        _ => return,
    };
    let words = shlex::split(value).expect("it was split before");
    let (action, src, dst) = match words.as_slice() {
        [action] => (action, "0.0.0.0", "0.0.0.0"),
        [action, src, dst] => (action, src.as_str(), dst.as_str()),
        _ => panic!("{words:?}"),
    };
    let target = match action.as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        _ => panic!("{words:?}"),
    };
    assert_eq!(*chain, [Rule { src: pattern(src).trunc(), dst: pattern(dst).trunc(), target }], "{value}");
}

/// A value that is one word means what the README says.
fn check_word(option: OptionName, value: &str, config: &Config) {
    let word = value.trim();
    let says_yes = matches!(word, "" | "true");
    let says_no = word == "false";
    let holds = match option {
        OptionName::Switch => (says_yes || says_no) && config.switch == says_yes,
        OptionName::DeviceRequired => (says_yes || says_no) && config.device_required == says_yes,
        OptionName::Sandbox => match config.sandbox {
            Sandbox::On => says_yes || word == "on",
            Sandbox::Off => says_no || word == "off",
            Sandbox::Strict => word == "strict",
        },
        OptionName::LeaseDefault => match config.lease_default {
            Some(Uncovered::Allow) => word == "allow",
            Some(Uncovered::Deny) => word == "deny",
            None => false,
        },
        OptionName::UseCredentials => match &config.credentials {
            Credentials::Shown => says_yes,
            Credentials::Off => says_no,
            Credentials::Symbol(symbol) => !says_yes && !says_no && symbol == word,
        },
        _ => true,
    };
    assert!(holds, "{} = {value}", option.as_str());
}

/// A number is taken if the README says so, and then as it is.
fn check_number(option: OptionName, value: &str, result: Result<&Config, &ConfigErrors>) {
    let (least, most, taken): (_, _, fn(&Config) -> u128) = match option {
        OptionName::BusyPoll => (0, 1000, |config| config.busy_poll.as_micros()),
        OptionName::DeviceTimeout => (0, 3600, |config| config.device_timeout.as_secs().into()),
        OptionName::MaxPeers => (1, 65_536, |config| config.limits.peers as u128),
        OptionName::MaxPeersPerUid => (0, 65_536, |config| config.limits.peers_per_uid as u128),
        OptionName::MaxUnclaimed => (1, 65_536, |config| config.limits.unclaimed as u128),
        OptionName::UnclaimedTimeout => (1, 3600, |config| config.limits.unclaimed_timeout.as_secs().into()),
        OptionName::MaxQueue => (131_072, 16_777_216, |config| config.limits.queued_bytes as u128),
        OptionName::MaxDeviceRules => (0, 341, |config| config.limits.device_rules as u128),
        _ => return,
    };
    let expected = value.trim().parse().ok().filter(|number| (least..=most).contains(number));
    assert_eq!(result.ok().map(taken), expected, "{} = {value}", option.as_str());
}

/// What is allowed is what was written, and never more of it.
fn check_grant(option: OptionName, value: &str, config: &Config) {
    let word = value.trim();
    match option {
        OptionName::DeviceRoute => {
            let (prefix, port) = match word.split_once(':') {
                None if word == "any" => ("0.0.0.0/0", None),
                Some((prefix, port)) => (prefix, Some(port.parse().expect("a port"))),
                None => (word, None),
            };
            assert_eq!(config.device_routes, [TargetRange { prefix: written(prefix), port }], "{value}");
            assert_ne!(port, Some(0), "{value}");
        }
        OptionName::GatewayAllow => assert_eq!(config.gateway_sources, [written(word)], "{value}"),
        _ => {}
    }
}

/// A lease is for whom its last word says; names are looked up, and those that nobody has are named.
fn check_lease(value: &str, config: &Config) {
    let words = shlex::split(value).expect("it was split before");
    let [prefix, holder] = words.as_slice() else { panic!("{words:?}") };
    let (name, group) = holder.strip_prefix('@').map_or((holder.as_str(), false), |name| (name, true));
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let id = if is_number { name.parse().expect("a number") } else { id_of(name) };
    let holder = if group { Holder::Group(id) } else { Holder::User(id) };
    assert_eq!(leases(config), [Lease { prefix: written(prefix), holder }], "{value}");
    assert!(!name.is_empty() && (!is_number || id != u32::MAX), "{value}");

    let nobody = |_: &str| Ok(None);
    match resolve_leases(&config.leases, nobody, nobody) {
        Ok(_) => assert!(is_number, "{value}"),
        Err(errors) => {
            assert!(!is_number && errors.0.len() == 1, "{errors}");
            assert!(errors.to_string().starts_with(&format!("tuntap-router-lease = {value}: ")), "{errors}");
        }
    }
}

/// The leases on a machine where every name is known.
fn leases(config: &Config) -> Vec<Lease> {
    let known = |name: &str| Ok(Some(id_of(name)));
    resolve_leases(&config.leases, known, known).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Any number that differs from name to name, mostly.
fn id_of(name: &str) -> u32 {
    name.bytes().fold(0, |id: u32, byte| id.wrapping_mul(31).wrapping_add(byte.into())) >> 1
}

/// What somebody is allowed: an address and a length, without host bits.
fn written(word: &str) -> Ipv4Net {
    let net = pattern(word);
    assert_eq!(net, net.trunc(), "{word}");
    net
}

/// An address and a length.
fn pattern(word: &str) -> Ipv4Net {
    let (address, len) = word.split_once('/').map_or((word, None), |(address, len)| (address, Some(len)));
    let address: Ipv4Addr = address.parse().expect("an address");
    let len = match len {
        Some(len) => len.parse().expect("a length"),
        None if address.is_unspecified() => 0,
        None => 32,
    };
    Ipv4Net::new(address, len).expect("a prefix")
}

/// What everything behind the configuration relies on.
fn check_bounds(config: &Config) {
    let is_device = |name: &str| {
        !matches!(name, "" | "." | "..") && name.len() <= 15 && !name.contains(['/', ':', ' ', '\t', '\n', '\0'])
    };
    let is_socket = |name: &str| !matches!(name, "" | "@") && name.len() <= 102;
    for (index, router) in config.routers.iter().enumerate() {
        assert!(is_device(&router.device) && is_socket(&router.socket), "{router:?}");
        assert!(router.gateway.is_none_or(|address| address.port() != 0), "{router:?}");
        assert!(router.stats.as_ref().is_none_or(|address| !address.as_str().is_empty()), "{router:?}");
        for other in &config.routers[..index] {
            assert!(other.device != router.device && other.socket != router.socket, "{other:?} and {router:?}");
        }
    }
    for device in &config.devices {
        assert!(is_device(&device.name), "{device:?}");
        assert!(device.socket.as_deref().is_none_or(is_socket), "{device:?}");
        check_device_network(device);
    }
    assert!(config.routes.iter().all(|route| route.target.port() != 0));
    assert!(config.device_rules.len() <= MAX_RULES);
}

/// What a device is given goes together.
fn check_device_network(device: &DeviceSpec) {
    let has = |v4: bool| device.auto || device.addresses.iter().any(|net| net.addr().is_ipv4() == v4);
    assert!(!device.auto || device.socket.is_some() && device.addresses.is_empty(), "{device:?}");
    assert!(device.addresses.iter().filter(|net| net.addr().is_ipv4()).count() <= 1, "{device:?}");
    assert!(device.addresses.len() <= 9 && device.gateways.len() <= 2, "{device:?}");
    for address in device.addresses.iter().map(|net| net.addr()).chain(device.gateways.iter().copied()) {
        assert!(!address.is_loopback() && !address.is_multicast() && !address.is_unspecified(), "{device:?}");
    }
    assert!(device.gateways.iter().all(|gateway| has(gateway.is_ipv4())), "{device:?}");
    let has_v6 = device.addresses.iter().any(|net| net.addr().is_ipv6());
    assert!(device.mtu.is_none_or(|mtu| mtu >= if has_v6 { 1280 } else { 576 }), "{device:?}");
    for path in &device.resolv_conf {
        assert!(path.starts_with('/') && !path.ends_with('/') && device.socket.is_some() && has(true) | has(false));
    }
}

/// What was understood, written out in full, means the same.
fn check_again(config: &Config) {
    let mut options = Vec::new();
    write_rules(config, &mut options);
    write_grants(config, &mut options);
    write_routers(config, &mut options);
    write_devices(config, &mut options);
    let again = Config::from_options(options.iter().map(|(name, value)| (*name, value.as_str())))
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(leases(&again), leases(config));
    // Their values were written in other words.
    let without_leases = |config: &Config| Config { leases: Vec::new(), ..config.clone() };
    assert_eq!(without_leases(&again), without_leases(config));
}

/// An option and its value.
type Written = (OptionName, String);

fn write_rules(config: &Config, options: &mut Vec<Written>) {
    let word = |action| if action == Action::Allow { "allow" } else { "deny" };
    let rule = |rule: &Rule<Action>| format!("{} {} {}", word(rule.target), rule.src, rule.dst);
    options.extend(config.firewall_in.iter().map(|it| (OptionName::FirewallIn, rule(it))));
    options.extend(config.firewall_out.iter().map(|it| (OptionName::FirewallOut, rule(it))));
    for route in &config.routes {
        options.push((OptionName::Route, format!("{} {} {}", route.src, route.dst, route.target)));
    }
}

fn write_grants(config: &Config, options: &mut Vec<Written>) {
    for lease in leases(config) {
        let holder = match lease.holder {
            Holder::User(uid) => uid.to_string(),
            Holder::Group(gid) => format!("@{gid}"),
        };
        options.push((OptionName::Lease, format!("{} {holder}", lease.prefix)));
    }
    if let Some(uncovered) = config.lease_default {
        let word = if uncovered == Uncovered::Allow { "allow" } else { "deny" };
        options.push((OptionName::LeaseDefault, word.to_owned()));
    }
    for range in &config.device_routes {
        let port = range.port.map(|port| format!(":{port}")).unwrap_or_default();
        options.push((OptionName::DeviceRoute, format!("{}{port}", range.prefix)));
    }
    options.extend(config.gateway_sources.iter().map(|net| (OptionName::GatewayAllow, net.to_string())));
}

fn write_routers(config: &Config, options: &mut Vec<Written>) {
    let quoted = |word: &str| shlex::try_quote(word).expect("no NUL in it").into_owned();
    for router in &config.routers {
        let stats = router.stats.as_ref().map_or("", |address| address.as_str());
        let gateway = router.gateway.map(|address| address.to_string()).unwrap_or_default();
        let words = [&router.device, &router.socket, stats].map(quoted).join(" ");
        options.push((OptionName::Router, format!("{words} {gateway}")));
        options.extend(router.dns.iter().map(|it| (OptionName::RouterDns, format!("{} {it}", router.device))));
    }
    let sandbox = match config.sandbox {
        Sandbox::Off => "off",
        Sandbox::On => "on",
        Sandbox::Strict => "strict",
    };
    let limits = &config.limits;
    options.extend([
        (OptionName::Switch, config.switch.to_string()),
        (OptionName::BusyPoll, config.busy_poll.as_micros().to_string()),
        (OptionName::Sandbox, sandbox.to_owned()),
        (OptionName::MaxPeers, limits.peers.to_string()),
        (OptionName::MaxPeersPerUid, limits.peers_per_uid.to_string()),
        (OptionName::MaxUnclaimed, limits.unclaimed.to_string()),
        (OptionName::UnclaimedTimeout, limits.unclaimed_timeout.as_secs().to_string()),
        (OptionName::MaxQueue, limits.queued_bytes.to_string()),
        (OptionName::MaxDeviceRules, limits.device_rules.to_string()),
    ]);
}

fn write_devices(config: &Config, options: &mut Vec<Written>) {
    for device in &config.devices {
        // In quotes, so that no last word `auto` is taken for more than a part of the name.
        let socket =
            device.socket.as_ref().map(|name| format!("'{}'", name.replace('\'', r"'\''"))).unwrap_or_default();
        let auto = if device.auto { "auto" } else { "" };
        options.push((OptionName::Device, format!("{} {socket} {auto}", device.name)));
        write_device_network(device, options);
    }
    options.extend(config.device_rules.iter().map(|rule| (OptionName::DeviceRule, device_rule(rule))));
    let credentials = match &config.credentials {
        Credentials::Off => "false",
        Credentials::Shown => "true",
        Credentials::Symbol(symbol) => symbol,
    };
    options.extend([
        (OptionName::UseCredentials, credentials.to_owned()),
        (OptionName::DeviceTimeout, config.device_timeout.as_secs().to_string()),
        (OptionName::DeviceRequired, config.device_required.to_string()),
    ]);
}

fn write_device_network(device: &DeviceSpec, options: &mut Vec<Written>) {
    let mut push = |option, value: String| options.push((option, format!("{} {value}", device.name)));
    device.addresses.iter().for_each(|address| push(OptionName::DeviceAddress, address.to_string()));
    device.gateways.iter().for_each(|gateway| push(OptionName::DeviceGateway, gateway.to_string()));
    device.mtu.iter().for_each(|mtu| push(OptionName::DeviceMtu, mtu.to_string()));
    for path in &device.resolv_conf {
        push(OptionName::DeviceDns, shlex::try_quote(path).expect("no NUL in it").into_owned());
    }
}

fn device_rule(rule: &PeerRule) -> String {
    let masked = |it: MaskedAddress| format!("{}/{}", Ipv4Addr::from_bits(it.address), it.mask.leading_ones());
    let direction = if rule.direction == Direction::In { "in" } else { "out" };
    let action = match rule.action {
        RuleAction::Allow => "allow".to_owned(),
        RuleAction::Deny => "deny".to_owned(),
        RuleAction::Route(target) => format!("route {target}"),
    };
    format!("{direction} {} {} {action}", masked(rule.src), masked(rule.dst))
}
