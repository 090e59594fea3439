//! The document that a policy is compiled from: groups of rules, and sets. It is what the operator has written, with numbers.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tuntap_api::control::Chain;

/// Groups and sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// The number of the policy that is compiled from it.
    pub generation: u64,
    /// The groups, in the order of evaluation.
    pub groups: Vec<Group>,
    /// The sets, by name.
    pub sets: BTreeMap<String, Set>,
    /// The next rule's number.
    pub next_id: u32,
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

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its number.
    pub id: u32,
    /// The slot of its counters.
    pub slot: u32,
    /// The chain that it is in.
    pub chain: Chain,
    /// The rule as it is written, in one form.
    pub text: String,
}

/// A set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Its members.
    pub members: Vec<IpNet>,
    /// The file that they were read from.
    pub file: Option<String>,
}
