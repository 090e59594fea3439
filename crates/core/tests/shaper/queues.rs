//! What happens to packets in a leaf's queue.

use etherparse::PacketBuilder;
use tuntap_core::policy::shape::Limit;
use tuntap_core::shaper::{Item, LeafLimits, Loss, Shaper};
use tuntap_wire::vnet::VNET_HEADER_LEN;

use crate::world::{MS, SECOND, World, between, own};

const RATE: u64 = 10_000_000;
const PACKET: u32 = 1514;

/// A header of virtio and an IPv4 packet with these two bits of ECN.
fn packet(ecn: u8) -> Vec<u8> {
    let mut ip = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut ip, &[7; 100]).expect("valid");
    ip[1] |= ecn;
    let mut bytes = vec![0; VNET_HEADER_LEN];
    bytes.extend(ip);
    bytes
}

/// Keeps 20 packets waiting for 5 s. Returns how many left marked, and how many were late.
fn standing_queue(ecn: u8) -> (u64, u64) {
    let mut shaper = Shaper::new();
    let leaf = shaper.open(own(Limit::new(RATE)));
    let (mut late, mut marked) = (0, 0);
    for ms in 0..5000 {
        let now = ms * MS;
        while shaper.len() < 20 {
            let item = Item { bytes: packet(ecn), cost: PACKET, segments: 1, flow: 1, target: () };
            shaper.push(leaf, item, now, &mut |_, _, _| panic!("20 packets fit"));
        }
        let lost = &mut |_, _, loss| {
            assert_eq!(loss, Loss::Late);
            late += 1;
        };
        while let Some((_, item)) = shaper.pop(now, lost) {
            marked += u64::from(ecn != 3 && item.bytes[VNET_HEADER_LEN + 1] & 3 == 3);
        }
    }
    let stats = shaper.stats(leaf);
    assert_eq!(stats.late, late);
    if ecn != 3 {
        assert_eq!(stats.marked, marked);
    }
    (stats.marked, late)
}

#[test]
fn a_standing_queue_loses_packets_or_has_them_marked() {
    let (marked, late) = standing_queue(0);
    assert!(marked == 0 && late > 50, "{marked} and {late}");
    for ecn in 1..=3 {
        let (marked, late) = standing_queue(ecn);
        assert!(marked > 50 && late == 0, "{marked} and {late}");
    }
}

#[test]
fn a_short_queue_is_left_alone() {
    let mut world = World::new(None);
    let leaf = world.shaper.open(own(Limit::new(RATE)));
    for step in 0..2000 {
        // 10 Mbit/s are 4 packets in 5 ms.
        (0..4).for_each(|_| world.push(leaf, 1, PACKET, 1));
        world.run((step + 1) * 5 * MS, || 0);
    }
    assert_eq!(world.lost, 0);
}

#[test]
fn at_once_only_when_nobody_else_waits() {
    let mut world = World::new(Some(Limit::new(RATE)));
    let user = Some((1, Limit::new(RATE / 2)));
    let [one, two] = [(); 2].map(|()| world.shaper.open(LeafLimits { own: None, user }));
    let other = world.shaper.open(LeafLimits::default());
    world.now = SECOND;
    assert!(world.shaper.is_open(one, world.now));
    world.push(two, 1, PACKET, 1);
    // `two` may go at once, so it goes before anybody else.
    assert!([one, two, other].iter().all(|leaf| !world.shaper.is_open(*leaf, world.now)));
    world.drain();
    // More than the user's burst, which holds back its leaves and no other's.
    world.push(two, 1, 60_000, 40);
    world.drain();
    assert_eq!(world.waiting(), 0);
    assert!(!world.shaper.is_open(one, world.now));
    world.now += 49 * MS;
    assert!(world.shaper.is_open(other, world.now), "the uplink has paid");
    assert!(!world.shaper.is_open(one, world.now));
    world.now += 49 * MS;
    assert!(world.shaper.is_open(one, world.now));
}

