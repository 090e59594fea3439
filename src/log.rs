//! Lines for the operator. The plugin hands them to uWSGI's log; tests collect them.

use std::fmt;
use std::time::{Duration, Instant};

/// Takes one line, without its end.
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

/// Lines that a peer can cause as often as it likes: so many in each period, the rest counted.
#[derive(Debug)]
pub struct LimitedLogger {
    logger: Logger,
    lines_per_period: u32,
    period_start: Instant,
    written: u32,
    suppressed: u64,
}

impl LimitedLogger {
    /// Length of a period.
    pub const PERIOD: Duration = Duration::from_secs(60);

    /// Nothing written yet.
    pub const fn new(logger: Logger, lines_per_period: u32, now: Instant) -> Self {
        Self { logger, lines_per_period, period_start: now, written: 0, suppressed: 0 }
    }

    /// Writes a line, or counts it if the period is used up. A period's first line tells how many were counted.
    pub fn line(&mut self, now: Instant, text: impl fmt::Display) {
        if now.saturating_duration_since(self.period_start) >= Self::PERIOD {
            if self.suppressed > 0 {
                self.logger.line(format_args!("[tuntap-router] {} lines like these were left out", self.suppressed));
            }
            self.period_start = now;
            self.written = 0;
            self.suppressed = 0;
        }
        if self.written < self.lines_per_period {
            self.written += 1;
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
        for _ in 0..100_000 {
            log.line(start, "peer ended");
        }
        assert_eq!(LINES.load(Ordering::Relaxed), 20);
        log.line(start + LimitedLogger::PERIOD, "peer ended");
        assert_eq!(LINES.load(Ordering::Relaxed), 22, "the count, then the line");
    }
}
