//! Limits on connections: in all, of one user, and without an address.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use thiserror::Error;

use super::account::Account;
use super::limits::Limits;
use super::registry::PeerId;

/// One account may have this fraction (1/n) of the connections without an address.
const UNCLAIMED_PARTS: usize = 4;

/// A limit that leaves no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AdmissionError {
    /// [`Limits::peers`]
    #[error("there are {0} peers already (tuntap-router-max-peers)")]
    Peers(usize),
    /// [`Limits::peers_per_uid`]
    #[error("this user has {0} peers already (tuntap-router-max-peers-per-uid)")]
    PeersPerUid(usize),
    /// [`Limits::unclaimed`]
    #[error("{0} peers have no address yet (tuntap-router-max-unclaimed)")]
    Unclaimed(usize),
    /// A part of [`Limits::unclaimed`]
    #[error("{0} peers of this user have no address yet (a quarter of tuntap-router-max-unclaimed)")]
    UnclaimedShare(usize),
}

/// The counts of a router's connections. The cost of admitting a connection grows with the logarithm of their number at
/// most.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    peers: usize,
    /// Connections by account. Accounts without connections have no entry.
    by_account: HashMap<Account, usize>,
    /// Connections without an address by order of arrival, the oldest first.
    unclaimed: BTreeMap<u64, (PeerId, Instant)>,
    /// The same connections, by account.
    unclaimed_by_account: HashMap<Account, BTreeMap<u64, (PeerId, Instant)>>,
    /// The keys of these connections in the two maps above.
    arrivals: HashMap<PeerId, (u64, Option<Account>)>,
    next_arrival: u64,
}

impl Admission {
    /// Makes counts of no connections.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            peers: 0,
            by_account: HashMap::new(),
            unclaimed: BTreeMap::new(),
            unclaimed_by_account: HashMap::new(),
            arrivals: HashMap::new(),
            next_arrival: 0,
        }
    }

    /// Checks that one more connection of this account may be accepted. `Some` names a peer without an address that has to
    /// be closed for it: one of the same account if the account has used up its part, else the oldest one.
    pub fn admit(&self, account: Option<Account>, now: Instant) -> Result<Option<PeerId>, AdmissionError> {
        self.check_user(account)?;
        let of_account = of_user(account).and_then(|account| self.unclaimed_by_account.get(&account));
        let count = of_account.map_or(0, BTreeMap::len);
        let (refusal, waiting) = if count >= self.limits.unclaimed.div_ceil(UNCLAIMED_PARTS) {
            (AdmissionError::UnclaimedShare(count), of_account)
        } else if self.peers >= self.limits.peers {
            (AdmissionError::Peers(self.peers), Some(&self.unclaimed))
        } else if self.unclaimed.len() >= self.limits.unclaimed {
            (AdmissionError::Unclaimed(self.unclaimed.len()), Some(&self.unclaimed))
        } else {
            return Ok(None);
        };
        match waiting.and_then(BTreeMap::first_key_value) {
            Some((_, (oldest, since))) if now.saturating_duration_since(*since) >= self.limits.unclaimed_timeout => {
                Ok(Some(*oldest))
            }
            _ => Err(refusal),
        }
    }

    /// Counts a new connection, which has no address.
    pub fn enter(&mut self, id: PeerId, account: Option<Account>, now: Instant) {
        self.peers += 1;
        self.add(account);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.wait(id, arrival, account, now);
    }

    /// Notes that a connection got an address.
    pub fn claimed(&mut self, id: PeerId) {
        self.stop_waiting(id);
    }

    /// Counts a connection for another account. If that account may have no more connections, nothing changes.
    pub fn change_account(
        &mut self,
        id: PeerId,
        from: Option<Account>,
        to: Option<Account>,
    ) -> Result<(), AdmissionError> {
        if from != to {
            self.check_user(to)?;
            self.take_away(from);
            self.add(to);
            if let Some((arrival, since)) = self.stop_waiting(id) {
                self.wait(id, arrival, to, since);
            }
        }
        Ok(())
    }

    /// Removes a connection from the counts.
    pub fn leave(&mut self, id: PeerId, account: Option<Account>) {
        self.peers -= 1;
        self.take_away(account);
        self.claimed(id);
    }

    fn wait(&mut self, id: PeerId, arrival: u64, account: Option<Account>, since: Instant) {
        self.unclaimed.insert(arrival, (id, since));
        self.arrivals.insert(id, (arrival, account));
        if let Some(account) = of_user(account) {
            self.unclaimed_by_account.entry(account).or_default().insert(arrival, (id, since));
        }
    }

    fn stop_waiting(&mut self, id: PeerId) -> Option<(u64, Instant)> {
        let (arrival, account) = self.arrivals.remove(&id)?;
        let (_, since) = self.unclaimed.remove(&arrival)?;
        if let Some(account) = of_user(account)
            && let Some(waiting) = self.unclaimed_by_account.get_mut(&account)
        {
            waiting.remove(&arrival);
            if waiting.is_empty() {
                self.unclaimed_by_account.remove(&account);
            }
        }
        Some((arrival, since))
    }

    fn check_user(&self, account: Option<Account>) -> Result<(), AdmissionError> {
        let Some(account) = of_user(account) else { return Ok(()) };
        let count = self.by_account.get(&account).copied().unwrap_or(0);
        if self.limits.peers_per_uid != 0 && count >= self.limits.peers_per_uid {
            return Err(AdmissionError::PeersPerUid(count));
        }
        Ok(())
    }

    fn add(&mut self, account: Option<Account>) {
        if let Some(account) = of_user(account) {
            *self.by_account.entry(account).or_default() += 1;
        }
    }

    fn take_away(&mut self, account: Option<Account>) {
        if let Some(account) = of_user(account)
            && let Some(count) = self.by_account.get_mut(&account)
        {
            *count -= 1;
            if *count == 0 {
                self.by_account.remove(&account);
            }
        }
    }
}

