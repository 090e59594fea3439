//! Routers in any topology agree about who holds what.

use proptest::prelude::*;
use tuntap_wire::holding::Holding;
use tuntap_wire::trunk::MAX_HOPS;

use super::super::SendOutcome;
use super::network::Network;
use super::{address, holding};

/// Addresses that are claimed.
const ADDRESSES: u8 = 4;

/// Packets that are sent at once.
const PACKETS: u8 = 6;

#[derive(Debug, Clone)]
enum Action {
    Connect(usize, usize),
    Disconnect(usize, usize),
    Claim(usize, u8),
    Release(usize, u8),
    Settle,
}

fn actions(routers: usize) -> impl Strategy<Value = Vec<Action>> {
    let pair = (0..routers, 1..routers).prop_map(move |(one, further)| (one, (one + further) % routers));
    let claim = (0..routers, 0..ADDRESSES);
    let action = prop_oneof![
        4 => pair.clone().prop_map(|(one, other)| Action::Connect(one, other)),
        1 => pair.prop_map(|(one, other)| Action::Disconnect(one, other)),
        3 => claim.clone().prop_map(|(router, address)| Action::Claim(router, address)),
        1 => claim.prop_map(|(router, address)| Action::Release(router, address)),
        1 => Just(Action::Settle),
    ];
    prop::collection::vec(action, 1..40)
}

/// A network after some actions, and what was asked of it.
struct Case {
    network: Network,
    connected: Vec<(usize, usize)>,
    /// Since when each router holds each address.
    claims: Vec<Vec<Option<u64>>>,
}

impl Case {
    fn run(routers: usize, relay: bool, room: usize, actions: &[Action]) -> Self {
        let mut network = Network::new(routers, relay, room);
        let mut connected = Vec::new();
        let mut claims = vec![vec![None; usize::from(ADDRESSES)]; routers];
        for (time, action) in (1..).zip(actions) {
            match *action {
                Action::Connect(one, other) => {
                    network.connect(one, other);
                    connected.push((one.min(other), one.max(other)));
                }
                Action::Disconnect(one, other) => {
                    network.disconnect(one, other);
                    connected.retain(|pair| *pair != (one.min(other), one.max(other)));
                }
                Action::Claim(router, number) => {
                    network.claim(router, address(number), time);
                    claims[router][usize::from(number)] = Some(time);
                }
                Action::Release(router, number) => {
                    network.release(router, address(number));
                    claims[router][usize::from(number)] = None;
                }
                Action::Settle => network.settle(),
            }
        }
        network.settle();
        Self { network, connected, claims }
    }

    fn are_neighbours(&self, one: usize, other: usize) -> bool {
        self.connected.contains(&(one.min(other), one.max(other)))
    }

    /// All routers that are reached from one of them, with itself.
    fn reached(&self, from: usize) -> Vec<usize> {
        let mut reached = vec![from];
        let mut at = 0;
        while let Some(&router) = reached.get(at) {
            for other in 0..self.claims.len() {
                if self.are_neighbours(router, other) && !reached.contains(&other) {
                    reached.push(other);
                }
            }
            at += 1;
        }
        reached
    }

    fn own(&self, router: usize, number: u8) -> Option<Holding> {
        self.claims[router][usize::from(number)].map(|since| holding(router, since))
    }
}

