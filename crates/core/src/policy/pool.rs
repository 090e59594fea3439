//! Which addresses peers get that ask for one. Nothing of it is stored: where the search begins is a hash of who asks, so
//! that the same device finds the same address again, also after the router was started anew, unless somebody else has
//! taken it in the meantime.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

use super::grant::{Grants, Identity};
use tuntap_wire::autoconf::{Family, fnv1a, is_reserved};

/// Most addresses of one network that are looked at for one peer, and most of all that is leased to it. Networks of that
/// size are searched completely; in larger ones the search jumps around, so that no crowded stretch ends it.
pub const MAX_PROBES: usize = 2048;

/// Networks that are searched so far; more of them share this.
const MAX_SEARCHES: usize = 4;

/// Bits of an IPv6 network's host part that are used: those that are not leased to others, if these are. What is left are
/// addresses that people can read.
const IPV6_HOST_BITS: u32 = 20;

/// Addresses that were given back and are not given to others as long as there are better ones. The oldest are forgotten.
pub const MAX_RECENT: usize = 1024;

/// Whom an address is given to: a device of a user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The user, as the kernel vouches for it; 0 where nobody shows who it is.
    pub uid: u32,
    /// Which device, as it says itself ([`tuntap_wire::autoconf::name_hash`]).
    pub name: u64,
}

/// Why a peer gets no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolError {
    /// The router has no network of this family.
    #[error("the router has no {} network (tuntap-router-address)", .0.word())]
    NoNetwork(Family),
    /// All that could be given are held.
    #[error("all {} addresses of the router's networks are taken or leased to others", .0.word())]
    Full(Family),
}

/// The router's networks, and what was given from them.
#[derive(Debug, Default)]
pub struct Pool {
    /// The router's own addresses, with the lengths of their networks.
    networks: Vec<IpNet>,
    /// What no lease covers of networks that are too large to be searched completely, where leases cover some of it.
    unleased: Vec<Unleased>,
    /// Where ports of the host lead: whoever has such an address gets what comes there.
    port_targets: HashSet<IpAddr>,
    given: HashMap<IpAddr, Key>,
    /// Given back, see [`MAX_RECENT`]; the oldest first.
    recent: HashMap<IpAddr, Key>,
    recent_order: VecDeque<IpAddr>,
}

/// Addresses from the first one on, so many.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u128,
    size: u64,
    family: Family,
}

/// Those addresses of a network that no lease covers, numbered through.
#[derive(Debug)]
struct Unleased {
    network: IpNet,
    gaps: Vec<Gap>,
    /// How many are used of them.
    size: u64,
}

/// Addresses in a row, and how many there are in the gaps before this one.
#[derive(Debug, Clone, Copy)]
struct Gap {
    first: u128,
    before: u128,
}

impl Pool {
    /// Nothing given yet. The networks are the router's own addresses with their prefix lengths; addresses that ports of the
    /// host lead to are given to those only to whom they are leased.
    pub fn new(networks: Vec<IpNet>, leases: &Grants, port_targets: impl IntoIterator<Item = IpAddr>) -> Self {
        let unleased = networks.iter().filter_map(|net| Unleased::of(*net, leases)).collect();
        Self { networks, unleased, port_targets: port_targets.into_iter().collect(), ..Self::default() }
    }

    /// The router's address in the network of a family's address, or its first address of the family.
    pub fn gateway(&self, family: Family, inside: Option<IpAddr>) -> Option<IpAddr> {
        let of_family = || self.networks.iter().filter(|net| Family::of(net.addr()) == family);
        let around = inside.and_then(|address| of_family().find(|net| net.contains(&address)));
        around.or_else(|| of_family().next()).map(IpNet::addr)
    }

    /// An address with the length of its network's prefix; alone if it is in none.
    pub fn with_prefix(&self, address: IpAddr) -> IpNet {
        let network = self.networks.iter().find(|net| net.contains(&address));
        network.and_then(|net| IpNet::new(address, net.prefix_len()).ok()).unwrap_or_else(|| address.into())
    }

