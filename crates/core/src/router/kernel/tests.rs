use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use tuntap_wire::attach::Hello;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::{self, FrameKind, HEADER_LEN};
use tuntap_wire::holding::{ClaimTime, Holding, RouterId};
use tuntap_wire::offloads::Offloads;
use tuntap_wire::rule::Direction;
use tuntap_wire::selector::Selector;
use tuntap_wire::vnet::VNET_HEADER_LEN;

use super::super::capture::CaptureFilter;
use super::super::testing::TestShell;
use super::super::{Connection, Router, Settings};
use super::Suspicion;
use super::pairs::{GRACE, MOST_ASKED, PROBATION};
use crate::elsewhere::Source;
use crate::kernel_path::{FlowId, KernelFlow, KernelKey, Revoke, WhyNot};
use crate::policy::Policy;
use crate::policy::counters::{CounterSlot, SharedMemory};
use crate::policy::drops::DropReason;
use crate::policy::forward::Forwarder;
use crate::policy::limits::Limits;
use crate::policy::pattern::{Action, PolicyRules, RuleId, RuleSpec};
use crate::policy::registry::PeerId;
use crate::policy::shape::{Limit, Shape, ShapeSelector, Shapes};

const A: [u8; 4] = [10, 0, 0, 2];
const B: [u8; 4] = [10, 0, 0, 3];
const AFAR: [u8; 4] = [198, 51, 100, 7];

/// A router with attached peers on a kernel with a path for flows.
struct World {
    shell: TestShell,
    router: Router,
    now: Instant,
}

impl World {
    fn new(policy: Policy) -> Self {
        let now = Instant::now();
        let memory = SharedMemory::leaked(16, 64);
        let forwarder = Forwarder::with_memory(policy, 1, &Limits::default(), memory);
        let settings = Settings { router: RouterId::new(1), ..Settings::default() };
        let mut this = Self {
            shell: TestShell { now: Some(now), ..TestShell::default() },
            router: Router::new(forwarder, settings, now),
            now,
        };
        this.router.set_clock(&mut this.shell, ClaimTime(1_000_000));
        this.router.set_kernel_path(&mut this.shell, true);
        this
    }

    fn connect(&mut self, router_only: bool) -> PeerId {
        let credentials = PeerCredentials { pid: 1, uid: 1000, gid: 1000 };
        let connection = Connection { credentials, namespace: None, groups: Vec::new() };
        let id = self.router.accept(&mut self.shell, connection, self.now).expect("there is room");
        let hello = Hello { offloads: Offloads::NONE.bits(), router_only };
        let mut bytes = Vec::new();
        assert!(frame::append(&mut bytes, FrameKind::Hello, &hello.encode()));
        self.router.received(&mut self.shell, id, &bytes, bytes.len(), self.now);
        assert!(self.router.is_attached(id));
        id
    }

    /// A peer sends packets, and then its device is empty.
    fn send(&mut self, id: PeerId, bytes: &[u8], count: usize) {
        for _ in 0..count {
            self.router.device_packet(&mut self.shell, id, bytes, None);
        }
        self.router.device_emptied(&mut self.shell, id);
    }

    /// Packets come by the TUN device, and then it is empty.
    fn arrive(&mut self, bytes: &[u8], count: u32) {
        self.router.begin_tun_turn(0);
        for _ in 0..count {
            self.router.tun_packet(&mut self.shell, bytes, self.now, self.now);
        }
        self.router.end_tun_turn(&mut self.shell, true);
    }

    fn make_pairs(&mut self) {
        for id in self.shell.kernel.pairs.clone() {
            self.router.pair_made(&mut self.shell, id, self.now);
        }
    }

    fn poll(&mut self, after: Duration) {
        self.now += after;
        self.shell.kernel.rest(after);
        self.shell.now = Some(self.now);
        self.router.poll(&mut self.shell, self.now);
    }

    fn verdicts(&self) -> Vec<KernelFlow> {
        self.shell.kernel.flows.iter().map(|(flow, _)| *flow).collect()
    }

