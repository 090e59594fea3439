//! Assigns addresses from the router's networks to peers that request one. No assignment is stored: the search begins
//! at a hash of the device, so that the same device finds the same address again, even after the router was restarted,
//! unless another peer has taken it in the meantime.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

use super::grant::{Grants, Identity};
use tuntap_wire::autoconf::{Family, fnv1a, is_reserved};

/// Most addresses of one network that are tried for one peer, and most of the addresses that are granted to it.
/// Networks of this size are searched completely. In larger ones the search is spread over the whole network, so that
/// it doesn't fail in a crowded part.
pub const MAX_PROBES: usize = 2048;

/// Networks that are searched up to [`MAX_PROBES`] each. If there are more, they share the probes of this many.
const MAX_SEARCHES: usize = 4;

/// Bits of an IPv6 network's interface identifiers that vary: the first 2^20 addresses are assigned, so that people can
/// read them. If grants cover some of these, the first 2^20 addresses that no grant covers come after them.
const IPV6_HOST_BITS: u32 = 20;

/// Most released addresses that are remembered. They are assigned to other devices only if no other address is free;
/// the oldest are forgotten.
pub const MAX_RECENT: usize = 1024;

/// Who an address is assigned to: a device of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The user, as the kernel reports it; 0 where peers show no credentials.
    pub uid: u32,
    /// The name that the device gives itself ([`tuntap_wire::autoconf::name_hash`]).
    pub name: u64,
}

/// Why no address is assigned to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolError {
    /// The router has no network of this family.
    #[error("the router has no {} network (tuntap-router-address)", .0.word())]
    NoNetwork(Family),
    /// All addresses that could be assigned have a holder.
    #[error("all {} addresses of the router's networks are taken or leased to others", .0.word())]
    Full(Family),
}

/// The router's networks, and the addresses that are assigned from them.
#[derive(Debug, Default)]
pub struct Pool {
    /// The router's own addresses, with the lengths of their networks.
    networks: Vec<IpNet>,
    /// The networks, or their slices, from which addresses without a grant are assigned.
    ranges: Vec<IpNet>,
    /// Addresses without a grant, of ranges that are too large to be searched completely and that grants cover in
    /// part.
    ungranted: Vec<Ungranted>,
    /// Addresses that ports of the host are forwarded to. Their holder receives that traffic.
    port_targets: HashSet<IpAddr>,
    given: HashMap<IpAddr, Key>,
    /// Released addresses and their last holders, see [`MAX_RECENT`].
    recent: HashMap<IpAddr, Key>,
    /// The released addresses, the oldest first.
    recent_order: VecDeque<IpAddr>,
}

/// `size` addresses from the first one on.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u128,
    size: u64,
    family: Family,
}

/// The addresses of a network that no grant covers, numbered in order.
#[derive(Debug)]
struct Ungranted {
    network: IpNet,
    gaps: Vec<Gap>,
    /// How many of them are used.
    size: u64,
}

/// Consecutive addresses without a grant. `before` is the number of addresses in the gaps before this one.
#[derive(Debug, Clone, Copy)]
struct Gap {
    first: u128,
    before: u128,
}

impl Pool {
    /// No address is assigned yet. The networks are the router's own addresses with their prefix lengths.
    /// `port_targets` are the addresses that ports of the host are forwarded to; they are only assigned to peers to
    /// which they are granted.
    pub fn new(networks: Vec<IpNet>, grants: &Grants, port_targets: impl IntoIterator<Item = IpAddr>) -> Self {
        let pool = Self { networks, port_targets: port_targets.into_iter().collect(), ..Self::default() };
        pool.with_slices(&[], grants)
    }

    /// Assigns addresses without a grant from these slices only, in networks that have some. Other addresses may still be claimed.
    /// Hosts that have a network in common choose no address of each other's, if each has a slice of its own.
    pub fn with_slices(mut self, slices: &[IpNet], grants: &Grants) -> Self {
        self.ranges = ranges(&self.networks, slices);
        self.ungranted = self.ranges.iter().filter_map(|range| Ungranted::of(*range, grants)).collect();
        self
    }

