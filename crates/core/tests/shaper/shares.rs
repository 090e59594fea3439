//! Who gets how much, and how long packets wait.

use tuntap_core::policy::shape::Limit;
use tuntap_core::shaper::{LeafId, LeafLimits};

use crate::world::{MS, SECOND, World, between, bytes_in, own};

const PACKET: u32 = 1514;

/// Runs for so long with all these leaves full of packets of these sizes. Timers are up to 4 ms late.
fn flood(world: &mut World, leaves: &[(LeafId, u32)], duration: u64) {
    let until = world.now + duration;
    let mut late = 0;
    while world.now < until {
        for (leaf, cost) in leaves {
            while world.shaper.stats(*leaf).bytes < 40_000.max(u64::from(2 * cost)) {
                world.push(*leaf, 1, *cost, cost.div_ceil(1500));
            }
        }
        let next = (world.now + MS / 2).min(until);
        world.run(next, || {
            late = (late + 1_234_567) % (4 * MS);
            late
        });
    }
}

fn assert_near(actual: u64, expected: f64, what: &str) {
    let ratio = actual as f64 / expected;
    assert!((0.95..=1.05).contains(&ratio), "{what}: {actual} instead of {expected}");
}

fn weighted(weight: u16, limit: Limit) -> Limit {
    Limit { weight, ..limit }
}

#[test]
fn an_uplink_is_shared_by_weight() {
    for sizes in [[PACKET, PACKET], [100, PACKET], [PACKET, 100], [9000, 300]] {
        let mut world = World::new(Some(Limit::new(100_000_000)));
        let one = world.shaper.open(own(weighted(1, between(8_000, 100_000_000))));
        let three = world.shaper.open(own(weighted(3, between(8_000, 100_000_000))));
        flood(&mut world, &[(one, sizes[0]), (three, sizes[1])], SECOND);
        assert_near(world.sent_by(one, 0), 12_500_000.0 / 4.0, "weight 1");
        assert_near(world.sent_by(three, 0), 12_500_000.0 * 3.0 / 4.0, "weight 3");
    }
}

#[test]
fn users_share_before_their_peers_do() {
    let mut world = World::new(Some(Limit::new(100_000_000)));
    let user = |uid, weight| LeafLimits { own: None, user: Some((uid, weighted(weight, Limit::new(1_000_000_000)))) };
    let alone = world.shaper.open(user(1, 2));
    let crowd: Vec<_> = (0..5).map(|_| world.shaper.open(user(2, 1))).collect();
    let peer = world.shaper.open(LeafLimits::default());
    let leaves: Vec<_> = crowd.iter().chain([&alone, &peer]).map(|leaf| (*leaf, PACKET)).collect();
    flood(&mut world, &leaves, SECOND);
    assert_near(world.sent_by(alone, 0), 12_500_000.0 / 2.0, "the user with one peer");
    assert_near(world.sent_by(peer, 0), 12_500_000.0 / 4.0, "the peer without a user");
    for leaf in crowd {
        assert_near(world.sent_by(leaf, 0), 12_500_000.0 / 20.0, "a peer of the user with five");
    }
    assert_near(world.shaper.user_stats(2).expect("open").sent, 12_500_000.0 / 4.0, "the user with five");
}

#[test]
fn a_guarantee_is_kept_beside_ten_that_flood() {
    let mut world = World::new(Some(Limit::new(100_000_000)));
    let honest = world.shaper.open(own(between(40_000_000, 50_000_000)));
    let mut leaves: Vec<_> =
        (0..10).map(|_| (world.shaper.open(own(weighted(1000, between(1_000_000, 100_000_000)))), PACKET)).collect();
    leaves.push((honest, PACKET));
    flood(&mut world, &leaves, SECOND);
    // 40 guaranteed, and next to nothing of the 50 left, by weight.
    assert_near(world.sent_by(honest, 0), 5_000_000.0, "the guaranteed one");
    assert!(world.shaper.stats(honest).borrowed < 100_000);
    for (leaf, _) in &leaves[..10] {
        assert_near(world.sent_by(*leaf, 0), 750_000.0, "one that floods");
        assert_near(world.shaper.stats(*leaf).borrowed, 625_000.0, "what it borrows");
    }
}