    /// Whether an address is the router's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|net| net.addr() == address)
    }

    /// Whether an address is that of a whole network of the router's: IPv4's broadcast address, and what was that once.
    pub fn is_for_many(&self, address: IpAddr) -> bool {
        address.is_ipv4() && self.networks.iter().any(|net| is_reserved(*net, address))
    }

    /// Whether an address may be given to a peer if nobody holds it: it is in a network of the router's, some host can
    /// have it, and no lease keeps it for others. What a port leads to must be leased to the peer.
    pub fn may_give(&self, address: IpAddr, identity: &Identity, leases: &Grants) -> bool {
        let is_permitted = match leases.is_granted(address, identity) {
            Some(is_granted) => is_granted,
            // What becomes of addresses that no lease covers is about what peers choose themselves.
            None => !self.is_port_target(address),
        };
        is_permitted && self.is_for_peers(address)
    }

    /// Whether an address is in a network of the router's, and some host other than the router can have it.
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

    /// Whether a port of the host leads to an address.
    pub fn is_port_target(&self, address: IpAddr) -> bool {
        self.port_targets.contains(&address)
    }

    /// Chooses an address: what is leased to the peer before what is leased to nobody, single addresses first. `is_free`
    /// is asked about candidates, and told whether a holder would be an earlier life of the same peer.
    pub fn choose(
        &self,
        key: Key,
        family: Family,
        identity: &Identity,
        leases: &Grants,
        mut is_free: impl FnMut(IpAddr, bool) -> bool,
    ) -> Result<IpAddr, PoolError> {
        if !self.networks.iter().any(|net| Family::of(net.addr()) == family) {
            return Err(PoolError::NoNetwork(family));
        }
        let mut second_choice = None;
        for (address, is_fixed) in self.candidates(key, family, identity, leases) {
            if !self.may_give(address, identity, leases) {
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

    /// Notes that an address was given.
    pub fn give(&mut self, address: IpAddr, key: Key) {
        self.forget(address);
        self.given.insert(address, key);
    }

    /// Notes that an address has no holder any more. Those that were not given by [`Pool::give`] don't count.
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

    fn forget(&mut self, address: IpAddr) {
        if self.recent.remove(&address).is_some() {
            self.recent_order.retain(|other| *other != address);
        }
    }

    /// Addresses in the order in which they should be tried, and whether the operator meant this one.
    fn candidates<'a>(
        &'a self,
        key: Key,
        family: Family,
        identity: &'a Identity,
        leases: &'a Grants,
    ) -> impl Iterator<Item = (IpAddr, bool)> + 'a {
        let leased = || leases.prefixes_of(identity).filter(move |prefix| Family::of(prefix.addr()) == family);
        let (singles, prefixes): (Vec<_>, Vec<_>) = leased().partition(|prefix| is_single(*prefix));
        // Several devices of one user begin at different ones.
        let begin = scaled(hash(key, family, &[]), singles.len() as u64);
        let begin = usize::try_from(begin).unwrap_or_default();
        let singles = (0..singles.len()).map(move |index| (singles[(begin + index) % singles.len()].addr(), true));
        // The last one first: what a device had before that, it may have had for want of a better one.
        let own = self.recent_order.iter().rev().filter(move |address| self.recent.get(address) == Some(&key));
        let own = own.filter(move |address| Family::of(**address) == family).map(|address| (*address, false));
        let networks = self.networks.iter().copied().filter(move |net| Family::of(net.addr()) == family);
        let inside = networks.clone().flat_map(move |net| {
            prefixes.clone().into_iter().filter_map(move |prefix| intersection(net, prefix)).collect::<Vec<_>>()
        });
        let search = move |net| Range::of(net).spread(key).take(MAX_PROBES);
        let unleased = self.unleased.iter().filter(move |unleased| Family::of(unleased.network.addr()) == family);
        let search_unleased = move |unleased: &'a Unleased| unleased.spread(key).take(MAX_PROBES);
        let not_fixed = |address| (address, false);
        singles
            .take(MAX_PROBES)
            .chain(own)
            .chain(interleaved(inside.map(search)).take(MAX_PROBES).map(not_fixed))
            .chain(interleaved(networks.map(search)).take(MAX_SEARCHES * MAX_PROBES).map(not_fixed))
            .chain(interleaved(unleased.map(search_unleased)).take(MAX_SEARCHES * MAX_PROBES).map(not_fixed))
    }
}

