//! Which connections may stay: how many in all, of one user, and without an address.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use thiserror::Error;

use super::limits::Limits;
use super::registry::PeerId;

/// Vassals mostly connect before they drop their privileges: of root's connections nobody knows whose they are.
const ROOT: u32 = 0;

/// A limit that leaves no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// [`Limits::peers`]
    #[error("there are {0} peers already (tuntap-router-max-peers)")]
    Peers(usize),
    /// [`Limits::peers_per_uid`]
    #[error("this user has {0} peers already (tuntap-router-max-peers-per-uid)")]
    PeersPerUid(usize),
    /// [`Limits::unclaimed`]
    #[error("{0} peers have no address yet (tuntap-router-max-unclaimed)")]
    Unclaimed(usize),
}

/// The connections of a router, counted. What it costs to admit one doesn't grow with their number by more than its
/// logarithm.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    peers: usize,
    /// Users without connections are not in here, nor is root.
    by_uid: HashMap<u32, usize>,
    /// Those without an address, the oldest first.
    unclaimed: BTreeMap<u64, (PeerId, Instant)>,
    /// Their keys.
    arrivals: HashMap<PeerId, u64>,
    next_arrival: u64,
}

impl Admission {
    /// Without any connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            peers: 0,
            by_uid: HashMap::new(),
            unclaimed: BTreeMap::new(),
            arrivals: HashMap::new(),
            next_arrival: 0,
        }
    }

    /// Whether one more connection of this user has room. `Some` names a peer that has to leave for it.
    pub fn admit(&self, uid: u32, now: Instant) -> Result<Option<PeerId>, Refusal> {
        self.check_user(uid)?;
        let refusal = if self.peers >= self.limits.peers {
            Refusal::Peers(self.peers)
        } else if self.unclaimed.len() >= self.limits.unclaimed {
            Refusal::Unclaimed(self.unclaimed.len())
        } else {
            return Ok(None);
        };
        match self.unclaimed.first_key_value() {
            Some((_, (oldest, since))) if now.saturating_duration_since(*since) >= self.limits.unclaimed_timeout => {
                Ok(Some(*oldest))
            }
            _ => Err(refusal),
        }
    }

    /// Counts a new connection, which has no address.
    pub fn enter(&mut self, id: PeerId, uid: u32, now: Instant) {
        self.peers += 1;
        self.add_to_user(uid);
        self.unclaimed.insert(self.next_arrival, (id, now));
        self.arrivals.insert(id, self.next_arrival);
        self.next_arrival += 1;
    }

    /// A connection got its address.
    pub fn claimed(&mut self, id: PeerId) {
        if let Some(arrival) = self.arrivals.remove(&id) {
            self.unclaimed.remove(&arrival);
        }
    }

    /// A connection turns out to be another user's. If that one may have no further, nothing changes.
    pub fn change_user(&mut self, from: u32, to: u32) -> Result<(), Refusal> {
        if from != to {
            self.check_user(to)?;
            self.take_from_user(from);
            self.add_to_user(to);
        }
        Ok(())
    }

    /// A connection is gone.
    pub fn leave(&mut self, id: PeerId, uid: u32) {
        self.peers -= 1;
        self.take_from_user(uid);
        self.claimed(id);
    }

    fn check_user(&self, uid: u32) -> Result<(), Refusal> {
        let count = self.by_uid.get(&uid).copied().unwrap_or(0);
        if self.limits.peers_per_uid != 0 && count >= self.limits.peers_per_uid {
            return Err(Refusal::PeersPerUid(count));
        }
        Ok(())
    }

    fn add_to_user(&mut self, uid: u32) {
        if uid != ROOT {
            *self.by_uid.entry(uid).or_default() += 1;
        }
    }

    fn take_from_user(&mut self, uid: u32) {
        if let Some(count) = self.by_uid.get_mut(&uid) {
            *count -= 1;
            if *count == 0 {
                self.by_uid.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn admission(peers: usize, peers_per_uid: usize, unclaimed: usize) -> Admission {
        let limits = Limits { peers, peers_per_uid, unclaimed, unclaimed_timeout: TIMEOUT, ..Limits::default() };
        Admission::new(limits)
    }

    fn peer(index: u32) -> PeerId {
        PeerId { index, generation: 0 }
    }

    #[test]
    fn peers_in_all() {
        let now = Instant::now();
        let mut admission = admission(2, 0, 9);
        admission.enter(peer(1), 0, now);
        admission.enter(peer(2), 7, now);
        admission.claimed(peer(1));
        assert_eq!(admission.admit(8, now), Err(Refusal::Peers(2)));
        // One that has been idle for long makes room here, too, and one with an address never does.
        assert_eq!(admission.admit(8, now + TIMEOUT), Ok(Some(peer(2))));
        admission.claimed(peer(2));
        assert_eq!(admission.admit(8, now + TIMEOUT), Err(Refusal::Peers(2)));
        admission.leave(peer(2), 7);
        assert_eq!(admission.admit(8, now), Ok(None));
    }

    #[test]
    fn peers_of_a_user() {
        let now = Instant::now();
        let mut admission = admission(99, 2, 99);
        admission.enter(peer(1), 7, now);
        admission.enter(peer(2), 7, now);
        assert_eq!(admission.admit(7, now), Err(Refusal::PeersPerUid(2)));
        assert_eq!(admission.admit(8, now), Ok(None));
        for index in 3..9 {
            admission.enter(peer(index), 0, now);
        }
        assert_eq!(admission.admit(0, now), Ok(None), "root has no limit");
        assert_eq!(admission.change_user(0, 7), Err(Refusal::PeersPerUid(2)));
        assert_eq!(admission.change_user(7, 7), Ok(()), "its own place doesn't stand in its way");
        assert_eq!(admission.change_user(0, 8), Ok(()));
        admission.leave(peer(1), 7);
        assert_eq!(admission.change_user(0, 7), Ok(()));
        assert_eq!(admission.admit(7, now), Err(Refusal::PeersPerUid(2)));
    }

    #[test]
    fn oldest_without_an_address_makes_room_once_it_is_old_enough() {
        let start = Instant::now();
        let mut admission = admission(99, 0, 3);
        for index in 1..4 {
            admission.enter(peer(index), 0, start);
        }
        assert_eq!(admission.admit(0, start + TIMEOUT / 2), Err(Refusal::Unclaimed(3)));
        assert_eq!(admission.admit(0, start + TIMEOUT), Ok(Some(peer(1))));
        admission.claimed(peer(1));
        assert_eq!(admission.admit(0, start), Ok(None), "one with an address counts no longer");
        admission.enter(peer(4), 0, start + TIMEOUT);
        assert_eq!(admission.admit(0, start + TIMEOUT), Ok(Some(peer(2))));
        admission.leave(peer(2), 0);
        admission.enter(peer(5), 0, start + TIMEOUT);
        assert_eq!(admission.admit(0, start + TIMEOUT), Ok(Some(peer(3))));
        admission.leave(peer(3), 0);
        assert_eq!(admission.admit(0, start + TIMEOUT), Ok(None));
    }

    /// Connections that come and go leave nothing behind.
    #[test]
    fn churn_leaves_nothing() {
        let now = Instant::now();
        let mut admission = admission(99, 2, 9);
        for index in 0..1000 {
            admission.enter(peer(index), index, now);
            if index % 2 == 0 {
                admission.claimed(peer(index));
            }
            admission.leave(peer(index), index);
        }
        assert_eq!(
            (admission.peers, admission.by_uid.len(), admission.unclaimed.len(), admission.arrivals.len()),
            (0, 0, 0, 0)
        );
    }
}
