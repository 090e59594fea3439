//! Anything at any time.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tuntap_core::policy::shape::Limit;
use tuntap_core::shaper::{LeafId, LeafLimits};

use crate::world::{MS, SECOND, Sent, World, check_rate};

/// Something that happens. Leaves are told by their place in a list.
#[derive(Debug, Clone)]
enum Action {
    Open(LeafLimits),
    Close(usize),
    SetLimits(usize, LeafLimits),
    SetUplink(Option<Limit>),
    Push { leaf: usize, flow: u32, cost: u32, segments: u32, count: usize },
    AtOnce { leaf: usize, cost: u32, segments: u32 },
    Refund,
    Wait(u64),
}

fn rates() -> impl Strategy<Value = u64> {
    prop_oneof![Just(8_000), 8_000..1_000_000_u64, 1_000_000..1_000_000_000_u64, Just(1_000_000_000_000)]
}

fn limits() -> impl Strategy<Value = Limit> {
    let burst = prop::option::of((1_u64..50).prop_map(Duration::from_millis));
    let packets = prop::option::weighted(0.3, 1_u64..100_000);
    let queue = (1_u64..200).prop_map(Duration::from_millis);
    (rates(), prop::option::of(1_u64..20), burst, packets, 1_u16..=1000, queue).prop_map(
        |(rate, factor, burst, packets, weight, queue)| {
            let ceil = factor.map(|factor| (rate * factor).min(Limit::RATES[1]));
            Limit { rate, ceil, burst, packets, weight, queue }
        },
    )
}

fn leaf_limits() -> impl Strategy<Value = LeafLimits> {
    let user = prop::option::of((0_u32..3, limits()));
    (prop::option::of(limits()), user).prop_map(|(own, user)| LeafLimits { own, user })
}

fn packets() -> impl Strategy<Value = (u32, u32)> {
    prop_oneof![(28_u32..1514, Just(1)), (1514_u32..65_000).prop_map(|cost| (cost, cost.div_ceil(1500)))]
}

fn pushes() -> impl Strategy<Value = Action> {
    (0_usize..8, 0_u32..4, packets(), 1_usize..20).prop_map(|(leaf, flow, (cost, segments), count)| Action::Push {
        leaf,
        flow,
        cost,
        segments,
        count,
    })
}

fn waits() -> impl Strategy<Value = Action> {
    prop_oneof![5 => 0..MS, 5 => 0..50 * MS, 1 => 0..10 * SECOND, 1 => Just(5 * 3600 * SECOND)].prop_map(Action::Wait)
}

fn at_once() -> impl Strategy<Value = Action> {
    (0_usize..8, packets()).prop_map(|(leaf, (cost, segments))| Action::AtOnce { leaf, cost, segments })
}

fn actions() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => leaf_limits().prop_map(Action::Open),
        1 => (0_usize..8).prop_map(Action::Close),
        2 => (0_usize..8, leaf_limits()).prop_map(|(leaf, limits)| Action::SetLimits(leaf, limits)),
        1 => prop::option::of(limits()).prop_map(Action::SetUplink),
        12 => pushes(),
        4 => at_once(),
        1 => Just(Action::Refund),
        10 => waits(),
    ]
}

fn apply(world: &mut World, leaves: &mut Vec<LeafId>, action: Action) {
    match action {
        Action::Open(limits) if leaves.len() < 8 => leaves.push(world.shaper.open(limits)),
        Action::Close(at) if at < leaves.len() => world.close(leaves.swap_remove(at)),
        Action::SetUplink(limit) => world.shaper.set_uplink(limit),
        Action::Refund => {
            if let Some(sent) = world.sent.last() {
                world.shaper.refund(sent.leaf, sent.cost, sent.segments);
            }
        }
        Action::Wait(time) => world.run(world.now + time, || time % (4 * MS)),
        Action::SetLimits(at, limits) => {
            if let Some(leaf) = leaves.get(at) {
                world.shaper.set_limits(*leaf, limits);
            }
        }
        Action::Push { leaf, flow, cost, segments, count } => {
            if let Some(leaf) = leaves.get(leaf) {
                (0..count).for_each(|_| world.push(*leaf, flow, cost, segments));
            }
        }
        Action::AtOnce { leaf, cost, segments } => {
            if let Some(leaf) = leaves.get(leaf) {
                world.try_at_once(*leaf, cost, segments);
            }
        }
        Action::Open(_) | Action::Close(_) => {}
    }
}