#[test]
fn new_limits_count_at_once_for_what_waits() {
    let mut world = World::new(None);
    let leaf = world.shaper.open(own(Limit::new(8_000)));
    (0..20).for_each(|_| world.push(leaf, 1, PACKET, 1));
    world.run(SECOND, || 0);
    // The first packet takes 1.5 s.
    assert_eq!(world.sent.len(), 1);
    world.shaper.set_limits(leaf, own(between(80_000_000, 100_000_000)));
    world.run(SECOND + 10 * MS, || 0);
    assert_eq!(world.sent.len(), 20);
    assert_eq!(world.shaper.next(), None);
}

#[test]
fn a_closed_leaf_takes_nothing() {
    let mut shaper = Shaper::new();
    let leaf = shaper.open(own(Limit::new(8_000)));
    assert_eq!(shaper.close(leaf), 0);
    assert_eq!(shaper.close(leaf), 0);
    let mut lost = 0;
    let item = Item { bytes: Vec::new(), cost: 1, segments: 1, flow: 0, target: () };
    shaper.push(leaf, item, 0, &mut |_, _, _| lost += 1);
    assert_eq!((lost, shaper.len(), shaper.next()), (1, 0, None));
    assert!(!shaper.is_open(leaf, 0));
    shaper.charge(leaf, 1, 1, 0);
    shaper.refund(leaf, 1, 1);
    assert_eq!(shaper.uplink_stats().sent, 0);
}

/// Many leaves together may keep 256 MiB.
#[test]
fn who_takes_little_room_loses_nothing_by_those_who_take_much() {
    let mut shaper = Shaper::new();
    let mut lost_by = std::collections::HashMap::new();
    let push = |shaper: &mut Shaper<()>, leaf, lost: &mut std::collections::HashMap<_, u64>| {
        let item = Item { bytes: Vec::new(), cost: 65_535, segments: 1, flow: 1, target: () };
        shaper.push(leaf, item, 0, &mut |leaf, _, _| *lost.entry(leaf).or_default() += 1);
    };
    let many: Vec<_> = (0..100).map(|_| shaper.open(own(Limit::new(SECOND)))).collect();
    for leaf in &many {
        for _ in 0..64 {
            push(&mut shaper, *leaf, &mut lost_by);
        }
    }
    let little = shaper.open(own(Limit::new(SECOND)));
    for _ in 0..10 {
        push(&mut shaper, little, &mut lost_by);
    }
    assert_eq!((shaper.stats(little).packets, lost_by.get(&little)), (10, None));
    let waiting: u64 = many.iter().map(|leaf| shaper.stats(*leaf).bytes).sum();
    assert!(waiting <= 256 << 20, "{waiting}");
    assert!(waiting > (256 << 20) - 20 * 65_535, "{waiting}");
    let least = many.iter().map(|leaf| shaper.stats(*leaf).packets).min();
    assert!(least >= Some(39), "{least:?}");
    for leaf in many.into_iter().chain([little]) {
        shaper.close(leaf);
    }
    assert!(shaper.is_empty());
}

#[test]
fn users_that_come_back_pay_for_what_was_sent_before() {
    let mut shaper: Shaper<()> = Shaper::new();
    let limit = Limit { burst: Some(std::time::Duration::from_millis(1)), ..Limit::new(8_000) };
    let limits = LeafLimits { own: None, user: Some((7, limit)) };
    let send = |shaper: &mut Shaper<()>, now| {
        let leaf = shaper.open(limits);
        let is_open = shaper.is_open(leaf, now);
        if is_open {
            shaper.charge(leaf, 1000, 1, now);
        }
        shaper.close(leaf);
        is_open
    };
    assert!(send(&mut shaper, SECOND));
    assert!(!send(&mut shaper, 2 * SECOND - 2 * MS));
    assert!(send(&mut shaper, 2 * SECOND));
    assert_eq!(shaper.user_stats(7).map(|stats| stats.sent), Some(2000));
    assert!(!send(&mut shaper, 2 * SECOND));
    let other = shaper.open(LeafLimits { own: None, user: Some((8, Limit::new(8_000))) });
    assert!(shaper.is_open(other, 3 * SECOND));
    shaper.close(other);
    assert!(shaper.user_stats(7).is_none(), "who has paid is forgotten");
}
