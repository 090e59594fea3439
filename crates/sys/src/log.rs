//! Log lines for the operator. The plugin passes them to uWSGI's log; tests collect them.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A function that takes one line, without the line feed.
#[derive(Clone, Copy)]
pub struct Logger(pub fn(&str));

impl Logger {
    /// Writes a line.
    pub fn line(self, text: impl fmt::Display) {
        self.0(&text.to_string());
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Logger")
    }
}

/// A logger for lines that peers can cause as often as they like. It limits the lines of each period, in total and for each
/// cause, and counts the rest.
#[derive(Debug)]
pub struct LimitedLogger<C> {
    logger: Logger,
    lines_per_period: u32,
    period_start: Instant,
    written: u32,
    /// Lines that were written in this period, by cause.
    by_cause: HashMap<C, u32>,
    suppressed: u64,
}

impl<C: Copy + Eq + Hash> LimitedLogger<C> {
    /// Length of a period.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// One cause gets at most this fraction (1 / `PARTS`) of a period's lines.
    pub const PARTS: u32 = 4;

    /// A logger that has written nothing yet.
    pub fn new(logger: Logger, lines_per_period: u32, now: Instant) -> Self {
        Self { logger, lines_per_period, period_start: now, written: 0, by_cause: HashMap::new(), suppressed: 0 }
    }

    /// Writes a line, or counts it if all the lines of the period are written, or all those of its cause. Lines without a
    /// cause have only the limit of all. The first line of a period tells how many were left out in the one before.
    pub fn line(&mut self, now: Instant, cause: Option<C>, text: impl fmt::Display) {
        if now.saturating_duration_since(self.period_start) >= Self::PERIOD {
            if self.suppressed > 0 {
                self.logger.line(format_args!("[tuntap-router] {} lines like these were left out", self.suppressed));
            }
            self.period_start = now;
            self.written = 0;
            self.by_cause.clear();
            self.suppressed = 0;
        }
        let of_cause = cause.and_then(|cause| self.by_cause.get(&cause)).copied().unwrap_or(0);
        if self.written < self.lines_per_period && of_cause < self.lines_per_period.div_ceil(Self::PARTS) {
            self.written += 1;
            if let Some(cause) = cause {
                self.by_cause.insert(cause, of_cause + 1);
            }
            self.logger.line(text);
        } else {
            self.suppressed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn flood_leaves_few_lines() {
        static LINES: AtomicU32 = AtomicU32::new(0);
        let start = Instant::now();
        let mut log = LimitedLogger::new(Logger(|_| _ = LINES.fetch_add(1, Ordering::Relaxed)), 20, start);
        for cause in 0..100_000 {
            log.line(start, Some(cause), "peer ended");
        }
        assert_eq!(LINES.load(Ordering::Relaxed), 20);
        log.line(start + LimitedLogger::<i32>::PERIOD, Some(7), "peer ended");
        assert_eq!(LINES.load(Ordering::Relaxed), 22, "the count, then the line");
    }

    #[test]
    fn one_cause_leaves_the_others_their_lines() {
        static LINES: AtomicU32 = AtomicU32::new(0);
        let start = Instant::now();
        let mut log = LimitedLogger::new(Logger(|_| _ = LINES.fetch_add(1, Ordering::Relaxed)), 20, start);
        for _ in 0..1000 {
            log.line(start, Some(1), "of the one");
        }
        assert_eq!(LINES.load(Ordering::Relaxed), 5);
        for _ in 0..5 {
            log.line(start, Some(2), "of another one");
        }
        assert_eq!(LINES.load(Ordering::Relaxed), 10);
        for _ in 0..1000 {
            log.line(start, None, "of nobody");
        }
        assert_eq!(LINES.load(Ordering::Relaxed), 20);
    }
}
