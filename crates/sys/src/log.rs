//! Lines for the operator. The plugin hands them to uWSGI's log; tests collect them.

use std::fmt;

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
