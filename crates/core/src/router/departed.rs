//! What peers that have left had sent and got, by user. Whoever counts by user adds this, or a counter would go back when a
//! peer leaves.

use std::collections::{HashMap, HashSet};

use super::session::Traffic;

/// The most users that are remembered. Each takes some 350 bytes.
const MAX_USERS: usize = 4096;

/// The traffic of peers that have left, by user.
#[derive(Debug, Clone, Default)]
pub struct Departed(HashMap<u32, Traffic>);

impl Departed {
    /// Adds what a peer has had. If there is no room for its user, users of whom no peer is left are forgotten: `present` gives
    /// the users of all peers, and is asked only then.
    pub fn add(&mut self, uid: u32, traffic: &Traffic, present: impl FnOnce() -> HashSet<u32>) {
        if self.0.len() >= MAX_USERS && !self.0.contains_key(&uid) {
            let present = present();
            self.0.retain(|uid, _| present.contains(uid));
            if self.0.len() >= MAX_USERS {
                return;
            }
        }
        self.0.entry(uid).or_default().add(traffic);
    }

    /// Returns the traffic by user, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Traffic)> {
        self.0.iter().map(|(uid, traffic)| (*uid, traffic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::drops::DropReason;

    fn traffic() -> Traffic {
        let mut traffic = Traffic { tx_bytes: 1, rx_bytes: 2, tx_packets: 3, rx_packets: 4, ..Traffic::default() };
        traffic.drops.count(DropReason::Firewall);
        traffic
    }

    #[test]
    fn peers_of_a_user_are_added_up() {
        let mut departed = Departed::default();
        for uid in [7, 8, 7] {
            departed.add(uid, &traffic(), HashSet::new);
        }
        let (_, sum) = departed.iter().find(|(uid, _)| *uid == 7).expect("two have left");
        assert_eq!((sum.tx_bytes, sum.rx_bytes, sum.tx_packets, sum.rx_packets), (2, 4, 6, 8));
        assert_eq!((sum.drops.get(DropReason::Firewall), departed.iter().count()), (2, 2));
    }

    #[test]
    fn users_without_peers_make_room() {
        let mut departed = Departed::default();
        for uid in 0..u32::try_from(MAX_USERS).expect("few") {
            departed.add(uid, &traffic(), || panic!("there is room"));
        }
        departed.add(1, &traffic(), || panic!("it is known"));
        departed.add(1_000_000, &traffic(), || (0..10).collect());
        let mut left: Vec<_> = departed.iter().map(|(uid, _)| uid).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1_000_000]);
        let all: HashSet<_> = (0..u32::try_from(MAX_USERS).expect("few")).collect();
        (0..u32::try_from(MAX_USERS).expect("few")).for_each(|uid| departed.add(uid, &traffic(), || all.clone()));
        departed.add(2_000_000, &traffic(), || all.clone());
        assert!(departed.iter().count() <= MAX_USERS);
    }
}
