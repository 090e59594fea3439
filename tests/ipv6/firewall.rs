//! The Emperor's chains and IPv6, and rules that name protocols and ports, for both versions.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, EmperorIni, V1, V2};
use crate::common::packet;
use crate::common::probe::{is_cut_off, pings_answered};
use crate::common::wait;
use crate::service::{Service, curl, curl_in_vain};
use crate::world::{EMPEROR_6, V1_6, V2_6, emperor, passed, peer, silent_vassal, vassal};

/// Long enough to show that nothing comes.
const IN_VAIN: Duration = Duration::from_millis(300);

#[test]
fn networks_of_ipv6_match() {
    let emperor = emperor()
        .lines(&[
            "tuntap-router-firewall-out = allow fd00:77::/64 2001:db8:1::/48",
            "tuntap-router-firewall-out = deny fd00:77::2 2001:db8::/32",
            "tuntap-router-firewall-out = deny any 2001:db9::7/127",
            "tuntap-router-firewall-out = deny 192.168.0.0/24 10.0.0.0/8",
            "tuntap-router-firewall-in = deny fd00:77::1 fd00:77::3",
        ])
        .start();
    let mut first = peer(&emperor, V1_6);
    let to = |destination: &str| packet::udp6(V1_6, destination.parse().expect("an address"), 9, b"probe");
    let packets =
        ["2001:db8:1::1", "2001:db8:2::1", "2001:db9::5", "2001:db9::6", "2001:db9::7", "2001:db9::8"].map(to);
    assert_eq!(passed(&emperor, &mut first, V1_6, &packets), [0, 2, 5]);
    assert_eq!(emperor.stats().drops_of(V1_6, "firewall"), 3);
    let mut second = emperor.connect();
    assert!(!second.echo(V2_6, EMPEROR_6, IN_VAIN), "the way in has its own list");
    assert!(second.echo(V2, EMPEROR, wait::SHORT), "and that one says nothing of IPv4");
}

/// A chain that was written without IPv6 in mind does not allow it.
#[test]
fn chain_that_speaks_of_ipv4_only_denies_ipv6() {
    for (option, rule) in [
        ("out", "deny 192.168.0.0/24 10.0.0.0/8"),
        ("out", "allow 192.168.0.0/24 0.0.0.0"),
        ("in", "deny 10.0.0.0/8 192.168.0.0/24"),
        ("in", "allow 0.0.0.0/0 0.0.0.0/0"),
    ] {
        let emperor = emperor().line(format!("tuntap-router-firewall-{option} = {rule}")).start();
        let mut peer = emperor.connect();
        assert!(!peer.echo(V1_6, EMPEROR_6, IN_VAIN), "{option} = {rule}");
        assert!(peer.echo(V1, EMPEROR, wait::SHORT), "{option} = {rule}");
        assert!(emperor.stats().drops("firewall") > 0, "{option} = {rule}");
    }
}

#[test]
fn any_is_of_both_versions() {
    for (rule, passes) in [
        ("allow 192.168.0.0/24 10.0.0.0/8\ntuntap-router-firewall-out = allow", true),
        ("deny any 10.0.0.0/8\ntuntap-router-firewall-out = deny 2001:db8::/32 any", true),
        ("deny 0.0.0.0 10.0.0.0/8\ntuntap-router-firewall-out = allow 0.0.0.0 0.0.0.0", true),
        ("deny any any udp 7", true),
        ("deny", false),
        ("deny any any", false),
        ("deny 0.0.0.0 0.0.0.0", false),
        ("deny any ::", false),
        ("deny any any icmp", false),
    ] {
        let emperor = emperor().line(format!("tuntap-router-firewall-out = {rule}")).start();
        let mut peer = emperor.connect();
        let within = if passes { wait::SHORT } else { IN_VAIN };
        assert_eq!(peer.echo(V1_6, EMPEROR_6, within), passes, "{rule}");
        assert_eq!(peer.echo(V1, EMPEROR, within), passes, "{rule}");
    }
}

