//! The policy of a router, as the options of its instance say it: the one that its process forwards by, and that the doctor
//! judges by.

use std::net::SocketAddr;
use std::sync::Arc;

use tuntap_core::policy::Policy;
use tuntap_core::policy::grant::{Grant, Grants, Uncovered};
use tuntap_core::policy::guard::{Gateways, GuardPolicy};
use tuntap_core::policy::pattern::{Action, PolicyRules};
use tuntap_core::policy::shape::{Shape, Shapes};
use tuntap_core::policy::targets::AllowedTargets;

use super::{Config, RouterSpec};

/// The chains and routes of a policy.
#[derive(Debug, Clone)]
pub struct RuleChains {
    /// Chain for packets towards the peers.
    pub firewall_in: PolicyRules<Action>,
    /// Chain for packets from the peers.
    pub firewall_out: PolicyRules<Action>,
    /// Where packets from the peers go instead of the TUN device.
    pub routes: PolicyRules<SocketAddr>,
    /// The targets of these routes, which peers may name in their rules, too.
    pub targets: Vec<SocketAddr>,
    /// How much traffic the peers may have.
    pub shapes: Shapes,
}

impl Config {
    /// Who may hold which address. `grants` are those of the options, with the numbers of their users and groups (see
    /// [`resolve_grants`](crate::resolve_grants)).
    ///
    /// This is the only place that gives the absence of `tuntap-router-lease-default` a meaning: with a lease, addresses that
    /// no lease covers are denied; without any, everybody may hold any address.
    pub fn compile_grants(&self, grants: Vec<Grant>) -> Grants {
        let default = if grants.is_empty() { Uncovered::Allow } else { Uncovered::Deny };
        Grants::new(grants, self.lease_default.unwrap_or(default))
    }

    /// The policy of one of the routers by its options alone. `grants` are those of the instance (see
    /// [`Self::compile_grants`]), and `shapes` the router's limits (see [`resolve_shapes`](crate::resolve_shapes)).
    pub fn policy(&self, router: &RouterSpec, grants: Grants, shapes: Vec<Shape>) -> Policy {
        let chains = RuleChains {
            firewall_in: PolicyRules::chain(self.firewall_in.iter().copied()),
            firewall_out: PolicyRules::chain(self.firewall_out.iter().copied()),
            routes: PolicyRules::new(self.routes.iter().copied()),
            targets: self.routes.iter().map(|route| route.target).collect(),
            shapes: Shapes::new(shapes),
        };
        self.policy_of(router, grants, chains)
    }

    /// The policy of one of the routers with these rules in place of those of the options.
    pub fn policy_of(&self, router: &RouterSpec, grants: Grants, chains: RuleChains) -> Policy {
        let guard = self.guard_policy(router, &chains.targets);
        Policy {
            shapes: Arc::new(chains.shapes),
            generation: 0,
            firewall_in: chains.firewall_in,
            firewall_out: chains.firewall_out,
            sets: Vec::new(),
            counters: Vec::new(),
            has_script: false,
            routes: chains.routes,
            has_gateway: router.gateway.is_some(),
            switch: self.switch,
            grants,
            device_routes: AllowedTargets::new(chains.targets, self.device_routes.iter().copied()),
            gateway_sources: self.gateway_sources.iter().copied().collect(),
            networks: router.addresses.clone(),
            slices: router.pools.clone(),
            port_targets: router.ports.iter().map(|mapping| mapping.target.ip()).collect(),
            guard,
            max_addresses: self.limits.addresses_per_uid,
        }
    }

    /// What no peer of a router may hold, and where none may send to. All routers of the instance count.
    fn guard_policy(&self, router: &RouterSpec, targets: &[SocketAddr]) -> GuardPolicy {
        GuardPolicy {
            claims: router.claim_scope(),
            is_strict: router.has_network(),
            own: self.routers.iter().flat_map(|router| router.addresses.iter().copied()).collect(),
            gateways: Gateways::new(
                self.routers.iter().filter_map(|router| router.gateway),
                targets.iter().copied(),
                &self.device_routes,
                &self.gateway_sources,
                self.gateway_vassals.iter().copied(),
            ),
        }
    }
}
