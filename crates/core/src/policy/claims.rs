//! The addresses that a peer holds, and those that it may still claim.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::account::Account;
use super::drops::DropReason;
use super::grant::{Grants, Identity};
use super::guard::Guard;
use super::pool::Pool;
use super::registry::{ClaimResult, PeerId, Registry};
use super::shares::Shares;
use crate::elsewhere::{Elsewhere, Told};
use tuntap_wire::autoconf::is_claimable;
use tuntap_wire::holding::ClaimTime;

/// The maximum number of IPv6 addresses of a peer. A host has one for each of its networks, and may have temporary ones
/// (RFC 8981).
pub const MAX_V6_ADDRESSES: usize = 8;

/// A peer's addresses: one IPv4 address, and up to [`MAX_V6_ADDRESSES`] IPv6 addresses.
#[derive(Debug, Default)]
pub struct Claims {
    v4: V4,
    v6: Vec<Ipv6Addr>,
    /// True if the router or a credentials hook has chosen the peer's addresses. Then it may claim only addresses that are
    /// granted to it.
    is_bound: bool,
    /// The addresses that newer claims on other hosts have taken from a peer that is bound. It may claim these again.
    lost: Vec<IpAddr>,
}

/// The state of a peer's IPv4 address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum V4 {
    /// The peer has none. Its first valid packet claims one.
    #[default]
    Unclaimed,
    /// The peer may only have this one, which another peer still holds.
    Assigned(Ipv4Addr),
    /// The peer holds this one.
    Held(Ipv4Addr),
}

/// The result of an assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignResult {
    /// The peer holds the address now.
    Granted,
    /// Another peer holds it, and keeps it until it dies.
    HeldBy(PeerId),
    /// A peer of another router holds it, on another host.
    HeldElsewhere(Told),
    /// It is granted to others, or to nobody where grants are needed.
    NotGranted,
    /// It is the host's own, a router's, or not the address of a single host.
    Taken,
    /// The peer already holds another IPv4 address, or as many IPv6 addresses as it may.
    TooMany,
}

/// The result of the check of a packet's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The peer holds the address.
    Own,
    /// The peer has got the address with this packet.
    Claimed,
    /// Another peer holds the address.
    HeldBy(PeerId),
    /// A peer of another router holds the address, on another host.
    HeldElsewhere(Told),
    /// The peer must not use the address.
    Refused(DropReason),
}

/// The peer that claims an address.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'a> {
    /// The peer.
    pub id: PeerId,
    /// Its identity.
    pub identity: &'a Identity,
    /// The account that its addresses are counted for.
    pub account: Option<Account>,
}

/// What is needed to decide if an address may be claimed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimContext<'a> {
    /// The grants.
    pub grants: &'a Grants,
    /// The router's networks.
    pub pool: &'a Pool,
    /// The addresses that no peer may hold.
    pub guard: &'a Guard,
    /// How many addresses each account may hold.
    pub shares: &'a Shares,
    /// What peers of other routers hold.
    pub elsewhere: &'a Elsewhere,
}

impl Claims {
    /// Returns all addresses that are held, the IPv4 address first.
    pub fn held(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = match self.v4 {
            V4::Held(address) => Some(IpAddr::V4(address)),
            V4::Unclaimed | V4::Assigned(_) => None,
        };
        v4.into_iter().chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    /// Returns true if the peer holds an address, or waits for it.
    pub fn has(&self, address: IpAddr) -> bool {
        let has = match address {
            IpAddr::V4(address) => matches!(self.v4, V4::Held(own) | V4::Assigned(own) if own == address),
            IpAddr::V6(address) => self.v6.contains(&address),
        };
        has || self.lost.contains(&address)
    }

    /// Returns the addresses that newer claims on other hosts have taken from the peer, and that it may claim again although
    /// it is bound.
    pub fn lost(&self) -> &[IpAddr] {
        &self.lost
    }

    /// Takes an address from the peer, because a newer claim on another host has it.
    pub fn lose(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(_) => self.v4 = V4::Unclaimed,
            IpAddr::V6(address) => self.v6.retain(|held| *held != address),
        }
        if self.is_bound {
            self.await_again(address);
        }
    }

    /// Lets a peer that is bound claim an address again that was taken from it.
    pub fn await_again(&mut self, address: IpAddr) {
        if !self.lost.contains(&address) && self.lost.len() <= MAX_V6_ADDRESSES {
            self.lost.push(address);
        }
    }

    /// Returns true if the peer may choose no address by itself.
    pub const fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Returns true if the peer waits for an address that another peer still holds.
    pub const fn is_waiting(&self) -> bool {
        matches!(self.v4, V4::Assigned(_))
    }

