//! What outlives a router's process, and what a reload of the Emperor ends.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::audit::{Audit, printable};
use crate::document::{Document, Group, Set};
use crate::file::{FileGroup, FileRule, RulesFile};
use crate::limits::MAX_MESSAGE;
use crate::line::chain_name;

/// The version of [`Stored`].
pub const VERSION: u32 = 1;

/// Rules and sets that are named one by one when they are lost.
const NAMED: usize = 5;

/// What outlives a router's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The version of this form, 1.
    pub version: u32,
    /// The document in use.
    pub document: Document,
    /// The commit that waits for its confirmation.
    pub pending: Option<PendingCommit>,
    /// True if the document says something else than options and rules file did.
    pub is_changed: bool,
    /// The log.
    pub audit: Audit,
    /// The script.
    pub script: ScriptSources,
}

/// A commit that waits for its confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingCommit {
    /// The document before it.
    pub before: Document,
    /// When that comes back, by CLOCK_MONOTONIC.
    pub deadline: Duration,
    /// The generation that the commit made.
    pub generation: u64,
    /// Who made it.
    pub uid: u32,
}

/// The scripts' source texts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptSources {
    /// Of the one in use.
    pub text: Option<String>,
    /// Of the one before, which comes back if this one fails too often.
    pub previous: Option<String>,
}

/// The part that all versions have.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Stored {
    /// Reads what a router has stored. The error is a sentence for the log: then the router begins with options and file.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("the live policy of the router before can't be read: {error}");
        let Versioned { version } = serde_json::from_slice(json).map_err(wrong)?;
        if version != VERSION {
            return Err(format!(
                "the live policy of the router before has version {version}, not {VERSION}: it is not used"
            ));
        }
        serde_json::from_slice(json).map_err(wrong)
    }

    /// What groups and sets say, without a commit that waits for its confirmation: for an image whose rules file can't be read.
    /// `None` if the rules of its options aren't those that this was used with, so that what is left out of one isn't in the
    /// other either.
    pub fn rules_for(&self, of_options: &Document) -> Option<RulesFile> {
        let document = self.pending.as_ref().map_or(&self.document, |pending| &pending.before);
        let group = |group: &Group| FileGroup {
            name: group.name.clone(),
            owner: group.owner,
            rules: group
                .rules
                .iter()
                .map(|rule| FileRule { chain: rule.chain, rule: rule.rule.clone(), line: 0 })
                .collect(),
        };
        let groups = document.own_groups().map(group).collect();
        let file = RulesFile { groups, sets: document.sets.clone(), warnings: Vec::new() };
        document.has_rules_of(of_options).then_some(file)
    }

    /// Says that a commit is dropped, if one waits for its confirmation.
    pub fn dropped_commit(&self) -> Option<String> {
        let uid = self.pending.as_ref()?.uid;
        Some(format!("the commit of uid {uid}, which was not confirmed yet, is dropped"))
    }

    /// Says in sentences which live changes are lost when a router begins with another image's options and rules file, or that
    /// the file has them. There is none if nothing was changed.
    pub fn lost_at_reload(&self, initial: &Document) -> Vec<String> {
        let mut lines: Vec<_> = self.dropped_commit().into_iter().collect();
        let document = self.pending.as_ref().map_or(&self.document, |pending| &pending.before);
        if !self.is_changed {
            return lines;
        }
        if document.says_the_same(initial) {
            lines.push("the rules file has all changes that were made while the router ran".to_owned());
            return lines;
        }
        let before = lines.len();
        for group in document.own_groups() {
            lines.extend(lost_rules(group, initial));
        }
        let sets = document.sets.iter().filter_map(|(name, set)| lost_members(name, set, initial.sets.get(name)?));
        lines.extend(sets);
        let gone = document.sets.keys().filter(|name| !initial.sets.contains_key(*name));
        lines.extend(
            gone.map(|name| format!("the set {name} is lost: it was made while the router ran, and not saved")),
        );
        if lines.len() == before {
            lines.push(
                "rules or sets that were changed while the router ran are again as options and rules file say"
                    .to_owned(),
            );
        }
        lines
    }
}

/// Says which rules of a group options and file don't have.
fn lost_rules(group: &Group, initial: &Document) -> Option<String> {
    let mut kept: BTreeMap<(u8, String), usize> = BTreeMap::new();
    let key = |rule: &crate::Rule| (rule.chain as u8, rule.rule.to_string());
    let same = initial.own_groups().filter(|other| other.name == group.name);
    same.flat_map(|group| &group.rules).for_each(|rule| *kept.entry(key(rule)).or_default() += 1);
    let mut lost = Vec::new();
    for rule in &group.rules {
        match kept.get_mut(&key(rule)) {
            Some(count) if *count > 0 => *count -= 1,
            _ => lost.push(rule),
        }
    }
    let named = lost.iter().take(NAMED).map(|rule| format!("chain {}: {}", chain_name(rule.chain), rule.rule));
    let more = lost.len().checked_sub(NAMED).filter(|more| *more > 0).map(|more| format!("and {more} more"));
    let named: Vec<_> = named.chain(more).collect();
    let (name, count) = (&group.name, lost.len());
    let rules = if count == 1 { "1 rule".to_owned() } else { format!("{count} rules") };
    (count > 0).then(|| {
        let line = format!("the group {name} loses {rules} that came while the router ran: {}", named.join("; "));
        printable(&line, MAX_MESSAGE)
    })
}

fn lost_members(name: &str, live: &Set, initial: &Set) -> Option<String> {
    let without = |one: &Set, other: &Set| {
        one.members().iter().filter(|member| other.members().binary_search(member).is_err()).count()
    };
    let (lost, back) = (without(live, initial), without(initial, live));
    (lost > 0 || back > 0).then(|| {
        format!("the set {name} is again as the rules file says: {lost} members go that came while the router ran, {back} come back")
    })
}
