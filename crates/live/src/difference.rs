//! What one document has more or less than another one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tuntap_api::control::{Chain, Difference};

use crate::document::{Document, Group, Rule, Set};
use crate::file::Member;
use crate::limits::MAX_DIFFERENCE_LINES;
use crate::line::chain_name;

/// Unchanged rules that are shown before and behind changed ones.
const CONTEXT: usize = 2;

/// Compares two documents of one router. Rules are the same if they have the same number.
pub fn difference(old: &Document, new: &Document) -> Difference {
    let mut lines = Lines::default();
    let names: BTreeSet<&String> = old.sets.keys().chain(new.sets.keys()).collect();
    for name in names {
        of_set(name, old.sets.get(name).map(AsRef::as_ref), new.sets.get(name).map(AsRef::as_ref), &mut lines);
    }
    of_groups(old, new, &mut lines);
    let ids = |document: &Document| -> HashSet<u32> {
        document.own_groups().flat_map(|group| &group.rules).map(|rule| rule.id).collect()
    };
    let (before, after) = (ids(old), ids(new));
    let kept = after.intersection(&before).count();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    Difference {
        lines: lines.finish(),
        added: count(after.len() - kept),
        deleted: count(before.len() - kept),
        kept: count(kept),
    }
}

/// Lines of a difference, up to a bound.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    left_out: usize,
}

impl Lines {
    fn push(&mut self, sign: char, line: impl std::fmt::Display) {
        if self.lines.len() < MAX_DIFFERENCE_LINES {
            self.lines.push(format!("{sign}{line}"));
        } else {
            self.left_out += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.left_out > 0 {
            self.lines.push(format!(" # {} more lines", self.left_out));
        }
        self.lines
    }
}

fn of_set(name: &str, old: Option<&Set>, new: Option<&Set>, lines: &mut Lines) {
    if old == new {
        return;
    }
    let header = |set: &Set| match set.file() {
        Some(file) => format!("set {name} = {file} {{"),
        None => format!("set {name} {{"),
    };
    let headers = (old.map(header), new.map(header));
    match &headers {
        (Some(old), Some(new)) if old == new => lines.push(' ', new),
        (old, new) => {
            old.iter().for_each(|header| lines.push('-', header));
            new.iter().for_each(|header| lines.push('+', header));
        }
    }
    let members = |set: Option<&Set>| set.map(|set| set.members().to_vec()).unwrap_or_default();
    let (before, after) = (members(old), members(new));
    let without = |members: &[ipnet::IpNet], others: &[ipnet::IpNet], sign, lines: &mut Lines| {
        let gone = members.iter().filter(|member| others.binary_search(member).is_err());
        gone.for_each(|member| lines.push(sign, format_args!("    {}", Member(*member))));
    };
    without(&before, &after, '-', lines);
    without(&after, &before, '+', lines);
    lines.push(
        if headers.1.is_none() {
            '-'
        } else if headers.0.is_none() {
            '+'
        } else {
            ' '
        },
        "}",
    );
}

fn of_groups(old: &Document, new: &Document, lines: &mut Lines) {
    let by_name: HashMap<&str, &Group> = old.own_groups().map(|group| (group.name.as_str(), group)).collect();
    let is_new: HashSet<&str> = new.own_groups().map(|group| group.name.as_str()).collect();
    for group in old.own_groups().filter(|group| !is_new.contains(group.name.as_str())) {
        lines.push('-', Heading(group));
        of_rules(&group.rules, &[], lines);
    }
    let places: HashMap<&str, usize> = old.own_groups().map(|group| group.name.as_str()).zip(0..).collect();
    let known: Vec<usize> = new.own_groups().filter_map(|group| places.get(group.name.as_str()).copied()).collect();
    let mut in_order = longest_increasing(&known).into_iter();
    for group in new.own_groups() {
        let Some(before) = by_name.get(group.name.as_str()) else {
            lines.push('+', Heading(group));
            of_rules(&[], &group.rules, lines);
            continue;
        };
        let has_moved = !in_order.next().unwrap_or(true);
        if has_moved || before.owner != group.owner {
            lines.push('-', Heading(before));
            lines.push('+', Heading(group));
        } else if before.rules != group.rules {
            lines.push(' ', Heading(group));
        }
        of_rules(&before.rules, &group.rules, lines);
    }
}

/// The line with which a group begins.
struct Heading<'a>(&'a Group);

impl std::fmt::Display for Heading<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "group {}", self.0.name)?;
        self.0.owner.iter().try_for_each(|owner| write!(out, " owner {owner}"))
    }
}

fn of_rules(old: &[Rule], new: &[Rule], lines: &mut Lines) {
    if old == new {
        return;
    }
    for chain in Chain::ALL {
        let of_chain = |rules: &'_ [Rule]| -> Vec<usize> {
            (0..rules.len()).filter(|place| rules[*place].chain == chain).collect()
        };
        let before: Vec<&Rule> = of_chain(old).into_iter().map(|place| &old[place]).collect();
        let after: Vec<&Rule> = of_chain(new).into_iter().map(|place| &new[place]).collect();
        let merged = merge(&before, &after);
        if merged.iter().all(|(sign, _)| *sign == ' ') {
            continue;
        }
        lines.push(' ', format_args!("chain {}", chain_name(chain)));
        for (place, (sign, rule)) in merged.iter().enumerate() {
            let around = place.saturating_sub(CONTEXT)..merged.len().min(place + CONTEXT + 1);
            if *sign != ' ' || merged[around].iter().any(|(sign, _)| *sign != ' ') {
                lines.push(*sign, &rule.rule);
            }
        }
    }
}

/// Both lists in one, with signs.
fn merge<'a>(old: &[&'a Rule], new: &[&'a Rule]) -> Vec<(char, &'a Rule)> {
    let places: BTreeMap<u32, usize> = old.iter().map(|rule| rule.id).zip(0..).collect();
    let same = |rule: &Rule| places.get(&rule.id).copied().filter(|place| old[*place].rule == rule.rule);
    let kept: Vec<usize> = new.iter().filter_map(|rule| same(rule)).collect();
    let mut in_order = longest_increasing(&kept).into_iter();
    let mut merged = Vec::with_capacity(old.len() + new.len());
    let mut next = 0;
    for rule in new {
        let place = same(rule).filter(|_| in_order.next().unwrap_or(false));
        if let Some(place) = place {
            merged.extend(old[next..place].iter().map(|rule| ('-', *rule)));
            next = place + 1;
        }
        merged.push((if place.is_some() { ' ' } else { '+' }, *rule));
    }
    merged.extend(old[next..].iter().map(|rule| ('-', *rule)));
    merged
}

/// Says of each number whether it belongs to one of the longest increasing subsequences. The numbers are all different.
fn longest_increasing(numbers: &[usize]) -> Vec<bool> {
    // The places where subsequences of each length end, the lowest end of each length.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (place, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers[*end] < *number);
        before.push(length.checked_sub(1).map(|length| ends[length]));
        if length == ends.len() {
            ends.push(place);
        } else {
            ends[length] = place;
        }
    }
    let mut is_in = vec![false; numbers.len()];
    let mut at = ends.last().copied();
    while let Some(place) = at {
        is_in[place] = true;
        at = before[place];
    }
    is_in
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_of_all() {
        let of = |numbers: &[usize]| longest_increasing(numbers).iter().filter(|is_in| **is_in).count();
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[3, 1, 2, 5, 4]), 3);
        assert_eq!(of(&[5, 4, 3]), 1);
        assert_eq!(longest_increasing(&[0, 9, 1, 2]), [true, false, true, true]);
    }
}