    /// A peer whose flow of datagrams to the host afar passes in the kernel, out and in.
    fn with_flow(policy: Policy) -> (Self, PeerId) {
        let mut world = Self::new(policy);
        let id = world.connect(false);
        world.offer(id);
        assert_eq!(world.verdicts().len(), 2, "{:?}", world.verdicts());
        (world, id)
    }

    /// The same once more.
    fn offer(&mut self, id: PeerId) {
        self.send(id, &udp(A, AFAR), 9);
        self.make_pairs();
        self.send(id, &udp(A, AFAR), 1);
        self.arrive(&back(AFAR, A), 9);
    }
}

fn with_header(build: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    build(&mut bytes);
    bytes
}

/// A datagram of 100 bytes.
fn datagram(src: [u8; 4], dst: [u8; 4], ports: [u16; 2]) -> Vec<u8> {
    with_header(|bytes| {
        PacketBuilder::ipv4(src, dst, 64).udp(ports[0], ports[1]).write(bytes, &[7; 72]).expect("valid")
    })
}

fn udp(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    datagram(src, dst, [40_000, 53])
}

fn back(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    datagram(src, dst, [53, 40_000])
}

fn tcp(src: [u8; 4], dst: [u8; 4], ports: [u16; 2], flags: &str) -> Vec<u8> {
    let mut builder = PacketBuilder::ipv4(src, dst, 64).tcp(ports[0], ports[1], 1, 1000);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(1),
            'F' => builder.fin(),
            _ => builder.rst(),
        };
    }
    with_header(|bytes| builder.write(bytes, &[]).expect("valid"))
}

fn chain(rule: RuleSpec<Action>) -> PolicyRules<Action> {
    PolicyRules::of([rule])
}

fn allow() -> RuleSpec<Action> {
    RuleSpec { slot: CounterSlot(3), ..RuleSpec::new(RuleId(1), Selector::ALL, Action::Allow) }
}

fn id(slot: u32, direction: Direction) -> FlowId {
    FlowId::new(slot, direction)
}

#[test]
fn decided_flows_pass_in_the_kernel_once_their_queues_are_empty() {
    let mut world = World::new(Policy::default());
    let peer = world.connect(false);
    world.send(peer, &udp(A, AFAR), 7);
    assert!(world.shell.kernel.pairs.is_empty(), "a short flow wants no pair");
    world.send(peer, &udp(A, AFAR), 1);
    assert_eq!(world.shell.kernel.pairs, [peer]);
    world.send(peer, &udp(A, AFAR), 1);
    assert!(world.verdicts().is_empty(), "there is no pair yet");
    world.make_pairs();
    assert_eq!(world.shell.kernel.claims, [(peer, IpAddr::from(A))]);
    world.router.device_packet(&mut world.shell, peer, &udp(A, AFAR), None);
    assert!(world.verdicts().is_empty(), "the device may have more packets");
    world.router.device_emptied(&mut world.shell, peer);
    let key = KernelKey { src: A.into(), dst: AFAR.into(), protocol: 17, src_port: 40_000, dst_port: 53 };
    let flow = KernelFlow { id: id(0, Direction::Out), generation: 1, key, from: Some(peer), to: None };
    assert_eq!(world.verdicts(), [flow]);
    world.arrive(&back(AFAR, A), 8);
    let key = KernelKey { src: AFAR.into(), dst: A.into(), protocol: 17, src_port: 53, dst_port: 40_000 };
    assert_eq!(world.verdicts()[1], KernelFlow { id: id(0, Direction::In), key, from: None, to: Some(peer), ..flow });
}

#[test]
fn queue_that_never_becomes_empty_is_waited_for_only_so_long() {
    let mut world = World::new(Policy::default());
    let peer = world.connect(false);
    world.send(peer, &udp(A, AFAR), 8);
    world.make_pairs();
    world.router.device_packet(&mut world.shell, peer, &udp(A, AFAR), None);
    let due = world.router.poll_timeout().expect("the candidate waits");
    world.poll(Duration::from_millis(99));
    assert!(world.verdicts().is_empty());
    assert_eq!(due, world.now + Duration::from_millis(1));
    world.poll(Duration::from_millis(1));
    assert_eq!(world.verdicts().len(), 1);
}