#[test]
fn a_guarantee_that_is_not_used_is_borrowed() {
    let mut world = World::new(Some(Limit::new(100_000_000)));
    world.shaper.open(own(between(90_000_000, 100_000_000)));
    let other = world.shaper.open(own(between(10_000_000, 100_000_000)));
    flood(&mut world, &[(other, PACKET)], SECOND);
    assert_near(world.sent_by(other, 0), 12_500_000.0, "the other");
    assert_near(world.shaper.stats(other).borrowed, 11_250_000.0, "what it borrows");
}

#[test]
fn guarantees_above_the_uplink_share_by_weight() {
    let mut world = World::new(Some(Limit::new(10_000_000)));
    let one = world.shaper.open(own(weighted(1, between(100_000_000, 100_000_000))));
    let four = world.shaper.open(own(weighted(4, between(100_000_000, 100_000_000))));
    let none = world.shaper.open(own(Limit::new(100_000_000)));
    flood(&mut world, &[(one, PACKET), (four, PACKET), (none, PACKET)], SECOND);
    assert_near(world.sent_by(one, 0), 250_000.0, "weight 1");
    assert_near(world.sent_by(four, 0), 1_000_000.0, "weight 4");
    // Nothing is left for who has no guarantee, but what went before the others were in their tier.
    assert!(world.sent_by(none, 0) < 20_000);
}

#[test]
fn a_guarantee_of_a_user_goes_to_its_peers() {
    let mut world = World::new(Some(Limit::new(100_000_000)));
    let user = Some((7, between(50_000_000, 100_000_000)));
    let plain = world.shaper.open(LeafLimits { own: None, user });
    let first = world.shaper.open(LeafLimits { own: Some(between(30_000_000, 100_000_000)), user });
    let others: Vec<_> = (0..8).map(|_| (world.shaper.open(LeafLimits::default()), PACKET)).collect();
    let leaves: Vec<_> = others.iter().copied().chain([(plain, PACKET), (first, PACKET)]).collect();
    flood(&mut world, &leaves, SECOND);
    // The user has 50 and a ninth of the rest: 55.6. Of these, 30 are the first's, and the rest is for both.
    assert_near(world.shaper.user_stats(7).expect("open").sent, 6_944_000.0, "the user");
    assert_near(world.sent_by(plain, 0), 1_597_000.0, "the peer without a guarantee");
    assert_near(world.sent_by(first, 0), 5_347_000.0, "the peer with a guarantee");
}

#[test]
fn rates_hold_from_8_kbit_to_1_tbit() {
    for (rate, cost, seconds) in
        [(8_000, 300, 100), (1_000_000, PACKET, 10), (10_000_000, PACKET, 2), (1_000_000_000, 65_000, 1)]
    {
        let mut world = World::new(None);
        let leaf = world.shaper.open(own(Limit::new(rate)));
        flood(&mut world, &[(leaf, cost)], seconds * SECOND);
        let ratio = world.sent_by(leaf, 0) as f64 / bytes_in(rate, seconds * SECOND);
        assert!((0.98..=1.02).contains(&ratio), "{rate}: {ratio}");
    }
    // As much as a terabit has in 10 ms.
    let mut world = World::new(None);
    let leaf = world.shaper.open(own(Limit::new(1_000_000_000_000)));
    for microsecond in 1..=10_000 {
        world.now = microsecond * 1000;
        for _ in 0..4 {
            world.push(leaf, 1, 65_000, 45);
        }
        world.drain();
    }
    assert_near(world.sent_by(leaf, 5 * MS), 625_000_000.0, "a terabit");
}

#[test]
fn packets_are_limited_beside_bytes() {
    let mut world = World::new(None);
    let limit = Limit { packets: Some(1000), ..Limit::new(1_000_000_000) };
    let leaf = world.shaper.open(own(limit));
    flood(&mut world, &[(leaf, 15_000)], 10 * SECOND);
    let segments: u32 = world.sent.iter().map(|sent| sent.segments).sum();
    assert_near(u64::from(segments), 10_000.0, "packets per second");
}

