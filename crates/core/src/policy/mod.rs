//! The policy of a router, and the decisions that follow from it.

pub mod account;
pub mod admission;
pub mod assignment;
mod changes;
pub mod claims;
pub mod counters;
mod decide;
pub mod drops;
pub mod explain;
pub mod flows;
pub mod forward;
pub mod grant;
pub mod guard;
mod keep;
pub mod limits;
pub mod lost;
pub mod pattern;
mod plain;
pub mod pool;
pub mod prefix_map;
pub mod rate_limit;
pub mod rates;
pub mod registry;
mod repeat;
pub mod script;
pub mod set;
pub mod shape;
pub mod shape_text;
pub mod shares;
pub mod targets;
pub mod verdict;
mod walk;

pub use walk::ToLog;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use counters::CounterSlot;
use grant::{Grant, Grants, Identity};
use guard::GuardPolicy;
use pattern::{Action, PolicyRules};
use prefix_map::PrefixSet;
use set::AddressSet;
use shape::{Shape, Shapes};
use targets::AllowedTargets;

/// What the operator has configured. A policy never changes: other rules make another policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The number of the policy. A policy that replaces another one has a higher number.
    pub generation: u64,
    /// Chain for packets towards the peers.
    pub firewall_in: PolicyRules<Action>,
    /// Chain for packets from the peers.
    pub firewall_out: PolicyRules<Action>,
    /// The sets that rules and the script name, with their names.
    pub sets: Vec<(String, Arc<AddressSet>)>,
    /// The counters that several rules may share, by name.
    pub counters: Vec<(String, CounterSlot)>,
    /// How much traffic peers may have.
    pub shapes: Arc<Shapes>,
    /// True if a script is asked about each new flow that the rules let pass.
    pub has_script: bool,
    /// Where packets from the peers go instead of the TUN device.
    pub routes: PolicyRules<SocketAddr>,
    /// True if there is a gateway that can send to other routers. Without one the routes have no effect.
    pub has_gateway: bool,
    /// True if the router itself delivers packets between two peers, rather than the host's kernel.
    pub switch: bool,
    /// The grants: who may hold which address.
    pub grants: Grants,
    /// Gateways that peers may name in their rules.
    pub device_routes: AllowedTargets,
    /// Networks from which datagrams of other routers may come. If the set is empty, they may come from anywhere.
    pub gateway_sources: PrefixSet,
    /// The router's own addresses, with the prefix lengths of the networks from which peers get addresses.
    pub networks: Vec<IpNet>,
    /// Parts of these networks. In a network that has some, the router chooses addresses from these only.
    pub slices: Vec<IpNet>,
    /// The addresses to which ports of the host are mapped. A peer gets one of these only by a grant.
    pub port_targets: Vec<IpAddr>,
    /// The addresses that no peer may hold, and the destinations to which none may send.
    pub guard: GuardPolicy,
    /// The maximum number of addresses of each family that one account may hold, see [`Shares::new`](shares::Shares::new).
    pub max_addresses: Option<usize>,
}

impl Default for Policy {
    /// Makes a policy without any rules: every peer may claim any address, and send anything.
    fn default() -> Self {
        Self {
            generation: 0,
            firewall_in: PolicyRules::chain([]),
            firewall_out: PolicyRules::chain([]),
            sets: Vec::new(),
            counters: Vec::new(),
            shapes: Arc::default(),
            has_script: false,
            routes: PolicyRules::new([]),
            has_gateway: false,
            switch: false,
            grants: Grants::none(),
            device_routes: AllowedTargets::default(),
            gateway_sources: PrefixSet::default(),
            networks: Vec::new(),
            slices: Vec::new(),
            port_targets: Vec::new(),
            guard: GuardPolicy::default(),
            max_addresses: None,
        }
    }
}

impl Policy {
    /// Returns true if a rule of a chain or a route looks at the state of connections.
    pub(crate) const fn looks_at_state(&self) -> bool {
        self.firewall_in.looks_at_state() || self.firewall_out.looks_at_state() || self.routes.looks_at_state()
    }

    /// Returns true if a grant or a limit names a group, so that the groups of a peer matter.
    pub(crate) fn names_groups(&self) -> bool {
        self.grants.name_groups() || self.shapes.name_groups()
    }

    /// Removes the groups that no grant and no limit names from an identity. What is left is no longer than the lists of both.
    pub(crate) fn forget_other_groups(&self, identity: &mut Identity) {
        identity.groups.retain(|group| self.grants.name_group(*group) || self.shapes.name_group(*group));
    }

    /// Returns the policy that follows this one when there are further grants.
    pub fn with_grants(&self, grants: impl IntoIterator<Item = Grant>) -> Self {
        let mut next = Self { generation: self.generation + 1, ..self.clone() };
        grants.into_iter().for_each(|grant| next.grants.add(grant));
        next
    }

    /// Returns the policy that follows this one when there are further limits, which stand behind the others; `None` if it has
    /// all of them.
    pub fn with_shapes(&self, shapes: &[Shape]) -> Option<Self> {
        let mut all: Vec<Shape> = self.shapes.iter().cloned().collect();
        for shape in shapes {
            if !all.contains(shape) {
                all.push(shape.clone());
            }
        }
        let is_new = all.len() > self.shapes.iter().count();
        is_new.then(|| Self { generation: self.generation + 1, shapes: Arc::new(Shapes::new(all)), ..self.clone() })
    }
}

#[cfg(test)]
mod flow_tests;
