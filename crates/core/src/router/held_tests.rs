use std::sync::Arc;

use etherparse::PacketBuilder;
use proptest::collection::vec;
use proptest::prelude::*;
use tuntap_wire::credentials::PeerCredentials;

use super::super::Settings;
use super::super::testing::{self, TestShell};
use super::*;
use crate::policy::Policy;
use crate::policy::forward::Forwarder;
use crate::policy::shape::{Shape, Shapes};

const VASSAL: [u8; 4] = [10, 0, 0, 2];
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
const UID: u32 = 1000;

/// A packet takes a second at this rate.
const SLOW: u64 = 8 * LEN as u64;
const LEN: usize = 1000;

/// A packet as a device gives it: behind its header.
fn packet(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    PacketBuilder::ipv4(src, dst, 64).udp(5, 53).write(&mut bytes, &[0; LEN - 28]).expect("a valid packet");
    bytes
}

/// The first fragment of a packet.
fn fragment(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let mut bytes = packet(src, dst);
    bytes[VNET_HEADER_LEN + 6] |= 0x20;
    bytes
}

fn limit(selector: ShapeSelector, rate: u64) -> Shape {
    let burst = Some(Duration::from_millis(1));
    Shape { out: true, inn: true, selector, limit: Limit { burst, ..Limit::new(rate) } }
}

fn policy(shapes: impl Into<Vec<Shape>>) -> Policy {
    Policy { shapes: Arc::new(Shapes::new(shapes.into())), ..Policy::default() }
}

/// A router with its surroundings, and a clock.
struct World {
    router: Router,
    shell: TestShell,
    now: Instant,
}

impl World {
    fn new(shapes: impl Into<Vec<Shape>>) -> Self {
        let now = Instant::now();
        let router = Router::new(Forwarder::new(policy(shapes), 1), Settings::default(), now);
        Self { router, shell: TestShell::default(), now }
    }

    /// Connects a peer of [`UID`] with a device.
    fn connect(&mut self) -> PeerId {
        let credentials = PeerCredentials { pid: 1, uid: UID, gid: UID };
        testing::connect(&mut self.router, &mut self.shell, credentials, self.now)
    }

    /// Lets a peer send so many packets. Returns how many left.
    fn send(&mut self, id: PeerId, count: usize) -> usize {
        let before = self.shell.to_tun.len();
        self.router.wake(&self.shell, self.now);
        for _ in 0..count {
            self.router.device_packet(&mut self.shell, id, &packet(VASSAL, OUTSIDE), None);
        }
        self.router.poll(&mut self.shell, self.now);
        self.shell.to_tun.len() - before
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }
}

#[test]
fn limits_of_newcomers_are_for_peers_that_are_there() {
    let mut world = World::new([]);
    let id = world.connect();
    assert_eq!(world.send(id, 5), 5);
    world.router.limit(&mut world.shell, &[limit(ShapeSelector::User(UID), SLOW)]);
    assert_eq!(world.send(id, 5), 1);
}

#[test]
fn peers_without_a_limit_get_one_with_another_policy_or_address() {
    let mut world = World::new([limit(ShapeSelector::Network("10.0.0.9/32".parse().expect("valid")), SLOW)]);
    let id = world.connect();
    assert_eq!((world.send(id, 5), world.send(id, 5)), (5, 5));
    world.router.set_policy(&mut world.shell, Arc::new(policy([limit(ShapeSelector::Any, SLOW)])));
    assert_eq!(world.send(id, 5), 1);
}

#[test]
fn limits_of_groups_are_for_peers_that_came_before_them() {
    let mut world = World::new([]);
    let id = world.connect();
    assert_eq!(world.send(id, 5), 5);
    assert!(!world.router.take_lacks_groups());
    world.router.set_policy(&mut world.shell, Arc::new(policy([limit(ShapeSelector::Group(7), SLOW)])));
    assert_eq!(world.send(id, 5), 5);
    assert!(world.router.take_lacks_groups() && !world.router.take_lacks_groups());
    world.router.set_groups(&mut world.shell, id, vec![6, 7]);
    assert_eq!(world.send(id, 5), 1);
    assert_eq!(world.router.forwarder().peers.get(id).map(|peer| peer.identity.groups.clone()), Some(vec![7]));
}