#[test]
fn a_sparse_flow_waits_for_one_packet_at_most() {
    // Ten pings in a second, and a hundred.
    let rates = [1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
    for (rate, every) in rates.into_iter().flat_map(|rate| [(rate, 10), (rate, 1)]) {
        let packet = if rate > 50_000_000 { 65_000 } else { PACKET };
        let mut world = World::new(None);
        let leaf = world.shaper.open(own(Limit::new(rate)));
        for step in 0..400 {
            while world.shaper.stats(leaf).bytes < u64::from(4 * packet) {
                world.push(leaf, 1, packet, packet.div_ceil(1500));
            }
            if step % every == 0 {
                world.push(leaf, 2, 98, 1);
            }
            world.run(world.now + 10 * MS, || 0);
        }
        let longest = world.sent.iter().filter(|sent| sent.flow == 2).map(|sent| sent.waited).max().expect("some");
        let packet_time = u64::from(packet) * 8 * SECOND / rate;
        assert!(longest <= packet_time, "{rate}, every {every}0 ms: {longest} ns, a packet takes {packet_time} ns");
        assert!(world.sent.iter().filter(|sent| sent.flow == 2).count() >= 399 / every);
    }
}

/// A stream whose queue becomes empty now and then is new whenever it goes on.
#[test]
fn a_sparse_flow_waits_for_one_turn_of_a_stream_with_pauses() {
    for (packet, burst) in [(1500, 3), (1500, 7), (1400, 4), (1000, 8), (600, 11)] {
        let mut world = World::new(None);
        let leaf = world.shaper.open(own(Limit::new(1_000_000)));
        for step in 0..2000 {
            if step % 10 == 0 {
                (0..burst).for_each(|_| world.push(leaf, 1, packet, 1));
            }
            if step % 7 < 5 {
                world.push(leaf, 2, 84, 1);
            }
            world.run(world.now + 10 * MS, || 0);
        }
        let longest = world.sent.iter().filter(|sent| sent.flow == 2).map(|sent| sent.waited).max().expect("some");
        let turn = 1500 * 8 * SECOND / 1_000_000;
        assert!(longest <= turn, "{packet}, {burst}: {longest} ns, a turn takes {turn} ns");
    }
}

/// A stream with a small window has its next packets right after the last ones have left, so that its queue is empty each time.
#[test]
fn a_sparse_flow_waits_for_one_packet_of_a_stream_with_a_small_window() {
    for (packet, window) in [(PACKET, 1), (PACKET, 2), (PACKET, 3), (1000, 1), (700, 1), (700, 2)] {
        let mut world = World::new(None);
        let leaf = world.shaper.open(own(Limit::new(1_000_000)));
        let sent_by = |world: &World, flow: u32| world.sent.iter().filter(|sent| sent.flow == flow).count();
        let mut pushed = 0;
        for step in 0..40_000 {
            while pushed < sent_by(&world, 1) + window {
                world.push(leaf, 1, packet, 1);
                pushed += 1;
            }
            // Now and then many in a row, else one a round trip.
            if step % 97 == 0 || step % 2000 < 200 && step % 31 == 0 {
                world.push(leaf, 2, 84, 1);
            }
            world.run(world.now + MS / 4, || 0);
        }
        let longest = world.sent.iter().filter(|sent| sent.flow == 2).map(|sent| sent.waited).max().expect("some");
        // The packet that is paid for, and the ping before. Of smaller packets, another one may belong to the same turn.
        let turn = if packet == PACKET { packet } else { PACKET.max(2 * packet) };
        let bound = u64::from(turn + 84) * 8 * SECOND / 1_000_000;
        assert!(longest <= bound, "{packet}, {window}: {longest} ns, not {bound} ns");
        assert!(sent_by(&world, 2) > 400);
        let bits = (sent_by(&world, 1) * packet as usize + sent_by(&world, 2) * 84) * 8;
        assert!(bits > 9_900_000, "{packet}, {window}: the rate is used, not {bits} of 10,000,000 bits");
    }
}

#[test]
fn a_leaf_with_little_to_send_goes_next() {
    let mut world = World::new(Some(Limit::new(10_000_000)));
    let ping = world.shaper.open(LeafLimits::default());
    let leaves: Vec<_> = (0..100).map(|_| (world.shaper.open(own(Limit::new(10_000_000))), PACKET)).collect();
    for _ in 0..100 {
        world.push(ping, 2, 98, 1);
        flood(&mut world, &leaves, 20 * MS);
    }
    let waits: Vec<_> = world.sent.iter().filter(|sent| sent.leaf == ping).map(|sent| sent.waited).collect();
    // A round of the hundred takes 121 ms; in the first one, all are new. After that, the ping waits for the packet that is paid
    // for, which takes 1.2 ms, and the timer may be 4 ms late.
    assert!(waits.len() >= 99 && waits.iter().skip(10).all(|wait| *wait <= 6 * MS), "{waits:?}");
}

#[test]
fn flows_of_a_leaf_share_it() {
    let mut world = World::new(None);
    let leaf = world.shaper.open(own(Limit::new(10_000_000)));
    let mut left = 0;
    for ms in 0..2000 {
        // One sends twenty times as much as the other. The other has what it needs.
        for _ in 0..20 {
            world.push(leaf, 1, PACKET, 1);
        }
        if ms % 4 == 0 {
            world.push(leaf, 2, PACKET, 1);
            left += u64::from(PACKET);
        }
        world.run(world.now + MS, || 0);
    }
    let sent = world.sent.iter().filter(|sent| sent.flow == 2);
    let (bytes, longest) =
        sent.fold((0, 0), |(bytes, longest), sent| (bytes + u64::from(sent.cost), longest.max(sent.waited)));
    assert!(bytes + u64::from(2 * PACKET) >= left, "{bytes} of {left}");
    assert!(longest < 10 * MS, "{longest}");
}

#[test]
fn the_queue_is_bounded_and_the_fattest_flow_pays() {
    let mut world = World::new(None);
    let leaf = world.shaper.open(own(Limit::new(1_000_000)));
    for flow in 0..10 {
        world.push(leaf, flow, 500, 1);
    }
    for _ in 0..1000 {
        world.push(leaf, 77, PACKET, 1);
    }
    let stats = world.shaper.stats(leaf);
    assert!(stats.bytes <= 32 * u64::from(PACKET) && stats.bytes > 30 * u64::from(PACKET), "{stats:?}");
    world.run(10 * SECOND, || 0);
    for flow in 0..10 {
        assert_eq!(world.sent.iter().filter(|sent| sent.flow == flow).count(), 1);
    }
    assert_eq!(world.shaper.stats(leaf).full, stats.full);
    assert!(stats.full > 900);
}

#[test]
fn small_packets_and_many_leaves_are_bounded_in_memory() {
    let mut world = World::new(None);
    let fast = Limit { queue: 10 * Limit::DEFAULT_QUEUE, ..Limit::new(10_000_000_000) };
    let leaves: Vec<_> = (0..100).map(|_| world.shaper.open(own(fast))).collect();
    for leaf in &leaves {
        for _ in 0..100 {
            world.push(*leaf, 1, 60_000, 40);
        }
    }
    let waits = world.shaper.uplink_stats().bytes;
    assert!(waits <= (256 << 20) + 100 * 60_000 && waits > 200 << 20, "{waits}");
    // Who comes last has as much room as those before.
    let last = world.shaper.stats(leaves[99]).packets;
    let counts = leaves.iter().map(|leaf| world.shaper.stats(*leaf).packets);
    assert!(counts.clone().all(|count| count.abs_diff(last) <= 1), "{:?}", counts.collect::<Vec<_>>());
    let mut world = World::new(None);
    let leaf = world.shaper.open(own(fast));
    for _ in 0..100_000 {
        world.push(leaf, 1, 28, 1);
    }
    assert!(world.shaper.len() <= 16_384);
}
