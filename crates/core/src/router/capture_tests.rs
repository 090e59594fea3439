use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::selector::{AddressPattern, Ports, Service};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::super::Settings;
use super::super::testing::{self, TestShell};
use super::*;
use crate::policy::forward::Forwarder;
use crate::policy::pattern::{Action, PolicyRules, RuleSpec};
use crate::policy::set::AddressSet;
use crate::policy::shape::{Limit, Shape, ShapeSelector, Shapes};

const ONE: [u8; 4] = [10, 0, 0, 2];
const OTHER: [u8; 4] = [10, 0, 0, 3];
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
const FORBIDDEN: [u8; 4] = [192, 0, 2, 99];
const TCP: Protocol = Protocol::Number(6);

struct World {
    shell: TestShell,
    router: Router,
    now: Instant,
    one: PeerId,
    other: PeerId,
}

fn net(address: [u8; 4]) -> AddressPattern {
    AddressPattern::Net(IpNet::from(IpAddr::from(address)))
}

/// A packet as a device gives it: behind its header.
fn udp(src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    PacketBuilder::ipv4(src, dst, 64).udp(ports[0], ports[1]).write(&mut bytes, b"payload").expect("a valid packet");
    bytes
}

/// Rule 7 denies packets to one host, rule 8 rejects those to a port, and rule 9 allows the rest.
fn policy() -> Policy {
    let select = |dst, service| Selector::new(AddressPattern::Any, dst, service).expect("one version");
    let smtp = Service { protocol: Protocol::Number(17), ports: Ports::new(25, 25) };
    let out = [
        RuleSpec::new(RuleId(7), select(net(FORBIDDEN), None), Action::Deny),
        RuleSpec::new(RuleId(8), select(AddressPattern::Any, Some(smtp)), Action::Reject),
        RuleSpec::new(RuleId(9), Selector::ALL, Action::Allow),
    ];
    Policy { firewall_out: PolicyRules::of(out), switch: true, ..Policy::default() }
}

impl World {
    fn new() -> Self {
        let (mut shell, now) = (TestShell::default(), Instant::now());
        let mut router = Router::new(Forwarder::new(policy(), 1), Settings::default(), now);
        let mut connect = |pid, uid, address| {
            let credentials = PeerCredentials { pid, uid, gid: uid };
            let id = testing::connect(&mut router, &mut shell, credentials, now);
            router.device_packet(&mut shell, id, &udp(address, OUTSIDE, [1, 2]), None);
            id
        };
        let (one, other) = (connect(11, 1001, ONE), connect(12, 1002, OTHER));
        Self { shell, router, now, one, other }
    }

    /// Begins a capture of everything.
    fn capturing() -> Self {
        let mut this = Self::new();
        this.router.set_capture(&mut this.shell, 0, Some(CaptureFilter::default()));
        this
    }

    fn send(&mut self, from: PeerId, packet: &[u8]) {
        self.router.device_packet(&mut self.shell, from, packet, None);
    }

    fn arrive(&mut self, packet: &[u8]) {
        self.router.tun_packet(&mut self.shell, packet, self.now, self.now);
    }

    /// Direction, process, fate and rule of what was captured since the last call.
    fn taken(&mut self) -> Vec<(Direction, Option<i32>, CaptureFate, Option<u32>)> {
        let records = std::mem::take(&mut self.shell.captured);
        records.iter().map(|it| (it.direction, it.peer.map(|peer| peer.pid), it.fate, policy_rule(it.rule))).collect()
    }
}

#[test]
fn each_packet_is_shown_with_what_became_of_it_and_the_rule() {
    let mut world = World::capturing();
    let (one, passed) = (world.one, CaptureFate::Passed);
    for (packet, fate, rule) in [
        (udp(ONE, OUTSIDE, [5, 53]), passed(PassedTo::Tun), 9),
        // The second one's verdict is a remembered one.
        (udp(ONE, OUTSIDE, [5, 53]), passed(PassedTo::Tun), 9),
        (udp(ONE, FORBIDDEN, [5, 53]), CaptureFate::Dropped(DropReason::Firewall), 7),
        (udp(ONE, FORBIDDEN, [5, 53]), CaptureFate::Dropped(DropReason::Firewall), 7),
        (udp(ONE, OUTSIDE, [5, 25]), CaptureFate::Rejected(DropReason::Firewall), 8),
    ] {
        world.send(one, &packet);
        let record = world.shell.captured.first().cloned().expect("it is shown");
        assert_eq!(record.bytes, packet[VNET_HEADER_LEN..]);
        assert_eq!(record.peer.and_then(|peer| peer.address), Some(ONE.into()));
        assert_eq!(world.taken()[0], (Direction::Out, Some(11), fate, Some(rule)));
    }
    // The reply to the rejected packet comes behind it.
    world.send(one, &udp(ONE, OUTSIDE, [5, 25]));
    let rejected = (Direction::Out, Some(11), CaptureFate::Rejected(DropReason::Firewall), Some(8));
    assert_eq!(world.taken(), [rejected, (Direction::In, Some(11), passed(PassedTo::Peer), None)]);
    world.arrive(&udp(OUTSIDE, ONE, [53, 5]));
    assert_eq!(world.taken(), [(Direction::In, Some(11), passed(PassedTo::Peer), None)]);
    world.arrive(&udp(OUTSIDE, [10, 0, 0, 77], [53, 5]));
    assert_eq!(world.taken(), [(Direction::In, None, CaptureFate::Dropped(DropReason::NoPeer), None)]);
}