    /// Assigns an address to the peer, which from then on may choose no other one by itself. If another peer holds an IPv4
    /// address, or a peer of another router (`elsewhere`), this peer waits for it: each of its packets tries to claim it again.
    /// If the peer gets it, it holds it since `since`.
    pub fn assign(
        &mut self,
        address: IpAddr,
        (id, since): (PeerId, ClaimTime),
        elsewhere: Option<Told>,
        registry: &mut Registry,
    ) -> AssignResult {
        let has_room = match address {
            IpAddr::V4(address) => match self.v4 {
                V4::Held(held) | V4::Assigned(held) => held == address,
                V4::Unclaimed => true,
            },
            IpAddr::V6(address) => self.v6.contains(&address) || self.v6.len() < MAX_V6_ADDRESSES,
        };
        if !has_room {
            return AssignResult::TooMany;
        }
        self.is_bound = true;
        // What elsewhere is older than a claim that stands here changes nothing about it.
        let result = match elsewhere.filter(|_| registry.holder(address).is_none()) {
            Some(told) => AssignResult::HeldElsewhere(told),
            None => match registry.claim(address, id, since) {
                ClaimResult::Granted => {
                    self.hold(address);
                    return AssignResult::Granted;
                }
                ClaimResult::HeldBy(holder) => AssignResult::HeldBy(holder),
            },
        };
        if let IpAddr::V4(address) = address {
            self.v4 = V4::Assigned(address);
        }
        result
    }

    /// Sets whether the peer is bound: if it is, it may choose no address by itself.
    pub const fn set_bound(&mut self, is_bound: bool) {
        self.is_bound = is_bound;
    }

    /// Checks a packet's source. If the peer doesn't hold it, but may have it, the peer claims it.
    pub fn check(
        &mut self,
        source: IpAddr,
        claimant: Claimant<'_>,
        context: ClaimContext<'_>,
        registry: &mut Registry,
    ) -> Source {
        let result = self.assess(source, claimant, context, registry);
        if result == Source::Claimed {
            registry.claim(source, claimant.id, context.elsewhere.time_of_claim(source));
            self.hold(source);
        }
        result
    }

    /// Returns what [`Self::check`] would return, and changes nothing.
    pub fn assess(
        &self,
        source: IpAddr,
        claimant: Claimant<'_>,
        context: ClaimContext<'_>,
        registry: &Registry,
    ) -> Source {
        let is_own = match source {
            IpAddr::V4(source) => match self.v4 {
                V4::Held(address) if address == source => true,
                V4::Held(_) => return Source::Refused(DropReason::SpoofedSource),
                V4::Assigned(address) if address != source => return Source::Refused(DropReason::SpoofedSource),
                V4::Assigned(_) | V4::Unclaimed => false,
            },
            IpAddr::V6(source) => self.v6.contains(&source),
        };
        if is_own {
            return Source::Own;
        }
        if let Some(reason) = self.refusal(source, claimant, context) {
            return Source::Refused(reason);
        }
        match registry.holder(source) {
            Some(holder) if holder != claimant.id => Source::HeldBy(holder),
            _ => context.elsewhere.holder(source).map_or(Source::Claimed, Source::HeldElsewhere),
        }
    }

    /// Returns why the peer may not claim an address that it doesn't hold.
    fn refusal(&self, source: IpAddr, claimant: Claimant<'_>, context: ClaimContext<'_>) -> Option<DropReason> {
        let Claimant { identity, account, .. } = claimant;
        let ClaimContext { grants, pool, guard, shares, .. } = context;
        if matches!(self.v4, V4::Assigned(_)) && source.is_ipv4() {
            return None;
        }
        let has_room = || grants.is_granted(source, identity) == Some(true) || shares.has_room(account, source);
        let has_place = source.is_ipv4() || self.v6.len() < MAX_V6_ADDRESSES;
        if self.lost.contains(&source) && has_place && has_room() {
            return None;
        }
        if !is_claimable(source) {
            return Some(DropReason::InvalidSource);
        }
        if self.is_bound && !grants.cover(source) {
            return Some(DropReason::SpoofedSource);
        }
        if !grants.allow(source, identity) {
            return Some(DropReason::NotGranted);
        }
        if !guard.may_claim(source, identity, grants, pool) {
            return Some(DropReason::NotClaimable);
        }
        if !has_place {
            return Some(DropReason::TooManyAddresses);
        }
        (!has_room()).then_some(DropReason::AddressShare)
    }

    fn hold(&mut self, address: IpAddr) {
        // Who has got an IPv4 address can't have another one.
        self.lost.retain(|lost| *lost != address && !(lost.is_ipv4() && address.is_ipv4()));
        match address {
            IpAddr::V4(address) => self.v4 = V4::Held(address),
            IpAddr::V6(address) if self.v6.contains(&address) => {}
            IpAddr::V6(address) => self.v6.push(address),
        }
    }
}