#[test]
fn packets_without_a_flow_wait_for_the_limit_of_the_internet() {
    let mut world = World::new([limit(ShapeSelector::Internet, SLOW)]);
    world.shell.is_all_beyond_nat = true;
    let id = world.connect();
    world.send(id, 1);
    world.wait(1000);
    world.router.wake(&world.shell, world.now);
    let outward = world.shell.to_tun.len();
    for _ in 0..5 {
        world.router.device_packet(&mut world.shell, id, &fragment(VASSAL, OUTSIDE), None);
        world.router.tun_packet(&mut world.shell, &fragment(OUTSIDE, VASSAL), world.now, world.now);
    }
    assert_eq!((world.shell.to_tun.len() - outward, world.shell.to_devices.len()), (1, 1));
}

#[test]
fn who_comes_back_pays_for_what_was_sent_before() {
    for selector in [ShapeSelector::Network("10.0.0.2/32".parse().expect("valid")), ShapeSelector::User(UID)] {
        let mut world = World::new([limit(selector, SLOW)]);
        for sent in [1, 0, 0, 1, 0] {
            let id = world.connect();
            assert_eq!(world.send(id, 2), sent);
            world.router.connection_ended(&mut world.shell, id, None, world.now);
            world.wait(400);
        }
    }
}

#[test]
fn super_packets_are_cut_for_a_slow_uplink() {
    for (rate, cuts) in [(WHOLE_ABOVE, true), (WHOLE_ABOVE + 1, false)] {
        let mut world = World::new([limit(ShapeSelector::Uplink, rate), limit(ShapeSelector::Any, 2 * WHOLE_ABOVE)]);
        let id = world.connect();
        world.send(id, 1);
        let queue = world.router.queue_of(id, Direction::Out, Class::OWN, false).expect("there is a limit");
        assert_eq!(queue.cuts, cuts);
    }
}

#[test]
fn packets_between_peers_do_not_get_ahead_of_what_waits() {
    let mut world = World::new([limit(ShapeSelector::Any, SLOW)]);
    let id = world.connect();
    assert_eq!(world.send(id, 3), 1);
    world.router.set_policy(&mut world.shell, Arc::new(policy([limit(ShapeSelector::Uplink, SLOW)])));
    assert!(world.router.queue_of(id, Direction::Out, Class::OWN, true).is_some());
    for _ in 0..3 {
        world.wait(1000);
        world.router.poll(&mut world.shell, world.now);
    }
    assert_eq!(world.shell.to_tun.len(), 3);
    assert!(world.router.queue_of(id, Direction::Out, Class::OWN, true).is_none());
}

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    /// A peer sends to the outside, the outside to it, or it to the next peer.
    Packet {
        peer: usize,
        port: u8,
        to: u8,
    },
    Wait(u64),
    /// A peer goes and comes back.
    Leave(usize),
    /// The policy is another one.
    Policy(usize),
}

const PEERS: usize = 3;

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        20 => (0..PEERS, 0..3_u8, 0..3_u8).prop_map(|(peer, port, to)| Event::Packet { peer, port, to }),
        4 => (1..300_u64).prop_map(Event::Wait),
        1 => (0..PEERS).prop_map(Event::Leave),
        1 => (0..5_usize).prop_map(Event::Policy),
    ]
}

/// The shapes of each policy. The first one limits the first peer's address alone.
fn shapes(policy: usize) -> Vec<Shape> {
    let first = limit(ShapeSelector::Network("10.0.0.2/32".parse().expect("valid")), 8 * SLOW);
    match policy {
        0 => vec![first],
        1 => vec![first, limit(ShapeSelector::Uplink, 16 * SLOW), limit(ShapeSelector::Any, 4 * SLOW)],
        2 => vec![limit(ShapeSelector::User(UID), 10 * SLOW)],
        3 => vec![limit(ShapeSelector::Uplink, 20 * SLOW)],
        _ => Vec::new(),
    }
}

fn switching(number: usize) -> Policy {
    Policy { switch: true, ..policy(shapes(number)) }
}

const fn address(peer: usize) -> [u8; 4] {
    [10, 0, 0, 2 + peer.to_le_bytes()[0]]
}

fn numbered(src: [u8; 4], dst: [u8; 4], port: u8, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; VNET_HEADER_LEN];
    let payload = [&number.to_be_bytes()[..], &[0; LEN - 36]].concat();
    PacketBuilder::ipv4(src, dst, 64).udp(port.into(), port.into()).write(&mut bytes, &payload).expect("valid");
    bytes
}

/// The flow and the number of a packet.
fn number_of(packet: &[u8]) -> (Vec<u8>, u64) {
    (packet[12..24].to_vec(), u64::from_be_bytes(packet[28..36].try_into().expect("8 bytes")))
}

