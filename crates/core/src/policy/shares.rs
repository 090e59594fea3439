//! How many addresses one account holds and may hold, so that none takes a whole network.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::account::Account;
use super::pool::for_vassals;
use tuntap_wire::autoconf::Family;

/// By default, one account may hold one address in so many of the router's networks.
const PARTS: u64 = 4;

/// Least default limit, for small networks.
const LEAST: u64 = 2;
/// Most default limit, for large networks.
const MOST: u64 = 256;

/// Addresses by account. Addresses that are granted to their holder are not counted: the operator has allowed them.
#[derive(Debug)]
pub struct Shares {
    /// For IPv4 and IPv6. `None` means no limit.
    limits: [Option<usize>; 2],
    counts: HashMap<(Account, Family), usize>,
    counted: HashMap<IpAddr, Account>,
}

impl Shares {
    /// No address is held yet. `limit` is the operator's limit for each family; 0 means no limit. `None` means a
    /// fraction of the addresses that the networks have for vassals, and no limit for a family without a network.
    pub fn new(limit: Option<usize>, networks: &[IpNet]) -> Self {
        let default = |family| {
            let of_family = networks.iter().filter(|net| Family::of(net.addr()) == family);
            let count: u64 = of_family.map(|net| for_vassals(*net)).fold(0, u64::saturating_add);
            (count > 0).then(|| usize::try_from((count / PARTS).clamp(LEAST, MOST)).unwrap_or(usize::MAX))
        };
        let limits = match limit {
            Some(0) => [None; 2],
            Some(limit) => [Some(limit); 2],
            None => [Family::V4, Family::V6].map(default),
        };
        Self { limits, counts: HashMap::new(), counted: HashMap::new() }
    }

    /// Returns true if an account may hold one more address of this address's family.
    pub fn has_room(&self, account: Option<Account>, address: IpAddr) -> bool {
        let family = Family::of(address);
        match (of_user(account), self.limit(family)) {
            (Some(account), Some(limit)) => self.counts.get(&(account, family)).is_none_or(|count| *count < limit),
            _ => true,
        }
    }

    /// Returns true if an address is already counted for this account.
    pub fn is_counted_for(&self, account: Option<Account>, address: IpAddr) -> bool {
        account.is_some() && self.counted.get(&address).copied() == account
    }

    /// Most addresses of a family that an account may hold. `None` means no limit.
    pub const fn limit(&self, family: Family) -> Option<usize> {
        match family {
            Family::V4 => self.limits[0],
            Family::V6 => self.limits[1],
        }
    }

    /// Counts an address for an account, and no longer for another one. It is counted even if there is no room for it.
    pub fn take(&mut self, account: Option<Account>, address: IpAddr) {
        let Some(account) = of_user(account) else { return };
        self.give_back(address);
        self.counted.insert(address, account);
        *self.counts.entry((account, Family::of(address))).or_default() += 1;
    }

    /// Stops counting an address, if it is counted.
    pub fn give_back(&mut self, address: IpAddr) {
        let Some(account) = self.counted.remove(&address) else { return };
        let key = (account, Family::of(address));
        if let Some(count) = self.counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&key);
            }
        }
    }
}

/// Returns users only. Root has no limit in any namespace, because it may connect on behalf of many vassals.
fn of_user(account: Option<Account>) -> Option<Account> {
    account.filter(|account| matches!(account, Account::User(_)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn limits(limit: Option<usize>, networks: &[&str]) -> [Option<usize>; 2] {
        let networks: Vec<_> = networks.iter().map(|net| net.parse().expect("a network")).collect();
        Shares::new(limit, &networks).limits
    }

    #[test]
    fn limit_is_a_part_of_the_networks() {
        for (networks, expected) in [
            (&["10.0.0.1/24"][..], [Some(63), None]),
            (&["10.0.0.1/24", "10.0.1.1/24"], [Some(126), None]),
            (&["10.0.0.1/16", "fd00:77::1/64"], [Some(256), Some(256)]),
            (&["10.0.0.1/29"], [Some(2), None]),
            (&["10.0.0.1/30", "fd00:77::1/120"], [Some(2), Some(63)]),
            (&["10.0.0.1/32"], [None, None]),
            (&[], [None, None]),
        ] {
            assert_eq!(limits(None, networks), expected, "{networks:?}");
            assert_eq!(limits(Some(7), networks), [Some(7); 2]);
            assert_eq!(limits(Some(0), networks), [None; 2]);
        }
    }

    #[test]
    fn accounts_and_families_are_counted_apart_and_leave_nothing() {
        let mut shares = Shares::new(Some(2), &[]);
        let address = |host| IpAddr::from(Ipv4Addr::new(10, 0, 0, host));
        let v6: IpAddr = "fd00::1".parse().expect("an address");
        let (user, other, root) = (Account::of(7, Some(1)), Account::of(8, Some(1)), Account::of(0, Some(1)));
        for host in [2, 3, 3] {
            assert!(shares.has_room(user, address(host)) || shares.is_counted_for(user, address(host)));
            shares.take(user, address(host));
        }
        assert!(!shares.has_room(user, address(4)) && shares.has_room(user, v6));
        assert!(shares.has_room(other, address(4)) && shares.has_room(None, address(4)));
        shares.take(None, address(9));
        (10..20).for_each(|host| shares.take(root, address(host)));
        assert!(shares.has_room(root, address(4)), "root has no limit");
        // An address that passes to another account is counted for that one only.
        shares.take(other, address(3));
        assert!(shares.has_room(user, address(4)) && shares.is_counted_for(other, address(3)));
        for host in [2, 3, 9] {
            shares.give_back(address(host));
            shares.give_back(address(host));
        }
        assert_eq!((shares.counts.len(), shares.counted.len()), (0, 0));
    }
}