#[test]
fn pings_and_connections_pass_once_they_are_open() {
    let mut world = World::new(Policy::default());
    let peer = world.connect(false);
    let ping = with_header(|bytes| {
        PacketBuilder::ipv4(A, AFAR, 64).icmpv4_echo_request(77, 1).write(bytes, &[]).expect("valid");
    });
    world.send(peer, &ping, 8);
    world.make_pairs();
    world.send(peer, &ping, 1);
    let key = KernelKey { src: A.into(), dst: AFAR.into(), protocol: 1, src_port: 77, dst_port: 8 };
    assert_eq!(world.verdicts()[0].key, key);
    let pong = with_header(|bytes| {
        PacketBuilder::ipv4(AFAR, A, 64).icmpv4_echo_reply(77, 1).write(bytes, &[]).expect("valid");
    });
    world.arrive(&pong, 8);
    let key = KernelKey { src: AFAR.into(), dst: A.into(), protocol: 1, src_port: 77, dst_port: 0 };
    assert_eq!(world.verdicts()[1].key, key);

    world.send(peer, &tcp(A, AFAR, [1, 2], "S"), 10);
    assert_eq!(world.verdicts().len(), 2, "nobody has answered");
    world.arrive(&tcp(AFAR, A, [2, 1], "SA"), 1);
    world.send(peer, &tcp(A, AFAR, [1, 2], "A"), 1);
    assert_eq!(world.verdicts().len(), 3);
    world.send(peer, &tcp(A, AFAR, [1, 2], "FA"), 1);
    assert_eq!(world.verdicts().len(), 3, "the other end may go on");
    world.arrive(&tcp(AFAR, A, [2, 1], "FA"), 9);
    assert_eq!(world.verdicts().len(), 3, "it is closing");
    world.send(peer, &tcp(A, AFAR, [1, 2], "A"), 1);
    assert_eq!(world.verdicts().len(), 2, "it is closed");
}

#[test]
fn other_protocols_and_icmp_messages_take_the_routers_way() {
    let mut world = World::new(Policy::default());
    let peer = world.connect(false);
    let timestamp = with_header(|bytes| {
        let kind = etherparse::Icmpv4Type::Unknown { type_u8: 13, code_u8: 0, bytes5to8: [0; 4] };
        PacketBuilder::ipv4(A, AFAR, 64).icmpv4(kind).write(bytes, &[0; 12]).expect("valid");
    });
    world.send(peer, &timestamp, 20);
    let mut sctp = udp(A, AFAR);
    sctp[VNET_HEADER_LEN + 9] = 132;
    world.send(peer, &sctp, 20);
    assert!(world.shell.kernel.pairs.is_empty() && world.verdicts().is_empty());
    assert_eq!(world.router.path_of(0, Direction::Out), Err(WhyNot::Protocol));
}

