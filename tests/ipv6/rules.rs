//! Rules of vassals that speak of IPv6, protocols and ports, and the form in which they travel.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::common::emperor::{EMPEROR, V1, V2};
use crate::common::fake_router::FakeRouter;
use crate::common::packet;
use crate::common::probe::{is_cut_off, is_reachable, pings_answered};
use crate::common::wait;
use crate::common::wire::{self, EXTENDED_RULE_LEN, EXTENDED_RULES, MAX_PAYLOAD};
use crate::service::{Service, curl, curl_in_vain};
use crate::world::{EMPEROR_6, V1_6, V2_6, emperor, passed, silent_vassal, vassal};

/// Long enough to show that nothing comes.
const IN_VAIN: Duration = Duration::from_millis(300);

const OUT: u8 = 1;
const DENY: u8 = 1;

/// A rule for packets to a network, and maybe to ports of TCP or UDP there. Laid out as docs/PROTOCOL.md has it.
fn record(to: (std::net::Ipv6Addr, u8), service: Option<(u8, u16, u16)>) -> Vec<u8> {
    let mut record = vec![OUT, DENY, 0, 6, 0, to.1];
    match service {
        None => record.extend([0; 6]),
        Some((protocol, first, last)) => {
            record.extend([3, protocol]);
            record.extend(first.to_be_bytes());
            record.extend(last.to_be_bytes());
        }
    }
    record.resize(32, 0);
    record.extend(to.0.octets());
    record.resize(EXTENDED_RULE_LEN, 0);
    record
}

#[test]
fn rules_of_a_vassal_apply_to_both_versions() {
    let emperor = emperor().start();
    let vassal = vassal("v1", V1, V1_6)
        .line("tuntap-device-rule = out any any deny tcp 8081")
        .line("tuntap-device-rule = out any fd00:77::3 deny")
        .line("tuntap-device-rule = in any fd00:77::/64 deny udp")
        .line("tuntap-device-rule = in 192.168.0.1 any deny tcp 9000-9010");
    let net = emperor.start_attached(&vassal);
    let second = emperor.start_attached(&crate::world::vassal("v2", V2, V2_6));
    assert_eq!(emperor.stats().of_peer(V1, "rules"), 4);
    let _services = [8080, 8081].map(|port| Service::start(&emperor.netns, port));
    let _inside = Service::start(&net, 9005);
    for address in [std::net::IpAddr::from(EMPEROR), EMPEROR_6.into()] {
        assert_eq!(curl(&net, address, 8080).as_deref(), Some("this is 8080"), "{address}");
        assert_eq!(curl_in_vain(&net, address, 8081), None, "{address}");
    }
    assert!(is_cut_off(&net, V2_6) && is_reachable(&net, V2));
    assert!(is_cut_off(&second, V1_6), "its answers are what is denied");
    assert_eq!(curl_in_vain(&emperor.netns, V1, 9005), None);
    assert_eq!(curl(&emperor.netns, V1_6, 9005).as_deref(), Some("this is 9005"));
    let stats = emperor.stats();
    assert!(stats.drops_of(V1, "peer_rule") >= 5, "{}", stats.0);
}

/// Rules outlive the router, in the form in which they came.
#[test]
fn rules_of_both_forms_outlive_the_router() {
    let emperor = emperor().start();
    let net = emperor.start_attached(&vassal("v1", V1, V1_6).line("tuntap-device-rule = out any any deny tcp 8081"));
    let _services = [8080, 8081].map(|port| Service::start(&emperor.netns, port));
    let router = emperor.router_pid();
    crate::common::processes::send(router, nix::sys::signal::Signal::SIGKILL);
    let stats = wait::until("there is a new router", wait::LONG, || {
        emperor.try_stats().ok().filter(|stats| stats.router_pid() != router)
    });
    assert_eq!(stats.of_peer(V1_6, "rules"), 1);
    assert_eq!(curl(&net, EMPEROR_6, 8080).as_deref(), Some("this is 8080"));
    assert_eq!(curl_in_vain(&net, EMPEROR_6, 8081), None);
}

/// A vassal whose rules were written for IPv4, as those of the C plugin all are, has not allowed IPv6.
#[test]
fn rules_that_speak_of_ipv4_only_deny_ipv6_in_their_direction() {
    let emperor = emperor().start();
    let silent = silent_vassal("v1", V1, V1_6).line("tuntap-device-rule = out 0.0.0.0 10.0.0.0/8 deny");
    let net = emperor.start_vassal(&silent);
    assert!(is_cut_off(&net, EMPEROR_6));
    assert!(is_reachable(&net, EMPEROR));
    assert!(emperor.stats().drops_of(V1, "peer_rule") > 0);
    let other = emperor.start_attached(&vassal("v2", V2, V2_6));
    assert_eq!(pings_answered(&other, EMPEROR_6, 3, &[]), 3, "another vassal's rules are its own");
}