/// What a limit with its burst allows, for what passed it.
fn check_limit(sent: &[Sent], limit: &Limit) {
    let burst = limit.burst.unwrap_or(Limit::DEFAULT_BURST).as_secs_f64();
    let bytes = burst * limit.most() as f64 / 8.0;
    let bytes = if limit.burst.is_some() { bytes } else { bytes.max(3000.0) };
    check_rate(sent, limit.most(), bytes, |sent| sent.cost, 8e9);
    if let Some(packets) = limit.packets {
        let burst = if limit.burst.is_some() { burst * packets as f64 } else { (burst * packets as f64).max(2.0) };
        check_rate(sent, packets, burst, |sent| sent.segments, 1e9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::with_cases(300) })]

    /// Packets leave in the order of their flow, each once; the books are right; the timer is.
    #[test]
    fn nothing_is_lost_or_reordered(actions in prop::collection::vec(actions(), 1..150)) {
        let (mut world, mut leaves) = (World::new(None), Vec::new());
        for action in actions {
            apply(&mut world, &mut leaves, action);
            world.audit();
        }
        // Each packet has its time.
        while let Some(next) = world.shaper.next() {
            world.now = world.now.max(next);
            world.drain();
        }
        world.audit();
        prop_assert_eq!(world.waiting(), 0);
        for leaf in leaves {
            prop_assert_eq!(world.shaper.stats(leaf).packets, 0);
            prop_assert_eq!(world.shaper.stats(leaf).bytes, 0);
            world.close(leaf);
        }
        // Users are kept until what they sent is paid for.
        let other = world.shaper.open(LeafLimits { own: None, user: Some((9, Limit::new(8_000))) });
        world.shaper.is_open(other, u64::MAX);
        world.shaper.close(other);
        prop_assert!((0..3).all(|uid| world.shaper.user_stats(uid).is_none()));
    }

    /// No level passes more than its limit in any window.
    #[test]
    fn no_rate_is_exceeded(
        uplink in prop::option::of(limits()),
        users in prop::collection::vec(limits(), 3),
        leaves in prop::collection::vec((prop::option::of(limits()), prop::option::of(0_usize..3)), 1..8),
        actions in prop::collection::vec(prop_oneof![3 => pushes(), 1 => at_once(), 2 => waits()], 1..150),
    ) {
        let mut world = World::new(uplink);
        let open = |(own, user): &(Option<Limit>, Option<usize>)| {
            let user = user.map(|at| (u32::try_from(at).expect("few"), users[at]));
            world.shaper.open(LeafLimits { own: *own, user })
        };
        let mut ids: Vec<_> = leaves.iter().map(open).collect();
        for action in actions {
            apply(&mut world, &mut ids, action);
        }
        let of = |wanted: &dyn Fn(usize) -> bool| -> Vec<Sent> {
            let is_wanted = |sent: &&Sent| ids.iter().position(|leaf| *leaf == sent.leaf).is_some_and(wanted);
            world.sent.iter().filter(is_wanted).copied().collect()
        };
        if let Some(uplink) = uplink {
            check_limit(&world.sent, &uplink);
        }
        for (user, limit) in users.iter().enumerate() {
            check_limit(&of(&|at| leaves[at].1 == Some(user)), limit);
        }
        for (place, (own, _)) in leaves.iter().enumerate() {
            if let Some(limit) = own {
                check_limit(&of(&|at| at == place), limit);
            }
        }
    }

    /// What is given back at once can be sent again: the same packets leave as if nothing had happened.
    #[test]
    fn refunds_restore(limit in limits(), user in limits(), uplink in limits(), (cost, segments) in packets()) {
        let limits = LeafLimits { own: Some(limit), user: Some((1, user)) };
        let run = |refund: bool| {
            let mut world = World::new(Some(uplink));
            world.now = SECOND;
            let leaf = world.shaper.open(limits);
            if refund {
                assert!(world.try_at_once(leaf, cost, segments));
                world.shaper.refund(leaf, cost, segments);
                assert_eq!(world.shaper.stats(leaf).sent, 0);
                world.sent.clear();
            }
            (0..20).for_each(|_| world.push(leaf, 1, 1000, 1));
            world.run(100 * SECOND, || 0);
            world.sent.iter().map(|sent| (sent.at, sent.cost)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(true), run(false));
    }

    /// To change limits to and fro gives no burst.
    #[test]
    fn changes_give_nothing_away(one in limits(), other in limits(), count in 1_usize..50) {
        let one = Limit { packets: None, ..one };
        let (most, other) = (one.most().max(other.most()), Limit { packets: None, ..other });
        let mut world = World::new(None);
        let leaf = world.shaper.open(LeafLimits { own: Some(one), user: None });
        world.now = 3600 * SECOND;
        (0..1000).for_each(|_| world.push(leaf, 1, 1000, 1));
        for _ in 0..count {
            for limit in [other, one] {
                world.shaper.set_limits(leaf, LeafLimits { own: Some(limit), user: None });
                world.drain();
            }
        }
        // The greatest of their bursts, once, and a packet.
        let longest = [one, other].map(|limit| limit.burst.unwrap_or(Limit::DEFAULT_BURST)).into_iter().max();
        let burst = (longest.expect("two").as_secs_f64() * most as f64 / 8.0).max(3000.0);
        prop_assert!(world.sent_by(leaf, 0) as f64 <= burst + 1001.0);
    }
}
