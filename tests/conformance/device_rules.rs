//! `tuntap-device-rule`: rules that a vassal sends to its router.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::common::capture::Capture;
use crate::common::emperor::{EMPEROR, Emperor, V1, V2};
use crate::common::fake_router::FakeRouter;
use crate::common::packet;
use crate::common::probe::send_udp;
use crate::common::raw_peer::RawPeer;
use crate::common::uwsgi::{Subject, Uwsgi};
use crate::common::wait;
use crate::common::wire::{self, ANY, Action, Direction, MAX_PAYLOAD, RULE_LEN, Rule};
use crate::pairs::{Pair, Router, cases};

cases!(router_applies_the_first_rule_that_matches, Router: c ours);
cases!(later_rules_replace_earlier_ones_before_the_first_packet, Router: c ours);
cases!(rules_after_the_first_packet_come_too_late, Router: c ours);
cases!(allow_of_a_peer_does_not_override_the_chains, Router: c ours);
cases!(largest_rule_block_is_applied_to_its_end, Router: c ours);
cases!(incomplete_rules_end_that_peer_at_most, Router: c ours);
cases!(networks_in_rules_match, Pair: c_c c_ours ours_c ours_ours);

const DENIED: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

fn rule(direction: Direction, destination: (Ipv4Addr, u32), action: Action) -> Rule {
    Rule { direction, source: ANY, destination, action }
}

#[track_caller]
fn passed_out(emperor: &Emperor, peer: &mut RawPeer, destinations: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    for destination in destinations {
        peer.send_packet(&packet::udp(V1, *destination, 9, b"probe"));
    }
    peer.send_packet(&packet::udp(V1, EMPEROR, 9, b"last"));
    let packets = capture.until(wait::SHORT, |packet| packet.ends_with(b"last"));
    packets.iter().filter(|packet| packet.ends_with(b"probe")).map(|packet| packet::destination(packet)).collect()
}

fn router_applies_the_first_rule_that_matches(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    let exception = Ipv4Addr::new(10, 0, 0, 1);
    let denied_source = Ipv4Addr::new(192, 168, 0, 9);
    peer.send_rules(&[
        rule(Direction::Out, (exception, 32), Action::Allow),
        rule(Direction::Out, (Ipv4Addr::new(10, 0, 0, 0), 8), Action::Deny),
        Rule { direction: Direction::In, source: (denied_source, 32), destination: ANY, action: Action::Deny },
        rule(Direction::Out, (V2, 32), Action::Deny),
    ]);
    let open = Ipv4Addr::new(11, 0, 0, 1);
    assert_eq!(passed_out(&emperor, &mut peer, &[exception, DENIED, V2, open]), [exception, open]);
    emperor.netns.sh("ip addr add 192.168.0.9/24 dev emperor0");
    peer.send_packet(&packet::echo_request(V1, denied_source, 1, 84));
    peer.send_packet(&packet::echo_request(V1, EMPEROR, 2, 84));
    let seen = peer.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply).is_some());
    let sequence = seen.as_deref().and_then(packet::echo_reply_sequence);
    assert_eq!(sequence, Some(2), "the second reply gets in, the first one does not");
    if router.is_ours() {
        assert_eq!(emperor.stats().drops_of(V1, "peer_rule"), 3);
    }
    let mut other = emperor.peer(V2);
    assert!(other.echo(V2, EMPEROR, wait::SHORT), "another peer's rules are its own");
}

fn later_rules_replace_earlier_ones_before_the_first_packet(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    peer.send_rules(&[rule(Direction::Out, (DENIED, 32), Action::Deny)]);
    peer.send_rules(&[rule(Direction::Out, (V2, 32), Action::Deny)]);
    assert_eq!(passed_out(&emperor, &mut peer, &[DENIED, V2]), [DENIED]);
}

