//! Writes a configuration as options again.

use tuntap_config::{Config, ControlSocket, Credentials, DeviceSpec, OptionName, Sandbox, TrunkPeer};
use tuntap_core::policy::grant::{Holder, Uncovered};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_core::policy::pattern::{Action, PolicyRule};
use tuntap_wire::rule::{Direction, PeerRule, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, ConnectionState, Ports, Protocol, Selector, Service};

use super::grants;

/// The configuration means the same after it is written and read again.
pub(super) fn check_again(config: &Config) {
    let mut options = Vec::new();
    write_rules(config, &mut options);
    write_grants(config, &mut options);
    write_routers(config, &mut options);
    write_devices(config, &mut options);
    let again = Config::from_options(options.iter().map(|(name, value)| (*name, value.as_str())))
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(grants(&again), grants(config));
    // Grants also store the value as it was written.
    let without_grants = |config: &Config| Config { grants: Vec::new(), ..config.clone() };
    assert_eq!(without_grants(&again), without_grants(config));
}

/// An option and its value.
type Written = (OptionName, String);

fn write_rules(config: &Config, options: &mut Vec<Written>) {
    let word = |action| match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Reject => "reject",
    };
    let rule = |rule: &PolicyRule<Action>| {
        format!("{} {}{}", word(rule.target), ends(&rule.selector), service(&rule.selector))
    };
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

/// Protocol and ports, and the state of connections, each with a space before it.
fn service(selector: &Selector) -> String {
    let state = match selector.state() {
        Some(ConnectionState::New) => " new",
        Some(ConnectionState::Established) => " established",
        None => "",
    };
    let Some(Service { protocol, ports }) = selector.service() else { return state.to_owned() };
    let protocol = match protocol {
        Protocol::Icmp => "icmp".to_owned(),
        Protocol::Number(number) => number.to_string(),
    };
    let ports = ports.map(Ports::bounds).map(|(first, last)| format!(" {first}-{last}"));
    format!(" {protocol}{}{state}", ports.unwrap_or_default())
}

fn write_grants(config: &Config, options: &mut Vec<Written>) {
    for grant in grants(config) {
        let holder = match grant.holder {
            Holder::User(uid) => uid.to_string(),
            Holder::Group(gid) => format!("@{gid}"),
            Holder::Nobody => unreachable!("every name is known"),
        };
        options.push((OptionName::Grant, format!("{} {holder}", grant.prefix)));
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
        let trunks = &router.hosts.trunks;
        let (socket, listeners) = match &router.socket {
            Some(socket) => (socket.clone(), &trunks.listeners[..]),
            None => (trunks.listeners[0].to_string(), &trunks.listeners[1..]),
        };
        let words = [&router.device, &socket, stats].map(quoted).join(" ");
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
        listeners.iter().for_each(|address| write(OptionName::Trunk, address.to_string()));
        for TrunkPeer { key, networks, address, relay } in &trunks.peers {
            let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
            let address = address.map(|address| format!(" {address}")).unwrap_or_default();
            let relay = if *relay { " relay" } else { "" };
            write(OptionName::TrunkPeer, format!("{key} {}{address}{relay}", networks.join(",")));
        }
        for shape in &router.shapes {
            let words: Vec<_> = shape.to_string().split(' ').map(quoted).collect();
            write(OptionName::Shape, words.join(" "));
        }
        for mapping in &router.ports {
            let protocol = mapping.protocol.as_str();
            let anyway = anyway(router.meant.ports.contains(mapping));
            write(OptionName::RouterPort, format!("{protocol} {} {}{anyway}", mapping.port, mapping.target));
        }
        router.live.rules.iter().for_each(|file| write(OptionName::RouterRules, quoted(file)));
        router.mtu.iter().for_each(|mtu| write(OptionName::RouterMtu, mtu.to_string()));
        router.dns.iter().for_each(|server| write(OptionName::RouterDns, server.to_string()));
        match &router.live.control {
            ControlSocket::Beside => {}
            ControlSocket::Path(path) => write(OptionName::Control, quoted(path)),
            ControlSocket::Off => write(OptionName::Control, "off".to_owned()),
        }
        router.live.access.iter().for_each(|access| write(OptionName::ControlAccess, access.to_string()));
        router.metrics.address.iter().for_each(|address| write(OptionName::Metrics, quoted(address.as_str())));
        router.metrics.peers.iter().for_each(|peers| write(OptionName::MetricsPeers, peers.to_string()));
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
        (OptionName::MaxFlows, limits.flows.to_string()),
        (OptionName::MaxFlowsPerPeer, limits.flows_per_peer.to_string()),
    ]);
}

fn write_devices(config: &Config, options: &mut Vec<Written>) {
    for device in &config.devices {
        // In quotes, so that a last word `auto` stays part of the name.
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