/// Two services on one address, of which the firewall lets one be reached, whichever way and by whichever version.
#[track_caller]
fn assert_ports_are_told_apart(ini: EmperorIni, client_is_vassal: bool) {
    let emperor = ini.start();
    let vassal = emperor.start_attached(&vassal("v1", V1, V1_6));
    let (client, server, addresses): (_, _, [IpAddr; 2]) = if client_is_vassal {
        (&vassal, &*emperor.netns, [EMPEROR.into(), EMPEROR_6.into()])
    } else {
        (&*emperor.netns, &vassal, [V1.into(), V1_6.into()])
    };
    let _services = [8080, 8081, 8090].map(|port| Service::start(server, port));
    for address in addresses {
        assert_eq!(curl(client, address, 8080).as_deref(), Some("this is 8080"), "{address}");
        assert_eq!(curl_in_vain(client, address, 8081), None, "{address}");
        assert_eq!(curl_in_vain(client, address, 8090), None, "{address}");
        assert_eq!(pings_answered(client, address, 3, &[]), 3, "{address}");
    }
    assert!(emperor.stats().drops_of(V1, "firewall") >= 4);
}

#[test]
fn services_of_the_emperor_are_told_apart_by_their_ports() {
    let ini = emperor().lines(&[
        "tuntap-router-firewall-out = deny any any tcp 8081-8099",
        "tuntap-router-firewall-out = deny any any udp 8080",
        "tuntap-router-firewall-out = allow",
    ]);
    assert_ports_are_told_apart(ini, true);
}

#[test]
fn services_of_a_vassal_are_told_apart_by_their_ports() {
    let ini = emperor().lines(&[
        "tuntap-router-firewall-in = allow 192.168.0.1 192.168.0.2 tcp 8080",
        "tuntap-router-firewall-in = allow fd00:77::1 fd00:77::2 tcp 8080",
        "tuntap-router-firewall-in = deny any any 6",
    ]);
    assert_ports_are_told_apart(ini, false);
}

#[test]
fn services_of_another_vassal_are_told_apart_past_the_emperors_kernel() {
    let emperor =
        emperor().line("tuntap-router-switch = true").line("tuntap-router-firewall-in = deny any any tcp 8081").start();
    let first = emperor.start_attached(&vassal("v1", V1, V1_6));
    let second = emperor.start_attached(&vassal("v2", V2, V2_6));
    emperor.netns.sh("sysctl -qw net.ipv6.conf.all.forwarding=0 net.ipv4.ip_forward=0");
    let _services = [8080, 8081].map(|port| Service::start(&second, port));
    for address in [IpAddr::from(V2), V2_6.into()] {
        assert_eq!(curl(&first, address, 8080).as_deref(), Some("this is 8080"), "{address}");
        assert_eq!(curl_in_vain(&first, address, 8081), None, "{address}");
    }
}

#[test]
fn icmp_is_that_of_each_version() {
    let emperor = emperor()
        .lines(&["tuntap-router-firewall-out = deny any any icmp", "tuntap-router-firewall-out = allow"])
        .start();
    let net = emperor.start_vassal(&silent_vassal("v1", V1, V1_6));
    let _service = Service::start(&emperor.netns, 8080);
    assert!(curl(&net, EMPEROR, 8080).is_some() && curl(&net, EMPEROR_6, 8080).is_some());
    assert!(is_cut_off(&net, EMPEROR) && is_cut_off(&net, EMPEROR_6));
}

/// Unknown protocols, invalid ports, and two versions of IP in one rule.
#[test]
fn rules_that_make_no_sense_stop_the_start() {
    for (rule, named) in [
        ("deny any any tpc", "\"tpc\" is no protocol"),
        ("deny any any 256", "\"256\" is no protocol"),
        ("deny any any tcp 0", "\"0\" is no port"),
        ("deny any any tcp 90-80", "\"90-80\" is no port"),
        ("deny any any tcp 65536", "\"65536\" is no port"),
        ("deny any any icmp 8", "icmp has no ports"),
        ("deny any any tcp 80 81", "expected"),
        ("deny 10.0.0.0/8 fd00::/8", "are of different IP versions"),
        ("deny fd00::/129 any", "\"fd00::/129\" is no address or prefix"),
        ("deny all any", "\"all\" is no address or prefix"),
    ] {
        let mut emperor = emperor().line(format!("tuntap-router-firewall-out = {rule}")).launch();
        let status = emperor.wait_for_exit();
        assert!(!status.success(), "{rule}: {status}");
        let log = emperor.log.text();
        let report = log.lines().find(|line| line.contains(&format!("tuntap-router-firewall-out = {rule}: ")));
        assert!(report.is_some_and(|line| line.contains(named)), "{rule}: {named}:\n{log}");
    }
}
