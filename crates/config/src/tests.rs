use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use tuntap_core::policy::grant::{Grant, Holder};
use tuntap_core::policy::guard::ClaimScope;
use tuntap_wire::rule::{Direction, PeerSelector, RuleAction};
use tuntap_wire::selector::{AddressPattern, ConnectionState, Ports, Protocol, Selector, Service};

fn read(option: OptionName, value: &str) -> Result<Config, ConfigErrors> {
    Config::from_options([(option, value)])
}

fn good(option: OptionName, value: &str) -> Config {
    read(option, value).unwrap_or_else(|errors| panic!("{errors}"))
}

fn error(option: OptionName, value: &str) -> String {
    match read(option, value) {
        Ok(config) => panic!("{value:?} gave {config:?}"),
        Err(errors) => errors.to_string(),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

#[test]
fn router_with_all_its_words() {
    let config = good(OptionName::Router, "emperor0 /run/tuntap.socket 127.0.0.1:5002 192.0.2.1:999");
    let expected = RouterSpec {
        device: "emperor0".to_owned(),
        socket: Some("/run/tuntap.socket".to_owned()),
        stats: Some(StatsAddress::Tcp("127.0.0.1:5002".to_owned())),
        gateway: Some(address("192.0.2.1:999")),
        addresses: Vec::new(),
        pools: Vec::new(),
        claims: None,
        nat: Vec::new(),
        ports: Vec::new(),
        mtu: None,
        dns: Vec::new(),
        shapes: Vec::new(),
        protection: HostProtection {
            own_gateways: vec![address("192.0.2.1:999")],
            any_source: true,
            ..HostProtection::default()
        },
        meant: Meant::default(),
        live: LiveSpec::default(),
        hosts: HostsSpec::default(),
        metrics: MetricsSpec { peers: Some(1000), ..MetricsSpec::default() },
    };
    assert_eq!(config.routers, [expected]);
}

#[test]
fn router_with_the_least_words_and_odd_spacing() {
    let config = good(OptionName::Router, "  emperor0\t@tuntap ");
    assert_eq!(config.routers[0].socket.as_deref(), Some("@tuntap"));
    assert_eq!(config.routers[0].stats, None);
    assert_eq!(good(OptionName::Router, r#"e "/run/a b""#).routers[0].socket.as_deref(), Some("/run/a b"));
    let gateway_only = good(OptionName::Router, r#"e /s "" :999"#);
    assert_eq!(gateway_only.routers[0].stats, None);
    assert_eq!(gateway_only.routers[0].gateway, Some(address("0.0.0.0:999")));
    for over_ipv6 in ["[::]:999", "[2001:db8::1]:4000"] {
        let router = good(OptionName::Router, &format!("e /s \"\" {over_ipv6}")).routers.remove(0);
        assert_eq!(router.gateway, Some(address(over_ipv6)));
    }
}

#[test]
fn router_values_that_stop_the_start() {
    for value in
        ["", "emperor0", "a b c d e", "a \"b", "a /s stats 1.2.3.4", "a /s stats 1.2.3.4:0", "a /s stats host:1"]
            .into_iter()
            .chain([
                "a /s stats ::1",
                "a /s stats [::1]:0",
                "a /s stats [fe80::1%1]:1",
                "a /s stats [::ffff:1.2.3.4]:1",
            ])
    {
        error(OptionName::Router, value);
    }
    assert!(error(OptionName::Router, "sixteen-letters- /s").contains("1 to 15 bytes"));
    assert!(error(OptionName::Router, "a/b /s").contains("device name"));
    assert!(error(OptionName::Router, "a 192.0.2.1:4444").contains("tuntap-router-trunk-peer"));
    assert!(error(OptionName::Router, "a :4444").contains("no address for trunks"));
    assert!(error(OptionName::Router, &format!("a /{}", "x".repeat(102))).contains("102"));
    assert!(error(OptionName::Router, "a /s 127.0.0.1:70000").contains("port"));
}

#[test]
fn routers_do_not_share() {
    let two = |first, second| Config::from_options([(OptionName::Router, first), (OptionName::Router, second)]);
    assert!(two("a /s", "b /t").is_ok());
    assert!(two("a /s", "a /t").is_err_and(|errors| errors.to_string().contains("device")));
    assert!(two("a /s", "b /s").is_err_and(|errors| errors.to_string().contains("socket")));
}

fn with_router(options: &[(OptionName, &str)]) -> Result<Config, ConfigErrors> {
    Config::from_options([(OptionName::Router, "a /a")].into_iter().chain(options.iter().copied()))
}

fn with_two_routers(options: &[(OptionName, &str)]) -> Result<Config, ConfigErrors> {
    with_router(&[&[(OptionName::Router, "b /b")], options].concat())
}

#[test]
fn addresses_and_ports_can_be_meant_anyway() {
    let config = with_router(&[
        (OptionName::RouterAddress, "10.0.0.1/24 anyway"),
        (OptionName::RouterAddress, "a fd00:77::1/64"),
        (OptionName::RouterPort, "tcp 22 10.0.0.2:22"),
        (OptionName::RouterPort, "a tcp 80 10.0.0.2:80\tanyway "),
    ])
    .expect("valid");
    let router = &config.routers[0];
    assert_eq!((router.addresses.len(), router.ports.len()), (2, 2));
    assert_eq!(router.meant, Meant { addresses: vec![router.addresses[0]], ports: vec![router.ports[1]] });
    for (option, value) in [
        (OptionName::RouterAddress, "anyway"),
        (OptionName::RouterAddress, "10.0.0.1/24anyway"),
        (OptionName::RouterAddress, "10.0.0.1/24 any"),
        (OptionName::RouterAddress, "10.0.0.1/24 anyway anyway"),
        (OptionName::RouterPort, "tcp 22 10.0.0.2:22 Anyway"),
    ] {
        assert!(with_router(&[(option, value)]).is_err(), "{value}");
    }
}

#[test]
fn router_sets_up_its_host() {
    let config = with_two_routers(&[
        (OptionName::RouterPort, "b tcp 8080 10.0.1.2:80"),
        (OptionName::RouterPort, "b udp 8080 10.0.1.2:80"),
        (OptionName::RouterPort, "a tcp 8080 [fd00:77::2]:80"),
        (OptionName::RouterNat, "b eth0"),
        (OptionName::RouterNat, "b eth1"),
        (OptionName::RouterAddress, "a fd00:77::1/64"),
        (OptionName::RouterAddress, "b 10.0.1.1/24"),
        (OptionName::RouterMtu, "a 8188"),
    ])
    .expect("valid");
    let [first, second] = config.routers.as_slice() else { panic!("{config:?}") };
    assert_eq!(first.addresses, ["fd00:77::1/64".parse().expect("a network")]);
    assert_eq!((first.nat.len(), first.mtu, first.ports.len()), (0, Some(8188), 1));
    assert_eq!((second.nat.as_slice(), second.mtu), (&["eth0".to_owned(), "eth1".to_owned()][..], None));
    let mapping =
        PortMapping { protocol: PortProtocol::Tcp, port: 8080, target: "10.0.1.2:80".parse().expect("an address") };
    assert_eq!(second.ports, [mapping, PortMapping { protocol: PortProtocol::Udp, ..mapping }]);
    // Networks of two, and of one, have no address to spare.
    for address in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127", "fd00::1/128", "10.0.0.255/16", "fd00::ffff/112"] {
        with_router(&[(OptionName::RouterAddress, address)]).unwrap_or_else(|errors| panic!("{errors}"));
    }
    assert!(read(OptionName::RouterNat, "eth0").is_ok(), "without a router it has no effect");
}

#[test]
fn router_chooses_from_its_pools() {
    let config = with_two_routers(&[
        (OptionName::RouterPool, "b 10.0.1.128/26"),
        (OptionName::RouterPool, "b 10.0.1.16"),
        (OptionName::RouterAddress, "a 10.0.0.1/24"),
        (OptionName::RouterAddress, "b 10.0.1.1/24"),
        (OptionName::RouterAddress, "b fd00:77::1/64"),
        (OptionName::RouterPool, "b 10.0.1.2/31"),
    ])
    .expect("valid");
    let [first, second] = config.routers.as_slice() else { panic!("{config:?}") };
    assert_eq!((&first.pools, first.ranges()), (&vec![], first.addresses.clone()));
    let net = |text: &str| text.parse::<IpNet>().expect("a network");
    assert_eq!(second.pools, ["10.0.1.128/26", "10.0.1.16/32", "10.0.1.2/31"].map(net));
    assert_eq!(second.ranges(), [&second.pools[..], &[net("fd00:77::1/64")]].concat());
    let policy = config.policy(second, config.compile_grants(Vec::new()), Vec::new());
    assert_eq!(policy.slices, second.pools);
}

#[test]
fn host_is_protected_as_its_router_says() {
    let config = with_two_routers(&[
        (OptionName::RouterAddress, "a 10.0.0.1/24"),
        (OptionName::RouterAddress, "b 10.0.1.1/24"),
        (OptionName::RouterHost, "a deny tcp 22"),
        (OptionName::RouterHost, "a allow tcp 1-1024"),
        (OptionName::RouterHost, "a allow 169.254.169.254 icmp"),
        (OptionName::RouterHost, "a deny fd00::/8"),
        (OptionName::RouterHost, "a allow"),
        (OptionName::MaxConnections, "a 100"),
        (OptionName::ConnectionRate, "a 50 70"),
        (OptionName::ConnectionRate, "b 50"),
        (OptionName::Grant, "10.9.0.0/16 7"),
        (OptionName::LeaseDefault, "deny"),
    ])
    .expect("valid");
    let [first, second] = [&config.routers[0].protection, &config.routers[1].protection];
    let service = |protocol, ports: Option<(u16, u16)>| {
        Some(Service { protocol, ports: ports.and_then(|(first, last)| Ports::new(first, last)) })
    };
    let tcp = Protocol::Number(6);
    let net = |text: &str| Some(text.parse().expect("a network"));
    assert_eq!(
        first.rules,
        [
            HostRule { allow: false, to: None, service: service(tcp, Some((22, 22))) },
            HostRule { allow: true, to: None, service: service(tcp, Some((1, 1024))) },
            HostRule { allow: true, to: net("169.254.169.254/32"), service: service(Protocol::Icmp, None) },
            HostRule { allow: false, to: net("fd00::/8"), service: None },
            HostRule { allow: true, to: None, service: None },
        ]
    );
    assert_eq!((first.max_connections(), second.max_connections()), (Some(100), Some(4096)));
    assert_eq!(first.connection_rate(), Some(ConnectionRate { per_second: 50, burst: 70 }));
    assert_eq!(second.connection_rate(), Some(ConnectionRate { per_second: 50, burst: 250 }));
    assert_eq!((first.leased.as_slice(), first.any_source), (&["10.9.0.0/16".parse().expect("a network")][..], false));
    let address = (OptionName::RouterAddress, "10.0.0.1/24");
    let with = |option, value| {
        let config = with_router(&[address, (option, value)]).unwrap_or_else(|errors| panic!("{errors}"));
        config.routers[0].protection.clone()
    };
    assert_eq!(with(OptionName::MaxConnections, "0").max_connections(), None);
    assert_eq!(with(OptionName::ConnectionRate, "0").connection_rate(), None);
    assert_eq!(with(OptionName::RouterMtu, "1400").connection_rate(), Some(HostProtection::DEFAULT_CONNECTION_RATE));
    assert_eq!(with(OptionName::FragmentRate, "0").fragment_rate(), None);
    assert_eq!(with(OptionName::FragmentRate, "a 7").fragment_rate(), Some(7));
    assert_eq!(with(OptionName::RouterMtu, "1400").fragment_rate(), Some(20));
    assert!(with(OptionName::RouterClaims, "any").any_source);
    assert!(!with(OptionName::LeaseDefault, "allow").any_source);
    assert_eq!(
        with(OptionName::GatewayVassal, "10.0.0.5").gateway_vassals,
        ["10.0.0.5/32".parse().expect("a network")]
    );
    // A router may have the name of an action, or be a number.
    let named = |name: &'static str, option, value| {
        let router = (OptionName::Router, name);
        Config::from_options([router, (OptionName::RouterAddress, "10.0.0.1/24"), (option, value)])
    };
    assert!(named("allow /t", OptionName::RouterHost, "allow deny tcp").is_ok());
    assert!(named("5 /t", OptionName::ConnectionRate, "5 10 20").is_ok());
    for (option, values) in [
        (OptionName::RouterHost, &["", "a", "accept", "allow tcp 0", "allow tcp 9-8", "allow icmp 5", "allow 256"][..]),
        (OptionName::RouterHost, &["allow 10.0.0.1/8", "allow 300.0.0.1", "allow tcp 80 90", "a b c", "allow ah"]),
        (
            OptionName::RouterHost,
            &["allow 127.0.0.1 tcp 5432", "allow 127.0.0.0/8", "allow ::1", "allow 224.0.0.251 udp 5353"],
        ),
        (
            OptionName::RouterHost,
            &["allow ff02::/16", "allow 255.255.255.255", "allow 0.0.0.0/32 tcp 80", "deny 0.0.0.0/32", "deny ::/128"],
        ),
        (OptionName::RouterHost, &["allow fd00::/8 ah", "allow tcp udp", "c allow"]),
        (OptionName::FragmentRate, &["", "-1", "few", "a b 5", "1000001"]),
        (OptionName::MaxConnections, &["", "-1", "65537", "many", "a b 5", "c 5"]),
        (OptionName::ConnectionRate, &["", "a", "5 0", "1000001", "5 5 5 5", "c 5", "-5"]),
    ] {
        for value in values {
            let result = with_router(&[address, (option, value)]);
            assert!(result.is_err(), "{value}: {result:?}");
        }
    }
    for rule in ["allow 10.0.0.0/8 ah", "allow 0.0.0.0/0", "allow ::/0 tcp 80", "deny 127.0.0.1", "allow 224.0.0.0/3"] {
        assert!(with_router(&[address, (OptionName::RouterHost, rule)]).is_ok(), "{rule}");
    }
    for (option, value) in
        [(OptionName::RouterHost, "allow"), (OptionName::MaxConnections, "5"), (OptionName::ConnectionRate, "5")]
    {
        let error = with_router(&[(option, value)]).expect_err("nothing is protected").to_string();
        assert!(error.contains("the router has no address"), "{error}");
    }
    let twice = [address, (OptionName::MaxConnections, "5"), (OptionName::MaxConnections, "a 6")];
    assert!(with_router(&twice).is_err_and(|errors| errors.to_string().contains("is there twice")));
}

/// A value without a port is about all ports that the options name, and `any` is about none.
#[test]
fn gateways_are_known_to_all_routers() {
    let config = Config::from_options([
        (OptionName::Router, "a /a \"\" 192.0.2.1:999"),
        (OptionName::Router, "b /b"),
        (OptionName::Route, "any 10.1.0.0/16 192.0.2.2:998"),
        (OptionName::Route, "any 10.2.0.0/16 192.0.2.2:998"),
        (OptionName::DeviceRoute, "198.51.100.0/24:5"),
        (OptionName::DeviceRoute, "any"),
        (OptionName::GatewayAllow, "203.0.113.7"),
    ])
    .expect("valid");
    let expected: Vec<_> =
        [("192.0.2.2/32", 998), ("198.51.100.0/24", 5), ("203.0.113.7/32", 998), ("203.0.113.7/32", 999)]
            .map(|(prefix, port)| TargetRange { prefix: prefix.parse().expect("a prefix"), port: Some(port) })
            .into();
    for router in &config.routers {
        assert_eq!(router.protection.own_gateways, [address("192.0.2.1:999")]);
        assert_eq!(router.protection.gateways, expected);
    }
}

#[test]
fn host_settings_that_stop_the_start() {
    for (option, values) in [
        (
            OptionName::RouterAddress,
            &["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/7", "010.0.0.1/24", "fd00::1/4", "a b c/1"][..],
        ),
        (
            OptionName::RouterAddress,
            &["0.0.0.1/8", "127.0.0.1/8", "169.254.0.1/16", "224.0.0.1/8", "255.255.255.1/8", "::1/64", "fe80::1/64"],
        ),
        (
            OptionName::RouterAddress,
            &["10.0.0.0/24", "10.0.0.255/24", "fd00::/64", "::ffff:10.0.0.1/120", "ff02::1/16"],
        ),
        (OptionName::RouterNat, &["", "all", "default", "lo", "a/b", "a b c", ".."]),
        (OptionName::RouterPort, &["tcp 80", "sctp 80 10.0.0.2:80", "tcp 0 10.0.0.2:80", "tcp 65536 10.0.0.2:80"]),
        (
            OptionName::RouterPort,
            &["tcp 80 10.0.0.2", "tcp 80 10.0.0.2:0", "tcp 80 fd00::2:80", "tcp 80 [fe80::2%1]:80"],
        ),
        (OptionName::RouterMtu, &["", "575", "8189", "1500 a"]),
        (OptionName::RouterPool, &["", "10.0.0.1/25", "10.0.0.0/33", "10.0.0", "010.0.0.0/25", "a b 10.0.0.0/25"]),
    ] {
        for value in values {
            error(option, value);
        }
    }
    let address = (OptionName::RouterAddress, "10.0.0.1/24");
    let error = |options: &[_]| with_router(options).expect_err("wrong").to_string();
    for (options, reason) in [
        (&[address, (OptionName::RouterAddress, "10.0.0.129/25")][..], "overlaps with 10.0.0.1/24 of the router a"),
        (&[(OptionName::RouterNat, "eth0")], "the router has no address"),
        (&[(OptionName::RouterPool, "10.0.0.0/25")], "10.0.0.0/25 is in none of the router's networks"),
        (&[address, (OptionName::RouterPool, "10.0.0.0/23")], "10.0.0.0/23 is in none of the router's networks"),
        (&[address, (OptionName::RouterPool, "10.0.1.0/25")], "10.0.1.0/25 is in none of the router's networks"),
        (&[address, (OptionName::RouterPool, "fd00::/120")], "fd00::/120 is in none of the router's networks"),
        (&[address, (OptionName::RouterPool, "10.0.0.0/31")], "10.0.0.0/31 has no address that a vassal can have"),
        (
            &[address, (OptionName::RouterPool, "10.0.0.128/25"), (OptionName::RouterPool, "10.0.0.192/26")],
            "overlaps with 10.0.0.128/25 of the router a",
        ),
        (&[address, (OptionName::RouterNat, "a")], "leads to other networks"),
        (&[address, (OptionName::RouterNat, "e"), (OptionName::RouterNat, "e")], "is there twice"),
        (&[(OptionName::RouterNat, "c eth0")], "there is no tuntap-router with the device c"),
        (&[address, (OptionName::RouterPort, "tcp 1 [fd00::2]:1")], "the router has no IPv6 address"),
        (&[address, (OptionName::RouterPort, "tcp 1 10.0.1.2:1")], "10.0.1.2 is in none of the router's networks"),
        (&[address, (OptionName::RouterPort, "tcp 1 10.0.0.1:1")], "10.0.0.1 can't be a vassal's address"),
        (&[address, (OptionName::RouterPort, "tcp 1 10.0.0.255:1")], "10.0.0.255 can't be a vassal's address"),
        (
            &[address, (OptionName::RouterPort, "tcp 1 10.0.0.2:1"), (OptionName::RouterPort, "tcp 1 10.0.0.3:2")],
            "tcp 1 10.0.0.3:2: is there twice",
        ),
        (&[(OptionName::RouterMtu, "1400"), (OptionName::RouterMtu, "a 1400")], "is there twice"),
        (&[(OptionName::RouterAddress, "fd00::1/64"), (OptionName::RouterMtu, "1279")], "needs 1280 bytes"),
    ] {
        assert!(error(options).contains(reason), "{reason} in {}", error(options));
    }
    let unnamed = with_two_routers(&[address]).expect_err("whose is it?").to_string();
    assert!(unnamed.contains("there are several tuntap-router"), "{unnamed}");
    let overlapping = [(OptionName::RouterAddress, "a 10.0.0.1/24"), (OptionName::RouterAddress, "b 10.0.0.2/24")];
    assert!(with_two_routers(&overlapping).is_err_and(|errors| errors.to_string().contains("of the router a")));
}

#[test]
fn default_stats_go_to_the_last_router_without_its_own() {
    let config = Config::from_options([
        (OptionName::Stats, "/run/stats"),
        (OptionName::Router, "a /a"),
        (OptionName::Router, "b /b"),
        (OptionName::Router, "c /c :1"),
    ])
    .expect("valid");
    let stats: Vec<_> = config.routers.iter().map(|router| router.stats.as_ref().map(StatsAddress::as_str)).collect();
    assert_eq!(stats, [None, Some("/run/stats"), Some(":1")]);
}

#[test]
fn devices() {
    let spec = |value| good(OptionName::Device, value).devices.remove(0);
    assert_eq!(spec("uwsgi0"), DeviceSpec { name: "uwsgi0".to_owned(), ..DeviceSpec::default() });
    assert_eq!(spec("uwsgi0 /run/a b").socket.as_deref(), Some("/run/a b"));
    assert!(error(OptionName::Device, "").contains("device name"));
    assert!(error(OptionName::Device, "uwsgi0 10.0.0.1:4444").contains("TCP"));
}

fn device(values: &[(OptionName, &str)]) -> Result<DeviceSpec, String> {
    let mut config = Config::from_options(values.iter().copied()).map_err(|errors| errors.to_string())?;
    Ok(config.devices.remove(0))
}

#[test]
fn devices_with_auto() {
    let spec = |value| good(OptionName::Device, value).devices.remove(0);
    let read = |value| (spec(value).socket.expect("a socket"), spec(value).auto);
    assert_eq!(read("uwsgi0 /run/a auto"), ("/run/a".to_owned(), true));
    assert_eq!(read("uwsgi0 /run/a b \t auto "), ("/run/a b".to_owned(), true));
    assert_eq!(read("uwsgi0 /run/auto"), ("/run/auto".to_owned(), false));
    assert_eq!(read("uwsgi0 /run/a automatic"), ("/run/a automatic".to_owned(), false));
    assert_eq!(read("uwsgi0 ./auto"), ("./auto".to_owned(), false));
    assert_eq!(read("uwsgi0 '/run/a auto'"), ("/run/a auto".to_owned(), false));
    assert_eq!(read("uwsgi0 \"/run/a auto\" auto"), ("/run/a auto".to_owned(), true));
    assert!(error(OptionName::Device, "uwsgi0 auto").contains("expected a socket before auto"));
    for wrong in ["uwsgi0 '/run/a", "uwsgi0 '/run/a' b", "uwsgi0 '/run/a' auto auto", "uwsgi0 '' auto"] {
        error(OptionName::Device, wrong);
    }
}

#[test]
fn network_of_a_device() {
    use OptionName::{Device, DeviceAddress, DeviceDns, DeviceGateway, DeviceMtu};
    let spec = device(&[
        (DeviceAddress, "10.0.0.5/24"),
        (DeviceAddress, "uwsgi0 fd00::5/64"),
        (DeviceGateway, "10.0.0.1"),
        (DeviceMtu, "uwsgi0 1400"),
        (DeviceDns, ""),
        (Device, "uwsgi0 /run/s"),
    ])
    .expect("valid");
    assert_eq!(spec.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.5/24", "fd00::5/64"]);
    assert_eq!((spec.gateways.len(), spec.mtu), (1, Some(1400)));
    assert_eq!(spec.resolv_conf.as_deref(), Some("/etc/resolv.conf"));
    let path = device(&[(Device, "uwsgi0 /run/s auto"), (DeviceDns, "/srv/jail/resolv.conf")]).expect("valid");
    assert_eq!(path.resolv_conf.as_deref(), Some("/srv/jail/resolv.conf"));
    let off = device(&[(Device, "uwsgi0 /run/s auto"), (DeviceDns, "true"), (DeviceDns, "false")]).expect("valid");
    assert_eq!(off.resolv_conf, None);
}

#[test]
fn networks_of_devices_that_stop_the_start() {
    use OptionName::{Device, DeviceAddress, DeviceDns, DeviceGateway, DeviceMtu};
    let plain = (Device, "uwsgi0 /run/s");
    let auto = (Device, "uwsgi0 /run/s auto");
    let cases: &[(&[(OptionName, &str)], &str)] = &[
        (&[(DeviceAddress, "10.0.0.5/24")], "there is no tuntap-device here"),
        (&[plain, (Device, "uwsgi1 /run/s"), (DeviceMtu, "1400")], "there are several devices"),
        (&[plain, (DeviceAddress, "uwsgi1 10.0.0.5/24")], "there is no tuntap-device \"uwsgi1\""),
        (&[auto, (DeviceAddress, "10.0.0.5/24")], "no address of a device with auto"),
        (&[plain, (DeviceAddress, "10.0.0.5/24"), (DeviceAddress, "10.0.0.6/24")], "one IPv4 address"),
        (&[plain, (DeviceAddress, "10.0.0.0/24")], "expected a host's address"),
        (&[plain, (DeviceAddress, "10.0.0.5")], "with the length of its network's prefix"),
        (&[plain, (DeviceAddress, "127.0.0.1/8")], "no address that a host can have"),
        (&[plain, (DeviceAddress, "010.0.0.5/24")], "no address that a host can have"),
        (&[plain, (DeviceAddress, "10.0.0.5/24"), (DeviceGateway, "fd00::1")], "of the same family"),
        (&[auto, (DeviceGateway, "10.0.0.1"), (DeviceGateway, "10.0.0.2")], "one gateway of a family"),
        (&[plain, (DeviceMtu, "575")], "no number from 576 to 65535"),
        (&[plain, (DeviceAddress, "fd00::5/64"), (DeviceMtu, "1279")], "1280 to 65535"),
        (&[plain, (DeviceDns, "true")], "a device that asks its router"),
        (&[auto, (DeviceDns, "etc/resolv.conf")], "no path of a file"),
        (&[auto, (DeviceDns, "/etc/")], "no path of a file"),
        (&[auto, (Device, "uwsgi1 /run/s auto"), (DeviceDns, "uwsgi0 /x"), (DeviceDns, "uwsgi1 /x")], "another path"),
    ];
    for (values, because) in cases {
        let message = device(values).expect_err("it contradicts itself");
        assert!(message.contains(because), "{values:?}: {message}");
    }
}

#[test]
fn dns_servers_of_routers() {
    let values = |servers: &[&'static str]| {
        let servers = servers.iter().map(|server| (OptionName::RouterDns, *server));
        Config::from_options(std::iter::once((OptionName::Router, "emperor0 /run/s")).chain(servers))
    };
    let config = values(&["192.0.2.53", "emperor0 fd00::53"]).expect("valid");
    assert_eq!(config.routers[0].dns.len(), 2);
    assert!(values(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]).is_err());
    assert!(
        values(&["dns.example"]).is_err_and(|errors| errors.to_string().contains("no address that a host can have"))
    );
}

#[test]
fn device_timeout_and_need() {
    let config = Config::default();
    assert_eq!((config.device_timeout.as_secs(), config.device_required), (30, false));
    assert_eq!(good(OptionName::DeviceTimeout, "0").device_timeout.as_secs(), 0);
    assert!(good(OptionName::DeviceRequired, "").device_required);
    assert!(Config::default().device_offload && good(OptionName::DeviceOffload, "").device_offload);
    assert!(!good(OptionName::DeviceOffload, "false").device_offload);
    assert_eq!(
        error(OptionName::DeviceOffload, "off"),
        "tuntap-device-offload = off: unknown value \"off\", expected true or false"
    );
    for wrong in ["", "-1", "3601", "1m"] {
        assert!(error(OptionName::DeviceTimeout, wrong).contains("0 to 3600 seconds"), "{wrong}");
    }
}

#[test]
fn busy_poll() {
    let read = |value| good(OptionName::BusyPoll, value).busy_poll.as_micros();
    assert_eq!((Config::default().busy_poll.as_micros(), read("0"), read(" 1000 ")), (50, 0, 1000));
    for wrong in ["", "-1", "1001", "50us", "true"] {
        assert!(error(OptionName::BusyPoll, wrong).contains("0 to 1000 microseconds"), "{wrong}");
    }
}

#[test]
fn priority() {
    assert_eq!(Config::default().priority, Some(-20));
    for (word, nice) in [("-20", Some(-20)), (" 19 ", Some(19)), ("0", Some(0)), ("off", None)] {
        assert_eq!(good(OptionName::Priority, word).priority, nice, "{word:?}");
    }
    for word in ["-21", "20", "", "on", "high", "-5.5", "300"] {
        assert_eq!(
            error(OptionName::Priority, word),
            format!(
                "tuntap-router-priority = {word}: \"{word}\" is no priority, expected a nice value from -20 (most) to 19 \
                 (least), or off"
            )
        );
    }
}

#[test]
fn harakiri() {
    let seconds = std::time::Duration::from_secs;
    assert_eq!(Config::default().harakiri, seconds(6));
    for (word, timeout) in [("0", 0), ("1", 1), ("3600", 3600)] {
        assert_eq!(good(OptionName::Harakiri, word).harakiri, seconds(timeout));
    }
    for word in ["-1", "3601", "", "off", "1.5"] {
        assert_eq!(
            error(OptionName::Harakiri, word),
            format!("tuntap-router-harakiri = {word}: \"{word}\" is no time to wait, expected 0 to 3600 seconds")
        );
    }
}

#[test]
fn log_format() {
    assert_eq!(Config::default().log_format, LogFormat::Text);
    assert_eq!(good(OptionName::LogFormat, "json").log_format, LogFormat::Json);
    assert_eq!(good(OptionName::LogFormat, " text ").log_format, LogFormat::Text);
    for value in ["", "xml", "JSON", "json text"] {
        assert!(error(OptionName::LogFormat, value).contains("expected text or json"), "{value}");
    }
}

#[test]
fn sandbox() {
    let read = |value| good(OptionName::Sandbox, value).sandbox;
    assert_eq!(Config::default().sandbox, Sandbox::On);
    for (sandbox, words) in
        [(Sandbox::On, &["", "on", "true"][..]), (Sandbox::Off, &["off", "false"]), (Sandbox::Strict, &["strict"])]
    {
        assert!(words.iter().all(|word| read(word) == sandbox), "{sandbox:?}");
    }
    assert_eq!(
        error(OptionName::Sandbox, "of"),
        "tuntap-router-sandbox = of: unknown value \"of\", expected on, off or strict"
    );
}

#[test]
fn offload() {
    let read = |value| good(OptionName::RouterOffload, value).offload;
    assert_eq!(Config::default().offload, Offload::Off);
    for (offload, words) in [
        (Offload::On, &["", "on", "true"][..]),
        (Offload::Off, &["off", "false"]),
        (Offload::Auto, &["auto", " auto "]),
    ] {
        assert!(words.iter().all(|word| read(word) == offload), "{offload:?}");
    }
    assert_eq!(
        error(OptionName::RouterOffload, "always"),
        "tuntap-router-offload = always: unknown value \"always\", expected on, off or auto"
    );
}

#[test]
fn limits() {
    let read = |option, value| good(option, value).limits;
    let defaults = Config::default().limits;
    assert_eq!((defaults.peers, defaults.peers_per_uid, defaults.unclaimed), (65_536, 1024, 1024));
    assert_eq!(
        (defaults.unclaimed_timeout.as_secs(), defaults.queued_bytes, defaults.device_rules),
        (10, 262_144, 341)
    );
    assert_eq!(read(OptionName::MaxPeers, "1").peers, 1);
    assert_eq!(read(OptionName::MaxPeersPerUid, "0").peers_per_uid, 0);
    assert_eq!(read(OptionName::MaxUnclaimed, " 65536 ").unclaimed, 65_536);
    assert_eq!(read(OptionName::UnclaimedTimeout, "3600").unclaimed_timeout.as_secs(), 3600);
    assert_eq!(read(OptionName::MaxQueue, "131072").queued_bytes, 131_072);
    assert_eq!(read(OptionName::MaxDeviceRules, "341").device_rules, 341);
    assert_eq!((defaults.flows, defaults.flows_per_peer), (262_144, 16_384));
    assert_eq!(read(OptionName::MaxFlows, "4194304").flows, 4_194_304);
    assert_eq!(read(OptionName::MaxFlowsPerPeer, "16").flows_per_peer, 16);
    for (option, bounds, beyond) in [
        (OptionName::MaxPeers, "1 to 65536", ["0", "65537"]),
        (OptionName::MaxPeersPerUid, "0 to 65536", ["-1", "65537"]),
        (OptionName::MaxUnclaimed, "1 to 65536", ["0", "65537"]),
        (OptionName::UnclaimedTimeout, "1 to 3600", ["0", "3601"]),
        (OptionName::MaxQueue, "131072 to 16777216", ["131071", "16777217"]),
        (OptionName::MaxDeviceRules, "0 to 341", ["-1", "342"]),
        (OptionName::MaxFlows, "1024 to 4194304", ["1023", "4194305"]),
        (OptionName::MaxFlowsPerPeer, "16 to 4194304", ["15", "4194305"]),
    ] {
        for wrong in beyond.into_iter().chain(["", "many", "1e3", "99999999999999999999"]) {
            let message = error(option, wrong);
            assert_eq!(message, format!("{} = {wrong}: \"{wrong}\" is no number from {bounds}", option.as_str()));
        }
    }
}

#[test]
fn credentials() {
    let read = |value| good(OptionName::UseCredentials, value).credentials;
    assert_eq!(read(""), Credentials::Shown);
    assert_eq!(read("true"), Credentials::Shown);
    assert_eq!(read("false"), Credentials::Off);
    assert_eq!(read("unbit_ip"), Credentials::Symbol("unbit_ip".to_owned()));
    assert!(error(OptionName::UseCredentials, "two words").contains("symbol"));
}

#[test]
fn firewall_rules() {
    let rule = |value| good(OptionName::FirewallOut, value).firewall_out.remove(0);
    assert_eq!(rule("deny"), PolicyRule { selector: Selector::ALL, target: Action::Deny });
    assert_eq!(rule("reject any any"), PolicyRule { selector: Selector::ALL, target: Action::Reject });
    let documented = rule("allow 192.168.0.5/24 192.168.0.1");
    assert_eq!(documented.selector, select("192.168.0.0/24", "192.168.0.1/32", None));
    assert_eq!(rule("deny 0.0.0.0/8 10.0.0.0/32").selector, select("0.0.0.0/8", "10.0.0.0/32", None));
    assert_eq!(rule("deny fd00:77::5/64 2001:db8::1").selector, select("fd00:77::/64", "2001:db8::1/128", None));
}

#[test]
fn state_is_the_last_word_of_a_rule() {
    let rule = |value| good(OptionName::FirewallIn, value).firewall_in.remove(0);
    let (new, established) = (Some(ConnectionState::New), Some(ConnectionState::Established));
    for (value, selector, state) in [
        ("allow established", Selector::ALL, established),
        ("deny new", Selector::ALL, new),
        ("allow any any established", Selector::ALL, established),
        ("allow 10.0.0.0/8 any tcp 443 new", rule("allow 10.0.0.0/8 any tcp 443").selector, new),
        ("allow any any tcp established", rule("allow any any tcp").selector, established),
    ] {
        assert_eq!(rule(value).selector, selector.with_state(state), "{value}");
    }
    let device = |value| good(OptionName::DeviceRule, value).device_rules.remove(0);
    assert_eq!(
        device("in any any allow established").selector,
        PeerSelector::Full(Selector::ALL.with_state(established))
    );
    assert_eq!(
        device("out any any route 192.0.2.1:4000 tcp 80 new").selector,
        PeerSelector::Full(rule("deny any any tcp 80").selector.with_state(new))
    );
    for value in ["allow established new", "allow new any any", "allow any established", "established"] {
        error(OptionName::FirewallIn, value);
    }
}

#[test]
fn rules_file_of_a_router() {
    let read = |value| Config::from_options([(OptionName::Router, "tun0 /s"), (OptionName::RouterRules, value)]);
    for value in ["/etc/tuntap/rules", "tun0 /etc/tuntap/rules"] {
        let config = read(value).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(config.routers[0].live.rules.as_deref(), Some("/etc/tuntap/rules"), "{value}");
    }
    for (value, part) in [("rules", "\"rules\" is no path of a file"), ("tun1 /rules", "tun1"), ("a b c", "expected")] {
        let errors = read(value).expect_err(value).to_string();
        assert!(errors.contains(part), "{errors}");
    }
}

fn select(src: &str, dst: &str, service: Option<Service>) -> Selector {
    let pattern = |text: &str| match text {
        "any" => AddressPattern::Any,
        net => AddressPattern::Net(net.parse().expect("a prefix")),
    };
    Selector::new(pattern(src), pattern(dst), service).expect("one version")
}

#[test]
fn any_address() {
    let selector = |value: &str| good(OptionName::FirewallOut, value).firewall_out.remove(0).selector;
    for word in ["any", "0.0.0.0", "::"] {
        assert_eq!(selector(&format!("deny {word} {word}")), Selector::ALL, "{word}");
        assert_eq!(selector(&format!("deny {word} fd00::/8")), select("any", "fd00::/8", None), "{word}");
    }
    assert_eq!(selector("deny 0.0.0.0/0 0.0.0.0/0"), select("0.0.0.0/0", "0.0.0.0/0", None), "IPv4 only");
    assert_eq!(selector("deny ::/0 any"), select("::/0", "any", None), "IPv6 only");
}

#[test]
fn protocols_and_ports() {
    let service = |words: &str| {
        let config = good(OptionName::FirewallIn, &format!("deny any any {words}"));
        config.firewall_in[0].selector.service().expect("a service")
    };
    let number = |number, ports: Option<(u16, u16)>| Service {
        protocol: Protocol::Number(number),
        ports: ports.map(|(first, last)| Ports::new(first, last).expect("in order")),
    };
    assert_eq!(service("tcp"), number(6, None));
    assert_eq!(service("tcp 443"), number(6, Some((443, 443))));
    assert_eq!(service("udp 5000-6000"), number(17, Some((5000, 6000))));
    assert_eq!(service("icmp"), Service { protocol: Protocol::Icmp, ports: None });
    assert_eq!(service("icmpv6"), number(58, None));
    assert_eq!(service("47"), number(47, None));
    assert_eq!(service("6 22"), number(6, Some((22, 22))));
    for (words, part) in [
        ("tpc", "\"tpc\" is no protocol"),
        ("256", "\"256\" is no protocol"),
        ("tcp 0", "\"0\" is no port"),
        ("tcp 65536", "\"65536\" is no port"),
        ("tcp 20-10", "\"20-10\" is no port"),
        ("tcp 10-", "\"10-\" is no port"),
        ("icmp 8", "icmp has no ports"),
        ("47 1", "47 has no ports"),
        ("tcp 1 2", "expected <allow|deny|reject>"),
    ] {
        let message = error(OptionName::FirewallIn, &format!("deny any any {words}"));
        assert!(message.contains(part), "{message}");
    }
}

/// A rule sees the protocol behind extension headers, so that a rule about these would match nothing in IPv6 packets.
#[test]
fn extension_headers_are_no_protocols_of_ipv6() {
    for (option, value) in [
        (OptionName::FirewallIn, "deny any any ah"),
        (OptionName::FirewallOut, "deny fd00::/8 any 51"),
        (OptionName::DeviceRule, "out any ::/0 deny ah"),
    ] {
        let message = error(option, value);
        assert!(message.contains("is an extension header in IPv6 packets"), "{message}");
    }
    let message = error(OptionName::FirewallIn, "deny any any 44");
    assert!(
        message.ends_with(
            "44 is an extension header in IPv6 packets, and rules look at the protocol behind these: \
                               expected that protocol, or IPv4 addresses (0.0.0.0/0 is any of them)"
        ),
        "{message}"
    );
    good(OptionName::FirewallIn, "deny 0.0.0.0/0 any ah");
    good(OptionName::DeviceRule, "in any 192.168.0.2 deny 60");
}

#[test]
fn versions_do_not_mix() {
    let message = error(OptionName::FirewallIn, "deny fd00::/8 10.0.0.0/8");
    assert!(message.contains("fd00::/8 and 10.0.0.0/8 are of different IP versions"), "{message}");
}

#[test]
fn firewall_rules_that_stop_the_start() {
    let message = error(OptionName::FirewallOut, "deyn 192.168.0.0/24 0.0.0.0");
    assert_eq!(
        message,
        "tuntap-router-firewall-out = deyn 192.168.0.0/24 0.0.0.0: unknown action \"deyn\", expected allow, deny or reject"
    );
    for value in [
        "",
        "Deny",
        "deny 1.2.3.4",
        "deny 1.2.3.4 5.6.7.8 nine",
        "deny 1.2.3 0.0.0.0",
        "deny 1.2.3.4/33 0.0.0.0",
        "deny 010.0.0.0/8 0.0.0.0",
    ] {
        error(OptionName::FirewallIn, value);
    }
    assert!(error(OptionName::FirewallIn, "deny ::1/129 any").contains("IPv6"));
    assert!(error(OptionName::FirewallIn, "deny 1.2.3.4/ 0.0.0.0").contains("1.2.3.4/"));
}

#[test]
fn routes() {
    let route = good(OptionName::Route, "192.168.0.0/24 192.168.1.0/24 10.77.0.2:4000").routes.remove(0);
    assert_eq!(route.target, SocketAddr::from(([10, 77, 0, 2], 4000)));
    for value in ["1.1.1.1 2.2.2.2", "1.1.1.1 2.2.2.2 3.3.3.3", "1.1.1.1 2.2.2.2 3.3.3.3:0", "1.1.1.1 2.2.2.2 h:1"] {
        error(OptionName::Route, value);
    }
}

#[test]
fn device_rules() {
    let rule = |value: &str| good(OptionName::DeviceRule, value).device_rules.remove(0);
    let deny = rule("out 192.168.0.9/24 0.0.0.0 deny");
    assert_eq!(deny.direction, Direction::Out);
    assert_eq!(deny.selector, PeerSelector::Full(select("192.168.0.0/24", "any", None)));
    assert_eq!(deny.action, RuleAction::Deny);
    let target = SocketAddr::from(([10, 0, 0, 1], 999));
    for word in ["route", "gateway"] {
        assert_eq!(rule(&format!("in 1.1.1.1 2.2.2.2 {word} 10.0.0.1:999")).action, RuleAction::Route(target));
    }
    let https = Some(Service { protocol: Protocol::Number(6), ports: Ports::new(443, 443) });
    assert_eq!(rule("in any any reject tcp 443").action, RuleAction::Reject);
    assert_eq!(rule("in any any reject tcp 443").selector, PeerSelector::Full(select("any", "any", https)));
    let routed = rule("out any fd00::/8 route 10.0.0.1:999 tcp 443");
    assert_eq!(routed.action, RuleAction::Route(target));
    assert_eq!(routed.selector, PeerSelector::Full(select("any", "fd00::/8", https)));
    for value in [
        "up 1.1.1.1 2.2.2.2 deny",
        "in 1.1.1.1 2.2.2.2 refuse",
        "in 1.1.1.1 2.2.2.2 reject 10.0.0.1:999",
        "in 1.1.1.1 2.2.2.2 gateway",
        "in 1.1.1.1 2.2.2.2 deny 10.0.0.1:999",
        "in 1.1.1.1 deny",
    ] {
        error(OptionName::DeviceRule, value);
    }
}

#[test]
fn device_rules_fit_one_frame() {
    let rules =
        |count| Config::from_options(std::iter::repeat_n((OptionName::DeviceRule, "in 1.1.1.1 0.0.0.0 deny"), count));
    assert!(rules(341).is_ok());
    assert!(rules(342).is_err_and(|errors| errors.to_string().contains("341")));
    let one_more = (OptionName::DeviceRule, "in fd00::/8 any deny");
    let with_ipv6 = |count: usize| {
        let others = std::iter::repeat_n((OptionName::DeviceRule, "in 1.1.1.1 0.0.0.0 deny"), count - 1);
        Config::from_options(others.chain([one_more]))
    };
    assert!(with_ipv6(127).is_ok());
    assert!(with_ipv6(128).is_err_and(|errors| errors.to_string().contains("127")));
}

/// What leases mean on a machine with the user `app`, 1000, and the group `web`, 2000.
fn resolve(values: &[&str]) -> Result<Vec<Grant>, ConfigErrors> {
    let config = Config::from_options(values.iter().map(|value| (OptionName::Grant, *value)))?;
    let find = |known, id| move |name: &str| Ok((name == known).then_some(id));
    let (leases, errors) = resolve_grants(&config.grants, find("app", 1000), find("web", 2000));
    let errors: Vec<_> = errors.into_iter().map(|(_, error)| error).collect();
    if errors.is_empty() { Ok(leases) } else { Err(ConfigErrors(errors)) }
}

#[test]
fn leases() {
    let lease = |prefix: &str, holder| Grant { prefix: prefix.parse().expect("a prefix"), holder };
    assert_eq!(
        resolve(&["10.0.0.5 app", "10.0.0.0/24 1001", "0.0.0.0 @web", " 10.0.1.0/24\t@2001 "]),
        Ok(vec![
            lease("10.0.0.5/32", Holder::User(1000)),
            lease("10.0.0.0/24", Holder::User(1001)),
            lease("0.0.0.0/0", Holder::Group(2000)),
            lease("10.0.1.0/24", Holder::Group(2001)),
        ])
    );
}

#[test]
fn leases_that_stop_the_start() {
    for value in
        ["", "10.0.0.5", "10.0.0.5 app other", "app 10.0.0.5", "10.0.0.5/33 app", "::1/129 app", "10.0.0.5 \"app"]
    {
        error(OptionName::Grant, value);
    }
    for holder in ["@", "\"\"", "4294967295", "@4294967296", "app:web"] {
        assert!(error(OptionName::Grant, &format!("10.0.0.5 {holder}")).contains("@group"), "{holder}");
    }
    let message = error(OptionName::Grant, "10.0.0.5/24 app");
    assert!(message.contains("expected 10.0.0.0/24 or 10.0.0.5/32"), "{message}");
    let octal = error(OptionName::Grant, "010.0.0.5/24 app");
    assert!(octal.contains("\"010.0.0.5/24\" is no address"), "{octal}");
    let errors = resolve(&["10.0.0.5 nosuch", "10.0.0.6 app", "10.0.0.7 @app"]).expect_err("two are unknown");
    assert_eq!(
        errors.to_string(),
        "tuntap-router-lease = 10.0.0.5 nosuch: there is no user \"nosuch\" on this machine\n\
         tuntap-router-lease = 10.0.0.7 @app: there is no group \"app\" on this machine"
    );
}

#[test]
fn lease_default() {
    let read = |value| good(OptionName::LeaseDefault, value).lease_default;
    assert_eq!(Config::default().lease_default, None);
    assert_eq!((read("allow"), read(" deny ")), (Some(Uncovered::Allow), Some(Uncovered::Deny)));
    for wrong in ["", "true", "Allow", "deyn"] {
        assert!(error(OptionName::LeaseDefault, wrong).contains("allow or deny"), "{wrong}");
    }
}

#[test]
fn device_routes() {
    let read = |value| good(OptionName::DeviceRoute, value).device_routes.remove(0);
    let range = |prefix: &str, port| TargetRange { prefix: prefix.parse().expect("a prefix"), port };
    let any = good(OptionName::DeviceRoute, "any").device_routes;
    assert_eq!(any, [range("0.0.0.0/0", None), range("::/0", None)]);
    assert_eq!(read("2001:db8::1"), range("2001:db8::1/128", None));
    assert_eq!(read("[2001:db8::1]"), range("2001:db8::1/128", None));
    assert_eq!(read("2001:db8::/32"), range("2001:db8::/32", None));
    assert_eq!(read("[2001:db8::]:4000").port, Some(4000));
    assert_eq!(read("[2001:db8::/32]:4000"), range("2001:db8::/32", Some(4000)));
    assert_eq!(read("10.77.0.2"), range("10.77.0.2/32", None));
    assert_eq!(read("10.77.0.2:4000"), range("10.77.0.2/32", Some(4000)));
    assert_eq!(read(" 10.77.0.0/24:999 "), range("10.77.0.0/24", Some(999)));
    for wrong in
        ["", "all", "10.77.0.2:", "10.77.0.2:0", "10.77.0.2:65536", ":4000", "h:1", "10.77.0.2:4000:1", "1.2.3.4 5"]
    {
        assert!(error(OptionName::DeviceRoute, wrong).contains("range of gateways"), "{wrong}");
    }
    for wrong in ["[", "[]", "[::1", "[::1]4000", "[::1]:", "[::1]:0", "[10.77.0.2]:1", "[::/129]:1", "[any]", "::1]:1"]
    {
        assert!(error(OptionName::DeviceRoute, wrong).contains("range of gateways"), "{wrong}");
    }
    assert!(error(OptionName::DeviceRoute, "10.77.0.2/24:1").contains("10.77.0.2/32"));
    assert!(error(OptionName::DeviceRoute, "[2001:db8::1/32]:1").contains("2001:db8::1/128"));
}

#[test]
fn gateway_sources() {
    let read = |value| good(OptionName::GatewayAllow, value).gateway_sources.remove(0).to_string();
    assert_eq!((read("10.77.0.2"), read(" 10.77.0.0/24 ")), ("10.77.0.2/32".to_owned(), "10.77.0.0/24".to_owned()));
    assert_eq!(read("2001:db8::/32"), "2001:db8::/32");
    let vassals = good(OptionName::GatewayVassal, "192.168.0.5").gateway_vassals;
    assert_eq!(vassals, ["192.168.0.5/32".parse().expect("a prefix")]);
    for wrong in ["", "10.77.0.2:4000", "any", "10.77.0.2/24", "[2001:db8::1]", "2001:db8::1/32"] {
        error(OptionName::GatewayAllow, wrong);
        error(OptionName::GatewayVassal, wrong);
    }
}

#[test]
fn claims_are_of_the_networks_where_there_are_some() {
    let scopes = |options: &[(OptionName, &str)]| {
        let routers = [(OptionName::Router, "tun0 /a"), (OptionName::Router, "tun1 /b")];
        let config = Config::from_options(routers.iter().chain(options).copied());
        config.map(|config| config.routers.iter().map(RouterSpec::claim_scope).collect::<Vec<_>>())
    };
    let with_network = (OptionName::RouterAddress, "tun0 10.0.0.1/24");
    let with_ipv6 = (OptionName::RouterAddress, "tun1 fd00::1/64");
    assert_eq!(scopes(&[]), Ok(vec![ClaimScope::Any, ClaimScope::Any]));
    assert_eq!(scopes(&[with_network]), Ok(vec![ClaimScope::Own, ClaimScope::Any]));
    assert_eq!(scopes(&[with_network, with_ipv6]), Ok(vec![ClaimScope::Own, ClaimScope::Own]));
    let any = (OptionName::RouterClaims, "tun0 any");
    let own = (OptionName::RouterClaims, "tun1 own");
    assert_eq!(scopes(&[any, own, with_network]), Ok(vec![ClaimScope::Any, ClaimScope::Own]));
    for (wrong, problem) in [
        ("any", "there are several tuntap-router"),
        ("tun0 all", "unknown addresses \"all\", expected own or any"),
        ("tun2 any", "no tuntap-router with the device tun2"),
        ("", "expected [<device>] <own|any>"),
    ] {
        let errors = scopes(&[(OptionName::RouterClaims, wrong)]).expect_err(wrong).to_string();
        assert!(errors.contains(problem), "{errors}");
    }
    assert!(scopes(&[any, any]).expect_err("twice").to_string().contains("is there twice"));
}

#[test]
fn every_error_is_reported() {
    let errors = Config::from_options([
        (OptionName::FirewallIn, "deyn"),
        (OptionName::Device, "ok0"),
        (OptionName::Route, "nonsense"),
    ])
    .expect_err("two are wrong");
    assert_eq!(errors.0.len(), 2);
    assert_eq!(errors.to_string().lines().count(), 2);
}

proptest! {
    /// No text makes a parser panic, and none is taken for an `allow` that doesn't say so.
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
        for option in OptionName::ALL {
            if let Ok(config) = read(option, &text)
                && config.firewall_in.first().is_some_and(|rule| rule.target == Action::Allow)
            {
                prop_assert_eq!(text.split_whitespace().next(), Some("allow"));
            }
        }
    }
}

/// The blocks of ini files in the documents.
#[test]
fn values_in_the_documents_can_be_read() {
    let documents = [include_str!("../../../README.md"), include_str!("../../../docs/OPERATIONS.md")];
    let blocks = documents.iter().flat_map(|text| text.split("```ini\n").skip(1));
    let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 5, "{blocks:?}");
    for block in blocks {
        let values: Vec<(OptionName, &str)> = block
            .lines()
            .filter(|line| line.starts_with("tuntap-"))
            .map(|line| {
                let (name, value) = line.split_once(" = ").expect("a value");
                let option = OptionName::find(name);
                (option.unwrap_or_else(|| panic!("there is no option {name}")), value)
            })
            .collect();
        assert!(!values.is_empty(), "{block}");
        if let Err(errors) = Config::from_options(values) {
            panic!("{errors}\n{block}");
        }
    }
}

#[test]
fn names_that_nobody_reads_are_told_from_placeholders() {
    let all = TABLE.iter().map(|option| option.name);
    assert_eq!(OptionName::misspelt(all.chain(["tuntap-net", "emperor", "socket"])), []);
    for (name, option) in [
        ("tuntap-router-adress", "tuntap-router-address"),
        ("tuntap-router-addresses", "tuntap-router-address"),
        ("tuntap-routers", "tuntap-router"),
        ("tuntap-device-adress", "tuntap-device-address"),
        ("tuntap-router-firewal-in", "tuntap-router-firewall-in"),
        ("tuntap-use-credential", "tuntap-use-credentials"),
    ] {
        assert_eq!(OptionName::misspelt([name].into_iter()), [(name, option)]);
    }
}

fn session(value: &str) -> Result<RoutesSpec, ConfigErrors> {
    let options =
        [(OptionName::Router, "a /a"), (OptionName::RouterAddress, "a 10.0.0.1/24"), (OptionName::Routes, value)];
    Config::from_options(options).map(|config| config.routers[0].hosts.routes.clone().expect("it is there"))
}

#[test]
fn routes_with_all_their_words() {
    let usual = RoutesSpec {
        address: address("127.0.0.1:979"),
        from: address("127.0.0.1:979").ip(),
        password: None,
        asn: 64513,
        neighbour_asn: None,
        hold_time: 9,
    };
    assert_eq!(session("127.0.0.1:979"), Ok(usual.clone()));
    assert_eq!(session("a 127.0.0.1:979"), Ok(usual));
    let all = RoutesSpec {
        address: address("[2001:db8::1]:179"),
        from: address("[2001:db8::2]:1").ip(),
        password: Some("/etc/pass=word".to_owned()),
        asn: 4_200_000_000,
        neighbour_asn: Some(1),
        hold_time: 3,
    };
    assert_eq!(
        session("a [2001:db8::1]:179 /etc/pass=word hold=3 from=2001:db8::2 neighbour-as=1 as=4200000000"),
        Ok(all)
    );
}

#[test]
fn routes_that_stop_the_start() {
    for (value, reason) in [
        ("a", "is no address for the host's routing daemon"),
        ("127.0.0.1", "is no address for the host's routing daemon"),
        ("127.0.0.1:0", "is no address for the host's routing daemon"),
        ("0.0.0.0:979 /p", "is no address for the host's routing daemon"),
        ("[::ffff:127.0.0.1]:979 /p", "is no address for the host's routing daemon"),
        ("10.9.9.9:979", "expected a loopback address, not 10.9.9.9"),
        ("127.0.0.1:979 password", "password"),
        ("127.0.0.1:979 as=0", "as"),
        ("127.0.0.1:979 as=4294967296", "as"),
        ("127.0.0.1:979 hold=2", "3"),
        ("127.0.0.1:979 hold=65536", "65535"),
        ("127.0.0.1:979 hold=5 hold=5", "\"hold=5\" is there twice"),
        ("127.0.0.1:979 speed=5", "expected from=, as=, neighbour-as= or hold="),
        ("127.0.0.1:979 /p from=::1", "\"::1\" is no address from which the routing daemon can connect to 127.0.0.1"),
        ("127.0.0.1:979 /p from=0.0.0.0", "is no address from which"),
        ("127.0.0.1:979 from=10.9.9.9", "expected a loopback address, not 10.9.9.9"),
        ("127.0.0.1:979 /p /p", "unknown setting \"/p\""),
        ("127.0.0.1:979 neighbour-as=64513", "not both 64513"),
        ("b 127.0.0.1:979", "there is no tuntap-router with the device b"),
    ] {
        let error = session(value).expect_err(value).to_string();
        assert!(error.contains(reason), "{value}: {error}");
    }
    let without = Config::from_options([(OptionName::Router, "a /a"), (OptionName::Routes, "127.0.0.1:979")]);
    assert!(without.expect_err("it has no network").to_string().contains("the router has no address"));
    let two = [(OptionName::Router, "a /a"), (OptionName::Router, "b /b")];
    let addresses = [(OptionName::RouterAddress, "a 10.0.0.1/24"), (OptionName::RouterAddress, "b 10.0.1.1/24")];
    let same = [(OptionName::Routes, "a 127.0.0.1:979"), (OptionName::Routes, "b 127.0.0.1:979")];
    let both = Config::from_options(two.into_iter().chain(addresses).chain(same));
    assert!(both.expect_err("one port").to_string().contains("is there twice"));
}