#[test]
fn packet_between_two_peers_is_shown_at_both() {
    let mut world = World::capturing();
    let one = world.one;
    world.send(one, &udp(ONE, OTHER, [5, 53]));
    let passed = CaptureFate::Passed(PassedTo::Peer);
    let taken: Vec<_> = world.taken().into_iter().map(|(direction, pid, fate, _)| (direction, pid, fate)).collect();
    assert_eq!(taken, [(Direction::Out, Some(11), passed), (Direction::In, Some(12), passed)]);
}

#[test]
fn what_is_no_packet_is_shown_as_it_came() {
    let mut world = World::capturing();
    let (one, no_packet) = (world.one, [&[0; VNET_HEADER_LEN][..], &[0x55; 40]].concat());
    world.send(one, &no_packet);
    world.arrive(&no_packet);
    assert!(world.shell.captured.iter().all(|record| record.bytes == [0x55; 40]));
    let fate = CaptureFate::Dropped(DropReason::NotIp);
    assert_eq!(world.taken(), [(Direction::Out, Some(11), fate, None), (Direction::In, None, fate, None)]);
    // Whoever asks for some packets doesn't get what has no headers to look at.
    world.router.set_capture(
        &mut world.shell,
        0,
        Some(CaptureFilter { protocol: Some(TCP), ..CaptureFilter::default() }),
    );
    world.send(one, &no_packet);
    assert!(world.taken().is_empty());
}

/// What waits is shown when it goes on or is lost, not before.
#[test]
fn held_packets_are_shown_once() {
    let mut world = World::capturing();
    let shape = Shape { out: true, inn: false, selector: ShapeSelector::Any, limit: Limit::new(80_000) };
    world.router.set_policy(
        &mut world.shell,
        Arc::new(Policy { generation: 1, shapes: Arc::new(Shapes::new(vec![shape])), ..policy() }),
    );
    let (one, packet) = (world.one, udp(ONE, OUTSIDE, [5, 53]));
    let sent = 2000;
    for _ in 0..sent {
        world.send(one, &packet);
    }
    let at_once = world.shell.captured.len();
    assert!(at_once < sent, "most of them wait or are lost");
    for second in 1..600 {
        world.router.poll(&mut world.shell, world.now + Duration::from_secs(second));
    }
    let all = world.taken();
    assert_eq!(all.len(), sent, "each is shown once");
    let lost = |reason| all.iter().filter(|(.., fate, _)| *fate == CaptureFate::Dropped(reason)).count();
    let drops = &world.router.counters().drops;
    for reason in [DropReason::ShapedFull, DropReason::ShapedLate] {
        assert_eq!(lost(reason) as u64, drops.get(reason), "{reason:?}");
    }
    assert!(all.iter().all(|(.., rule)| *rule == Some(9)), "also of those that have waited");
}

