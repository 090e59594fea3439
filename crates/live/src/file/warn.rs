//! What a rules file says, but hardly means.

use std::collections::{BTreeMap, HashSet};

use tuntap_api::control::Chain;
use tuntap_config::Target;
use tuntap_core::policy::pattern::{Action, are_for_v4_only};

use super::{FileError, FileGroup, FileRule};
use crate::document::{LIVE_GROUP, chain_name};

/// Most warnings that are told.
const MAX_WARNINGS: usize = 100;

/// Finds sets that no rule names, rules that are never reached, and chains that let nothing pass.
pub fn warnings(groups: &[FileGroup], set_lines: &BTreeMap<String, u32>) -> Vec<FileError> {
    let rules = || groups.iter().flat_map(|group| &group.rules);
    let mut warnings = Vec::new();
    for chain in [Chain::In, Chain::Out, Chain::Route] {
        let of_chain: Vec<&FileRule> = rules().filter(|rule| rule.chain == chain).collect();
        warnings.extend(of_one_chain(chain, &of_chain));
        let counted = groups.iter().filter(|group| group.name != LIVE_GROUP).flat_map(|group| &group.rules);
        let counted: Vec<&FileRule> = counted.filter(|rule| rule.chain == chain).collect();
        warnings.extend(for_v4_only(chain, &counted));
    }
    let used: HashSet<&str> = rules().flat_map(|rule| rule.rule.sets()).collect();
    let unused = set_lines.iter().filter(|(name, _)| !used.contains(name.as_str()));
    warnings.extend(unused.map(|(name, line)| warning(*line, format!("no rule names the set {name}"))));
    warnings.sort_by_key(|warning| warning.line);
    warnings.truncate(MAX_WARNINGS);
    warnings
}

fn of_one_chain(chain: Chain, rules: &[&FileRule]) -> Vec<FileError> {
    let Some(last) = rules.iter().position(|rule| takes_all(rule)) else { return Vec::new() };
    let (reached, never) = rules.split_at(last + 1);
    let line = rules[last].line;
    let mut warnings: Vec<_> = never
        .iter()
        .take(MAX_WARNINGS)
        .map(|rule| {
            warning(rule.line, format!("the rule is never reached: the one of line {line} takes all packets before it"))
        })
        .collect();
    let drops = |rule: &&FileRule| matches!(rule.rule.target, Target::Action(Action::Deny | Action::Reject));
    if reached.iter().all(drops) {
        warnings.push(warning(line, format!("the chain {} lets nothing pass", chain_name(chain))));
    }
    warnings
}

/// A chain that says nothing about IPv6 denies it, see [`compile`](crate::compile()).
fn for_v4_only(chain: Chain, rules: &[&FileRule]) -> Option<FileError> {
    let first = rules.first().filter(|_| chain != Chain::Route)?;
    are_for_v4_only(rules.iter().map(|rule| rule.rule.selector)).then(|| {
        let chain = chain_name(chain);
        let message = format!("no rule of the chain {chain} is about IPv6: unless the options have rules for it, it denies all IPv6 packets");
        warning(first.line, message)
    })
}

/// Returns true if no packet passes the rule by.
fn takes_all(rule: &FileRule) -> bool {
    rule.rule.takes_all()
}

const fn warning(line: u32, message: String) -> FileError {
    FileError { line, message }
}