/// Returns an account if it is a user's. Root has no limits here, in any namespace, because it may connect for many
/// vassals.
fn of_user(account: Option<Account>) -> Option<Account> {
    account.filter(|account| matches!(account, Account::User(_)))
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

    fn user(uid: u32) -> Option<Account> {
        Account::of(uid, None)
    }

    #[test]
    fn peers_in_all() {
        let now = Instant::now();
        let mut admission = admission(2, 0, 9);
        admission.enter(peer(1), None, now);
        admission.enter(peer(2), user(7), now);
        admission.claimed(peer(1));
        assert_eq!(admission.admit(user(8), now), Err(AdmissionError::Peers(2)));
        // A connection that has had no address for long makes room here, too. One with an address never does.
        assert_eq!(admission.admit(user(8), now + TIMEOUT), Ok(Some(peer(2))));
        admission.claimed(peer(2));
        assert_eq!(admission.admit(user(8), now + TIMEOUT), Err(AdmissionError::Peers(2)));
        admission.leave(peer(2), user(7));
        assert_eq!(admission.admit(user(8), now), Ok(None));
    }

    #[test]
    fn peers_of_a_user() {
        let now = Instant::now();
        let mut admission = admission(99, 2, 99);
        admission.enter(peer(1), user(7), now);
        admission.enter(peer(2), user(7), now);
        assert_eq!(admission.admit(user(7), now), Err(AdmissionError::PeersPerUid(2)));
        assert_eq!(admission.admit(user(8), now), Ok(None));
        for index in 3..9 {
            admission.enter(peer(index), None, now);
        }
        assert_eq!(admission.admit(None, now), Ok(None), "root has no limit");
        assert_eq!(admission.change_account(peer(3), None, user(7)), Err(AdmissionError::PeersPerUid(2)));
        assert_eq!(
            admission.change_account(peer(1), user(7), user(7)),
            Ok(()),
            "its own place doesn't stand in its way"
        );
        assert_eq!(admission.change_account(peer(3), None, user(8)), Ok(()));
        admission.leave(peer(1), user(7));
        assert_eq!(admission.change_account(peer(4), None, user(7)), Ok(()));
        assert_eq!(admission.admit(user(7), now), Err(AdmissionError::PeersPerUid(2)));
    }

    #[test]
    fn oldest_without_an_address_makes_room_once_it_is_old_enough() {
        let start = Instant::now();
        let mut admission = admission(99, 0, 3);
        for index in 1..4 {
            admission.enter(peer(index), None, start);
        }
        assert_eq!(admission.admit(None, start + TIMEOUT / 2), Err(AdmissionError::Unclaimed(3)));
        assert_eq!(admission.admit(None, start + TIMEOUT), Ok(Some(peer(1))));
        admission.claimed(peer(1));
        assert_eq!(admission.admit(None, start), Ok(None), "one with an address counts no longer");
        admission.enter(peer(4), None, start + TIMEOUT);
        assert_eq!(admission.admit(None, start + TIMEOUT), Ok(Some(peer(2))));
        admission.leave(peer(2), None);
        admission.enter(peer(5), None, start + TIMEOUT);
        assert_eq!(admission.admit(None, start + TIMEOUT), Ok(Some(peer(3))));
        admission.leave(peer(3), None);
        assert_eq!(admission.admit(None, start + TIMEOUT), Ok(None));
    }

    /// One user can't use up the room of the others.
    #[test]
    fn each_account_has_a_part_of_the_places_without_an_address() {
        let start = Instant::now();
        for (greedy, other) in [(user(7), user(8)), (user(7), None)] {
            let mut admission = admission(99, 0, 8);
            for index in 0..2 {
                assert_eq!(admission.admit(greedy, start), Ok(None));
                admission.enter(peer(index), greedy, start);
            }
            assert_eq!(admission.admit(greedy, start), Err(AdmissionError::UnclaimedShare(2)));
            assert_eq!(admission.admit(other, start), Ok(None));
            assert_eq!(admission.admit(greedy, start + TIMEOUT), Ok(Some(peer(0))), "one of its own makes room");
            admission.enter(peer(5), other, start);
            assert_eq!(admission.change_account(peer(5), other, greedy), Ok(()));
            admission.claimed(peer(5));
            admission.claimed(peer(0));
            assert_eq!(admission.admit(greedy, start), Ok(None));
            admission.leave(peer(1), greedy);
            assert!(admission.unclaimed_by_account.is_empty());
        }
    }

    /// Connections that come and go leave nothing behind.
    #[test]
    fn churn_leaves_nothing() {
        let now = Instant::now();
        let mut admission = admission(99, 2, 9);
        for index in 0..1000 {
            admission.enter(peer(index), user(index), now);
            if index % 2 == 0 {
                admission.claimed(peer(index));
            }
            admission.leave(peer(index), user(index));
        }
        assert_eq!(
            (admission.peers, admission.by_account.len(), admission.unclaimed.len(), admission.arrivals.len()),
            (0, 0, 0, 0)
        );
    }
}
