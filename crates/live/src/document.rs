//! The document that a policy is compiled from: groups of rules, and sets. It is what the operator has written, with numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use tuntap_api::control::Chain;
use tuntap_config::{Config, LiveRule};
use tuntap_core::policy::set::AddressSet;
use tuntap_core::policy::shape::Shape;

use crate::file::RulesFile;
use crate::line::Line;

/// The group of rules that were added without naming one. It stands before all others.
pub const LIVE_GROUP: &str = "live";

/// The group of the rules of a file that stand before its first `group` line.
pub const FILE_GROUP: &str = "file";

/// The group of the rules of the options. It stands behind all others, and can't be changed.
pub const INI_GROUP: &str = "ini";

/// Groups and sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The number of the policy that is compiled from it.
    pub generation: u64,
    /// The groups, in the order of evaluation.
    pub groups: Vec<Group>,
    /// The sets, by name.
    pub sets: BTreeMap<String, Arc<Set>>,
    /// The slots of the counters that rules name.
    pub counters: BTreeMap<String, u32>,
    /// The next rule's number.
    pub next_id: u32,
    /// True if a script is asked about new flows.
    #[serde(default)]
    pub has_script: bool,
}

/// A group of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Who may change it besides admins.
    pub owner: Option<u32>,
    /// Its rules, in the order of evaluation.
    pub rules: Vec<Rule>,
}

impl Group {
    /// Returns true if both have the same name, owner and rules; numbers don't count.
    fn says_the_same(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&Rule, &Rule)| one.chain == other.chain && one.rule == other.rule;
        (&self.name, self.owner, self.rules.len()) == (&other.name, other.owner, other.rules.len())
            && self.rules.iter().zip(&other.rules).all(is_same)
    }
}

/// A rule with its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "WrittenRule", into = "WrittenRule")]
pub struct Rule {
    /// Its number.
    pub id: u32,
    /// The slot of its counters.
    pub slot: u32,
    /// The chain that it is in.
    pub chain: Chain,
    /// What it says.
    pub rule: Line,
}

/// A rule as it is stored.
#[derive(Serialize, Deserialize)]
struct WrittenRule {
    id: u32,
    slot: u32,
    chain: Chain,
    text: String,
}

impl From<Rule> for WrittenRule {
    fn from(rule: Rule) -> Self {
        Self { id: rule.id, slot: rule.slot, chain: rule.chain, text: rule.rule.to_string() }
    }
}

impl TryFrom<WrittenRule> for Rule {
    type Error = String;

    fn try_from(written: WrittenRule) -> Result<Self, String> {
        let rule = Line::read(written.chain, &written.text).map_err(|problem| problem.to_string())?;
        Ok(Self { id: written.id, slot: written.slot, chain: written.chain, rule })
    }
}

/// A set of addresses and networks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Set {
    #[serde(deserialize_with = "sorted_members")]
    members: Vec<IpNet>,
    /// The file that they were read from.
    file: Option<String>,
    /// The same for look-ups, made when it is needed first.
    #[serde(skip)]
    addresses: OnceLock<Arc<AddressSet>>,
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && self.members == other.members
    }
}

impl Eq for Set {}

fn sorted_members<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    Vec::deserialize(input).map(sorted)
}

fn sorted(mut members: Vec<IpNet>) -> Vec<IpNet> {
    members.sort_unstable();
    members.dedup();
    members
}

impl Set {
    /// A set of these members, which are put in order. `file` is the one that they were read from.
    pub fn new(members: Vec<IpNet>, file: Option<String>) -> Self {
        Self { members: sorted(members), file, addresses: OnceLock::new() }
    }

    /// The members in order, each once.
    pub fn members(&self) -> &[IpNet] {
        &self.members
    }

    /// The file that they were read from, if they are still those.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The set for look-ups. It is made once.
    pub fn addresses(&self) -> Arc<AddressSet> {
        Arc::clone(self.addresses.get_or_init(|| Arc::new(self.members.iter().copied().collect())))
    }
}

