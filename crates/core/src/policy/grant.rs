//! Who may hold which address.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::prefix_map::PrefixMap;

/// Whom an address is leased to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Processes of this user.
    User(u32),
    /// Processes that have this group, as their own or as a supplementary one.
    Group(u32),
    /// Nobody, as long as the user or group isn't there that it is for.
    Nobody,
}

/// Addresses, and who may hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The addresses.
    pub prefix: IpNet,
    /// Who may hold them, each of them one at a time.
    pub holder: Holder,
}

/// Who a peer is, as its kernel vouches for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What becomes of an address that no lease covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncovered {
    /// Anybody may hold it.
    Allow,
    /// Nobody may hold it.
    Deny,
}

/// All leases. A look at them costs the same for any number of leases.
#[derive(Debug, Clone)]
pub struct Grants {
    holders: PrefixMap<HashSet<Holder>>,
    /// What each of them may hold, in the order in which it was written.
    prefixes: HashMap<Holder, Vec<IpNet>>,
    /// The groups among the holders.
    groups: HashSet<u32>,
    uncovered: Uncovered,
}

impl Grants {
    /// Anybody may hold any address.
    pub fn none() -> Self {
        Self::new([], Uncovered::Allow)
    }

    /// Takes all leases; their order doesn't matter.
    pub fn new(leases: impl IntoIterator<Item = Grant>, uncovered: Uncovered) -> Self {
        let mut this =
            Self { holders: PrefixMap::default(), prefixes: HashMap::new(), groups: HashSet::new(), uncovered };
        leases.into_iter().for_each(|lease| this.add(lease));
        this
    }

    /// Takes one more. What it covers should be covered already, or it would be taken from those who hold it.
    pub fn add(&mut self, Grant { prefix, holder }: Grant) {
        self.holders.entry(prefix).insert(holder);
        let prefixes = self.prefixes.entry(holder).or_default();
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
        if let Holder::Group(group) = holder {
            self.groups.insert(group);
        }
    }

    /// Whether a lease of somebody covers an address.
    pub fn cover(&self, address: IpAddr) -> bool {
        self.holders.covering(address).next().is_some()
    }

    /// Whether there is an address that not everybody may hold.
    pub fn bind_addresses(&self) -> bool {
        self.uncovered == Uncovered::Deny
    }

    /// Whether any lease is one of a group, so that the groups of a peer matter.
    pub fn name_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Takes those groups out of an identity that no lease is of. What is left is no longer than the list of leases.
    pub fn forget_other_groups(&self, identity: &mut Identity) {
        identity.groups.retain(|group| self.groups.contains(group));
    }

    /// Whether a peer may hold an address: one of the leases that cover it is the peer's, or none covers it and that
    /// is enough.
    pub fn allow(&self, address: IpAddr, identity: &Identity) -> bool {
        self.is_granted(address, identity).unwrap_or(self.uncovered == Uncovered::Allow)
    }

