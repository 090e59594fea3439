//! The verdict on each packet, compared with an oracle's.
//!
//! Input: a policy, then events of peers and packets, read by `read_policy` and `Scene::step`. Most addresses are among
//! a few, so that rules match and claims collide.

mod claims;
mod gateways;
mod matching;
mod oracle;
mod policy;
mod scene;

use tuntap_core::policy::Policy;
use tuntap_core::policy::forward::Forwarder;
use tuntap_core::policy::grant::Grants;
use tuntap_core::policy::guard::{ClaimScope, Gateways, GuardPolicy};
use tuntap_core::policy::pattern::PolicyRules as CompiledRules;
use tuntap_core::policy::targets::AllowedTargets;

use self::oracle::Oracle;
use self::policy::read_policy;
use self::scene::Scene;
use super::input::Input;

/// Most peers at a time.
const PEERS: usize = 4;

/// Number of users and of groups.
const IDS: u32 = 5;

/// Most IPv6 addresses of a peer.
const MOST_V6: usize = 8;

/// Reads a policy, and applies the events to the forwarder and to the oracle.
pub fn check(data: &[u8]) {
    let mut input = Input::new(data);
    let seed = u64::from(input.byte());
    let rules = read_policy(&mut input);
    let policy = Policy {
        sets: Vec::new(),
        counters: Vec::new(),
        shapes: std::sync::Arc::default(),
        has_script: false,
        generation: 0,
        firewall_in: CompiledRules::chain(rules.firewall_in.iter().copied()),
        firewall_out: CompiledRules::chain(rules.firewall_out.iter().copied()),
        routes: CompiledRules::new(rules.routes.iter().copied()),
        has_gateway: rules.has_gateway,
        switch: rules.switch,
        grants: Grants::new(rules.grants.iter().copied(), rules.uncovered),
        // As in the plugin, peers may name the targets of the router's own routes.
        device_routes: AllowedTargets::new(
            rules.routes.iter().map(|route| route.target),
            rules.device_routes.iter().copied(),
        ),
        gateway_sources: rules.gateway_sources.iter().copied().collect(),
        networks: rules.networks.clone(),
        slices: Vec::new(),
        port_targets: Vec::new(),
        guard: GuardPolicy {
            claims: if rules.claims_own { ClaimScope::Own } else { ClaimScope::Any },
            is_strict: rules.is_strict,
            own: rules.networks.clone(),
            gateways: Gateways::new(
                rules.own_gateway,
                rules.routes.iter().map(|route| route.target),
                &rules.device_routes,
                &rules.gateway_sources,
                rules.gateway_vassals,
            ),
        },
        // No limit: shares are covered by the tests of their module.
        max_addresses: Some(0),
    };
    let mut forwarder = Forwarder::new(policy, seed);
    forwarder.set_host_addresses(rules.host.iter().copied());
    let mut scene = Scene { forwarder, oracle: Oracle { rules, peers: Default::default() }, added: 0 };
    let wants_groups = (0..IDS).any(|group| scene.oracle.is_named(group));
    assert_eq!(scene.forwarder.wants_groups(), wants_groups);
    while !input.is_empty() {
        scene.step(&mut input);
    }
}