#[test]
fn counters_include_what_has_passed_in_the_kernel() {
    let (mut world, peer) = World::with_flow(Policy {
        firewall_out: chain(allow()),
        firewall_in: chain(RuleSpec { slot: CounterSlot(4), ..allow() }),
        ..Policy::default()
    });
    let before = world.router.peer(peer).expect("it is there").traffic().clone();
    world.shell.kernel.pass(id(0, Direction::Out), 5, 500);
    world.shell.kernel.pass(id(0, Direction::In), 3, 3000);
    world.router.count_kernel_usage(&mut world.shell);
    world.router.count_usage_of_flows(&mut world.shell, 0..10);
    let flow = world.router.flow(0).expect("it is known");
    assert_eq!((flow.out().packets, flow.out().bytes), (10 + 5, 1000 + 500));
    assert_eq!((flow.inbound().packets, flow.inbound().bytes), (9 + 3, 900 + 3000));
    let after = world.router.peer(peer).expect("it is there").traffic().clone();
    assert_eq!((after.rx_packets - before.rx_packets, after.tx_packets - before.tx_packets), (5, 3));
    let frames = HEADER_LEN as u64;
    assert_eq!(
        (after.rx_bytes - before.rx_bytes, after.tx_bytes - before.tx_bytes),
        (500 + 5 * frames, 3000 + 3 * frames)
    );
    let counters = world.router.forwarder().counters();
    let [out, inn] = [3, 4].map(|slot| counters.get(CounterSlot(slot)));
    assert_eq!((out.packets, out.bytes, inn.packets, inn.bytes), (15, 1500, 12, 3900));
    let (counts, verdicts) = world.router.path_counts();
    assert_eq!((counts.packets, counts.bytes, counts.given, verdicts), (8, 3500, 2, 2));
    // The last ones are counted when the verdict goes, and none twice.
    world.shell.kernel.pass(id(0, Direction::Out), 1, 100);
    world.router.set_policy(&mut world.shell, Arc::new(Policy { generation: 1, ..Policy::default() }));
    world.poll(Duration::ZERO);
    assert_eq!(counters.get(CounterSlot(3)).packets, 16);
    assert_eq!(world.router.flow(0).map(|flow| flow.out().packets), Some(16));
    assert!(world.verdicts().is_empty());
}

#[test]
fn flow_in_the_kernel_is_not_over() {
    let (mut world, peer) = World::with_flow(Policy::default());
    for _ in 0..100 {
        world.poll(Duration::from_secs(9));
        world.shell.kernel.pass(id(0, Direction::Out), 1, 100);
        world.shell.kernel.pass(id(0, Direction::In), 1, 100);
    }
    assert_eq!(world.verdicts().len(), 2);
    world.poll(Duration::from_secs(1));
    assert_eq!(world.router.flow(0).map(|flow| (flow.idle(), flow.out().packets)), Some((1, 110)));
    world.poll(Duration::from_secs(10));
    assert!(world.verdicts().is_empty(), "nobody uses it");
    world.poll(Duration::from_secs(280));
    assert_eq!(world.router.flow(0).map(|flow| flow.idle()), Some(291));
    world.poll(Duration::from_secs(10));
    assert!(world.router.flow(0).is_none(), "five minutes have passed");
    world.offer(peer);
    assert_eq!(world.verdicts().len(), 2);
}

#[test]
fn whatever_a_verdict_depends_on_revokes_it() {
    type Change = fn(&mut World, PeerId);
    let all: [(&str, Change); 4] = [
        ("policy", |world, _| {
            let policy = Policy { generation: 1, ..Policy::default() };
            world.router.set_policy(&mut world.shell, Arc::new(policy));
        }),
        ("host", |world, _| {
            world.router.set_host_addresses(&mut world.shell, ["192.0.2.1/24".parse().expect("valid")])
        }),
        ("capture", |world, _| world.router.set_capture(&mut world.shell, 0, Some(CaptureFilter::default()))),
        ("lost claim", |world, _| {
            let holding = Holding { router: RouterId::new(2).expect("not 0"), since: ClaimTime(1_000_100) };
            world.router.held_elsewhere(&mut world.shell, Source::Routes, A.into(), holding);
        }),
    ];
    for (name, change) in all {
        let (mut world, peer) = World::with_flow(Policy::default());
        change(&mut world, peer);
        assert_eq!(world.shell.kernel.revoked, [Revoke::All { generation: 2 }], "{name}");
        world.poll(Duration::ZERO);
        assert!(world.verdicts().is_empty(), "{name}");
        assert!(!world.router.is_sweeping(), "{name}");
    }
    let of_peer: [(&str, Change); 4] = [
        ("left", |world, peer| world.router.connection_ended(&mut world.shell, peer, None, world.now)),
        ("device", |world, peer| {
            world.router.device_failed(&mut world.shell, peer, crate::router::DeviceError::MayBlock, world.now);
        }),
        ("pair", |world, peer| world.router.pair_lost(&mut world.shell, peer, "tv0 was deleted", world.now)),
        ("groups", |world, peer| world.router.set_groups(&mut world.shell, peer, vec![7])),
    ];
    for (name, change) in of_peer {
        let limit = Shape { selector: ShapeSelector::Group(7), out: true, inn: true, limit: Limit::new(1_000_000) };
        let policy = Policy { shapes: Arc::new(Shapes::new(vec![limit])), ..Policy::default() };
        let (mut world, peer) = World::with_flow(policy);
        change(&mut world, peer);
        assert_eq!(world.shell.kernel.revoked, [Revoke::Peer(peer)], "{name}");
        world.poll(Duration::ZERO);
        assert!(world.verdicts().is_empty(), "{name}");
    }
}