    /// All that is leased to somebody.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.values().flatten().copied()
    }

    /// What is leased to a peer: to its user, its group and its other groups.
    pub fn prefixes_of(&self, identity: &Identity) -> impl Iterator<Item = IpNet> {
        let groups = std::iter::once(&identity.gid).chain(&identity.groups).map(|group| Holder::Group(*group));
        let holders = std::iter::once(Holder::User(identity.uid)).chain(groups);
        holders.filter_map(|holder| self.prefixes.get(&holder)).flatten().copied()
    }

    /// Whether one of the leases that cover an address is the peer's; `None` if there are none.
    pub fn is_granted(&self, address: IpAddr, identity: &Identity) -> Option<bool> {
        let mut covered = false;
        for holders in self.holders.covering(address) {
            covered = true;
            let is_granted_to_group = |group: &u32| holders.contains(&Holder::Group(*group));
            if holders.contains(&Holder::User(identity.uid))
                || is_granted_to_group(&identity.gid)
                || identity.groups.iter().any(is_granted_to_group)
            {
                return Some(true);
            }
        }
        covered.then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn lease(prefix: &str, holder: Holder) -> Grant {
        Grant { prefix: prefix.parse().expect("a prefix"), holder }
    }

    fn user(uid: u32) -> Identity {
        Identity { uid, gid: uid, groups: Vec::new() }
    }

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));

    #[test]
    fn without_leases_everybody_may_hold_everything() {
        assert!(Grants::none().allow(ADDRESS, &user(1000)));
    }

    #[test]
    fn lease_excludes_everybody_else() {
        for (uncovered, others_elsewhere) in [(Uncovered::Deny, false), (Uncovered::Allow, true)] {
            let leases = Grants::new([lease("10.0.0.5/32", Holder::User(1000))], uncovered);
            assert!(leases.allow(ADDRESS, &user(1000)));
            assert!(!leases.allow(ADDRESS, &user(1001)));
            assert!(!leases.allow(ADDRESS, &user(0)), "root is a user as others are");
            assert_eq!(leases.allow(Ipv4Addr::new(10, 0, 0, 6).into(), &user(1001)), others_elsewhere);
        }
    }

    #[test]
    fn lease_of_somebody_who_is_not_there_keeps_everybody_away_until_he_is() {
        let mut leases = Grants::new([lease("10.0.0.5/32", Holder::Nobody)], Uncovered::Allow);
        assert!(leases.cover(ADDRESS));
        assert!([0, 1000].into_iter().all(|uid| !leases.allow(ADDRESS, &user(uid))));
        for _ in 0..2 {
            leases.add(lease("10.0.0.5/32", Holder::User(1000)));
        }
        assert!(leases.allow(ADDRESS, &user(1000)) && !leases.allow(ADDRESS, &user(1001)));
        assert_eq!(leases.prefixes_of(&user(1000)).count(), 1);
    }

    #[test]
    fn any_of_several_leases_is_enough() {
        let leases = Grants::new(
            [
                lease("10.0.0.0/24", Holder::User(1)),
                lease("10.0.0.5/32", Holder::User(2)),
                lease("10.0.0.5/32", Holder::User(3)),
                lease("0.0.0.0/0", Holder::Group(7)),
            ],
            Uncovered::Deny,
        );
        for uid in [1, 2, 3] {
            assert!(leases.allow(ADDRESS, &user(uid)), "uid {uid}");
        }
        assert!(!leases.allow(ADDRESS, &user(4)));
        assert!(leases.allow(Ipv4Addr::new(192, 0, 2, 1).into(), &Identity { uid: 4, gid: 7, groups: Vec::new() }));
        assert!(leases.allow(Ipv4Addr::new(192, 0, 2, 1).into(), &Identity { uid: 4, gid: 4, groups: vec![5, 7] }));
    }

    #[test]
    fn user_and_group_of_the_same_number_are_different() {
        let leases = Grants::new([lease("10.0.0.5/32", Holder::Group(1000))], Uncovered::Deny);
        assert!(!leases.allow(ADDRESS, &Identity { uid: 1000, gid: 1, groups: Vec::new() }));
    }

    #[test]
    fn groups_that_no_lease_names_are_not_kept() {
        let leases = Grants::new([lease("10.0.0.5/32", Holder::Group(7))], Uncovered::Deny);
        let mut identity = Identity { uid: 1, gid: 1, groups: (0..1000).collect() };
        leases.forget_other_groups(&mut identity);
        assert_eq!(identity.groups, [7]);
        assert!(leases.name_groups() && !Grants::none().name_groups());
    }

    proptest! {
        /// The same as reading the list from top to bottom with the words of the documentation.
        #[test]
        fn agrees_with_the_list(
            list in prop::collection::vec((0u32..64, 24u8..=32, any::<bool>(), 0u32..6), 0..30),
            deny: bool,
            host in 0u32..64,
            identity in (0u32..6, 0u32..6, prop::collection::vec(0u32..6, 0..4)),
        ) {
            const NET: u32 = 0x0a00_0000;
            let list: Vec<Grant> = list
                .into_iter()
                .map(|(host, length, is_group, number)| Grant {
                    prefix: IpNet::new_assert(Ipv4Addr::from_bits(NET | host).into(), length),
                    holder: if is_group { Holder::Group(number) } else { Holder::User(number) },
                })
                .collect();
            let address = Ipv4Addr::from_bits(NET | host).into();
            let mut identity = Identity { uid: identity.0, gid: identity.1, groups: identity.2 };
            let covering: Vec<_> = list.iter().filter(|lease| lease.prefix.contains(&address)).collect();
            let expected = if covering.is_empty() {
                !deny
            } else {
                covering.iter().any(|lease| match lease.holder {
                    Holder::User(uid) => uid == identity.uid,
                    Holder::Group(gid) => gid == identity.gid || identity.groups.contains(&gid),
                    Holder::Nobody => false,
                })
            };
            let leases = Grants::new(list, if deny { Uncovered::Deny } else { Uncovered::Allow });
            prop_assert_eq!(leases.allow(address, &identity), expected);
            leases.forget_other_groups(&mut identity);
            prop_assert_eq!(leases.allow(address, &identity), expected);
        }
    }
}