impl Range {
    /// The part of a network that is used.
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

    /// All addresses of it, each once, from one on that depends on the key, in steps that do, too.
    fn spread(self, key: Key) -> impl Iterator<Item = IpAddr> {
        let start = hash(key, self.family, &self.first.to_le_bytes());
        offsets(start, self.size).map(move |offset| address(self.first + u128::from(offset), self.family))
    }
}

impl Unleased {
    /// Nothing where no lease is, and where the search in the network leaves nothing out.
    fn of(network: IpNet, leases: &Grants) -> Option<Self> {
        let network = network.trunc();
        if Range::of(network).size <= MAX_PROBES as u64 {
            return None;
        }
        let mut leased: Vec<_> =
            leases.prefixes().filter_map(|prefix| intersection(network, prefix)).map(bounds).collect();
        if leased.is_empty() {
            return None;
        }
        leased.sort_unstable();
        let (first, last) = bounds(network);
        let (mut gaps, mut count, mut next) = (Vec::new(), 0, Some(first));
        for (lease_first, lease_last) in leased {
            let Some(begin) = next else { break };
            if lease_first > begin {
                gaps.push(Gap { first: begin, before: count });
                count += lease_first - begin;
            }
            next = lease_last.checked_add(1).map(|after| after.max(begin));
        }
        if let Some(begin) = next.filter(|begin| *begin <= last) {
            gaps.push(Gap { first: begin, before: count });
            count += last - begin + 1;
        }
        let most = if network.addr().is_ipv4() { u64::MAX } else { 1 << IPV6_HOST_BITS };
        (count > 0).then_some(Self { network, gaps, size: u64::try_from(count).unwrap_or(u64::MAX).min(most) })
    }

    /// As [`Range::spread`].
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

/// All numbers below `size`, each once, from one on and in steps that depend on a hash.
fn offsets(hash: u64, size: u64) -> impl Iterator<Item = u64> {
    // Odd numbers have no divisor in common with a power of two.
    let turns = size.next_power_of_two();
    let step = (mix(hash) % turns) | 1;
    let start = scaled(hash, size);
    (0..turns)
        .map(move |index| start.wrapping_add(index.wrapping_mul(step)) % turns)
        .filter(move |offset| *offset < size)
}

/// One of each in turn, as long as there are any.
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
        #[allow(clippy::cast_possible_truncation)] // it is a network's, and fits
        Family::V4 => Ipv4Addr::from_bits(bits as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

/// How many addresses of a network there are for vassals: without its own, broadcast and the router's; of IPv6, as many as are
/// used for choosing.
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

/// A hash that is the same on every machine and at any time: FNV-1a, 64 bits, of the uid, the name and what else there is,
/// little endian, and then [`mix`].
fn hash(key: Key, family: Family, more: &[u8]) -> u64 {
    let bytes = key.uid.to_le_bytes().into_iter().chain(key.name.to_le_bytes());
    mix(fnv1a(bytes.chain([family as u8]).chain(more.iter().copied())))
}

/// Spreads what is in some bits over all of them (the last step of SplitMix64).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A number below `size`, in proportion.
fn scaled(hash: u64, size: u64) -> u64 {
    #[allow(clippy::cast_possible_truncation)] // it is below `size`
    {
        ((u128::from(hash) * u128::from(size)) >> 64) as u64
    }
}

fn is_single(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

/// What two prefixes have in common: the longer one, if it is inside of the other.
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