#[test]
fn peer_sends_rules_of_the_other_form() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    let far = |text: &str| text.parse().expect("an address");
    let block =
        [record((far("2001:db8::"), 32), None), record((far("2001:db9::1"), 128), Some((packet::UDP, 9, 10)))].concat();
    peer.send_bytes(&wire::frame(EXTENDED_RULES, &block));
    let to = |address: &str, port| packet::udp6(V1_6, far(address), port, b"probe");
    let packets = [
        to("2001:db8:1::1", 1),
        to("2001:dba::1", 1),
        to("2001:db9::1", 9),
        to("2001:db9::1", 10),
        to("2001:db9::1", 11),
        to("2001:db9::2", 9),
    ];
    assert_eq!(passed(&emperor, &mut peer, V1_6, &packets), [1, 4, 5]);
    assert!(peer.echo(V1, EMPEROR, wait::SHORT), "IPv4 is not denied by rules that speak of IPv6 only");
    let stats = emperor.stats();
    assert_eq!((stats.of_peer(V1, "rules"), stats.drops_of(V1, "peer_rule")), (2, 3));
    let mark = emperor.log.mark();
    peer.send_bytes(&wire::frame(EXTENDED_RULES, &block));
    peer.send_bytes(&wire::frame(EXTENDED_RULES, &block[..EXTENDED_RULE_LEN]));
    assert!(peer.echo(V1_6, EMPEROR_6, wait::SHORT));
    assert_eq!(emperor.stats().drops_of(V1, "rules_frozen"), 1, "{}", emperor.log.since(mark));
}

#[test]
fn largest_block_of_the_other_form_is_applied_to_its_end() {
    let emperor = emperor().start();
    let mut peer = emperor.connect();
    let elsewhere = "2001:db8::".parse().expect("an address");
    let mut records = vec![record((elsewhere, 32), None); MAX_PAYLOAD / EXTENDED_RULE_LEN];
    *records.last_mut().expect("not empty") = record((EMPEROR_6, 128), Some((packet::UDP, 9, 9)));
    assert_eq!(records.len(), 127);
    peer.send_bytes(&wire::frame(EXTENDED_RULES, &records.concat()));
    let to = |port| packet::udp6(V1_6, EMPEROR_6, port, b"probe");
    assert_eq!(passed(&emperor, &mut peer, V1_6, &[to(9), to(10)]), [1]);
}

#[test]
fn rules_of_the_other_form_that_make_no_sense_end_that_peer_only() {
    let emperor = emperor().start();
    let mut honest = emperor.peer(V2);
    let good = record((V2_6, 128), Some((packet::UDP, 9, 10)));
    for (at, value) in [(0, 2), (1, 4), (2, 5), (5, 129), (5, 100), (6, 32), (6, 27), (6, 2), (7, 1), (8, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        let mut peer = emperor.connect();
        peer.send_bytes(&wire::frame(EXTENDED_RULES, &[good.clone(), bad].concat()));
        assert!(peer.is_closed(wait::SHORT), "{value} at {at}");
    }
    for length in [1, 24, 63, 65] {
        let mut peer = emperor.connect();
        peer.send_bytes(&wire::frame(EXTENDED_RULES, &[good.clone(), good.clone()].concat()[..length]));
        assert!(peer.is_closed(wait::SHORT), "{length} bytes");
    }
    assert!(honest.echo(V2, EMPEROR, wait::SHORT));
}

/// Rules that the C plugin's form can express are sent in that form.
#[test]
fn rules_travel_in_the_c_form_where_they_fit_it() {
    let uwsgi = crate::common::uwsgi::Uwsgi::usual();
    for (rules, modifier2, length) in [
        (&["out any 10.0.0.0/8 deny", "in 10.0.0.0/8 any allow"][..], wire::RULES, 2 * wire::RULE_LEN),
        (&["out any 10.0.0.0/8 deny", "out any any deny udp"], EXTENDED_RULES, 2 * EXTENDED_RULE_LEN),
        (&["out any fd00::/8 deny"], EXTENDED_RULES, EXTENDED_RULE_LEN),
        (&["out any 10.0.0.0/8 reject"], EXTENDED_RULES, EXTENDED_RULE_LEN),
    ] {
        let emperor = crate::common::emperor::EmperorIni::new(uwsgi, crate::common::uwsgi::Subject::Ours).start();
        let fake = FakeRouter::bind(&emperor.path("fake.sock"));
        let vassal = silent_vassal("v1", V1, V1_6).devices(&["uwsgi0 {dir}/fake.sock"]);
        let vassal = rules.iter().fold(vassal, |ini, rule| ini.line(format!("tuntap-device-rule = {rule}")));
        emperor.add(&vassal);
        let mut accepted = fake.accept(wait::LONG);
        let frame = loop {
            let frame = accepted.next_frame(wait::LONG).expect("the vassal sends its rules");
            assert_ne!(frame.modifier2, wire::PACKET, "no packet comes before the rules");
            match frame.modifier2 {
                wire::RULES | EXTENDED_RULES => break frame,
                // A router that answers knows both forms.
                wire::ASK => accepted.send_bytes(&wire::frame(wire::CONFIGURATION, br#"{"version":1}"#)),
                _ => {}
            }
        };
        assert_eq!((frame.modifier2, frame.payload.len()), (modifier2, length), "{rules:?}");
    }
}

/// In the C plugin's form a rule for any source and any destination is for every packet, of IPv6, too.
#[test]
fn rules_of_the_c_form_for_everything_are_for_ipv6_too() {
    let emperor = emperor().start();
    let every =
        |action| wire::Rule { direction: wire::Direction::Out, source: wire::ANY, destination: wire::ANY, action };
    let one = wire::Rule { destination: (Ipv4Addr::new(10, 0, 0, 0), 8), ..every(wire::Action::Deny) };
    for (rules, passes) in
        [(&[one, every(wire::Action::Allow)][..], true), (&[one], false), (&[every(wire::Action::Deny)], false)]
    {
        let mut peer = emperor.connect();
        peer.send_rules(rules);
        let within = if passes { wait::SHORT } else { IN_VAIN };
        assert_eq!(peer.echo(V1_6, EMPEROR_6, within), passes, "{rules:?}");
        drop(peer);
        emperor.wait_for_stats("its address is free", |stats| stats.peers().is_empty());
    }
}
