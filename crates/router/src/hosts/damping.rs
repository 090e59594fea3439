//! How often others are told that an address has a new holder.
//!
//! A peer may claim an address and release it thousands of times in a second. Each change would reach all routers of all hosts, and
//! their kernels. So what is told of one address has a rate. A release is told at once, for nobody may go on sending; the next claim
//! waits, and what counts then is told.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tuntap_core::policy::lost::ClaimChanges;
use tuntap_wire::holding::Holding;

/// Most claims to one address that are told at once. A vassal that is started again some times in a row isn't delayed.
const CLAIMS_AT_ONCE: u32 = 8;

/// Beyond [`CLAIMS_AT_ONCE`], one claim to an address is told in this time at most.
const CLAIM_INTERVAL: Duration = Duration::from_secs(1);

/// Addresses below this number are not looked through for those that can be forgotten.
const FEW: usize = 1024;

/// What was told lately.
#[derive(Debug, Default)]
pub struct Damping {
    /// For each address, when its claims are forgotten: each counts for [`CLAIM_INTERVAL`].
    until: HashMap<IpAddr, Instant>,
    /// Claims that wait, the one that is due first at the front.
    waiting: BTreeSet<(Instant, IpAddr)>,
    /// Number of addresses at which `until` is looked through.
    full: usize,
}

impl Damping {
    /// Takes out what is not to be told yet, and adds what has waited long enough: what `holding_of` says of it now.
    pub fn filter(
        &mut self,
        changes: ClaimChanges,
        now: Instant,
        holding_of: impl Fn(IpAddr) -> Option<Holding>,
    ) -> ClaimChanges {
        let ClaimChanges::Of(changes) = changes else {
            // Everything is compared, what waits as well.
            self.waiting.clear();
            return ClaimChanges::Any;
        };
        let mut told: Vec<_> = Vec::new();
        while let Some(address) = self.take_due(now) {
            told.push((address, holding_of(address)));
        }
        told.extend(changes.into_iter().filter(|(address, holding)| self.may_tell(*address, holding.is_some(), now)));
        ClaimChanges::Of(told)
    }

    /// Returns when something that waits is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Returns true if a change may be told now. A claim that may not waits.
    fn may_tell(&mut self, address: IpAddr, is_claim: bool, now: Instant) -> bool {
        let until = self.until.get(&address).copied().unwrap_or(now).max(now);
        let due = until.checked_sub((CLAIMS_AT_ONCE - 1) * CLAIM_INTERVAL).filter(|due| *due > now);
        match due {
            Some(due) if is_claim => _ = self.waiting.insert((due, address)),
            Some(due) => _ = self.waiting.remove(&(due, address)),
            None if is_claim => self.count(address, until + CLAIM_INTERVAL, now),
            None => {}
        }
        due.is_none() || !is_claim
    }

    fn take_due(&mut self, now: Instant) -> Option<IpAddr> {
        let (due, address) = *self.waiting.first().filter(|(due, _)| *due <= now)?;
        self.waiting.pop_first();
        self.count(address, due + CLAIMS_AT_ONCE * CLAIM_INTERVAL, now);
        Some(address)
    }

    fn count(&mut self, address: IpAddr, until: Instant, now: Instant) {
        self.until.insert(address, until);
        if self.until.len() > self.full.max(FEW) {
            self.until.retain(|_, until| *until > now);
            self.full = 2 * self.until.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use tuntap_wire::holding::{ClaimTime, RouterId};

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 2));

    fn holding(since: u64) -> Holding {
        Holding { router: RouterId::new(1).expect("not 0"), since: ClaimTime(since) }
    }

    /// What is told of one change, or when there is none.
    fn told(
        damping: &mut Damping,
        change: Option<Option<Holding>>,
        now: Instant,
        state: Option<Holding>,
    ) -> Vec<Option<Holding>> {
        let changes = change.into_iter().map(|holding| (ADDRESS, holding)).collect();
        let ClaimChanges::Of(told) = damping.filter(ClaimChanges::Of(changes), now, |_| state) else {
            panic!("that isn't everything");
        };
        told.into_iter().map(|(_, holding)| holding).collect()
    }

    #[test]
    fn flapping_claim_is_told_seldom_and_its_last_state_in_time() {
        let mut damping = Damping::default();
        let start = Instant::now();
        let mut now = start;
        let (mut claims, mut known) = (0, None);
        for since in 0..10_000 {
            // Claimed and released a thousand times in a second.
            for state in [Some(holding(since)), None] {
                for holding in told(&mut damping, Some(state), now, state) {
                    claims += u32::from(holding.is_some());
                    known = holding;
                }
                assert!(state.is_some() || known.is_none(), "a release is told at once");
            }
            now += CLAIM_INTERVAL / 1000;
        }
        assert!((CLAIMS_AT_ONCE + 8..=CLAIMS_AT_ONCE + 10).contains(&claims), "{claims}");
        // The last claim stays. It is told when its time has come. The one before may have had its time just now.
        let last = Some(holding(20_000));
        told(&mut damping, Some(last), now, last);
        assert_eq!(told(&mut damping, Some(last), now, last), []);
        let due = damping.next_deadline().expect("it waits");
        assert!(due > now && due <= now + CLAIM_INTERVAL);
        assert_eq!(told(&mut damping, None, due, last), [last]);
        assert_eq!(damping.next_deadline(), None);
        // And some time later nothing is known of all that.
        now = due + 2 * CLAIMS_AT_ONCE * CLAIM_INTERVAL;
        for since in 0..CLAIMS_AT_ONCE {
            let state = Some(holding(since.into()));
            assert_eq!(told(&mut damping, Some(state), now, state), [state]);
        }
    }

    #[test]
    fn many_addresses_are_told_at_once_and_forgotten() {
        let mut damping = Damping::default();
        let mut now = Instant::now();
        for round in 0..20_u32 {
            let address = |number: u32| IpAddr::from((round << 16 | number).to_be_bytes());
            let changes: Vec<_> = (0..5_000).map(|number| (address(number), Some(holding(1)))).collect();
            let ClaimChanges::Of(told) = damping.filter(ClaimChanges::Of(changes.clone()), now, |_| None) else {
                panic!("that isn't everything");
            };
            assert_eq!(told, changes);
            now += CLAIM_INTERVAL;
        }
        assert!(damping.until.len() <= 20_000, "{}", damping.until.len());
    }
}
