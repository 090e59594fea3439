use std::collections::HashSet;

use ipnet::IpNet;

use super::*;
use crate::{Config, ConfigErrors, HostProtection};
use tuntap_core::policy::grant::{Grant, Holder};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_core::policy::shares::Shares;
use tuntap_wire::autoconf::Family;

/// Two values for each option.
const SAMPLES: [(OptionName, [&str; 2]); TABLE.len()] = [
    (OptionName::Router, ["tun1 /b", "tun2 /c"]),
    (OptionName::Device, ["uwsgi1 /b", "uwsgi2 /c"]),
    (OptionName::UseCredentials, ["true", "symbol"]),
    (OptionName::FirewallIn, ["allow any 10.0.0.2", "deny"]),
    (OptionName::FirewallOut, ["allow 10.0.0.2 any", "reject"]),
    (OptionName::Route, ["any 10.1.0.0/16 192.0.2.1:999", "any 10.2.0.0/16 192.0.2.2:999"]),
    (OptionName::RouterRules, ["/etc/one.rules", "/etc/other.rules"]),
    (OptionName::Script, ["/etc/a.luau", "/etc/b.luau"]),
    (OptionName::Stats, ["/run/one", "/run/other"]),
    (OptionName::Metrics, ["/run/metrics", "127.0.0.1:9100"]),
    (OptionName::MetricsPeers, ["7", "0"]),
    (OptionName::Switch, ["", "false"]),
    (OptionName::BusyPoll, ["7", "8"]),
    (OptionName::Sandbox, ["off", "strict"]),
    (OptionName::RouterOffload, ["on", "auto"]),
    (OptionName::Priority, ["5", "off"]),
    (OptionName::Harakiri, ["7", "8"]),
    (OptionName::MaxPeers, ["7", "8"]),
    (OptionName::MaxPeersPerUid, ["7", "8"]),
    (OptionName::MaxAddressesPerUid, ["7", "8"]),
    (OptionName::MaxUnclaimed, ["7", "8"]),
    (OptionName::UnclaimedTimeout, ["7", "8"]),
    (OptionName::MaxQueue, ["200000", "300000"]),
    (OptionName::MaxDeviceRules, ["7", "8"]),
    (OptionName::MaxFlows, ["2000", "3000"]),
    (OptionName::MaxFlowsPerPeer, ["20", "30"]),
    (OptionName::Grant, ["10.0.0.2 7", "10.0.0.3 @8"]),
    (OptionName::LeaseDefault, ["allow", "deny"]),
    (OptionName::DeviceRoute, ["192.0.2.1:999", "192.0.2.2:999"]),
    (OptionName::GatewayAllow, ["192.0.2.1", "192.0.2.2"]),
    (OptionName::GatewayVassal, ["10.0.0.2", "10.0.0.3"]),
    (OptionName::RouterAddress, ["10.1.0.1/24", "10.2.0.1/24"]),
    (OptionName::RouterPool, ["10.0.0.0/26", "10.0.0.64/26"]),
    (OptionName::RouterClaims, ["any", "own"]),
    (OptionName::RouterNat, ["eth0", "eth1"]),
    (OptionName::RouterPort, ["tcp 80 10.0.0.2:80", "tcp 81 10.0.0.2:81"]),
    (OptionName::RouterHost, ["allow tcp 80", "deny"]),
    (OptionName::MaxConnections, ["7", "8"]),
    (OptionName::ConnectionRate, ["7 8", "8 9"]),
    (OptionName::FragmentRate, ["7", "8"]),
    (OptionName::Shape, ["both any 20M/50M", "in 10.0.0.2 500k queue=10ms"]),
    (OptionName::RouterKey, ["/etc/a.key", "/etc/b.key"]),
    (OptionName::Routes, ["127.0.0.1:979", "[::1]:979 /etc/password hold=30"]),
    (OptionName::Trunk, ["192.0.2.1:4000", "[2001:db8::1]:4000"]),
    (
        OptionName::TrunkPeer,
        [
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= 10.0.0.0/16 192.0.2.2:4000",
            "tun0 PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw= 10.0.0.0/24,fd00:77::/64 192.0.2.3:4000 relay",
        ],
    ),
    (OptionName::RouterMtu, ["1300", "1400"]),
    (OptionName::DeviceRule, ["in any any allow", "out any any deny"]),
    (OptionName::RouterDns, ["192.0.2.1", "192.0.2.2"]),
    (OptionName::Control, ["/run/c", "off"]),
    (OptionName::ControlAccess, ["view 7", "admin @8"]),
    (OptionName::DeviceAddress, ["fd00::2/64", "fd00::3/64"]),
    (OptionName::DeviceGateway, ["10.0.0.1", "fd00::1"]),
    (OptionName::DeviceMtu, ["1300", "1400"]),
    (OptionName::DeviceDns, ["true", "/run/resolv.conf"]),
    (OptionName::DeviceTimeout, ["7", "8"]),
    (OptionName::DeviceRequired, ["", "false"]),
    (OptionName::LogFormat, ["json", "text"]),
    (OptionName::DeviceOffload, ["true", "false"]),
    (OptionName::Doctor, ["one.ini", "other.ini"]),
];