#[test]
fn killed_and_evicted_flows_are_withdrawn() {
    let (mut world, _) = World::with_flow(Policy::default());
    // What has passed until then is still to be counted.
    world.poll(Duration::from_secs(5));
    Direction::BOTH.into_iter().for_each(|direction| world.shell.kernel.pass(id(0, direction), 5, 500));
    assert_eq!(world.router.kill_flows(&mut world.shell, 0..10, |_| true), 1);
    assert!(world.verdicts().is_empty());
    assert_eq!(world.router.path_counts().0.packets, 10);
    assert!(world.router.flow(0).is_none());
    let (mut world, peer) = World::with_flow(Policy::default());
    // A flow that is in use goes last.
    for port in 0..u16::MAX {
        world.send(peer, &datagram(A, AFAR, [port, 9]), 3);
        world.arrive(&datagram(AFAR, A, [9, port]), 1);
        if world.verdicts().is_empty() {
            return;
        }
    }
    panic!("it was never evicted");
}

/// Packets that are on their way by a verdict pass for a moment when it is withdrawn, but not if they may not pass any more.
#[test]
fn verdicts_that_were_withdrawn_a_moment_ago_are_revoked() {
    let withdrawn = || {
        let (mut world, peer) = World::with_flow(Policy::default());
        world.poll(Duration::from_secs(11));
        assert!(world.verdicts().is_empty() && world.shell.kernel.revoked.is_empty(), "nobody uses them");
        assert_eq!(world.router.path_of(0, Direction::Out), Err(WhyNot::NotGiven));
        (world, peer)
    };
    let (mut world, _) = withdrawn();
    world.router.kill_flows(&mut world.shell, 0..10, |_| true);
    let of_flow = Direction::BOTH.map(|direction| Revoke::Flow(id(0, direction)));
    assert!(of_flow.iter().all(|it| world.shell.kernel.revoked.contains(it)), "{:?}", world.shell.kernel.revoked);
    let (mut world, _) = withdrawn();
    for _ in 0..2 {
        world.router.set_policy(&mut world.shell, Arc::new(Policy::default()));
        world.poll(Duration::ZERO);
        assert_eq!(world.shell.kernel.revoked, [Revoke::All { generation: 2 }], "once");
    }
    let (mut world, peer) = withdrawn();
    world.router.suspect(&mut world.shell, peer, Suspicion::Exceeded);
    assert_eq!(world.shell.kernel.revoked, [Revoke::Peer(peer)]);
}