#[test]
fn filters_choose_by_peer_headers_verdict_and_rule() {
    let service = |protocol, port| Some(Service { protocol, ports: Ports::new(port, port) });
    let select = |src, dst, service| {
        let selector = Selector::new(src, dst, service).expect("one version");
        Some(Selection { selector, src_set: None, dst_set: None })
    };
    let any = AddressPattern::Any;
    let base = CaptureFilter::default;
    for (filter, expected) in [
        (base(), [true, true, true]),
        (CaptureFilter { pid: Some(11), ..base() }, [true, true, true]),
        (CaptureFilter { pid: Some(12), ..base() }, [false, false, false]),
        (CaptureFilter { uid: Some(1002), ..base() }, [false, false, false]),
        (CaptureFilter { network: Some("192.0.2.99/32".parse().expect("valid")), ..base() }, [false, true, false]),
        (CaptureFilter { protocol: Some(TCP), ..base() }, [false, false, false]),
        (CaptureFilter { port: Some(53), ..base() }, [true, true, true]),
        (CaptureFilter { port: Some(54), ..base() }, [false, false, false]),
        (CaptureFilter { verdict: Some(CaptureVerdict::Deny), ..base() }, [false, true, false]),
        (CaptureFilter { verdict: Some(CaptureVerdict::Allow), ..base() }, [true, false, true]),
        (CaptureFilter { rule: Some(7), ..base() }, [false, true, false]),
        (CaptureFilter { selection: select(net(ONE), net(FORBIDDEN), None), ..base() }, [false, true, false]),
        // The answer is one to a packet that it selects.
        (CaptureFilter { selection: select(any, net(OUTSIDE), None), ..base() }, [true, false, true]),
        (
            CaptureFilter { selection: select(any, any, service(Protocol::Number(17), 53)), ..base() },
            [true, true, true],
        ),
        (CaptureFilter { selection: select(any, any, service(Protocol::Number(17), 54)), ..base() }, [false; 3]),
        (CaptureFilter { selection: select(any, any, service(TCP, 53)), ..base() }, [false; 3]),
    ] {
        let mut world = World::new();
        world.router.set_capture(&mut world.shell, 3, Some(filter.clone()));
        let one = world.one;
        let mut shown = Vec::new();
        world.send(one, &udp(ONE, OUTSIDE, [5, 53]));
        shown.push(!world.taken().is_empty());
        world.send(one, &udp(ONE, FORBIDDEN, [5, 53]));
        shown.push(!world.taken().is_empty());
        world.arrive(&udp(OUTSIDE, ONE, [53, 5]));
        shown.push(!world.taken().is_empty());
        assert_eq!(shown, expected, "{filter:?}");
    }
}

#[test]
fn selection_may_name_a_set_of_the_policy_in_use() {
    let mut world = World::new();
    let selection = Selection { selector: Selector::ALL, src_set: None, dst_set: Some("blocked".to_owned()) };
    world.router.set_capture(
        &mut world.shell,
        0,
        Some(CaptureFilter { selection: Some(selection), ..CaptureFilter::default() }),
    );
    let one = world.one;
    world.send(one, &udp(ONE, OUTSIDE, [5, 53]));
    assert!(world.taken().is_empty(), "there is no such set yet");
    let set: AddressSet = ["192.0.2.0/28".parse::<IpNet>().expect("valid")].into_iter().collect();
    world.router.set_policy(
        &mut world.shell,
        Arc::new(Policy { generation: 1, sets: vec![("blocked".to_owned(), Arc::new(set))], ..policy() }),
    );
    world.send(one, &udp(ONE, OUTSIDE, [5, 53]));
    assert_eq!(world.taken().len(), 1);
}

#[test]
fn captures_are_told_apart_and_end() {
    let mut world = World::new();
    let (one, other) = (world.one, world.other);
    world.router.set_capture(&mut world.shell, 1, Some(CaptureFilter { uid: Some(1001), ..CaptureFilter::default() }));
    world.router.set_capture(&mut world.shell, 6, Some(CaptureFilter::default()));
    world.send(one, &udp(ONE, OUTSIDE, [5, 53]));
    world.send(other, &udp(OTHER, OUTSIDE, [5, 53]));
    let wanted: Vec<_> = world.shell.captured.iter().map(|record| record.wanted).collect();
    assert_eq!(wanted, [1 << 1 | 1 << 6, 1 << 6]);
    world.shell.captured.clear();
    world.router.set_capture(&mut world.shell, 6, None);
    world.send(other, &udp(OTHER, OUTSIDE, [5, 53]));
    assert!(world.shell.captured.is_empty());
    world.router.set_capture(&mut world.shell, 1, None);
    world.router.set_capture(&mut world.shell, MAX_CAPTURES, Some(CaptureFilter::default()));
    world.send(one, &udp(ONE, OUTSIDE, [5, 53]));
    assert!(world.shell.captured.is_empty() && !world.router.captures.is_on());
}

/// What decides if the kernel may pass packets on by itself.
#[test]
fn flows_that_a_capture_may_want_are_told() {
    let mut world = World::new();
    let (one, other) = (world.one, world.other);
    let asks = |router: &Router, peer, port| {
        router.may_be_captured(Some(peer), [ONE.into(), OUTSIDE.into()], 17, Some((5, port)))
    };
    assert!(!asks(&world.router, one, 53), "nobody captures");
    // Verdict and rule may change.
    let filter = CaptureFilter {
        uid: Some(1001),
        port: Some(53),
        verdict: Some(CaptureVerdict::Deny),
        rule: Some(99),
        ..CaptureFilter::default()
    };
    world.router.set_capture(&mut world.shell, 0, Some(filter));
    assert!(asks(&world.router, one, 53) && !asks(&world.router, one, 54) && !asks(&world.router, other, 53));
    world.router.set_capture(&mut world.shell, 0, None);
    assert!(!asks(&world.router, one, 53));
}
