use std::cell::RefCell;
use std::collections::HashSet;

use proptest::prelude::*;

use super::super::grant::{Grant, Holder, Uncovered};
use super::*;

fn net(text: &str) -> IpNet {
    text.parse().expect("an address with a length")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pool(networks: &[&str]) -> Pool {
    pool_with(networks, &Grants::none())
}

fn pool_with(networks: &[&str], grants: &Grants) -> Pool {
    Pool::new(networks.iter().map(|text| net(text)).collect(), grants, [])
}

fn user(uid: u32) -> Identity {
    Identity { uid, gid: uid, groups: Vec::new() }
}

fn key(uid: u32, name: u64) -> Key {
    Key { uid, name }
}

fn grants(list: &[(&str, u32)], uncovered: Uncovered) -> Grants {
    Grants::new(
        list.iter()
            .map(|(prefix, uid)| Grant { prefix: prefix.parse().expect("a prefix"), holder: Holder::User(*uid) }),
        uncovered,
    )
}

/// Assigns an address as a router does.
fn give(pool: &mut Pool, held: &mut HashSet<IpAddr>, key: Key, family: Family, grants: &Grants) -> Option<IpAddr> {
    let chosen = pool.choose(key, family, &user(key.uid), grants, |address, _| !held.contains(&address)).ok()?;
    assert!(held.insert(chosen), "{chosen} was free");
    pool.give(chosen, key);
    Some(chosen)
}

#[test]
fn slices_are_used_to_the_last_address_and_nothing_else_is() {
    let none = Grants::none();
    let slices = ["10.0.0.0/30", "10.0.0.8/31", "10.0.9.0/24"].map(net);
    let mut pool = pool(&["10.0.0.1/24", "10.0.1.1/30"]).with_slices(&slices, &none);
    let mut held = HashSet::new();
    let given = (0..9).map_while(|name| give(&mut pool, &mut held, key(0, name), Family::V4, &none));
    assert_eq!(given.count(), 5);
    let expected = ["10.0.0.2", "10.0.0.3", "10.0.0.8", "10.0.0.9", "10.0.1.2"].map(address);
    assert_eq!(held, HashSet::from(expected), "and the whole of the network that has no slice");
    assert!(pool.may_give(address("10.0.0.77"), &user(0), &none), "a device may have brought it from another host");
}

#[test]
fn what_is_granted_is_given_from_the_slice_if_it_can_be_and_from_elsewhere_if_not() {
    let slices = ["10.0.0.64/26"].map(net);
    for (granted, expected) in [
        ("10.0.0.5/32", "10.0.0.5/32"),
        ("10.0.0.32/27", "10.0.0.32/27"),
        ("10.0.0.0/25", "10.0.0.64/26"),
        ("10.0.0.96/27", "10.0.0.96/27"),
    ] {
        let grants = grants(&[(granted, 7)], Uncovered::Deny);
        let pool = pool(&["10.0.0.1/24"]).with_slices(&slices, &grants);
        for name in 0..20 {
            let chosen = pool.choose(key(7, name), Family::V4, &user(7), &grants, |_, _| true).expect("room");
            assert!(net(expected).contains(&chosen), "{granted}: {chosen}");
        }
        let chosen = pool.choose(key(8, 1), Family::V4, &user(8), &grants, |_, _| true);
        let is_in_slice = chosen.is_ok_and(|chosen| slices[0].contains(&chosen) && !net(granted).contains(&chosen));
        assert_eq!(is_in_slice, granted != "10.0.0.0/25", "{granted}: {chosen:?}");
    }
}

#[test]
fn large_slice_that_grants_cover_in_part_is_searched_beyond_them() {
    let grants = grants(&[("10.2.0.0/17", 7), ("10.2.128.0/18", 7), ("10.2.192.0/19", 7)], Uncovered::Deny);
    let pool = pool(&["10.0.0.1/8"]).with_slices(&["10.2.0.0/16"].map(net), &grants);
    let chosen = pool.choose(key(8, 1), Family::V4, &user(8), &grants, |_, _| true).expect("room");
    assert!(net("10.2.224.0/19").contains(&chosen), "{chosen}");
}

/// Even if another address that it had before is free again.
#[test]
fn what_a_device_gave_back_last_it_gets_again() {
    let (mut pool, none, anybody) = (pool(&["10.0.0.1/24"]), Grants::none(), user(7));
    let key = key(7, 1);
    for own in ["10.0.0.20", "10.0.0.10"].map(address) {
        pool.give(own, key);
        pool.take_back(own);
    }
    for _ in 0..3 {
        let chosen = pool.choose(key, Family::V4, &anybody, &none, |_, _| true);
        assert_eq!(chosen, Ok(address("10.0.0.10")));
        pool.give(address("10.0.0.10"), key);
        pool.take_back(address("10.0.0.10"));
    }
}

#[test]
fn small_network_is_used_to_the_last_address() {
    let (mut pool, mut held) = (pool(&["10.0.0.1/29"]), HashSet::new());
    let none = Grants::none();
    for name in 0..5 {
        assert!(give(&mut pool, &mut held, key(0, name), Family::V4, &none).is_some(), "{name}");
    }
    let expected: HashSet<_> = (2..7).map(|host| address(&format!("10.0.0.{host}"))).collect();
    assert_eq!(held, expected, "all but the network's, the router's and the broadcast address");
    let refused = pool.choose(key(0, 9), Family::V4, &user(0), &none, |address, _| !held.contains(&address));
    assert_eq!(refused, Err(PoolError::Full(Family::V4)));
    let refused = pool.choose(key(0, 9), Family::V6, &user(0), &none, |_, _| true);
    assert_eq!(refused, Err(PoolError::NoNetwork(Family::V6)));
}

#[test]
fn same_device_finds_the_same_address_in_another_router() {
    for (network, family) in [("10.0.0.1/24", Family::V4), ("fd00:77::1/64", Family::V6)] {
        let choose = || pool(&[network]).choose(key(7, 8), family, &user(7), &Grants::none(), |_, _| true);
        assert_eq!(choose(), choose());
    }
    // A literal, because the address must never change.
    let chosen = pool(&["10.0.0.1/24"]).choose(key(7, 8), Family::V4, &user(7), &Grants::none(), |_, _| true);
    assert_eq!(chosen, Ok(address("10.0.0.244")));
}

#[test]
fn fixed_address_comes_first_and_others_never_get_it() {
    let grants = grants(&[("10.0.0.77/32", 1), ("192.0.2.1/32", 1), ("10.0.0.64/28", 2)], Uncovered::Deny);
    let (mut pool, mut held) = (pool_with(&["10.0.0.1/24"], &grants), HashSet::new());
    let fixed = give(&mut pool, &mut held, key(1, 5), Family::V4, &grants);
    assert_eq!(fixed, Some(address("10.0.0.77")));
    let second = give(&mut pool, &mut held, key(1, 6), Family::V4, &grants).expect("room");
    assert!(!net("10.0.0.64/28").contains(&second), "{second} is granted to somebody else");
    for name in 0..15 {
        let given = give(&mut pool, &mut held, key(2, name), Family::V4, &grants).expect("room");
        assert_eq!(net("10.0.0.64/28").contains(&given), name < 15, "{given}");
    }
    assert!(held.contains(&address("10.0.0.77")) && held.len() == 17);
    let beyond = give(&mut pool, &mut held, key(2, 99), Family::V4, &grants).expect("room");
    assert!(!net("10.0.0.64/28").contains(&beyond), "the rest of the network is there for all");
}

#[test]
fn address_waits_for_its_last_holder() {
    let (mut pool, mut held) = (pool(&["10.0.0.1/29"]), HashSet::new());
    let none = Grants::none();
    let own = give(&mut pool, &mut held, key(1, 0), Family::V4, &none).expect("room");
    held.remove(&own);
    pool.take_back(own);
    for name in 1..5 {
        assert_ne!(give(&mut pool, &mut held, key(1, name), Family::V4, &none), Some(own), "{name}");
    }
    assert_eq!(give(&mut pool, &mut held, key(1, 0), Family::V4, &none), Some(own));
    held.remove(&own);
    pool.take_back(own);
    assert_eq!(give(&mut pool, &mut held, key(1, 9), Family::V4, &none), Some(own), "when there is no other one left");
}

#[test]
fn earlier_life_of_the_same_device_is_asked_for() {
    let (mut pool, mut held) = (pool(&["10.0.0.1/24"]), HashSet::new());
    let own = give(&mut pool, &mut held, key(1, 0), Family::V4, &Grants::none()).expect("room");
    let asked = RefCell::new(Vec::new());
    let again = pool.choose(key(1, 0), Family::V4, &user(1), &Grants::none(), |address, is_own_earlier| {
        asked.borrow_mut().push((address, is_own_earlier));
        true
    });
    assert_eq!((again, asked.into_inner()), (Ok(own), vec![(own, true)]));
}

#[test]
fn ipv6_addresses_are_readable() {
    let pool = pool(&["fd00:77::1/64"]);
    for name in 0..1000 {
        let chosen = pool.choose(key(0, name), Family::V6, &user(0), &Grants::none(), |_, _| true).expect("room");
        let IpAddr::V6(chosen) = chosen else { panic!("{chosen}") };
        assert!(chosen.to_bits() - address_bits("fd00:77::") < 1 << 20, "{chosen}");
        assert_ne!(chosen.to_bits(), address_bits("fd00:77::"), "the routers' anycast address");
    }
}

fn address_bits(text: &str) -> u128 {
    text.parse::<Ipv6Addr>().expect("an address").to_bits()
}

#[test]
fn addresses_for_many_are_those_of_the_networks() {
    let pool = pool(&["10.0.0.1/24", "10.1.0.0/31", "fd00:77::1/64"]);
    for (text, expected) in [
        ("10.0.0.255", true),
        ("10.0.0.0", true),
        ("10.0.0.254", false),
        ("10.0.1.255", false),
        ("10.1.0.1", false),
        ("fd00:77::", false),
    ] {
        assert_eq!(pool.is_for_many(address(text)), expected, "{text}");
    }
}

#[test]
fn full_network_leaves_those_behind_it() {
    for (networks, family) in
        [(["10.0.0.1/20", "10.1.0.1/29"], Family::V4), (["fd00:77::1/64", "fd00:99::1/125"], Family::V6)]
    {
        let (first, second) = (net(networks[0]).trunc(), net(networks[1]).trunc());
        for name in 0..50 {
            let is_free = |address, _| !first.contains(&address);
            let chosen =
                pool(&networks).choose(key(1, name), family, &user(1), &Grants::none(), is_free).expect("room");
            assert!(second.contains(&chosen), "{chosen}");
        }
    }
}

/// Grants of others leave 16 addresses of a large network, and all of them are found.
#[test]
fn gap_between_grants_is_found() {
    let grants = grants(
        &[
            ("10.0.0.0/9", 1),
            ("10.128.0.0/10", 2),
            ("10.192.0.0/12", 1),
            // Without a grant: 10.208.0.0/28.
            ("10.208.0.16/28", 1),
            ("10.208.0.32/27", 1),
            ("10.208.0.64/26", 1),
            ("10.208.0.128/25", 1),
            ("10.208.1.0/24", 1),
            ("10.208.2.0/23", 1),
            ("10.208.4.0/22", 1),
            ("10.208.8.0/21", 1),
            ("10.208.16.0/20", 1),
            ("10.208.32.0/19", 1),
            ("10.208.64.0/18", 1),
            ("10.208.128.0/17", 1),
            ("10.209.0.0/16", 1),
            ("10.210.0.0/15", 1),
            ("10.212.0.0/14", 1),
            ("10.216.0.0/13", 1),
            ("10.224.0.0/11", 1),
        ],
        Uncovered::Deny,
    );
    let (mut pool, mut held) = (pool_with(&["10.0.0.1/8"], &grants), HashSet::new());
    for name in 0..16 {
        let given = give(&mut pool, &mut held, key(3, name), Family::V4, &grants).expect("room");
        assert!(net("10.208.0.0/28").contains(&given), "{given}");
    }
    assert_eq!(give(&mut pool, &mut held, key(3, 16), Family::V4, &grants), None);
}

#[test]
fn granted_first_block_of_ipv6_leaves_the_next_one() {
    let grants = grants(&[("fd00:77::/107", 1), ("fd00:77::20:8/125", 1)], Uncovered::Allow);
    let (mut pool, mut held) = (pool_with(&["fd00:77::1/64"], &grants), HashSet::new());
    for name in 0..500 {
        let IpAddr::V6(given) = give(&mut pool, &mut held, key(2, name), Family::V6, &grants).expect("room") else {
            panic!("not of IPv6")
        };
        let offset = given.to_bits() - address_bits("fd00:77::");
        assert!(((2 << 20)..(3 << 20) + 8).contains(&offset), "{given}");
        assert!(!net("fd00:77::20:8/125").contains(&IpAddr::from(given)), "{given}");
    }
    let whole = Ungranted::of(net("fd00:77::1/64"), &Grants::new([], Uncovered::Allow));
    assert!(whole.is_none(), "nothing is left out");
    let everything = self::grants(&[("::/0", 1)], Uncovered::Allow);
    assert!(Ungranted::of(net("fd00:77::1/64"), &everything).is_none(), "nothing is left");
}

#[test]
fn target_of_a_port_is_for_its_lessee() {
    let targets = [address("10.0.0.2"), address("10.0.0.3")];
    let grants = grants(&[("10.0.0.2/32", 1)], Uncovered::Allow);
    let mut pool = Pool::new(vec![net("10.0.0.1/29")], &grants, targets);
    let mut held = HashSet::new();
    for name in 0..3 {
        let given = give(&mut pool, &mut held, key(2, name), Family::V4, &grants).expect("room");
        assert!(!targets.contains(&given), "{given}");
    }
    assert_eq!(give(&mut pool, &mut held, key(2, 3), Family::V4, &grants), None);
    assert_eq!(give(&mut pool, &mut held, key(1, 3), Family::V4, &grants), Some(targets[0]));
    assert!(!pool.may_give(targets[1], &user(1), &grants), "granted to nobody");
}

#[test]
fn work_is_bounded() {
    let networks = ["10.0.0.1/8", "10.1.0.1/9", "fd00::1/64", "fd01::1/64", "fd02::1/64", "fd03::1/64", "fd04::1/64"];
    let grants = grants(&[("10.0.0.0/10", 1), ("fd00::/70", 1), ("fd01::/108", 1)], Uncovered::Allow);
    let pool = pool_with(&networks, &grants);
    for family in Family::ALL {
        let mut asked = 0;
        let refused = pool.choose(key(1, 1), family, &user(1), &grants, |_, _| {
            asked += 1;
            false
        });
        assert_eq!(refused, Err(PoolError::Full(family)));
        assert!(asked <= (2 + 2 * MAX_SEARCHES) * MAX_PROBES, "{asked}");
    }
}

#[test]
fn memory_is_bounded() {
    let (mut pool, mut held) = (pool(&["10.0.0.1/8"]), HashSet::new());
    for name in 0..3 * MAX_RECENT as u64 {
        let given = give(&mut pool, &mut held, key(1, name), Family::V4, &Grants::none()).expect("room");
        held.remove(&given);
        pool.take_back(given);
    }
    assert!(pool.given.is_empty() && pool.recent.len() == MAX_RECENT && pool.recent_order.len() == MAX_RECENT);
}

proptest! {
    /// Peers request and release addresses in any order. Each assigned address has one holder, is inside of a network, and is
    /// neither the router's, reserved, nor granted to others. A request is only refused if there is no such address.
    #[test]
    fn what_is_given_may_be_given(
        length in 26u8..=31,
        list in prop::collection::vec((0u32..64, 28u8..=32, 0u32..4), 0..6),
        deny: bool,
        steps in prop::collection::vec((0u32..4, 0u64..24, any::<bool>()), 1..120),
    ) {
        const NET: u32 = 0x0a00_0000;
        let network = IpNet::new(Ipv4Addr::from_bits(NET | 1).into(), length).expect("a network");
        let granted: Vec<_> = list
            .iter()
            .map(|(host, length, uid)| {
                let prefix = ipnet::Ipv4Net::new_assert(Ipv4Addr::from_bits(NET | host), *length).trunc();
                (prefix.to_string(), *uid)
            })
            .collect();
        let words: Vec<_> = granted.iter().map(|(prefix, uid)| (prefix.as_str(), *uid)).collect();
        let grants = grants(&words, if deny { Uncovered::Deny } else { Uncovered::Allow });
        let mut pool = Pool::new(vec![network], &grants, []);
        let mut held = std::collections::HashMap::<IpAddr, Key>::new();
        let is_right = |address: IpAddr, uid: u32| {
            let covering: Vec<_> = granted.iter().filter(|(prefix, _)| net(prefix).contains(&address)).collect();
            network.contains(&address)
                && address != network.addr()
                && (length == 31 || (address != network.network() && address != network.broadcast()))
                && (covering.is_empty() || covering.iter().any(|(_, holder)| *holder == uid))
        };
        for (uid, name, leaves) in steps {
            let key = key(uid, name);
            if leaves {
                let left: Vec<_> = held.iter().filter(|(_, holder)| **holder == key).map(|(address, _)| *address).collect();
                for address in left {
                    held.remove(&address);
                    pool.take_back(address);
                }
                continue;
            }
            let chosen = pool.choose(key, Family::V4, &user(uid), &grants, |address, _| !held.contains_key(&address));
            let mut hosts = network.hosts();
            match chosen {
                Ok(chosen) => {
                    prop_assert!(is_right(chosen, uid), "{chosen} for {uid}");
                    prop_assert!(held.insert(chosen, key).is_none());
                    pool.give(chosen, key);
                }
                Err(_) => prop_assert!(!hosts.any(|host| !held.contains_key(&host) && is_right(host, uid))),
            }
        }
    }

    /// A device gets the same address again, whatever other devices were assigned in the meantime, as long as there is room.
    #[test]
    fn address_is_stable(uid: u32, name: u64, others in prop::collection::vec((0u32..4, any::<u64>()), 0..50)) {
        let family = Family::V4;
        let fresh = pool(&["10.0.0.1/16"]).choose(key(uid, name), family, &user(uid), &Grants::none(), |_, _| true);
        let (mut pool, mut held) = (pool(&["10.0.0.1/16"]), HashSet::new());
        let mine = give(&mut pool, &mut held, key(uid, name), family, &Grants::none()).expect("room");
        prop_assert_eq!(fresh, Ok(mine));
        held.remove(&mine);
        pool.take_back(mine);
        for (uid, name) in others {
            give(&mut pool, &mut held, key(uid, name), family, &Grants::none());
        }
        prop_assert_eq!(give(&mut pool, &mut held, key(uid, name), family, &Grants::none()), Some(mine));
    }
}