/// The number of the first rule.
const FIRST_ID: u32 = 1;

/// The numbers of a new document's rules. Their slots follow those of the named counters.
struct Numbers {
    next: u32,
    first_slot: u32,
}

impl Numbers {
    fn give(&mut self, chain: Chain, rule: Line) -> Rule {
        let id = self.next;
        self.next += 1;
        Rule { id, slot: self.first_slot + (id - FIRST_ID), chain, rule }
    }
}

impl Document {
    /// The document with which a router starts: the rules of its file, and behind them those of the options. `shapes` are the
    /// limits of the router's options (see [`tuntap_config::resolve_shapes`]).
    pub fn initial(config: &Config, shapes: &[Shape], file: &RulesFile) -> Self {
        let of_options: Vec<_> = of_options(config, shapes).collect();
        let of_file = file.groups.iter().flat_map(|group| &group.rules);
        let names: BTreeSet<_> = of_file.filter_map(|rule| rule.rule.counter().cloned()).collect();
        let mut numbers = Numbers { next: FIRST_ID, first_slot: u32::try_from(names.len()).unwrap_or(u32::MAX) };
        let mut groups = Vec::with_capacity(file.groups.len() + 1);
        for group in &file.groups {
            let rules = group.rules.iter().map(|rule| numbers.give(rule.chain, rule.rule.clone())).collect();
            groups.push(Group { name: group.name.clone(), owner: group.owner, rules });
        }
        let rules = of_options.into_iter().map(|(chain, rule)| numbers.give(chain, rule)).collect();
        groups.push(Group { name: INI_GROUP.to_owned(), owner: None, rules });
        Self {
            generation: 0,
            groups,
            sets: file.sets.clone(),
            counters: names.into_iter().zip(0..).collect(),
            next_id: numbers.next,
            has_script: false,
        }
    }

    /// All rules in the order of evaluation, those of each chain and of the routes among each other.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.groups.iter().flat_map(|group| &group.rules)
    }

    /// The groups that can be changed.
    pub fn own_groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.name != INI_GROUP)
    }

    /// Returns true if both have the same groups and sets; numbers don't count.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.sets == other.sets
            && self.groups.len() == other.groups.len()
            && self.groups.iter().zip(&other.groups).all(|(one, other)| one.says_the_same(other))
    }

    /// Returns true if the options have the same rules in both, however much traffic they allow.
    pub fn has_rules_of(&self, other: &Self) -> bool {
        let rules = |document: &Self| -> Vec<Line> {
            let rules = document.groups.last().into_iter().flat_map(|group| &group.rules);
            rules.map(|rule| rule.rule.clone()).filter(|line| line.shape().is_none()).collect()
        };
        rules(self) == rules(other)
    }

    /// Returns true if the rules and limits of the options are the same in both.
    pub fn has_options_of(&self, other: &Self) -> bool {
        match (self.groups.last(), other.groups.last()) {
            (Some(one), Some(other)) => one.says_the_same(other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// All slots that its rules and named counters use.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        self.rules().map(|rule| rule.slot).chain(self.counters.values().copied())
    }

    /// The number of all sets' members together.
    pub fn members(&self) -> usize {
        self.sets.values().map(|set| set.members.len()).sum()
    }
}

/// The rules of the options.
fn of_options(config: &Config, shapes: &[Shape]) -> impl Iterator<Item = (Chain, Line)> {
    let rules_in = config.firewall_in.iter().map(|rule| (Chain::In, LiveRule::of_option(rule)));
    let rules_out = config.firewall_out.iter().map(|rule| (Chain::Out, LiveRule::of_option(rule)));
    let routes = config.routes.iter().map(|rule| (Chain::Route, LiveRule::of_option(rule)));
    let rules = rules_in.chain(rules_out).chain(routes).map(|(chain, rule)| (chain, Line::Rule(rule)));
    rules.chain(shapes.iter().map(|shape| (Chain::Shape, Line::Shape(shape.clone()))))
}