/// All packets of a run: in how many, how many thrown away with their peers.
struct Run {
    world: World,
    peers: Vec<PeerId>,
    pushed: u64,
    thrown: u64,
    /// When packets of the first peer left.
    left: Vec<Instant>,
}

impl Run {
    fn new(number: usize) -> Self {
        let mut world = World::new([]);
        world.router.set_policy(&mut world.shell, Arc::new(switching(number)));
        let peers = (0..PEERS).map(|_| world.connect()).collect();
        let mut run = Self { world, peers, pushed: 0, thrown: 0, left: Vec::new() };
        (0..PEERS).for_each(|peer| run.packet(peer, 9, 0));
        run
    }

    fn packet(&mut self, peer: usize, port: u8, to: u8) {
        let World { router, shell, now } = &mut self.world;
        self.pushed += 1;
        let own = address(peer);
        let next = address((peer + 1) % PEERS);
        let (src, dst) = [(own, OUTSIDE), (own, next), (OUTSIDE, own)][usize::from(to)];
        let bytes = numbered(src, dst, port, self.pushed);
        match to {
            2 => router.tun_packet(shell, &bytes, *now, *now),
            _ => _ = router.device_packet(shell, self.peers[peer], &bytes, None),
        }
        self.note();
    }

    fn waiting(&self) -> u64 {
        self.world.router.held.shapers.iter().map(Shaper::len).sum()
    }

    /// Notes packets of the first peer that have left.
    fn note(&mut self) {
        let count = self.world.shell.to_tun.iter().filter(|packet| packet[12..16] == address(0)).count();
        self.left.resize(count, self.world.now);
    }

    fn poll(&mut self) {
        self.world.router.wake(&self.world.shell, self.world.now);
        self.world.router.poll(&mut self.world.shell, self.world.now);
        self.note();
        let next = self.world.router.next_held();
        assert!(next.is_none_or(|next| next > self.world.now), "a packet that may leave was left");
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Packet { peer, port, to } => self.packet(peer, port, to),
            Event::Wait(milliseconds) => {
                let end = self.world.now + Duration::from_millis(milliseconds);
                self.poll();
                while let Some(next) = self.world.router.next_held().filter(|next| *next <= end) {
                    self.world.now = next;
                    self.poll();
                }
                self.world.now = end;
                self.poll();
            }
            Event::Leave(peer) => {
                let before = self.waiting();
                self.world.router.connection_ended(&mut self.world.shell, self.peers[peer], None, self.world.now);
                self.thrown += before - self.waiting();
                self.peers[peer] = self.world.connect();
                self.packet(peer, 9, 0);
            }
            Event::Policy(number) => self.world.router.set_policy(&mut self.world.shell, Arc::new(switching(number))),
        }
    }

    fn check(&self) {
        let World { router, shell, .. } = &self.world;
        let mut last: HashMap<Vec<u8>, u64> = HashMap::new();
        for packet in shell.to_tun.iter().chain(shell.to_devices.iter().map(|(_, packet)| packet)) {
            let (flow, number) = number_of(packet);
            let before = last.insert(flow, number);
            assert!(before < Some(number), "{number} came after {before:?}");
        }
        let delivered = (shell.to_tun.len() + shell.to_devices.len()) as u64;
        let dropped: u64 = DropReason::ALL.iter().map(|reason| router.counters().drops.get(*reason)).sum();
        assert_eq!(delivered + dropped + self.waiting() + self.thrown, self.pushed);
    }
}

proptest! {
    #[test]
    fn flows_stay_in_order_and_nothing_is_lost_uncounted(events in vec(event(), 1..300)) {
        let mut run = Run::new(1);
        events.iter().for_each(|event| run.step(event));
        run.check();
        // Whatever the limits were, all that waits has left after a while.
        (0..400).for_each(|_| run.step(&Event::Wait(250)));
        prop_assert_eq!(run.waiting(), 0);
        run.check();
    }

    /// Even if the peer leaves and comes back.
    #[test]
    fn no_peer_exceeds_the_limit_of_its_address(events in vec(event(), 1..300)) {
        let mut run = Run::new(0);
        let changes = |event: &&Event| !matches!(event, Event::Policy(_));
        events.iter().filter(changes).for_each(|event| run.step(event));
        for (at, first) in run.left.iter().enumerate() {
            for (count, last) in run.left[at..].iter().enumerate() {
                // One packet overdraws. 8 leave in a second; the burst is less than one.
                let most = (*last - *first).as_secs_f64() * 8.0 + 1.01;
                prop_assert!(count as f64 <= most, "{count} packets in {:?}", *last - *first);
            }
        }
    }
}