#[test]
fn flows_that_are_no_plain_pass_stay_as_long_as_they_are_none() {
    let limited = Shapes::new(vec![Shape {
        selector: ShapeSelector::Any,
        out: true,
        inn: true,
        limit: Limit::new(1_000_000_000),
    }]);
    let cases = [
        ("log", Policy { firewall_out: chain(RuleSpec { log: true, ..allow() }), ..Policy::default() }, WhyNot::Logged),
        (
            "rate",
            Policy {
                firewall_out: chain(RuleSpec { rate: std::num::NonZeroU32::new(1000), ..allow() }),
                ..Policy::default()
            },
            WhyNot::AskedAgain,
        ),
        (
            "deny",
            Policy { firewall_out: chain(RuleSpec::new(RuleId(1), Selector::ALL, Action::Deny)), ..Policy::default() },
            WhyNot::Verdict,
        ),
        ("limit", Policy { shapes: Arc::new(limited), ..Policy::default() }, WhyNot::Limited),
    ];
    for (name, policy, why) in cases {
        let mut world = World::new(Policy::default());
        let peer = world.connect(false);
        world.send(peer, &udp(A, AFAR), 1);
        world.router.set_policy(&mut world.shell, Arc::new(Policy { generation: 1, ..policy }));
        world.send(peer, &udp(A, AFAR), 20);
        world.make_pairs();
        world.send(peer, &udp(A, AFAR), 20);
        assert!(world.verdicts().is_empty(), "{name}");
        assert_eq!(world.router.path_of(0, Direction::Out), Err(why), "{name}");
        // What waits for a limit goes first.
        let plain = Policy { generation: 2, ..Policy::default() };
        world.router.set_policy(&mut world.shell, Arc::new(plain));
        world.poll(Duration::from_secs(1));
        world.send(peer, &udp(A, AFAR), 20);
        world.make_pairs();
        world.send(peer, &udp(A, AFAR), 20);
        assert_eq!(world.verdicts().len(), 1, "{name}, and no more");
    }
}

#[test]
fn peers_that_do_not_want_it_or_send_frames_stay() {
    let mut world = World::new(Policy { switch: true, ..Policy::default() });
    let [denier, other] = [true, false].map(|router_only| world.connect(router_only));
    world.send(denier, &udp(A, AFAR), 20);
    world.send(other, &udp(B, AFAR), 1);
    world.send(other, &back(B, A), 20);
    world.make_pairs();
    world.send(other, &back(B, A), 20);
    assert!(world.verdicts().is_empty());
    assert!(!world.shell.kernel.pairs.contains(&denier));
    assert_eq!(world.router.path_of(0, Direction::Out), Err(WhyNot::Denied));
    world.router.device_failed(&mut world.shell, denier, crate::router::DeviceError::MayBlock, world.now);
    world.send(other, &back(B, A), 1);
    assert_eq!(world.router.path_of(2, Direction::Out), Err(WhyNot::Frames));
}

/// One verdict has the packets from one peer to another, and both ends' flows and peers count them.
#[test]
fn switched_flows_pass_by_one_verdict() {
    let mut world = World::new(Policy { switch: true, firewall_out: chain(allow()), ..Policy::default() });
    let [one, other] = [false; 2].map(|it| world.connect(it));
    world.send(other, &udp(B, AFAR), 1);
    world.send(one, &udp(A, B), 8);
    world.make_pairs();
    world.send(one, &udp(A, B), 1);
    let [flow] = world.verdicts()[..] else { panic!("{:?}", world.verdicts()) };
    assert_eq!((flow.from, flow.to), (Some(one), Some(other)));
    world.shell.kernel.pass(flow.id, 4, 400);
    world.router.count_usage_of_flows(&mut world.shell, 0..10);
    let flows: Vec<_> =
        world.router.flows().map(|(_, flow)| (flow.peer(), flow.out().packets, flow.inbound().packets)).collect();
    assert_eq!(flows, [(Some(other), 1, 0), (Some(one), 13, 0), (Some(other), 0, 13)]);
    assert_eq!(world.router.forwarder().counters().get(CounterSlot(3)).packets, 1 + 13);
    let traffic = |id| world.router.peer(id).expect("it is there").traffic();
    assert_eq!((traffic(one).rx_packets, traffic(other).tx_packets), (13, 13));
    for number in [1, 2] {
        let direction = if number == 1 { Direction::Out } else { Direction::In };
        assert_eq!(world.router.path_of(number, direction), Ok(()));
    }
    // If the receiver's flow is forgotten, the next packet is decided anew.
    assert_eq!(world.router.kill_flows(&mut world.shell, 2..3, |_| true), 1);
    assert!(world.verdicts().is_empty());
    world.send(one, &udp(A, B), 1);
    world.send(one, &udp(A, B), 1);
    assert_eq!(world.verdicts().len(), 1);
    world.router.connection_ended(&mut world.shell, other, None, world.now);
    assert!(world.shell.kernel.revoked.contains(&Revoke::Peer(other)));
}

