//! From a document to a policy.

use std::collections::HashMap;

use ipnet::{IpNet, Ipv6Net};
use tuntap_api::control::Chain;
use tuntap_config::{LiveRule, RuleChains, Target};
use tuntap_core::policy::Policy;
use tuntap_core::policy::counters::CounterSlot;
use tuntap_core::policy::pattern::{Action, PolicyRules, RuleId, RuleSpec, SetId, are_for_v4_only};
use tuntap_core::policy::shape::Shapes;
use tuntap_wire::selector::{AddressPattern, Selector};

use crate::Base;
use crate::document::{Document, INI_GROUP, LIVE_GROUP, Rule};

/// Compiles the policy of a document. This is the one function that makes the policy which a router forwards by; a check or a
/// test of a set-up calls it, too.
///
/// A chain that was written for IPv4 alone ends by denying IPv6. That is decided by the rules of the options, if the chain has
/// any, or else by those of all groups but `live`: a rule that somebody adds in a hurry neither shuts out nor lets in the other
/// version of IP. A rule with a set speaks of both versions.
pub fn compile(base: &Base, document: &Document) -> Policy {
    let names = Names::of(document);
    let routes: Vec<_> =
        rules_of(document, Chain::Route).filter_map(|(_, place, rule)| names.route(place, rule)).collect();
    // The first limit for the same traffic counts, so those of the options come last.
    let shapes = document.rules().filter_map(|rule| rule.rule.shape()).chain(&base.late_shapes);
    let chains = RuleChains {
        firewall_in: chain(document, Chain::In, &names),
        firewall_out: chain(document, Chain::Out, &names),
        targets: routes.iter().map(|route| route.target).collect(),
        routes: PolicyRules::of(routes),
        shapes: Shapes::new(shapes.cloned().collect()),
    };
    let sets = document.sets.iter().map(|(name, set)| (name.clone(), set.addresses())).collect();
    let counters = document.counters.iter().map(|(name, slot)| (name.clone(), CounterSlot(*slot))).collect();
    Policy {
        generation: document.generation,
        sets,
        counters,
        has_script: document.has_script,
        ..base.config.policy_of(&base.router, base.grants.clone(), chains)
    }
}

/// The rules of a chain, each with the name of its group, and its place in the document.
fn rules_of(document: &Document, chain: Chain) -> impl Iterator<Item = (&str, &Rule, &LiveRule)> {
    let rules = document.groups.iter().flat_map(|group| group.rules.iter().map(|rule| (group.name.as_str(), rule)));
    let rules = rules.filter(move |(_, rule)| rule.chain == chain);
    rules.filter_map(|(group, place)| Some((group, place, place.rule.rule()?)))
}

fn chain(document: &Document, chain: Chain, names: &Names<'_>) -> PolicyRules<Action> {
    let implied = is_for_v4_only(document, chain).then(all_ipv6).flatten();
    let implied = implied.map(|all| RuleSpec::new(RuleId::IMPLIED, all, Action::Deny));
    PolicyRules::of(rules_of(document, chain).filter_map(|(_, place, rule)| names.filter(place, rule)).chain(implied))
}

/// Returns true if a chain was written for IPv4 alone.
fn is_for_v4_only(document: &Document, chain: Chain) -> bool {
    let has_rules_for_v4_only = |counts: &dyn Fn(&str) -> bool| {
        let rules = rules_of(document, chain).filter(|(group, ..)| counts(group));
        are_for_v4_only(rules.map(|(_, _, rule)| rule.selector))
    };
    has_rules_for_v4_only(&|group| group == INI_GROUP) || has_rules_for_v4_only(&|group| group != LIVE_GROUP)
}

/// All packets of IPv6.
fn all_ipv6() -> Option<Selector> {
    let net = AddressPattern::Net(IpNet::V6(Ipv6Net::default()));
    Selector::new(net, AddressPattern::Any, None).ok()
}

/// What the names in rules stand for.
struct Names<'a> {
    sets: HashMap<&'a str, SetId>,
    document: &'a Document,
}

impl<'a> Names<'a> {
    fn of(document: &'a Document) -> Self {
        let sets = document.sets.keys().map(String::as_str).zip((0..).map(SetId)).collect();
        Self { sets, document }
    }

    /// A rule of a chain; `None` for routes.
    fn filter(&self, place: &Rule, rule: &LiveRule) -> Option<RuleSpec<Action>> {
        match rule.target {
            Target::Action(action) => Some(self.spec(place, rule, action)),
            Target::Gateway(_) => None,
        }
    }

    /// A route; `None` for rules of chains.
    fn route(&self, place: &Rule, rule: &LiveRule) -> Option<RuleSpec<std::net::SocketAddr>> {
        match rule.target {
            Target::Gateway(gateway) => Some(self.spec(place, rule, gateway)),
            Target::Action(_) => None,
        }
    }

    fn spec<T>(&self, place: &Rule, rule: &LiveRule, target: T) -> RuleSpec<T> {
        // Documents name no set that they don't have. A rule that did would match nothing.
        let set = |name: &String| self.sets.get(name.as_str()).copied().unwrap_or(SetId(u16::MAX));
        RuleSpec {
            slot: CounterSlot(place.slot),
            src_set: rule.src_set.as_ref().map(set),
            dst_set: rule.dst_set.as_ref().map(set),
            log: rule.log,
            rate: rule.rate,
            counter: rule
                .counter
                .as_ref()
                .and_then(|name| self.document.counters.get(name))
                .map(|slot| CounterSlot(*slot)),
            ..RuleSpec::new(RuleId(place.id), rule.selector, target)
        }
    }
}
