//! Limits on the log lines that peers and other hosts cause: a number for each period, and a part of it for each account and each
//! source of claims elsewhere. Further lines are only counted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::elsewhere::Source;
use crate::policy::account::Account;

/// Who causes a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Peers of this account.
    Account(Account),
    /// Another host, or the routing daemon.
    Source(Source),
}

/// A budget of log lines.
#[derive(Debug)]
pub struct LogBudget {
    lines_per_period: u32,
    period_start: Instant,
    written: u32,
    /// Lines of each cause in this period. The map has no more entries than the period has lines.
    by_cause: HashMap<Cause, u32>,
    left_out: u64,
}

/// What happens to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It is written. If lines were left out in the period before, their number is written first.
    Written {
        /// The number of lines that were left out in the period before.
        left_out_before: u64,
    },
    /// It is only counted.
    LeftOut,
}

impl LogBudget {
    /// Length of a period.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// One account or source may cause this fraction (1/n) of a period's lines.
    pub const PARTS: u32 = 4;

    /// Makes a budget of which nothing is used yet.
    pub fn new(lines_per_period: u32, now: Instant) -> Self {
        Self { lines_per_period, period_start: now, written: 0, by_cause: HashMap::new(), left_out: 0 }
    }

    /// Takes a line from the budget, unless the lines of this period are used up, in all or for who causes the line. `None`
    /// stands for causes that have no limit of their own.
    pub fn take(&mut self, now: Instant, cause: Option<Cause>) -> Line {
        let mut left_out_before = 0;
        if now.saturating_duration_since(self.period_start) >= Self::PERIOD {
            left_out_before = self.left_out;
            *self = Self::new(self.lines_per_period, now);
        }
        let of_cause = cause.and_then(|cause| self.by_cause.get(&cause)).copied().unwrap_or(0);
        if self.written >= self.lines_per_period || of_cause >= self.lines_per_period.div_ceil(Self::PARTS) {
            self.left_out += 1;
            return Line::LeftOut;
        }
        self.written += 1;
        if let Some(cause) = cause {
            self.by_cause.insert(cause, of_cause + 1);
        }
        Line::Written { left_out_before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn user(uid: u32) -> Cause {
        Cause::Account(Account::User(uid))
    }

    fn written(budget: &mut LogBudget, now: Instant, causes: impl Iterator<Item = Option<u32>>) -> usize {
        causes.filter(|cause| budget.take(now, cause.map(user)) != Line::LeftOut).count()
    }

    #[test]
    fn flood_leaves_few_lines() {
        let start = Instant::now();
        let mut budget = LogBudget::new(20, start);
        assert_eq!(written(&mut budget, start, (0..100_000).map(Some)), 20);
        let later = budget.take(start + LogBudget::PERIOD, Some(user(7)));
        assert_eq!(later, Line::Written { left_out_before: 99_980 }, "the count, then the line");
    }

    #[test]
    fn one_cause_leaves_the_others_their_lines() {
        let start = Instant::now();
        let mut budget = LogBudget::new(20, start);
        assert_eq!(written(&mut budget, start, [Some(1); 1000].into_iter()), 5);
        assert_eq!(written(&mut budget, start, [Some(2); 5].into_iter()), 5);
        assert_eq!(written(&mut budget, start, [None; 1000].into_iter()), 10);
    }
}
