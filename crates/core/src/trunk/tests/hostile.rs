//! Whatever a neighbour sends, the router goes on, and others lose nothing.

use proptest::prelude::*;
use tuntap_wire::trunk::{Announcement, HEADER_LEN, Hello, append_announce, append_end, append_ping, append_withdraw};

use super::super::{EndReason, Notice};
use super::network::Network;
use super::{address, holding, id};

/// Frames that are right in themselves, and others.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let any_kind =
        (0..9_u8, any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(kind, hops, payload)| {
            let len = u32::try_from(payload.len()).expect("short").to_be_bytes();
            [len.as_slice(), &[kind, hops], &payload].concat()
        });
    let good = (0..5_u8, any::<u8>(), 0..4_usize, any::<u64>()).prop_map(|(kind, number, router, since)| {
        let mut out = Vec::new();
        match kind {
            0 => Hello::new(id(router), "x", since % 2 == 0).append(&mut out),
            1 => append_announce(&mut out, address(number), &Announcement::own(holding(router, since))),
            2 => append_withdraw(&mut out, address(number)),
            3 => append_end(&mut out),
            _ => append_ping(&mut out, since),
        }
        out
    });
    prop_oneof![any_kind, good, prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    /// Router 1 is hostile. What router 2 has told stays, nothing is announced in the name of others, and the trunk ends or
    /// goes on.
    #[test]
    fn neighbour_can_only_end_its_own_trunk(frames in prop::collection::vec(frame(), 1..12), with_hello: bool, whole: bool) {
        let mut network = Network::new(3, true, usize::MAX);
        network.connect(0, 1);
        network.connect(0, 2);
        network.claim(2, address(1), 10);
        network.settle();
        if with_hello {
            let mut out = Vec::new();
            Hello::new(id(1), "x", true).append(&mut out);
            network.receive(0, 1, &out);
        }
        if whole {
            network.receive(0, 1, &frames.concat());
        } else {
            frames.iter().for_each(|frame| network.receive(0, 1, frame));
        }
        network.settle();
        let trunk = network.trunk(0, 2);
        let ends = &network.routers[0].ends;
        let is_of_two = |notice: &Notice| matches!(notice, Notice::Ended { router, .. } if *router == id(2));
        prop_assert!(!ends.notices.iter().any(is_of_two));
        prop_assert!(network.routers[0].trunks.told_by(trunk, address(1)).is_some());
        let hostile = network.trunk(0, 1);
        for ((source, address), holding) in &ends.told {
            if *source == hostile {
                prop_assert!(holding.router == id(1) || network.routers[0].trunks.told_by(hostile, *address).is_some_and(|told| told.teller() == id(1)));
            }
        }
        // It can still be connected again.
        network.connect(0, 1);
        network.settle();
        prop_assert!(network.holder(1, address(1)).is_some());
    }

    /// A message that ends within a frame ends the trunk: the rest of it will never come.
    #[test]
    fn half_frames_are_refused(cut in 1..HEADER_LEN + 8) {
        let mut network = Network::new(2, false, usize::MAX);
        network.connect(0, 1);
        network.settle();
        let mut out = Vec::new();
        append_ping(&mut out, 7);
        network.receive(0, 1, &out[..cut]);
        let ended = network.routers[0].ends.notices.last().cloned();
        prop_assert_eq!(ended, Some(Notice::Ended { router: id(1), reason: EndReason::HalfFrame }));
    }
}