#[test]
fn who_claims_the_destination_gets_the_packets() {
    let (mut world, peer) = World::with_flow(Policy { switch: true, ..Policy::default() });
    world.send(peer, &udp(A, B), 10);
    assert_eq!(world.verdicts().len(), 3);
    let other = world.connect(false);
    world.send(other, &udp(B, AFAR), 1);
    assert_eq!(world.verdicts().iter().filter(|flow| flow.key.dst == IpAddr::from(B)).count(), 0);
    assert_eq!(world.verdicts().len(), 2);
}

#[test]
fn kernel_that_refuses_is_not_asked_again_at_once() {
    let mut world = World::new(Policy::default());
    let peer = world.connect(false);
    world.send(peer, &udp(A, AFAR), 8);
    world.make_pairs();
    world.shell.kernel.is_full = true;
    for _ in 0..100 {
        world.send(peer, &udp(A, AFAR), 1);
    }
    assert_eq!(world.router.path_counts().0.refused, 1);
    world.shell.kernel.is_full = false;
    world.poll(Duration::from_secs(1));
    world.send(peer, &udp(A, AFAR), 1);
    assert_eq!(world.verdicts().len(), 1);
}

#[test]
fn verdict_that_the_kernel_has_lost_is_given_again() {
    let (mut world, peer) = World::with_flow(Policy::default());
    world.shell.kernel.flows.clear();
    world.poll(Duration::from_secs(2));
    assert_eq!(world.router.path_counts().1, 0);
    world.offer(peer);
    assert_eq!(world.verdicts().len(), 2);
}

#[test]
fn lost_pair_is_asked_for_again_later() {
    let (mut world, peer) = World::with_flow(Policy::default());
    for pause in [10, 20, 40] {
        world.router.pair_lost(&mut world.shell, peer, "tv0 was deleted", world.now);
        world.shell.kernel.pairs.clear();
        world.send(peer, &udp(A, AFAR), 20);
        assert!(world.shell.kernel.pairs.is_empty());
        world.poll(Duration::from_secs(pause));
        world.offer(peer);
        assert_eq!((world.shell.kernel.pairs.len(), world.verdicts().len()), (1, 2));
    }
    let lost = world.shell.lines.iter().filter(|line| line.to_string().contains("tv0 was deleted")).count();
    assert_eq!(lost, 3);
}

#[test]
fn who_connects_again_and_again_has_few_pairs_made() {
    let mut world = World::new(Policy::default());
    let mut made = || {
        let peer = world.connect(false);
        world.offer(peer);
        let count = world.shell.kernel.pairs.len();
        world.router.connection_ended(&mut world.shell, peer, None, world.now);
        count
    };
    let counts: Vec<_> = (0..2 * MOST_ASKED).map(|_| made()).collect();
    assert_eq!(counts.iter().sum::<usize>(), MOST_ASKED as usize);
    world.poll(Duration::from_secs(10));
    let peer = world.connect(false);
    world.offer(peer);
    assert_eq!(world.shell.kernel.pairs.len(), 1);
}

#[test]
fn pairs_are_dropped_with_their_peers_and_with_the_path() {
    let (mut world, peer) = World::with_flow(Policy::default());
    world.router.connection_ended(&mut world.shell, peer, None, world.now);
    assert!(world.shell.kernel.pairs.is_empty());
    let (mut world, peer) = World::with_flow(Policy::default());
    world.router.set_kernel_path(&mut world.shell, false);
    assert!(world.shell.kernel.pairs.is_empty() && world.verdicts().is_empty());
    world.offer(peer);
    assert!(world.shell.kernel.pairs.is_empty() && world.verdicts().is_empty());
    assert_eq!(world.router.path_of(0, Direction::Out), Err(WhyNot::Off));
    world.router.set_kernel_path(&mut world.shell, true);
    world.offer(peer);
    assert_eq!(world.verdicts().len(), 2);
}

