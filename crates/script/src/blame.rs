//! For whose flows a script fails. Who makes it fail must neither undo it for others, nor take the router's time by that.

use std::collections::HashMap;
use std::time::Instant;

use tuntap_core::policy::flows::Owner;
use tuntap_core::policy::script::ScriptQuery;
use tuntap_wire::rule::Direction;

use super::calibration::time_limit;
use super::limits::{MAX_FAILURES, MAX_OWNERS, REST_FACTOR};

/// What failures in a row mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// There were too few.
    None,
    /// The script fails for this owner's flows, and has decided about those of others.
    FailsFor(Owner),
    /// The script is no good.
    Fails,
}

/// Whose flows: different ones, or those of one owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Whose {
    #[default]
    Nobody,
    Of(Owner),
    Several,
}

impl Whose {
    fn add(&mut self, owner: Owner) {
        *self = match *self {
            Self::Nobody => Self::Of(owner),
            Self::Of(known) if known == owner => return,
            _ => Self::Several,
        };
    }
}

/// The failures of a script.
#[derive(Debug, Default)]
pub struct Blame {
    /// Failures since the last call that didn't fail, and whose flows they were about.
    in_a_row: u32,
    failed: Whose,
    /// Whose flows the script has decided about.
    decided: Whose,
    /// Flows from and towards whom the script isn't asked about until a time, because it took too long.
    resting: HashMap<(Owner, Direction), Instant>,
}

impl Blame {
    /// The script has decided about a flow.
    #[inline]
    pub fn note_decision(&mut self, query: &ScriptQuery<'_>) {
        (self.in_a_row, self.failed) = (0, Whose::Nobody);
        self.decided.add(query.owner);
    }

    /// The script has failed for a flow. Once there were several failures in a row, they are counted anew.
    pub fn note_failure(&mut self, query: &ScriptQuery<'_>) -> Conclusion {
        self.in_a_row += 1;
        self.failed.add(query.owner);
        if self.in_a_row < MAX_FAILURES {
            return Conclusion::None;
        }
        self.in_a_row = 0;
        match (std::mem::take(&mut self.failed), self.decided) {
            (_, Whose::Nobody) | (Whose::Several | Whose::Nobody, _) => Conclusion::Fails,
            (failed, decided) if failed == decided => Conclusion::Fails,
            (Whose::Of(owner), _) => Conclusion::FailsFor(owner),
        }
    }

    /// Keeps an owner's flows of this direction from taking time again too soon: not those of the other direction, which are
    /// those of others.
    pub fn rest(&mut self, query: &ScriptQuery<'_>) {
        if self.resting.len() >= MAX_OWNERS {
            self.resting.clear();
        }
        self.resting.insert((query.owner, query.direction), Instant::now() + time_limit() * REST_FACTOR);
    }

    /// Returns true if the script isn't asked about such flows now.
    pub fn is_resting(&mut self, query: &ScriptQuery<'_>) -> bool {
        if self.resting.is_empty() {
            return false;
        }
        let subject = (query.owner, query.direction);
        let Some(until) = self.resting.get(&subject) else { return false };
        if Instant::now() < *until {
            return true;
        }
        self.resting.remove(&subject);
        false
    }
}
