//! Bounds of a router's live policy.

use tuntap_core::policy::counters::RuleCounters;

/// Most rules of a document. Three documents have room in the counters: the one in use, the one that replaces it, and the
/// rules that the one in use has just replaced.
pub const MAX_RULES: usize = 20_000;

/// Most counters with names.
pub const MAX_NAMED_COUNTERS: usize = 1_024;

const _: () = assert!(3 * (MAX_RULES + MAX_NAMED_COUNTERS) <= RuleCounters::SLOTS);

/// Most groups of rules.
pub const MAX_GROUPS: usize = 1_024;

/// Most sets.
pub const MAX_SETS: usize = 4_096;

const _: () = assert!(MAX_SETS < u16::MAX as usize);

/// Most members of all sets together.
pub const MAX_MEMBERS: usize = 1_000_000;

/// Most changes of one commit.
pub const MAX_CHANGES: usize = 100_000;

/// Longest line of a rules file, in bytes: the longest path, and what stands before it. Members of a set may stand on as many
/// lines as they take.
pub const MAX_LINE_LEN: usize = 8_192;

/// Longest time in which a commit can be confirmed: a day.
pub const MAX_CONFIRM_SECONDS: u32 = 86_400;

/// Most lines of a difference; what is beyond is counted only.
pub const MAX_DIFFERENCE_LINES: usize = 10_000;

/// Most entries of the log.
pub const MAX_LOG_ENTRIES: usize = 1_000;

/// Most entries of the log about attempts that were refused, so that whoever may change nothing can't push out the changes.
pub const MAX_REFUSED_ENTRIES: usize = 200;

/// Longest text of a log entry, in bytes.
pub const MAX_LOG_TEXT: usize = 300;

/// Longest message of a failure, in bytes. It may have a wrong value in it.
pub const MAX_MESSAGE: usize = 1_000;