    /// The default router of a peer with this address: the router's own address in the address's network, or its first
    /// address of the family.
    pub fn default_router(&self, family: Family, inside: Option<IpAddr>) -> Option<IpAddr> {
        let of_family = || self.networks.iter().filter(|net| Family::of(net.addr()) == family);
        let around = inside.and_then(|address| of_family().find(|net| net.contains(&address)));
        around.or_else(|| of_family().next()).map(IpNet::addr)
    }

    /// The address with the prefix length of its network, or with its own length if it is in none.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        let network = self.networks.iter().find(|net| net.contains(&address));
        network.and_then(|net| IpNet::new(address, net.prefix_len()).ok()).unwrap_or_else(|| address.into())
    }

    /// Returns true if an address is the router's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|net| net.addr() == address)
    }

    /// Returns true for the broadcast addresses of the router's IPv4 networks, today's form (all ones) and the former
    /// one (all zeros).
    pub fn is_for_many(&self, address: IpAddr) -> bool {
        address.is_ipv4() && self.networks.iter().any(|net| is_reserved(*net, address))
    }

    /// Returns true if an address may be assigned to a peer while nobody holds it: a host can have it in a network of
    /// the router's, and no grant keeps it for others. The target of a forwarded port must be granted to the peer.
    pub fn may_give(&self, address: IpAddr, identity: &Identity, grants: &Grants) -> bool {
        let is_permitted = match grants.is_granted(address, identity) {
            Some(is_granted) => is_granted,
            // The default for addresses without a grant is about addresses that peers choose themselves.
            None => !self.is_port_target(address),
        };
        is_permitted && self.is_for_peers(address)
    }

    /// Returns true if an address is in a network of the router's and a host other than the router can have it.
    pub fn is_for_peers(&self, address: IpAddr) -> bool {
        let mut is_inside = false;
        for net in self.networks.iter().filter(|net| net.contains(&address)) {
            if is_reserved(*net, address) {
                return false;
            }
            is_inside = true;
        }
        is_inside && !self.is_own(address)
    }

    /// Returns true if a port of the host is forwarded to an address.
    pub fn is_port_target(&self, address: IpAddr) -> bool {
        self.port_targets.contains(&address)
    }

    /// Chooses an address. Addresses that are granted to the peer come before those without a grant, single ones first.
    /// `is_free` is called for each candidate; its second argument is true if a holder would be an earlier connection
    /// of the same device.
    pub fn choose(
        &self,
        key: Key,
        family: Family,
        identity: &Identity,
        grants: &Grants,
        mut is_free: impl FnMut(IpAddr, bool) -> bool,
    ) -> Result<IpAddr, PoolError> {
        if !self.networks.iter().any(|net| Family::of(net.addr()) == family) {
            return Err(PoolError::NoNetwork(family));
        }
        let mut second_choice = None;
        for (address, is_fixed) in self.candidates(key, family, identity, grants) {
            if !self.may_give(address, identity, grants) {
                continue;
            }
            let is_own_earlier = is_fixed || self.given.get(&address) == Some(&key);
            if !is_free(address, is_own_earlier) {
                continue;
            }
            if !is_fixed && self.recent.get(&address).is_some_and(|holder| *holder != key) {
                second_choice = second_choice.or(Some(address));
                continue;
            }
            return Ok(address);
        }
        second_choice.ok_or(PoolError::Full(family))
    }

    /// Records that an address is assigned.
    pub fn give(&mut self, address: IpAddr, key: Key) {
        self.forget(address);
        self.given.insert(address, key);
    }

    /// Records that an address has no holder any more. Addresses that [`Pool::give`] didn't record are ignored.
    pub fn take_back(&mut self, address: IpAddr) {
        let Some(key) = self.given.remove(&address) else { return };
        self.forget(address);
        if self.recent_order.len() >= MAX_RECENT
            && let Some(oldest) = self.recent_order.pop_front()
        {
            self.recent.remove(&oldest);
        }
        self.recent.insert(address, key);
        self.recent_order.push_back(address);
    }

    /// Returns what a granted prefix has in common with the ranges, or, if that is nothing, with the networks: a grant says more
    /// than a slice.
    fn parts_of(&self, prefix: IpNet) -> Vec<IpNet> {
        let parts = |of: &[IpNet]| of.iter().filter_map(|net| intersection(*net, prefix)).collect::<Vec<_>>();
        Some(parts(&self.ranges)).filter(|parts| !parts.is_empty()).unwrap_or_else(|| parts(&self.networks))
    }

    fn forget(&mut self, address: IpAddr) {
        if self.recent.remove(&address).is_some() {
            self.recent_order.retain(|other| *other != address);
        }
    }

    /// Addresses in the order in which they are tried. The flag is true for single addresses that are granted to the
    /// peer.
    fn candidates<'a>(
        &'a self,
        key: Key,
        family: Family,
        identity: &'a Identity,
        grants: &'a Grants,
    ) -> impl Iterator<Item = (IpAddr, bool)> + 'a {
        let granted = || grants.prefixes_of(identity).filter(move |prefix| Family::of(prefix.addr()) == family);
        let (singles, prefixes): (Vec<_>, Vec<_>) = granted().partition(|prefix| is_single(*prefix));
        // Several devices of one user begin at different single addresses.
        let begin = scaled(hash(key, family, &[]), singles.len() as u64);
        let begin = usize::try_from(begin).unwrap_or_default();
        let singles = (0..singles.len()).map(move |index| (singles[(begin + index) % singles.len()].addr(), true));
        // The address that was released last comes first: an earlier one may have been a second choice.
        let own = self.recent_order.iter().rev().filter(move |address| self.recent.get(address) == Some(&key));
        let own = own.filter(move |address| Family::of(**address) == family).map(|address| (*address, false));
        let ranges = self.ranges.iter().copied().filter(move |range| Family::of(range.addr()) == family);
        let inside = prefixes.into_iter().flat_map(|prefix| self.parts_of(prefix));
        let search = move |net| Range::of(net).spread(key).take(MAX_PROBES);
        let ungranted = self.ungranted.iter().filter(move |ungranted| Family::of(ungranted.network.addr()) == family);
        let search_ungranted = move |ungranted: &'a Ungranted| ungranted.spread(key).take(MAX_PROBES);
        let not_fixed = |address| (address, false);
        singles
            .take(MAX_PROBES)
            .chain(own)
            .chain(interleaved(inside.map(search)).take(MAX_PROBES).map(not_fixed))
            .chain(interleaved(ranges.map(search)).take(MAX_SEARCHES * MAX_PROBES).map(not_fixed))
            .chain(interleaved(ungranted.map(search_ungranted)).take(MAX_SEARCHES * MAX_PROBES).map(not_fixed))
    }
}