/// Reads values of an option beside what most options need: a router with a network, and a device.
fn read(option: OptionName, values: &[&str]) -> Result<Config, ConfigErrors> {
    let device = match option {
        OptionName::DeviceAddress => "uwsgi0 /s",
        _ => "uwsgi0 /s auto",
    };
    let around = [
        (OptionName::Router, "tun0 /s"),
        (OptionName::RouterAddress, "tun0 10.0.0.1/24"),
        (OptionName::Device, device),
    ];
    Config::from_options(around.into_iter().chain(values.iter().map(|value| (option, *value))))
}

#[test]
fn rows_are_whole() {
    let mut names = HashSet::new();
    for option in OptionName::ALL {
        let OptionSpec { name, scope, syntax, help, range, note, default, details, .. } = *option.spec();
        assert!(names.insert(name), "{name} is there twice");
        assert_eq!(OptionName::find(name), Some(option));
        let of_name = match name.split('-').nth(1) {
            Some("router") => Scope::Router,
            Some("device") => Scope::Device,
            Some("use" | "log") => Scope::Both,
            _ => Scope::Action,
        };
        assert_eq!(scope, of_name, "{name}");
        assert!(!syntax.is_empty() && !help.is_empty() && details.ends_with('.'), "{name}");
        for text in [name, syntax, help, range, note, default.unwrap_or_default(), details] {
            assert!(text.is_ascii() && !text.contains("  ") && text.trim() == text, "{name}: {text}");
        }
        assert_eq!(SAMPLES[option as usize].0, option, "the samples are in the order of the table");
    }
}

#[test]
fn errors_tell_the_syntax_of_their_option() {
    let mut count = 0;
    for option in OptionName::ALL {
        let told = |value: &str| {
            let errors = read(option, &[value]).err()?;
            errors.0.iter().find_map(|error| Some(error.problem.to_string().strip_prefix("expected ")?.to_owned()))
        };
        let expected = ["a b", "a", "a b c d e f g h"].into_iter().find_map(told).filter(|text| text.contains('<'));
        if let Some(expected) = expected {
            assert_eq!(expected, option.syntax(), "{}", option.as_str());
            count += 1;
        }
    }
    assert!(count >= 14, "only {count} have been compared");
}

#[test]
fn value_may_be_missing_where_the_syntax_says_so() {
    for option in OptionName::ALL.into_iter().filter(|option| option.spec().scope != Scope::Action) {
        assert_eq!(read(option, &[""]).is_ok(), option.spec().may_stand_alone(), "{}", option.as_str());
    }
}

#[test]
fn ranges_are_those_of_the_parsers() {
    for option in OptionName::ALL.into_iter().filter(|option| !option.spec().range.is_empty()) {
        let (least, rest) = option.spec().range.split_once(" to ").expect("two numbers");
        let most = rest.split([',', ' ']).next().expect("the second");
        let [least, most]: [i64; 2] = [least, most].map(|number| number.parse().expect("a number"));
        for (number, is_good) in [(least, true), (most, true), (least - 1, false), (most + 1, false)] {
            assert_eq!(read(option, &[&number.to_string()]).is_ok(), is_good, "{} = {number}", option.as_str());
        }
    }
}

