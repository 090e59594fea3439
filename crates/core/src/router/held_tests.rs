use std::sync::Arc;

use etherparse::PacketBuilder;
use tuntap_wire::attach::Hello;
use tuntap_wire::credentials::PeerCredentials;
use tuntap_wire::frame::{self, FrameKind};
use tuntap_wire::offloads::Offloads;

use super::super::testing::TestShell;
use super::super::{Connection, Settings};
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
        let connection = Connection { credentials, namespace: None, groups: Vec::new() };
        let id = self.router.accept(&mut self.shell, connection, self.now).expect("there is room");
        let mut hello = Vec::new();
        assert!(frame::append(&mut hello, FrameKind::Hello, &Hello { offloads: Offloads::NONE.bits() }.encode()));
        self.router.received(&mut self.shell, id, &hello, hello.len(), self.now);
        id
    }

    /// Lets a peer send so many packets. Returns how many left.
    fn send(&mut self, id: PeerId, count: usize) -> usize {
        let before = self.shell.to_tun;
        self.router.wake(&self.shell, self.now);
        for _ in 0..count {
            self.router.device_packet(&mut self.shell, id, &packet(VASSAL, OUTSIDE), None);
        }
        self.router.poll(&mut self.shell, self.now);
        self.shell.to_tun - before
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
    world.router.limit(&[limit(ShapeSelector::User(UID), SLOW)]);
    assert_eq!(world.send(id, 5), 1);
}

#[test]
fn peers_without_a_limit_get_one_with_another_policy_or_address() {
    let mut world = World::new([limit(ShapeSelector::Network("10.0.0.9/32".parse().expect("valid")), SLOW)]);
    let id = world.connect();
    assert_eq!((world.send(id, 5), world.send(id, 5)), (5, 5));
    world.router.set_policy(Arc::new(policy([limit(ShapeSelector::Any, SLOW)])));
    assert_eq!(world.send(id, 5), 1);
}

#[test]
fn limits_of_groups_are_for_peers_that_came_before_them() {
    let mut world = World::new([]);
    let id = world.connect();
    assert_eq!(world.send(id, 5), 5);
    assert!(!world.router.take_lacks_groups());
    world.router.set_policy(Arc::new(policy([limit(ShapeSelector::Group(7), SLOW)])));
    assert_eq!(world.send(id, 5), 5);
    assert!(world.router.take_lacks_groups() && !world.router.take_lacks_groups());
    world.router.set_groups(id, vec![6, 7]);
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
    let outward = world.shell.to_tun;
    for _ in 0..5 {
        world.router.device_packet(&mut world.shell, id, &fragment(VASSAL, OUTSIDE), None);
        world.router.tun_packet(&mut world.shell, &fragment(OUTSIDE, VASSAL), world.now, world.now);
    }
    assert_eq!((world.shell.to_tun - outward, world.shell.to_devices), (1, 1));
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
    world.router.set_policy(Arc::new(policy([limit(ShapeSelector::Uplink, SLOW)])));
    assert!(world.router.queue_of(id, Direction::Out, Class::OWN, true).is_some());
    for _ in 0..3 {
        world.wait(1000);
        world.router.poll(&mut world.shell, world.now);
    }
    assert_eq!(world.shell.to_tun, 3);
    assert!(world.router.queue_of(id, Direction::Out, Class::OWN, true).is_none());
}
