//! What a rules file says, but hardly means.

use std::collections::{BTreeMap, HashMap, HashSet};

use tuntap_api::control::Chain;
use tuntap_config::{LiveRule, Target};
use tuntap_core::policy::pattern::{Action, are_for_v4_only};
use tuntap_core::policy::shape::Shape;

use super::{FileError, FileGroup, FileRule};
use crate::document::LIVE_GROUP;
use crate::line::chain_name;

/// Most warnings that are told.
const MAX_WARNINGS: usize = 100;

/// Finds sets that no rule names, rules that are never reached, chains that let nothing pass, and limits that never count.
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
    warnings.extend(never_counted(rules()));
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
    let drops = |rule: &&FileRule| {
        rule.rule.rule().is_some_and(|rule| matches!(rule.target, Target::Action(Action::Deny | Action::Reject)))
    };
    if reached.iter().all(drops) {
        warnings.push(warning(line, format!("the chain {} lets nothing pass", chain_name(chain))));
    }
    warnings
}

/// Finds limits for traffic that others before them are for.
fn never_counted<'a>(rules: impl Iterator<Item = &'a FileRule>) -> Vec<FileError> {
    let mut seen: HashMap<(bool, String), u32> = HashMap::new();
    let mut warnings = Vec::new();
    for (line, Shape { out, inn, selector, .. }) in rules.filter_map(|rule| Some((rule.line, rule.rule.shape()?))) {
        let directions = [(true, *out), (false, *inn)].into_iter().filter(|(_, is_limited)| *is_limited);
        let keys: Vec<_> = directions.map(|(is_out, _)| (is_out, selector.to_string())).collect();
        let before: Vec<u32> = keys.iter().filter_map(|key| seen.get(key).copied()).collect();
        if let (Some(first), true) = (before.first(), before.len() == keys.len()) {
            warnings.push(warning(
                line,
                format!("the limit never counts: the one of line {first} is for the same traffic"),
            ));
        }
        keys.into_iter().for_each(|key| _ = seen.entry(key).or_insert(line));
    }
    warnings
}

/// A chain that says nothing about IPv6 denies it, see [`compile`](crate::compile()).
fn for_v4_only(chain: Chain, rules: &[&FileRule]) -> Option<FileError> {
    let first = rules.first().filter(|_| chain != Chain::Route)?;
    are_for_v4_only(rules.iter().filter_map(|rule| rule.rule.rule()).map(|rule| rule.selector)).then(|| {
        let chain = chain_name(chain);
        let message = format!("no rule of the chain {chain} is about IPv6: unless the options have rules for it, it denies all IPv6 packets");
        warning(first.line, message)
    })
}

/// Returns true if no packet passes the rule by.
fn takes_all(rule: &FileRule) -> bool {
    rule.rule.rule().is_some_and(LiveRule::takes_all)
}

const fn warning(line: u32, message: String) -> FileError {
    FileError { line, message }
}