impl Range {
    /// The addresses of a network that are used.
    fn of(net: IpNet) -> Self {
        let (first, bits, family) = match net {
            IpNet::V4(net) => {
                (u128::from(net.network().to_bits()), Ipv4Addr::BITS - u32::from(net.prefix_len()), Family::V4)
            }
            IpNet::V6(net) => {
                let bits = Ipv6Addr::BITS - u32::from(net.prefix_len());
                (net.network().to_bits(), bits.min(IPV6_HOST_BITS), Family::V6)
            }
        };
        Self { first, size: 1 << bits, family }
    }

    /// All addresses, each once. The key determines the first one and the step to the next.
    fn spread(self, key: Key) -> impl Iterator<Item = IpAddr> {
        let start = hash(key, self.family, &self.first.to_le_bytes());
        offsets(start, self.size).map(move |offset| address(self.first + u128::from(offset), self.family))
    }
}

impl Ungranted {
    /// `None` if the network is searched completely anyway, or no grant covers a part of it.
    fn of(network: IpNet, grants: &Grants) -> Option<Self> {
        let network = network.trunc();
        if Range::of(network).size <= MAX_PROBES as u64 {
            return None;
        }
        let mut granted: Vec<_> =
            grants.prefixes().filter_map(|prefix| intersection(network, prefix)).map(bounds).collect();
        if granted.is_empty() {
            return None;
        }
        granted.sort_unstable();
        let (first, last) = bounds(network);
        let (mut gaps, mut count, mut next) = (Vec::new(), 0, Some(first));
        for (grant_first, grant_last) in granted {
            let Some(begin) = next else { break };
            if grant_first > begin {
                gaps.push(Gap { first: begin, before: count });
                count += grant_first - begin;
            }
            next = grant_last.checked_add(1).map(|after| after.max(begin));
        }
        if let Some(begin) = next.filter(|begin| *begin <= last) {
            gaps.push(Gap { first: begin, before: count });
            count += last - begin + 1;
        }
        let most = if network.addr().is_ipv4() { u64::MAX } else { 1 << IPV6_HOST_BITS };
        (count > 0).then_some(Self { network, gaps, size: u64::try_from(count).unwrap_or(u64::MAX).min(most) })
    }