fn packet(from: u8, to: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ipv4([10, 77, 0, from], [10, 77, 0, to], 64)
        .udp(1, 2)
        .write(&mut bytes, b"data")
        .expect("valid");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// With `relay` everywhere, all routers that are connected in some way know the same holder: the newest. A packet to it
    /// arrives there, and nowhere else.
    #[test]
    fn relays_agree_on_the_newest_holder(
        (routers, actions) in (3..=5_usize).prop_flat_map(|routers| (Just(routers), actions(routers))),
        room in 1..4_usize,
    ) {
        let mut case = Case::run(routers, true, room, &actions);
        for number in 0..ADDRESSES {
            for router in 0..routers {
                let reached = case.reached(router);
                let newest = reached.iter().filter_map(|other| case.own(*other, number)).max();
                prop_assert_eq!(case.network.holder(router, address(number)), newest, "{} at {}", number, router);
                let Some(to) = reached.iter().find(|other| newest.is_some() && case.own(**other, number) == newest) else {
                    continue;
                };
                // So many that some wait, on the way as well.
                let packets: Vec<_> = (0..PACKETS).map(|from| packet(100 + from, number)).collect();
                for bytes in &packets {
                    let sent = case.network.send(router, bytes);
                    prop_assert_eq!(sent, (*to != router).then_some(SendOutcome::Sent), "own peers get nothing by trunks");
                }
                case.network.settle();
                for (other, router_there) in case.network.routers.iter_mut().enumerate() {
                    let delivered = std::mem::take(&mut router_there.delivered);
                    prop_assert!(delivered.iter().all(|(_, hops)| *hops < MAX_HOPS));
                    let delivered: Vec<_> = delivered.into_iter().map(|(bytes, _)| bytes).collect();
                    let expected = if other == *to && *to != router { packets.as_slice() } else { &[] };
                    prop_assert_eq!(delivered.as_slice(), expected, "each once and in order");
                }
            }
        }
    }

    /// Without it, a router knows its own peers and those of its neighbours, and nothing that these were told.
    #[test]
    fn without_relay_only_neighbours_know(
        (routers, actions) in (3..=5_usize).prop_flat_map(|routers| (Just(routers), actions(routers))),
        room in 1..4_usize,
    ) {
        let case = Case::run(routers, false, room, &actions);
        for number in 0..ADDRESSES {
            // Who knows of a newer one doesn't tell its own peer's claim. The newest are known to be told first.
            let mut by_age: Vec<_> = (0..routers).filter_map(|router| Some((case.own(router, number)?, router))).collect();
            by_age.sort_unstable();
            let mut tell: Vec<(Holding, usize)> = Vec::new();
            for (own, router) in by_age.into_iter().rev() {
                if !tell.iter().any(|(_, newer)| case.are_neighbours(router, *newer)) {
                    tell.push((own, router));
                }
            }
            for router in 0..routers {
                let around = tell.iter().filter(|(_, other)| case.are_neighbours(router, *other));
                let told = around.map(|(holding, _)| *holding);
                let known = told.chain(case.own(router, number)).max();
                prop_assert_eq!(case.network.holder(router, address(number)), known, "{} at {}", number, router);
            }
        }
    }

    /// What the claims of others were told is what the trunks know, after all that has happened.
    #[test]
    fn others_claims_were_told(
        (routers, actions) in (3..=5_usize).prop_flat_map(|routers| (Just(routers), actions(routers))),
        relay: bool,
    ) {
        let case = Case::run(routers, relay, 2, &actions);
        for router in &case.network.routers {
            let mut count = 0;
            for trunk in router.trunks.ids() {
                for number in 0..ADDRESSES {
                    let known = router.trunks.told_by(trunk, address(number)).map(|known| known.holding);
                    prop_assert_eq!(known, router.ends.told.get(&(trunk, address(number))).copied());
                    count += usize::from(known.is_some());
                }
            }
            prop_assert_eq!(count, router.ends.told.len());
            let announced: usize = router.trunks.ids().map(|trunk| router.trunks.view(trunk).announced).sum();
            prop_assert_eq!(announced, count);
        }
    }

    /// Once all have released what they held, nobody knows of anything, in whatever order that was.
    #[test]
    fn nothing_is_known_of_what_was_released(
        (routers, actions) in (3..=5_usize).prop_flat_map(|routers| (Just(routers), actions(routers))),
        relay: bool,
        oldest_first: bool,
    ) {
        let mut case = Case::run(routers, relay, 2, &actions);
        let held = |router: usize, number: u8| case.own(router, number).map(|holding| (holding, router, number));
        let mut all: Vec<_> =
            (0..routers).flat_map(|router| (0..ADDRESSES).map(move |number| (router, number))).collect();
        all.retain(|(router, number)| held(*router, *number).is_some());
        all.sort_unstable_by_key(|(router, number)| held(*router, *number));
        if !oldest_first {
            all.reverse();
        }
        for (router, number) in all {
            case.network.release(router, address(number));
            case.network.settle();
        }
        for router in 0..routers {
            for number in 0..ADDRESSES {
                prop_assert_eq!(case.network.holder(router, address(number)), None, "{} at {}", number, router);
            }
            let trunks = &case.network.routers[router].trunks;
            prop_assert!(trunks.ids().all(|trunk| trunks.view(trunk).announced == 0));
        }
    }
}
