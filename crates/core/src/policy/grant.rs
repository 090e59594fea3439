//! Who may hold which address.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::prefix_map::PrefixMap;

/// Who an address is granted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Holder {
    /// Processes of this user.
    User(u32),
    /// Processes with this group, as their own or as a supplementary one.
    Group(u32),
    /// Nobody, as long as the user or group that the grant names doesn't exist.
    Nobody,
}

/// The operator's word about who may hold addresses (`tuntap-router-lease`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The addresses.
    pub prefix: IpNet,
    /// Who may hold them. Each address still has one holder at a time.
    pub holder: Holder,
}

/// Who a peer is, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Who may hold addresses that no grant covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncovered {
    /// Everybody.
    Allow,
    /// Nobody.
    Deny,
}

/// All grants. The cost of a lookup doesn't depend on their number.
#[derive(Debug, Clone)]
pub struct Grants {
    holders: PrefixMap<HashSet<Holder>>,
    /// What each holder may hold, in the order of the configuration.
    prefixes: HashMap<Holder, Vec<IpNet>>,
    /// The groups among the holders.
    groups: HashSet<u32>,
    uncovered: Uncovered,
}

impl Grants {
    /// No grants: everybody may hold every address.
    pub fn none() -> Self {
        Self::new([], Uncovered::Allow)
    }

    /// Takes all grants. Their order only matters for [`Grants::prefixes_of`].
    pub fn new(grants: impl IntoIterator<Item = Grant>, uncovered: Uncovered) -> Self {
        let mut this =
            Self { holders: PrefixMap::default(), prefixes: HashMap::new(), groups: HashSet::new(), uncovered };
        grants.into_iter().for_each(|grant| this.add(grant));
        this
    }

    /// Adds a grant. Its addresses should be covered already: otherwise peers that hold some of them lose the right to.
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

    /// Returns true if a grant covers an address.
    pub fn cover(&self, address: IpAddr) -> bool {
        self.holders.covering(address).next().is_some()
    }

    /// Returns true if addresses without a grant may not be held.
    pub fn bind_addresses(&self) -> bool {
        self.uncovered == Uncovered::Deny
    }

    /// Returns true if a grant names a group, so that the groups of a peer matter.
    pub fn name_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Returns true if a grant names this group.
    pub fn name_group(&self, group: u32) -> bool {
        self.groups.contains(&group)
    }

    /// Returns true if a peer may hold an address: it is granted to the peer, or no grant covers it and
    /// [`Uncovered::Allow`] holds.
    pub fn allow(&self, address: IpAddr, identity: &Identity) -> bool {
        self.is_granted(address, identity).unwrap_or(self.uncovered == Uncovered::Allow)
    }

    /// The prefixes of all grants.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.values().flatten().copied()
    }

    /// The prefixes that are granted to a peer: to its user, its group and its supplementary groups.
    pub fn prefixes_of(&self, identity: &Identity) -> impl Iterator<Item = IpNet> {
        let groups = std::iter::once(&identity.gid).chain(&identity.groups).map(|group| Holder::Group(*group));
        let holders = std::iter::once(Holder::User(identity.uid)).chain(groups);
        holders.filter_map(|holder| self.prefixes.get(&holder)).flatten().copied()
    }

    /// Returns true if one of the grants that cover an address is for the peer. `None` if no grant covers it.
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

    fn grant(prefix: &str, holder: Holder) -> Grant {
        Grant { prefix: prefix.parse().expect("a prefix"), holder }
    }

    fn user(uid: u32) -> Identity {
        Identity { uid, gid: uid, groups: Vec::new() }
    }

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));

    #[test]
    fn without_grants_everybody_may_hold_everything() {
        assert!(Grants::none().allow(ADDRESS, &user(1000)));
    }

    #[test]
    fn grant_excludes_everybody_else() {
        for (uncovered, others_elsewhere) in [(Uncovered::Deny, false), (Uncovered::Allow, true)] {
            let grants = Grants::new([grant("10.0.0.5/32", Holder::User(1000))], uncovered);
            assert!(grants.allow(ADDRESS, &user(1000)));
            assert!(!grants.allow(ADDRESS, &user(1001)));
            assert!(!grants.allow(ADDRESS, &user(0)), "root is a user as others are");
            assert_eq!(grants.allow(Ipv4Addr::new(10, 0, 0, 6).into(), &user(1001)), others_elsewhere);
        }
    }

    #[test]
    fn grant_of_somebody_who_is_not_there_keeps_everybody_away_until_he_is() {
        let mut grants = Grants::new([grant("10.0.0.5/32", Holder::Nobody)], Uncovered::Allow);
        assert!(grants.cover(ADDRESS));
        assert!([0, 1000].into_iter().all(|uid| !grants.allow(ADDRESS, &user(uid))));
        for _ in 0..2 {
            grants.add(grant("10.0.0.5/32", Holder::User(1000)));
        }
        assert!(grants.allow(ADDRESS, &user(1000)) && !grants.allow(ADDRESS, &user(1001)));
        assert_eq!(grants.prefixes_of(&user(1000)).count(), 1);
    }

    #[test]
    fn any_of_several_grants_is_enough() {
        let grants = Grants::new(
            [
                grant("10.0.0.0/24", Holder::User(1)),
                grant("10.0.0.5/32", Holder::User(2)),
                grant("10.0.0.5/32", Holder::User(3)),
                grant("0.0.0.0/0", Holder::Group(7)),
            ],
            Uncovered::Deny,
        );
        for uid in [1, 2, 3] {
            assert!(grants.allow(ADDRESS, &user(uid)), "uid {uid}");
        }
        assert!(!grants.allow(ADDRESS, &user(4)));
        assert!(grants.allow(Ipv4Addr::new(192, 0, 2, 1).into(), &Identity { uid: 4, gid: 7, groups: Vec::new() }));
        assert!(grants.allow(Ipv4Addr::new(192, 0, 2, 1).into(), &Identity { uid: 4, gid: 4, groups: vec![5, 7] }));
    }

    #[test]
    fn user_and_group_of_the_same_number_are_different() {
        let grants = Grants::new([grant("10.0.0.5/32", Holder::Group(1000))], Uncovered::Deny);
        assert!(!grants.allow(ADDRESS, &Identity { uid: 1000, gid: 1, groups: Vec::new() }));
    }

    #[test]
    fn groups_that_grants_name_are_known() {
        let grants = Grants::new([grant("10.0.0.5/32", Holder::Group(7))], Uncovered::Deny);
        assert_eq!((0..1000).filter(|group| grants.name_group(*group)).collect::<Vec<_>>(), [7]);
        assert!(grants.name_groups() && !Grants::none().name_groups());
    }

    proptest! {
        /// The same result as a search through the list by the words of the documentation.
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
            let covering: Vec<_> = list.iter().filter(|grant| grant.prefix.contains(&address)).collect();
            let expected = if covering.is_empty() {
                !deny
            } else {
                covering.iter().any(|grant| match grant.holder {
                    Holder::User(uid) => uid == identity.uid,
                    Holder::Group(gid) => gid == identity.gid || identity.groups.contains(&gid),
                    Holder::Nobody => false,
                })
            };
            let grants = Grants::new(list, if deny { Uncovered::Deny } else { Uncovered::Allow });
            prop_assert_eq!(grants.allow(address, &identity), expected);
            identity.groups.retain(|group| grants.name_group(*group));
            prop_assert_eq!(grants.allow(address, &identity), expected);
        }
    }
}
