//! Log lines for the operator. The plugin passes them to uWSGI's log; tests collect them.

use std::fmt;

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