/// Code that takes over a vassal later can't loosen the rules of its owner.
fn rules_after_the_first_packet_come_too_late(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    let first = [rule(Direction::Out, (DENIED, 32), Action::Deny)];
    peer.send_rules(&first);
    assert!(passed_out(&emperor, &mut peer, &[DENIED]).is_empty());
    let mark = emperor.log.mark();
    peer.send_rules(&first);
    for _ in 0..3 {
        peer.send_rules(&[rule(Direction::Out, (V2, 32), Action::Deny)]);
    }
    let passed = passed_out(&emperor, &mut peer, &[DENIED, V2]);
    if router.is_ours() {
        assert_eq!(passed, [V2]);
        assert_eq!(emperor.stats().drops_of(V1, "rules_frozen"), 3, "the same rules are no fault");
        let log = emperor.log.since(mark);
        assert_eq!(log.matches("sent other rules after its first packet").count(), 1, "{log}");
    } else {
        assert_eq!(passed, [DENIED]);
    }
}

fn allow_of_a_peer_does_not_override_the_chains(router: Router) {
    let emperor = router
        .emperor()
        .line("tuntap-router-firewall-out = deny 0.0.0.0 10.1.2.3")
        .line("tuntap-router-firewall-in = deny 192.168.0.9 0.0.0.0")
        .start();
    emperor.netns.sh("ip addr add 192.168.0.9/24 dev emperor0");
    let denied_source = Ipv4Addr::new(192, 168, 0, 9);
    let mut peer = emperor.connect();
    let all = |direction| rule(direction, ANY, Action::Allow);
    peer.send_rules(&[all(Direction::Out), all(Direction::In)]);
    assert_eq!(passed_out(&emperor, &mut peer, &[DENIED, V2]), [V2]);
    peer.send_packet(&packet::echo_request(V1, denied_source, 1, 84));
    peer.send_packet(&packet::echo_request(V1, EMPEROR, 2, 84));
    let seen = peer.wait_for_packet(wait::SHORT, |reply| packet::echo_reply_sequence(reply).is_some());
    assert_eq!(seen.as_deref().and_then(packet::echo_reply_sequence), Some(2));
}

fn largest_rule_block_is_applied_to_its_end(router: Router) {
    let emperor = router.emperor().start();
    let mut peer = emperor.connect();
    let mut rules =
        vec![rule(Direction::Out, (Ipv4Addr::new(203, 0, 113, 1), 32), Action::Deny); MAX_PAYLOAD / RULE_LEN];
    *rules.last_mut().expect("not empty") = rule(Direction::Out, (DENIED, 32), Action::Deny);
    peer.send_rules(&rules);
    assert_eq!(passed_out(&emperor, &mut peer, &[DENIED, V2]), [V2]);
}

fn incomplete_rules_end_that_peer_at_most(router: Router) {
    let emperor = router.emperor().start();
    let mut other = emperor.peer(V2);
    let block = wire::rules(&[rule(Direction::Out, (DENIED, 32), Action::Deny)]);
    for length in [1, 23] {
        let mut peer = emperor.connect();
        peer.send_bytes(&wire::frame(wire::RULES, &block[..length]));
        let _ = peer.try_send_bytes(&wire::frame(wire::PACKET, &packet::udp(V1, EMPEROR, 9, b"x")));
        assert!(other.echo(V2, EMPEROR, wait::SHORT));
    }
}

