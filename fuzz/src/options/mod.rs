//! Option values as uWSGI passes them.
//!
//! Input: words such as `tuntap-device=uwsgi0`, each ended by a NUL. Words that are not UTF-8 or name no option of the
//! plugin are skipped.

mod write;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use tuntap_config::{
    Config, ConfigError, ConfigErrors, Credentials, DeviceSpec, OptionName, Problem, RouterSpec, Sandbox, TrunksSpec,
    resolve_grants,
};
use tuntap_core::policy::grant::{Grant, Holder, Uncovered};
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_core::policy::targets::TargetRange;
use tuntap_wire::rule::{Direction, MAX_EXTENDED_RULES, MAX_RULES, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, ConnectionState, Ports, Protocol, Selector, Service};

/// Protocols that have names, and their numbers. `icmp` stands for ICMP or ICMPv6.
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

/// Numbers of protocols with ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];

/// Reads the options one by one and together.
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
                check_grant_holder(value, config);
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

/// Returns true for errors that don't depend on other options. Settings of a device may become valid by
/// `tuntap-device`, and a router's address by `tuntap-router-trunk-peer`.
fn stands_alone(error: &&ConfigError) -> bool {
    !matches!(error.problem, Problem::TrunkWithoutKeys(_))
        && !error.problem.to_string().starts_with("there is no tuntap-device")
}

fn option(word: &[u8]) -> Option<(OptionName, &str)> {
    let (name, value) = str::from_utf8(word).ok()?.split_once('=')?;
    let option = OptionName::find(name)?;
    Some((option, value))
}

fn check_understood(config: &Config) {
    check_bounds(config);
    write::check_again(config);
}

/// A chain rule means what was written. Without addresses it matches every packet.
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
    let selector = selector(selected);
    assert_eq!(*chain, [PolicyRule { selector, target }], "{value}");
}

/// A peer rule means what was written.
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

/// Reads source and destination, protocol and ports if there are any, and the state of connections if there is one.
fn selector(words: &[&str]) -> Selector {
    let (words, state) = match words {
        [words @ .., "new"] => (words, Some(ConnectionState::New)),
        [words @ .., "established"] => (words, Some(ConnectionState::Established)),
        words => (words, None),
    };
    let (src, dst, service) = match words {
        [] => return Selector::ALL.with_state(state),
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
    Selector::new(src, dst, service).expect("one version").with_state(state)
}

fn protocol(word: &str) -> Protocol {
    if word == "icmp" {
        return Protocol::Icmp;
    }
    let named = PROTOCOLS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    Protocol::Number(named.unwrap_or_else(|| word.parse().expect("a number of eight bits")))
}

/// `any` and an unspecified address without a length match all addresses of both versions. Host bits are ignored.
fn pattern(word: &str) -> AddressPattern {
    if matches!(word, "any" | "0.0.0.0") || word.parse() == Ok(IpAddr::from([0; 16])) {
        return AddressPattern::Any;
    }
    AddressPattern::Net(net(word).trunc())
}

/// A value of one word means what the documents say.
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

/// A number is accepted, unchanged, if it is between the documented bounds.
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
        OptionName::MaxFlows => (1024, 4 << 20, |config| config.limits.flows as u128),
        OptionName::MaxFlowsPerPeer => (16, 4 << 20, |config| config.limits.flows_per_peer as u128),
        _ => return,
    };
    let expected = value.trim().parse().ok().filter(|number| (least..=most).contains(number));
    assert_eq!(result.ok().map(taken), expected, "{} = {value}", option.as_str());
}

/// Ranges and networks are those that were written, and never larger.
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

/// A grant is for the user or group that its last word names. Grants for unknown names are for nobody, and there is an
/// error for each.
fn check_grant_holder(value: &str, config: &Config) {
    let words = shlex::split(value).expect("it was split before");
    let [prefix, holder] = words.as_slice() else { panic!("{words:?}") };
    let (name, group) = holder.strip_prefix('@').map_or((holder.as_str(), false), |name| (name, true));
    let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
    let id = if is_number { name.parse().expect("a number") } else { id_of(name) };
    let holder = if group { Holder::Group(id) } else { Holder::User(id) };
    assert_eq!(grants(config), [Grant { prefix: written(prefix), holder }], "{value}");
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

/// The grants on a machine where every name is known.
fn grants(config: &Config) -> Vec<Grant> {
    let known = |name: &str| Ok(Some(id_of(name)));
    let (grants, errors) = resolve_grants(&config.grants, known, known);
    assert!(errors.is_empty(), "{errors:?}");
    grants
}

/// A number that mostly differs between names.
fn id_of(name: &str) -> u32 {
    name.bytes().fold(0, |id: u32, byte| id.wrapping_mul(31).wrapping_add(byte.into())) >> 1
}

/// Reads an address and a length without host bits.
fn written(word: &str) -> IpNet {
    let net = net(word);
    assert_eq!(net, net.trunc(), "{word}");
    net
}

/// Reads an address and a length. The default length is that of a single address, or 0 for the unspecified address.
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

/// Returns true if a gateway can have this address: it is neither IPv4-mapped nor scoped, and has a port.
fn is_gateway(address: SocketAddr) -> bool {
    let is_plain = match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(address) => address.scope_id() == 0 && address.ip().to_ipv4_mapped().is_none(),
    };
    is_plain && address.port() != 0
}

/// Properties of the configuration that the rest of the plugin relies on.
fn check_bounds(config: &Config) {
    let is_device = |name: &str| {
        !matches!(name, "" | "." | "..") && name.len() <= 15 && !name.contains(['/', ':', ' ', '\t', '\n', '\0'])
    };
    let is_socket = |name: &str| !matches!(name, "" | "@") && name.len() <= 102;
    let meets_somebody = |router: &RouterSpec| match &router.socket {
        Some(name) => is_socket(name),
        None => {
            let TrunksSpec { listeners, peers } = &router.hosts.trunks;
            let is_loopback = listeners.iter().all(|address| address.ip().to_canonical().is_loopback());
            !listeners.is_empty() && (is_loopback || !peers.is_empty())
        }
    };
    for (index, router) in config.routers.iter().enumerate() {
        assert!(is_device(&router.device) && meets_somebody(router), "{router:?}");
        assert!(router.gateway.is_none_or(is_gateway), "{router:?}");
        assert!(router.stats.as_ref().is_none_or(|address| !address.as_str().is_empty()), "{router:?}");
        for other in &config.routers[..index] {
            assert!(router.socket.is_none() || other.socket != router.socket, "{other:?} and {router:?}");
            assert!(other.device != router.device, "{other:?} and {router:?}");
        }
    }
    check_host(config);
    for device in &config.devices {
        assert!(is_device(&device.name), "{device:?}");
        assert!(device.socket.as_deref().is_none_or(is_socket), "{device:?}");
        check_device_network(device);
    }
    assert!(config.routes.iter().all(|route| is_gateway(route.target)));
    // The C plugin's form has no IPv6, services or rejections, and can't express some patterns.
    let fits_c_form = |rule: &PeerRule| rule.encode().is_some();
    let most = if config.device_rules.iter().all(fits_c_form) { MAX_RULES } else { MAX_EXTENDED_RULES };
    assert!(config.device_rules.len() <= most);
}

/// Networks and ports of routers don't overlap, and ports are forwarded to addresses that vassals can have.
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

/// The settings of a device's network fit together.
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
