//! Which addresses a peer holds, and which it may still get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::account::Account;
use super::drops::DropReason;
use super::grant::{Grants, Identity};
use super::guard::Guard;
use super::pool::Pool;
use super::registry::{ClaimResult, PeerId, Registry};
use super::shares::Shares;
use tuntap_wire::autoconf::is_claimable;

/// Most IPv6 addresses of a peer. A host has one for each network that it knows of, and may have some for a time (RFC 8981).
pub const MAX_V6_ADDRESSES: usize = 8;

/// A peer's addresses: one of IPv4, and some of IPv6.
#[derive(Debug, Default)]
pub struct Claims {
    v4: V4,
    v6: Vec<Ipv6Addr>,
    /// Whether somebody else has chosen its addresses. It gets no others then but those that are leased to it.
    is_bound: bool,
}

/// What is known about a peer's IPv4 address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum V4 {
    /// Its first valid packet will claim one.
    #[default]
    Unclaimed,
    /// It may have this one only, and hasn't got it yet.
    Assigned(Ipv4Addr),
    /// It holds this one.
    Held(Ipv4Addr),
}

/// How an assignment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssignResult {
    /// The peer holds the address now.
    Granted,
    /// Another peer holds it, and keeps it until it dies.
    HeldBy(PeerId),
    /// It is not leased to the peer.
    NotLeased,
    /// It is the host's own, a router's, or none that a host can have.
    Taken,
    /// The peer holds another one already, or as many as it may.
    TooMany,
}

/// What a packet's source is to the peer that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An address that the peer holds.
    Own,
    /// One that it has got with this packet.
    Claimed,
    /// One that it can't have as long as this peer has it.
    HeldBy(PeerId),
    /// One that it must not use.
    Refused(DropReason),
}

/// Who claims.
#[derive(Debug, Clone, Copy)]
pub struct Claimant<'a> {
    /// The peer.
    pub id: PeerId,
    /// Who it is.
    pub identity: &'a Identity,
    /// For whom its addresses are counted.
    pub account: Option<Account>,
}

/// What says whether an address may be claimed.
#[derive(Debug, Clone, Copy)]
pub struct ClaimContext<'a> {
    /// What is kept for whom.
    pub leases: &'a Grants,
    /// The router's networks.
    pub pool: &'a Pool,
    /// What is nobody's.
    pub guard: &'a Guard,
    /// How many each may have.
    pub shares: &'a Shares,
}

impl Claims {
    /// All addresses that are held, that of IPv4 first.
    pub fn held(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = match self.v4 {
            V4::Held(address) => Some(IpAddr::V4(address)),
            V4::Unclaimed | V4::Assigned(_) => None,
        };
        v4.into_iter().chain(self.v6.iter().copied().map(IpAddr::V6))
    }

    /// Whether an address is held, or assigned and waited for.
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => matches!(self.v4, V4::Held(own) | V4::Assigned(own) if own == address),
            IpAddr::V6(address) => self.v6.contains(&address),
        }
    }

    /// Whether the peer may choose no address by itself.
    pub const fn is_bound(&self) -> bool {
        self.is_bound
    }

    /// Whether the peer has been given an address that another one still holds.
    pub const fn is_waiting(&self) -> bool {
        matches!(self.v4, V4::Assigned(_))
    }

    /// Gives an address to the peer, which from then on may choose no other by itself. If another peer holds an IPv4
    /// address, this one waits for it: packets try again.
    pub fn assign(&mut self, address: IpAddr, id: PeerId, registry: &mut Registry) -> AssignResult {
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
        match registry.claim(address, id) {
            ClaimResult::Granted => {
                self.hold(address);
                AssignResult::Granted
            }
            ClaimResult::HeldBy(holder) => {
                if let IpAddr::V4(address) = address {
                    self.v4 = V4::Assigned(address);
                }
                AssignResult::HeldBy(holder)
            }
        }
    }

    /// Says whether the peer may choose addresses by itself, whatever was assigned to it.
    pub const fn set_bound(&mut self, is_bound: bool) {
        self.is_bound = is_bound;
    }

    /// Looks at a packet's source, and claims it if the peer may have it.
    pub fn check(
        &mut self,
        source: IpAddr,
        claimant: Claimant<'_>,
        grants: ClaimContext<'_>,
        registry: &mut Registry,
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
        if let Some(reason) = self.refusal(source, claimant, grants) {
            return Source::Refused(reason);
        }
        match registry.claim(source, claimant.id) {
            ClaimResult::Granted => {
                self.hold(source);
                Source::Claimed
            }
            ClaimResult::HeldBy(holder) => Source::HeldBy(holder),
        }
    }

    /// Why the peer may not claim an address that it doesn't hold.
    fn refusal(&self, source: IpAddr, claimant: Claimant<'_>, grants: ClaimContext<'_>) -> Option<DropReason> {
        let Claimant { identity, account, .. } = claimant;
        let ClaimContext { leases, pool, guard, shares } = grants;
        if matches!(self.v4, V4::Assigned(_)) && source.is_ipv4() {
            return None;
        }
        if !is_claimable(source) {
            return Some(DropReason::InvalidSource);
        }
        if self.is_bound && !leases.cover(source) {
            return Some(DropReason::SpoofedSource);
        }
        if !leases.allow(source, identity) {
            return Some(DropReason::NotLeased);
        }
        if !guard.may_claim(source, identity, leases, pool) {
            return Some(DropReason::NotClaimable);
        }
        if source.is_ipv6() && self.v6.len() >= MAX_V6_ADDRESSES {
            return Some(DropReason::TooManyAddresses);
        }
        let is_leased = leases.is_granted(source, identity) == Some(true);
        (!is_leased && !shares.has_room(account, source)).then_some(DropReason::AddressShare)
    }

    fn hold(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4 = V4::Held(address),
            IpAddr::V6(address) if self.v6.contains(&address) => {}
            IpAddr::V6(address) => self.v6.push(address),
        }
    }
}
