//! The policy of a router, and what decides by it.

pub mod account;
pub mod admission;
pub mod assignment;
pub mod cache;
pub mod claims;
mod decide;
pub mod drops;
pub mod forward;
pub mod grant;
pub mod guard;
pub mod limits;
pub mod pattern;
pub mod pool;
pub mod prefix_map;
pub mod rate_limit;
pub mod registry;
pub mod shares;
pub mod targets;
pub mod verdict;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use grant::{Grant, Grants};
use guard::GuardPolicy;
use pattern::{Action, Rules};
use prefix_map::PrefixSet;
use targets::AllowedTargets;

/// What the operator has configured. It never changes: a router that gets other rules gets another policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The number of the policy. A policy that replaces another one has a higher number.
    pub generation: u64,
    /// Chain for packets towards the peers.
    pub firewall_in: Rules<Action>,
    /// Chain for packets from the peers.
    pub firewall_out: Rules<Action>,
    /// Where packets from the peers go instead of the TUN device.
    pub routes: Rules<SocketAddr>,
    /// Whether there is a gateway that can send to other routers. Without one the routes don't count.
    pub has_gateway: bool,
    /// Whether packets between two peers are delivered here rather than by the host's kernel.
    pub switch: bool,
    /// Who may hold which address.
    pub leases: Grants,
    /// Gateways that peers may name in their rules.
    pub device_routes: AllowedTargets,
    /// Where datagrams of other routers may come from. An empty set is anywhere.
    pub gateway_sources: PrefixSet,
    /// The router's own addresses, with the lengths of the prefixes of the networks that peers get addresses from.
    pub networks: Vec<IpNet>,
    /// Where ports of the host lead: peers are given these only by a lease.
    pub port_targets: Vec<IpAddr>,
    /// What no peer may have, and where none may send to.
    pub guard: GuardPolicy,
    /// Addresses that one account may hold of each family, see [`Shares::new`].
    pub max_addresses: Option<usize>,
}

impl Default for Policy {
    /// Without any rule: every peer may claim and send what it likes.
    fn default() -> Self {
        Self {
            generation: 0,
            firewall_in: Rules::chain([]),
            firewall_out: Rules::chain([]),
            routes: Rules::new([]),
            has_gateway: false,
            switch: false,
            leases: Grants::none(),
            device_routes: AllowedTargets::default(),
            gateway_sources: PrefixSet::default(),
            networks: Vec::new(),
            port_targets: Vec::new(),
            guard: GuardPolicy::default(),
            max_addresses: None,
        }
    }
}

impl Policy {
    /// Returns the policy that follows this one when there are further grants.
    pub fn with_grants(&self, grants: impl IntoIterator<Item = Grant>) -> Self {
        let mut next = Self { generation: self.generation + 1, ..self.clone() };
        grants.into_iter().for_each(|grant| next.leases.add(grant));
        next
    }
}
