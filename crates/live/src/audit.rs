//! The log of changes, and of attempts that were refused.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tuntap_api::control::{Change, Log, LogEntry, Place};

use crate::limits::{MAX_LOG_ENTRIES, MAX_LOG_TEXT, MAX_REFUSED_ENTRIES};

/// Changes that are told of one commit.
const TOLD_CHANGES: usize = 3;

/// The entries, the latest last. Those about refused attempts have less room, so that they never push out the changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Audit(VecDeque<LogEntry>);

impl Audit {
    /// Adds an entry.
    pub fn push(&mut self, entry: LogEntry) {
        let entry = LogEntry {
            action: printable(&entry.action, MAX_LOG_TEXT),
            error: entry.error.map(|error| printable(&error, MAX_LOG_TEXT)),
            ..entry
        };
        let is_refused = |entry: &LogEntry| entry.error.is_some();
        if is_refused(&entry) && self.0.iter().filter(|entry| is_refused(entry)).count() >= MAX_REFUSED_ENTRIES {
            if let Some(oldest) = self.0.iter().position(is_refused) {
                self.0.remove(oldest);
            }
        } else if self.0.len() >= MAX_LOG_ENTRIES {
            self.0.pop_front();
        }
        self.0.push_back(entry);
    }

    /// The last entries.
    pub fn last(&self, limit: Option<u32>) -> Log {
        let count = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        Log { entries: self.0.iter().skip(self.0.len().saturating_sub(count)).cloned().collect() }
    }
}

/// Cuts a text that has more than `max` bytes, and replaces what isn't printed: it may have words of others in it, and goes to
/// logs and terminals.
pub fn printable(text: &str, max: usize) -> String {
    const ELLIPSIS: &str = "...";
    let shown = |text: &str| text.replace(char::is_control, "?");
    if text.len() <= max {
        return shown(text);
    }
    let most = max.saturating_sub(ELLIPSIS.len());
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{ELLIPSIS}", shown(&text[..end]))
}

/// Changes in a few words.
pub fn in_short(changes: &[Change]) -> String {
    let mut told: Vec<String> = changes.iter().take(TOLD_CHANGES).map(one_in_short).collect();
    if let Some(more) = changes.len().checked_sub(TOLD_CHANGES).filter(|more| *more > 0) {
        told.push(format!("and {more} more"));
    }
    told.join("; ")
}

fn one_in_short(change: &Change) -> String {
    let count = |members: &[String]| match members {
        [member] => member.clone(),
        members => format!("{} members", members.len()),
    };
    match change {
        Change::RuleAdd { group, chain, rule } => {
            let group = group.as_deref().unwrap_or(crate::document::LIVE_GROUP);
            format!("add to {group}, chain {}: {rule}", crate::line::chain_name(*chain))
        }
        Change::RuleInsert { at: Place::Before(id), rule } => format!("insert before rule {id}: {rule}"),
        Change::RuleInsert { at: Place::After(id), rule } => format!("insert after rule {id}: {rule}"),
        Change::RuleReplace { id, rule } => format!("replace rule {id}: {rule}"),
        Change::RuleDelete { id } => format!("delete rule {id}"),
        Change::GroupReplace { group, .. } => format!("replace the group {group}"),
        Change::GroupDelete { group } => format!("delete the group {group}"),
        Change::FileReplace { .. } => "replace all groups and sets".to_owned(),
        Change::SetReplace { name, members } => format!("set {name}: {}", count(members)),
        Change::SetAdd { name, members } => format!("add to the set {name}: {}", count(members)),
        Change::SetRemove { name, members } => format!("remove from the set {name}: {}", count(members)),
        Change::SetDelete { name } => format!("delete the set {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(time: u64, error: Option<&str>) -> LogEntry {
        let error = error.map(str::to_owned);
        LogEntry { time, uid: 0, pid: 1, action: "commit".to_owned(), generation: None, error }
    }

    #[test]
    fn refused_attempts_never_push_out_changes() {
        let mut audit = Audit::default();
        (0..10).for_each(|time| audit.push(entry(time, None)));
        (10..5_000).for_each(|time| audit.push(entry(time, Some("no"))));
        let log = audit.last(None).entries;
        assert_eq!(log.len(), 10 + MAX_REFUSED_ENTRIES);
        assert_eq!((log[0].time, log.last().map(|entry| entry.time)), (0, Some(4_999)));
        (5_000..9_000).for_each(|time| audit.push(entry(time, None)));
        assert_eq!(audit.last(None).entries.len(), MAX_LOG_ENTRIES);
        assert_eq!(audit.last(Some(2)).entries.iter().map(|entry| entry.time).collect::<Vec<_>>(), [8_998, 8_999]);
    }

    #[test]
    fn texts_are_bounded() {
        let long = "\u{e4}".repeat(MAX_LOG_TEXT);
        assert!(printable(&long, MAX_LOG_TEXT).len() <= MAX_LOG_TEXT);
        assert_eq!(printable("a\n\u{1b}[2Jb\u{9b}c", MAX_LOG_TEXT), "a??[2Jb?c");
        let changes = vec![Change::RuleDelete { id: 7 }; 1_000];
        assert_eq!(in_short(&changes), "delete rule 7; delete rule 7; delete rule 7; and 997 more");
    }
}