/// A configuration with the defaults that its other fields leave open put in.
fn in_full(mut config: Config) -> Config {
    /// What the kernel gives a TUN device (`tun_net_initialize` of drivers/net/tun.c).
    const KERNEL_MTU: u16 = 1500;
    for router in &mut config.routers {
        router.mtu.get_or_insert(KERNEL_MTU);
        let protection = &mut router.protection;
        protection.max_connections.get_or_insert(HostProtection::DEFAULT_MAX_CONNECTIONS);
        protection.connection_rate.get_or_insert(HostProtection::DEFAULT_CONNECTION_RATE);
        protection.fragment_rate.get_or_insert(HostProtection::DEFAULT_FRAGMENT_RATE);
    }
    config
}

#[test]
fn defaults_are_what_holds_without_the_option() {
    let mut in_words = Vec::new();
    for option in OptionName::ALL {
        let Some(default) = option.spec().default else { continue };
        match read(option, &[default]) {
            Ok(config) => {
                let without = read(option, &[]).expect("valid");
                assert_eq!(in_full(config), in_full(without), "{} = {default}", option.as_str());
            }
            Err(_) => in_words.push(option),
        }
    }
    let tested_by_others = [
        OptionName::MaxAddressesPerUid,
        OptionName::LeaseDefault,
        OptionName::RouterPool,
        OptionName::RouterClaims,
        OptionName::RouterKey,
        OptionName::Control,
    ];
    assert_eq!(in_words, tested_by_others, "others have a default that can't be read");
}

#[test]
fn defaults_in_words_are_true() {
    let default = |option: OptionName| option.spec().default.expect("there is one");

    assert_eq!(default(OptionName::LeaseDefault), "deny once there is a lease");
    let lease = Grant { prefix: "10.0.0.2/32".parse().expect("a prefix"), holder: Holder::User(7) };
    let config = Config::default();
    assert!(!config.compile_grants(Vec::new()).bind_addresses() && config.compile_grants(vec![lease]).bind_addresses());

    assert_eq!(default(OptionName::RouterPool), "the whole network");
    let router = &read(OptionName::RouterPool, &[]).expect("valid").routers[0];
    assert_eq!(router.ranges(), router.addresses);

    assert_eq!(default(OptionName::RouterKey), "/var/lib/uwsgi-tuntap/ with the name of the device and .key");
    let router = &read(OptionName::RouterKey, &[]).expect("valid").routers[0];
    assert_eq!(router.hosts.key_file(&router.device), "/var/lib/uwsgi-tuntap/tun0.key");

    assert_eq!(default(OptionName::RouterClaims), "own with tuntap-router-address, else any");
    let scope = |config: Result<Config, ConfigErrors>| config.expect("valid").routers[0].claim_scope();
    assert_eq!(scope(read(OptionName::RouterClaims, &[])), ClaimScope::Own);
    assert_eq!(scope(Config::from_options([(OptionName::Router, "tun0 /s")])), ClaimScope::Any);

    assert_eq!(default(OptionName::MaxAddressesPerUid), "a quarter of the router's networks, 2 to 256");
    let share = |network: &str| {
        let networks: [IpNet; 1] = [network.parse().expect("a network")];
        Shares::new(None, &networks).limit(Family::V4)
    };
    // Neither the network's address nor its broadcast address nor the router's own is a vassal's.
    assert_eq!(["10.0.0.1/16", "10.0.0.1/25", "10.0.0.1/30"].map(share), [Some(256), Some(125 / 4), Some(2)]);
}

#[test]
fn values_of_options_that_repeat_add_up() {
    for (option, [one, other]) in SAMPLES {
        let name = option.as_str();
        let second = read(option, &[other]).unwrap_or_else(|errors| panic!("{errors}"));
        read(option, &[one]).unwrap_or_else(|errors| panic!("{errors}"));
        match read(option, &[one, other]) {
            _ if option.spec().scope == Scope::Action => {
                assert_eq!(second, read(option, &[]).expect("valid"), "{name}")
            }
            Ok(both) => assert_eq!(both != second, option.spec().repeats, "{name}"),
            Err(errors) => {
                assert!(!option.spec().repeats && errors.to_string().contains("is there twice"), "{name}: {errors}");
            }
        }
    }
}
