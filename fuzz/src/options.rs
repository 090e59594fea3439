//! Option values, as uWSGI hands them over.
//!
//! Input: words such as `tuntap-device=uwsgi0`, each ended by a NUL. Words that are not UTF-8, or name no option of ours,
//! never reach the configuration.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tuntap_config::{Config, ConfigError, ConfigErrors, Credentials, DeviceSpec, OptionName, Sandbox, resolve_grants};
use tuntap_core::policy::grant::{Grant, Holder, Uncovered};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_core::policy::pattern::{Action, Rule};
use tuntap_core::policy::targets::TargetRange;
use tuntap_wire::rule::{Direction, MAX_EXTENDED_RULES, MAX_RULES, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, Ports, Protocol, Selector, Service};

/// Protocols that have names, and their numbers; `icmp` is that of the packet's version.
const PROTOCOLS: [(&str, u8); 9] = [
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// Those with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Reads the options, one by one and together.
pub fn check(data: &[u8]) {
    let options: Vec<(OptionName, &str)> = data.split(|byte| *byte == 0).filter_map(option).collect();
    let alone: Vec<_> = options.iter().map(|option| Config::from_options([*option])).collect();
    let errors_alone: Vec<_> = alone
        .iter()
        .flat_map(|result| result.as_ref().err())
        .flat_map(|errors| &errors.0)
        .filter(stands_alone)
        .collect();

    for (&(option, value), result) in options.iter().zip(&alone) {
        check_number(option, value, result.as_ref());
        if let Ok(config) = result {
            check_understood(config);
            check_action(option, value, config);
            check_device_rule(option, value, config);
            check_word(option, value, config);
            check_grant(option, value, config);
            if option == OptionName::Grant {
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

/// What is said about a device may be right once that is there.
fn stands_alone(error: &&ConfigError) -> bool {
    !error.problem.to_string().starts_with("there is no tuntap-device")
}

fn option(word: &[u8]) -> Option<(OptionName, &str)> {
    let (name, value) = str::from_utf8(word).ok()?.split_once('=')?;
    let option = OptionName::find(name)?;
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
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (action, selected) = words.split_first().expect("an action");
    let target = match *action {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        "reject" => Action::Reject,
        _ => panic!("{words:?}"),
    };
    let selector = if selected.is_empty() { Selector::ALL } else { selector(selected) };
    assert_eq!(*chain, [Rule { selector, target }], "{value}");
}

/// Does what [`check_action`] does for the rules that a device sends.
fn check_device_rule(option: OptionName, value: &str, config: &Config) {
    if option != OptionName::DeviceRule {
        return;
    }
    let words = shlex::split(value).expect("it was split before");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [direction, src, dst, action, rest @ ..] = words.as_slice() else { panic!("{words:?}") };
    let direction = match *direction {
        "in" => Direction::In,
        "out" => Direction::Out,
        _ => panic!("{words:?}"),
    };
    let (action, service) = match (*action, rest) {
        ("allow", service) => (RuleAction::Allow, service),
        ("deny", service) => (RuleAction::Deny, service),
        ("reject", service) => (RuleAction::Reject, service),
        ("route" | "gateway", [target, service @ ..]) => {
            let target: SocketAddr = target.parse().expect("an address and a port");
            assert_ne!(target.port(), 0, "{value}");
            (RuleAction::Route(target), service)
        }
        _ => panic!("{words:?}"),
    };
    let selector = PeerSelector::Full(selector(&[&[*src, *dst], service].concat()));
    assert_eq!(config.device_rules, [PeerRule { direction, selector, action }], "{value}");
}

/// Source, destination, and maybe a protocol and its ports.
fn selector(words: &[&str]) -> Selector {
    let (src, dst, service) = match words {
        [src, dst] => (src, dst, None),
        [src, dst, protocol] => (src, dst, Some(Service { protocol: self::protocol(protocol), ports: None })),
        [src, dst, protocol, ports] => {
            let protocol = self::protocol(protocol);
            let has_ports = WITH_PORTS.iter().any(|number| protocol == Protocol::Number(*number));
            assert!(has_ports, "{words:?}");
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let [first, last] = [first, last].map(|port| port.parse::<u16>().expect("a port"));
            assert!(0 < first && first <= last, "{words:?}");
            (src, dst, Some(Service { protocol, ports: Ports::new(first, last) }))
        }
        _ => panic!("{words:?}"),
    };
    let (src, dst) = (pattern(src), pattern(dst));
    if let (AddressPattern::Net(src), AddressPattern::Net(dst)) = (src, dst) {
        assert_eq!(src.addr().is_ipv4(), dst.addr().is_ipv4(), "{words:?}");
    }
    Selector::new(src, dst, service).expect("one version")
}

fn protocol(word: &str) -> Protocol {
    if word == "icmp" {
        return Protocol::Icmp;
    }
    let named = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    Protocol::Number(named.unwrap_or_else(|| word.parse().expect("a number of eight bits")))
}

/// `any`, and an unspecified address alone, is any of both versions. Host bits don't count.
fn pattern(word: &str) -> AddressPattern {
    if matches!(word, "any" | "0.0.0.0") || word.parse() == Ok(IpAddr::from([0; 16])) {
        return AddressPattern::Any;
    }
    AddressPattern::Net(net(word).trunc())
}

/// A value that is one word means what docs/OPTIONS.md says.
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

/// A number is taken if docs/OPTIONS.md says so, and then as it is.
fn check_number(option: OptionName, value: &str, result: Result<&Config, &ConfigErrors>) {
    let (least, most, taken): (_, _, fn(&Config) -> u128) = match option {
        OptionName::BusyPoll => (0, 1000, |config| config.busy_poll.as_micros()),
        OptionName::DeviceTimeout => (0, 3600, |config| config.device_timeout.as_secs().into()),
        OptionName::MaxPeers => (1, 65_536, |config| config.limits.peers as u128),
        OptionName::MaxPeersPerUid => (0, 65_536, |config| config.limits.peers_per_uid as u128),
        OptionName::MaxAddressesPerUid => {
            (0, 65_536, |config| config.limits.addresses_per_uid.expect("it was read") as u128)
        }
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
            let range = |prefix: &str, port: Option<&str>| TargetRange {
                prefix: written(prefix),
                port: port.map(|port| port.parse().expect("a port")),
            };
            let expected = match word.strip_prefix('[') {
                _ if word == "any" => vec![range("0.0.0.0/0", None), range("::/0", None)],
                Some(rest) => {
                    let (prefix, behind) = rest.split_once(']').expect("the other bracket");
                    vec![range(prefix, behind.strip_prefix(':'))]
                }
                None if word.matches(':').count() == 1 => {
                    let (prefix, port) = word.split_once(':').expect("it is there");
                    vec![range(prefix, Some(port))]
                }
                None => vec![range(word, None)],
            };
            assert_eq!(config.device_routes, expected, "{value}");
            assert!(expected.iter().all(|range| range.port != Some(0)), "{value}");
        }
        OptionName::GatewayAllow => assert_eq!(config.gateway_sources, [written(word)], "{value}"),
        OptionName::GatewayVassal => assert_eq!(config.gateway_vassals, [written(word)], "{value}"),
        _ => {}
    }
}

/// A lease is for whom its last word says; names are looked up, and those that nobody has are named, and their leases nobody's.
fn check_lease(value: &str, config: &Config) {
    let words = shlex::split(value).expect("it was split before");
    let [prefix, holder] = words.as_slice() else { panic!("{words:?}") };
    let (name, group) = holder.strip_prefix('@').map_or((holder.as_str(), false), |name| (name, true));
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let id = if is_number { name.parse().expect("a number") } else { id_of(name) };
    let holder = if group { Holder::Group(id) } else { Holder::User(id) };
    assert_eq!(leases(config), [Grant { prefix: written(prefix), holder }], "{value}");
    assert!(!name.is_empty() && (!is_number || id != u32::MAX), "{value}");

    let nobody = |_: &str| Ok(None);
    let (found, errors) = resolve_grants(&config.grants, nobody, nobody);
    assert_eq!(found[0].holder == Holder::Nobody, !is_number, "{value}");
    assert_eq!(errors.len(), usize::from(!is_number), "{value}");
    for (place, error) in errors {
        assert_eq!(place, 0, "{error}");
        assert!(error.to_string().starts_with(&format!("tuntap-router-lease = {value}: ")), "{error}");
    }
}

/// The leases on a machine where every name is known.
fn leases(config: &Config) -> Vec<Grant> {
    let known = |name: &str| Ok(Some(id_of(name)));
    let (leases, errors) = resolve_grants(&config.grants, known, known);
    assert!(errors.is_empty(), "{errors:?}");
    leases
}

/// Any number that differs from name to name, mostly.
fn id_of(name: &str) -> u32 {
    name.bytes().fold(0, |id: u32, byte| id.wrapping_mul(31).wrapping_add(byte.into())) >> 1
}

/// What somebody is allowed: an address and a length, without host bits.
fn written(word: &str) -> IpNet {
    let net = net(word);
    assert_eq!(net, net.trunc(), "{word}");
    net
}

/// An address and a length. Without one, it is that address, or all of the version if there is none in it.
fn net(word: &str) -> IpNet {
    let (address, len) = word.split_once('/').map_or((word, None), |(address, len)| (address, Some(len)));
    let address: IpAddr = address.parse().expect("an address");
    let len = match len {
        Some(len) => len.parse().expect("a length"),
        None if address.is_unspecified() => 0,
        None if address.is_ipv4() => 32,
        None => 128,
    };
    IpNet::new(address, len).expect("a prefix")
}

/// Returns true if a gateway can be there: an address of one version, and a port.
fn is_gateway(address: SocketAddr) -> bool {
    let is_plain = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(address) => address.scope_id() == 0 && address.ip().to_ipv4_mapped().is_none(),
    };
    is_plain && address.port() != 0
}

/// What everything behind the configuration relies on.
fn check_bounds(config: &Config) {
    let is_device = |name: &str| {
        !matches!(name, "" | "." | "..") && name.len() <= 15 && !name.contains(['/', ':', ' ', '\t', '\n', '\0'])
    };
    let is_socket = |name: &str| !matches!(name, "" | "@") && name.len() <= 102;
    for (index, router) in config.routers.iter().enumerate() {
        assert!(is_device(&router.device) && is_socket(&router.socket), "{router:?}");
        assert!(router.gateway.is_none_or(is_gateway), "{router:?}");
        assert!(router.stats.as_ref().is_none_or(|address| !address.as_str().is_empty()), "{router:?}");
        for other in &config.routers[..index] {
            assert!(other.device != router.device && other.socket != router.socket, "{other:?} and {router:?}");
        }
    }
    check_host(config);
    for device in &config.devices {
        assert!(is_device(&device.name), "{device:?}");
        assert!(device.socket.as_deref().is_none_or(is_socket), "{device:?}");
        check_device_network(device);
    }
    assert!(config.routes.iter().all(|route| is_gateway(route.target)));
    // The form that the C plugin knows has neither IPv6 nor services, nor an answer, and can't tell some patterns apart.
    let fits_c_form = |rule: &PeerRule| rule.encode().is_some();
    let most = if config.device_rules.iter().all(fits_c_form) { MAX_RULES } else { MAX_EXTENDED_RULES };
    assert!(config.device_rules.len() <= most);
}

/// What routers set up on their host is theirs alone, and leads to where their vassals can be.
fn check_host(config: &Config) {
    let networks = || config.routers.iter().flat_map(|router| &router.addresses);
    for (index, net) in networks().enumerate() {
        let others = networks().take(index);
        assert!(others.filter(|it| it.contains(&net.network()) || net.contains(&it.network())).count() == 0, "{net}");
        let address = net.addr();
        assert!(!address.is_unspecified() && !address.is_loopback() && !address.is_multicast(), "{net}");
        let has_hosts = net.max_prefix_len() - net.prefix_len() >= 2;
        assert!(!has_hosts || address != net.network(), "{net}");
        assert!(!has_hosts || address.is_ipv6() || address != net.broadcast(), "{net}");
    }
    let mut ports = HashSet::new();
    for router in &config.routers {
        assert!(router.nat.iter().all(|name| !matches!(name.as_str(), "all" | "default" | "lo")), "{router:?}");
        assert!(router.nat.is_empty() || !router.addresses.is_empty(), "{router:?}");
        assert!(router.mtu.is_none_or(|mtu| (576..=8188).contains(&mtu)), "{router:?}");
        for mapping in &router.ports {
            let target = mapping.target;
            assert!(mapping.port != 0 && target.port() != 0, "{mapping:?}");
            assert!(ports.insert((mapping.protocol.as_str(), mapping.port, target.is_ipv4())), "{mapping:?}");
            let net = router.addresses.iter().find(|net| net.contains(&target.ip())).expect("one of its networks");
            assert_ne!(net.addr(), target.ip(), "{mapping:?}");
        }
    }
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
    if let Some(path) = &device.resolv_conf {
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
    let without_leases = |config: &Config| Config { grants: Vec::new(), ..config.clone() };
    assert_eq!(without_leases(&again), without_leases(config));
}

/// An option and its value.
type Written = (OptionName, String);

fn write_rules(config: &Config, options: &mut Vec<Written>) {
    let word = |action| match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    };
    let rule =
        |rule: &Rule<Action>| format!("{} {}{}", word(rule.target), ends(&rule.selector), service(&rule.selector));
    options.extend(config.firewall_in.iter().map(|it| (OptionName::FirewallIn, rule(it))));
    options.extend(config.firewall_out.iter().map(|it| (OptionName::FirewallOut, rule(it))));
    for route in &config.routes {
        options.push((OptionName::Route, format!("{} {}", ends(&route.selector), route.target)));
    }
}

fn ends(selector: &Selector) -> String {
    let pattern = |it| match it {
        AddressPattern::Any => "any".to_owned(),
        AddressPattern::Net(net) => net.to_string(),
    };
    format!("{} {}", pattern(selector.src()), pattern(selector.dst()))
}

/// With a space before it, if there is any.
fn service(selector: &Selector) -> String {
    let Some(Service { protocol, ports }) = selector.service() else { return String::new() };
    let protocol = match protocol {
        Protocol::Icmp => "icmp".to_owned(),
        Protocol::Number(number) => number.to_string(),
    };
    let ports = ports.map(Ports::bounds).map(|(first, last)| format!(" {first}-{last}"));
    format!(" {protocol}{}", ports.unwrap_or_default())
}

fn write_grants(config: &Config, options: &mut Vec<Written>) {
    for lease in leases(config) {
        let holder = match lease.holder {
            Holder::User(uid) => uid.to_string(),
            Holder::Group(gid) => format!("@{gid}"),
            Holder::Nobody => unreachable!("every name is known"),
        };
        options.push((OptionName::Grant, format!("{} {holder}", lease.prefix)));
    }
    if let Some(uncovered) = config.lease_default {
        let word = if uncovered == Uncovered::Allow { "allow" } else { "deny" };
        options.push((OptionName::LeaseDefault, word.to_owned()));
    }
    for range in &config.device_routes {
        let port = range.port.map(|port| format!(":{port}")).unwrap_or_default();
        let prefix =
            if range.prefix.addr().is_ipv4() { range.prefix.to_string() } else { format!("[{}]", range.prefix) };
        options.push((OptionName::DeviceRoute, format!("{prefix}{port}")));
    }
    options.extend(config.gateway_sources.iter().map(|net| (OptionName::GatewayAllow, net.to_string())));
    options.extend(config.gateway_vassals.iter().map(|net| (OptionName::GatewayVassal, net.to_string())));
    options.extend(config.limits.addresses_per_uid.map(|limit| (OptionName::MaxAddressesPerUid, limit.to_string())));
}

fn write_routers(config: &Config, options: &mut Vec<Written>) {
    let quoted = |word: &str| shlex::try_quote(word).expect("no NUL in it").into_owned();
    for router in &config.routers {
        let stats = router.stats.as_ref().map_or("", |address| address.as_str());
        let gateway = router.gateway.map(|address| address.to_string()).unwrap_or_default();
        let words = [&router.device, &router.socket, stats].map(quoted).join(" ");
        options.push((OptionName::Router, format!("{words} {gateway}")));
        let device = quoted(&router.device);
        let mut write = |option, value: String| options.push((option, format!("{device} {value}")));
        let anyway = |is_meant: bool| if is_meant { " anyway" } else { "" };
        for net in &router.addresses {
            write(OptionName::RouterAddress, format!("{net}{}", anyway(router.meant.addresses.contains(net))));
        }
        if let Some(claims) = router.claims {
            let word = if claims == ClaimScope::Own { "own" } else { "any" };
            write(OptionName::RouterClaims, word.to_owned());
        }
        router.nat.iter().for_each(|name| write(OptionName::RouterNat, quoted(name)));
        for mapping in &router.ports {
            let protocol = mapping.protocol.as_str();
            let anyway = anyway(router.meant.ports.contains(mapping));
            write(OptionName::RouterPort, format!("{protocol} {} {}{anyway}", mapping.port, mapping.target));
        }
        router.mtu.iter().for_each(|mtu| write(OptionName::RouterMtu, mtu.to_string()));
        router.dns.iter().for_each(|server| write(OptionName::RouterDns, server.to_string()));
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
    let quoted = |word: &str| shlex::try_quote(word).expect("no NUL in it").into_owned();
    let name = quoted(&device.name);
    let mut push = |option, value: String| options.push((option, format!("{name} {value}")));
    device.addresses.iter().for_each(|address| push(OptionName::DeviceAddress, address.to_string()));
    device.gateways.iter().for_each(|gateway| push(OptionName::DeviceGateway, gateway.to_string()));
    device.mtu.iter().for_each(|mtu| push(OptionName::DeviceMtu, mtu.to_string()));
    if let Some(path) = &device.resolv_conf {
        push(OptionName::DeviceDns, quoted(path));
    }
}

fn device_rule(rule: &PeerRule) -> String {
    let PeerSelector::Full(selector) = &rule.selector else { panic!("{rule:?}") };
    let direction = if rule.direction == Direction::In { "in" } else { "out" };
    let action = match rule.action {
        RuleAction::Allow => "allow".to_owned(),
        RuleAction::Deny => "deny".to_owned(),
        RuleAction::Reject => "reject".to_owned(),
        RuleAction::Route(target) => format!("route {target}"),
    };
    format!("{direction} {} {action}{}", ends(selector), service(selector))
}
