//! What a check finds.

use std::fmt;

use tuntap_api::text::needs_escape;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// All is as it should be.
    Fine,
    /// It works, but something is missing or will go wrong later.
    Warning,
    /// It doesn't work.
    Wrong,
}

/// One line for the operator, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is.
    pub severity: Severity,
    /// What was found, in one line.
    pub what: String,
    /// What the operator can do about it, line by line.
    pub remedy: Vec<String>,
}

impl Finding {
    /// Makes a finding that all is as it should be.
    pub fn fine(what: impl Into<String>) -> Self {
        Self { severity: Severity::Fine, what: what.into(), remedy: Vec::new() }
    }

    /// Makes a finding about something that works, and could be better.
    pub fn warning(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(Severity::Warning, what.into(), &remedy.into())
    }

    /// Makes a finding about something that doesn't work.
    pub fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::bad(Severity::Wrong, what.into(), &remedy.into())
    }

    fn bad(severity: Severity, what: String, remedy: &str) -> Self {
        Self { severity, what, remedy: remedy.lines().map(str::to_owned).collect() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = match self.severity {
            Severity::Fine => "ok",
            Severity::Warning => "warning",
            Severity::Wrong => "WRONG",
        };
        write!(formatter, "  {label:<8} {}", Printable(&self.what))?;
        self.remedy.iter().try_for_each(|line| write!(formatter, "\n           -> {}", Printable(line)))
    }
}

/// Text in one line. Names of files and values of options may be those of a vassal's owner, and the doctor is root's: nothing in them may
/// make lines of its own, or be what a terminal acts upon.
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '\t' => fmt::Write::write_char(formatter, ' '),
            _ if needs_escape(char) => write!(formatter, "{}", char.escape_unicode()),
            _ => fmt::Write::write_char(formatter, char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_finding_moves_the_cursor_or_makes_a_line() {
        let finding =
            Finding { remedy: vec!["b\u{9b}2J\u{202e}".to_owned()], ..Finding::wrong("a\n  ok \u{1b}[2J\tc", "") };
        assert_eq!(finding.to_string(), "  WRONG    a\\u{a}  ok \\u{1b}[2J c\n           -> b\\u{9b}2J\\u{202e}");
    }

    #[test]
    fn remedy_stands_below_what_was_found() {
        assert_eq!(Finding::fine("socket").to_string(), "  ok       socket");
        let finding = Finding::wrong("no socket", "start it\nor else");
        assert_eq!(finding.to_string(), "  WRONG    no socket\n           -> start it\n           -> or else");
    }
}