#[test]
fn what_the_pair_drops_is_counted() {
    let (mut world, peer) = World::with_flow(Policy::default());
    (world.shell.kernel.drops.spoofed, world.shell.kernel.drops.undecided) = (3, 4);
    world.router.count_kernel_usage(&mut world.shell);
    world.router.count_kernel_usage(&mut world.shell);
    let drops = &world.router.peer(peer).expect("it is there").traffic().drops;
    assert_eq!((drops.get(DropReason::PairSpoofed), drops.get(DropReason::PairUndecided)), (3, 4));
    assert_eq!(world.router.counters().drops.get(DropReason::PairSpoofed), 3);
}

/// A machine that stands still for a moment makes a write take long. The next ones tell if that was all.
#[test]
fn chance_is_watched_for_some_writes_each_time() {
    let (mut world, peer) = World::with_flow(Policy::default());
    for _ in 0..8 {
        world.router.suspect(&mut world.shell, peer, Suspicion::Chance);
        world.arrive(&back(AFAR, A), PROBATION - 1);
        // Others meanwhile don't make it longer.
        world.router.suspect(&mut world.shell, peer, Suspicion::Chance);
        assert_eq!(world.router.path_of(0, Direction::In), Err(WhyNot::Costly));
        assert_eq!(
            world.router.path_of(0, Direction::Out),
            Err(WhyNot::Costly),
            "its cost would be part of the writes"
        );
        world.arrive(&back(AFAR, A), 2);
        // Nor do they begin another watch at once.
        world.router.suspect(&mut world.shell, peer, Suspicion::Chance);
        assert_eq!(world.router.path_of(0, Direction::In), Ok(()));
        world.poll(GRACE);
    }
    assert_eq!(world.router.path_counts().0.watched, 8);
    world.arrive(&back(AFAR, A), 2);
    world.router.suspect(&mut world.shell, peer, Suspicion::Chance);
    world.router.suspect(&mut world.shell, peer, Suspicion::Exceeded);
    world.arrive(&back(AFAR, A), PROBATION);
    world.poll(Duration::from_millis(19_999));
    assert_eq!(world.router.path_of(0, Direction::In), Err(WhyNot::Costly), "more than chance lasts longer");
    world.poll(Duration::from_millis(1));
    world.arrive(&back(AFAR, A), 1);
    assert_eq!(world.router.path_of(0, Direction::In), Ok(()));
}

/// Of a flow with many packets, some take the router's way now and then. If they take long, all do, for longer and longer.
#[test]
fn costly_peer_is_watched() {
    let (mut world, peer) = World::with_flow(Policy::default());
    let mut samples = 0;
    for _ in 0..100 {
        world.poll(Duration::from_secs(1));
        if world.verdicts().iter().any(|flow| flow.to == Some(peer)) {
            world.shell.kernel.pass(id(0, Direction::In), 1000, 100_000);
        } else {
            samples += 1;
            world.arrive(&back(AFAR, A), 1);
        }
    }
    assert!((10..50).contains(&samples), "{samples}");
    for least in [1, 2, 4] {
        world.router.suspect(&mut world.shell, peer, Suspicion::Significant);
        world.poll(Duration::from_secs(least) - Duration::from_millis(1));
        world.arrive(&back(AFAR, A), 1);
        assert_eq!(world.router.path_of(0, Direction::In), Err(WhyNot::Costly));
        world.poll(Duration::from_millis(1));
        world.arrive(&back(AFAR, A), 1);
        assert_eq!(world.router.path_of(0, Direction::In), Ok(()));
    }
    world.poll(Duration::from_secs(61));
    world.router.suspect(&mut world.shell, peer, Suspicion::Significant);
    world.poll(Duration::from_secs(1));
    assert_eq!(world.router.path_counts().0.watched, 4);
    assert!(!world.router.is_costly(peer));
}