/// The C vassal shifts its masks the wrong way round, so that nearly none of its rules match.
fn networks_in_rules_match(pair: Pair) {
    let emperor = pair.emperor().start();
    let vassal = pair
        .vassal("v1", V1)
        .line("tuntap-device-rule = out 0.0.0.0 10.0.0.0/8 deny")
        .line("tuntap-device-rule = out 192.168.0.0/24 172.16.0.0/12 deny")
        .line("tuntap-device-rule = out 0.0.0.0/0 198.51.100.0/24 deny")
        .line("tuntap-device-rule = out 0.0.0.0 203.0.113.7/32 deny")
        .line("tuntap-device-rule = out 0.0.0.0 192.0.2.0/16 deny")
        .line("tuntap-device-rule = out 0.0.0.0 100.64.0.0/16 deny");
    let net = emperor.start_vassal(&vassal);
    let capture = Capture::received_on(&emperor.netns, "emperor0");
    let to = [[10, 1, 2, 3], [172, 16, 5, 5], [198, 51, 100, 5], [192, 0, 9, 9], [203, 0, 113, 7], [100, 64, 1, 1]];
    for destination in to.iter().chain(&[[203, 0, 113, 8]]) {
        send_udp(&net, Ipv4Addr::from(*destination), 9, b"probe").expect("the vassal has a default route");
    }
    send_udp(&net, EMPEROR, 9, b"last").expect("the vassal has a route");
    let packets = capture.until(wait::SHORT, |packet| packet.ends_with(b"last"));
    let passed: Vec<[u8; 4]> = packets
        .iter()
        .filter(|packet| packet.ends_with(b"probe"))
        .map(|packet| packet::destination(packet).octets())
        .collect();
    if pair.vassal == Subject::Ours {
        assert_eq!(passed, [[203, 0, 113, 8]]);
    } else {
        // The C vassal's masks match only the network of 16 bits without host bits.
        assert_eq!(passed, [[10, 1, 2, 3], [172, 16, 5, 5], [198, 51, 100, 5], [192, 0, 9, 9], [203, 0, 113, 8]]);
    }
}

/// What our vassal writes, byte by byte, is what a right C vassal would.
#[test]
fn our_vassal_sends_its_rules_before_any_packet() {
    let pair = Pair::ours_ours(Uwsgi::usual());
    let emperor = pair.emperor().start();
    let fake = FakeRouter::bind(&emperor.path("fake.sock"));
    let vassal = pair
        .vassal("v1", V1)
        .devices(&["uwsgi0 {dir}/fake.sock"])
        .without_ping()
        .line("tuntap-device-rule = in 10.0.0.0/8 0.0.0.0 deny")
        .line("tuntap-device-rule = out 192.168.0.0/24 10.9.0.0/16 gateway 10.77.0.2:4000")
        .line("tuntap-device-rule = out 192.168.0.2 0.0.0.0 route 10.77.0.3:4001")
        .line("tuntap-device-rule = out 0.0.0.0 192.168.0.1 allow");
    emperor.add(&vassal);
    let mut accepted = fake.accept(wait::LONG);
    let network = |octets: [u8; 4], prefix| (Ipv4Addr::from(octets), prefix);
    let gateway = |octets: [u8; 4], port| Action::Gateway(SocketAddrV4::new(octets.into(), port));
    let expected = wire::rules(&[
        Rule { direction: Direction::In, source: network([10, 0, 0, 0], 8), destination: ANY, action: Action::Deny },
        Rule {
            direction: Direction::Out,
            source: network([192, 168, 0, 0], 24),
            destination: network([10, 9, 0, 0], 16),
            action: gateway([10, 77, 0, 2], 4000),
        },
        Rule { direction: Direction::Out, source: (V1, 32), destination: ANY, action: gateway([10, 77, 0, 3], 4001) },
        Rule { direction: Direction::Out, source: ANY, destination: (EMPEROR, 32), action: Action::Allow },
    ]);
    let rules = loop {
        let frame = accepted.next_frame(wait::LONG).expect("the vassal sends its rules");
        assert_ne!(frame.modifier2, wire::PACKET, "no packet comes before the rules");
        if frame.modifier2 == wire::RULES {
            break frame.payload;
        }
    };
    // Masks of an address that means any don't matter.
    assert_eq!(without_any_masks(&rules), without_any_masks(&expected));
}

fn without_any_masks(block: &[u8]) -> Vec<Vec<u8>> {
    let mut rules: Vec<Vec<u8>> = block.chunks(RULE_LEN).map(<[u8]>::to_vec).collect();
    for rule in &mut rules {
        for address in [1, 9] {
            if rule[address..address + 4] == [0; 4] {
                rule[address + 4..address + 8].fill(0);
            }
        }
    }
    rules
}
