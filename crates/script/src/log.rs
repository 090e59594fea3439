//! Lines that a script logs.

use std::time::Instant;

use super::error::printable;
use super::limits::{LOG_PERIOD, MAX_LINE, MAX_LINES};

/// Lines that wait to be written. There are never more than [`MAX_LINES`] and one.
#[derive(Debug)]
pub struct LineQueue {
    lines: Vec<String>,
    /// When the present period has begun.
    since: Instant,
    /// Lines in this period.
    count: u32,
    left_out: u64,
}

impl LineQueue {
    /// An empty queue.
    pub fn new(now: Instant) -> Self {
        Self { lines: Vec::new(), since: now, count: 0, left_out: 0 }
    }

    /// Adds a line, or counts it if there are too many.
    pub fn push(&mut self, text: &str, now: Instant) {
        if now.duration_since(self.since) >= LOG_PERIOD {
            (self.since, self.count) = (now, 0);
        }
        if self.count >= MAX_LINES || self.lines.len() >= MAX_LINES as usize {
            self.left_out += 1;
            return;
        }
        self.count += 1;
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            self.lines.push(format!("{left_out} lines of the script were left out"));
        }
        self.lines.push(printable(text, MAX_LINE));
    }

    /// Takes all lines.
    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_those_left_out_are_told() {
        let start = Instant::now();
        let mut queue = LineQueue::new(start);
        for index in 0..MAX_LINES + 5 {
            queue.push(&format!("line {index}\n"), start);
        }
        let lines = queue.take();
        assert_eq!(lines.len(), MAX_LINES as usize);
        assert_eq!(lines[0], "line 0\\n");
        queue.push("still too many", start);
        assert!(queue.take().is_empty());
        queue.push(&"x".repeat(MAX_LINE + 1), start + LOG_PERIOD);
        let lines = queue.take();
        assert_eq!(lines[0], "6 lines of the script were left out");
        assert_eq!(lines[1].chars().count(), MAX_LINE + 1, "it is cut, and ends in an ellipsis");
    }
}