    /// All addresses, each once, in an order that depends on the key as in [`Range::spread`].
    fn spread(&self, key: Key) -> impl Iterator<Item = IpAddr> {
        let family = Family::of(self.network.addr());
        let start = hash(key, family, &bounds(self.network).0.to_le_bytes());
        offsets(start, self.size).map(move |offset| {
            let offset = u128::from(offset);
            let gap = self.gaps[self.gaps.partition_point(|gap| gap.before <= offset) - 1];
            address(gap.first + (offset - gap.before), family)
        })
    }
}

/// All numbers below `size`, each once. The hash determines the first one and the step to the next.
fn offsets(hash: u64, size: u64) -> impl Iterator<Item = u64> {
    // An odd step reaches every number below a power of two.
    let turns = size.next_power_of_two();
    let step = (mix(hash) % turns) | 1;
    let start = scaled(hash, size);
    (0..turns)
        .map(move |index| start.wrapping_add(index.wrapping_mul(step)) % turns)
        .filter(move |offset| *offset < size)
}

/// Takes an item from each source in turn until all are empty.
fn interleaved<I: Iterator>(sources: impl Iterator<Item = I>) -> impl Iterator<Item = I::Item> {
    let mut sources: VecDeque<_> = sources.collect();
    std::iter::from_fn(move || {
        while let Some(mut source) = sources.pop_front() {
            if let Some(item) = source.next() {
                sources.push_back(source);
                return Some(item);
            }
        }
        None
    })
}

fn address(bits: u128, family: Family) -> IpAddr {
    match family {
        #[allow(clippy::cast_possible_truncation)] // the bits are those of an IPv4 address
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The slices of each network, or the whole network if it has none.
pub fn ranges(networks: &[IpNet], slices: &[IpNet]) -> Vec<IpNet> {
    let ranges = networks.iter().flat_map(|net| {
        let inside: Vec<_> = slices.iter().copied().filter(|slice| net.contains(slice)).collect();
        if inside.is_empty() { vec![*net] } else { inside }
    });
    ranges.collect()
}

/// How many addresses of a network vassals can have: without network, broadcast and router's address. For
/// IPv6, only the addresses that can be assigned are counted.
pub fn for_vassals(network: IpNet) -> u64 {
    let reserved = match network.max_prefix_len() - network.prefix_len() {
        0 | 1 => 1,
        _ if network.addr().is_ipv4() => 3,
        _ => 2,
    };
    Range::of(network).size.saturating_sub(reserved)
}

/// The first and the last address of a network, as numbers.
fn bounds(network: IpNet) -> (u128, u128) {
    match network {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

/// A hash that is the same on every machine and for every version: [`mix`] of the 64-bit FNV-1a hash of uid, name,
/// family and `more`, in little endian.
fn hash(key: Key, family: Family, more: &[u8]) -> u64 {
    let bytes = key.uid.to_le_bytes().into_iter().chain(key.name.to_le_bytes());
    mix(fnv1a(bytes.chain([family as u8]).chain(more.iter().copied())))
}

/// Makes every bit of the result depend on all bits of the value (the last step of SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Scales a hash to a number below `size`.
fn scaled(hash: u64, size: u64) -> u64 {
    #[allow(clippy::cast_possible_truncation)] // the quotient is below `size`
    {
        ((u128::from(hash) * u128::from(size)) >> 64) as u64
    }
}

fn is_single(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// The addresses that two prefixes share: the longer prefix if it is inside the other one.
fn intersection(one: IpNet, other: IpNet) -> Option<IpNet> {
    let (one, other) = (one.trunc(), other.trunc());
    if one.contains(&other) {
        Some(other)
    } else if other.contains(&one) {
        Some(one)
    } else {
        None
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
