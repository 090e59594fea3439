//! How the command ends.

use std::io;

use crate::text::escaped;

/// Exit codes besides 0, as `--help` and the man page tell them. 2 is clap's, for a command line that can't be read.
pub mod code {
    /// The router has refused the request, or what was checked is wrong.
    pub const REFUSED: u8 = 1;
    /// `test`: the packet would be dropped.
    pub const DROPPED: u8 = 3;
    /// No router was reached, or it gave no answer that can be understood.
    pub const UNREACHABLE: u8 = 4;
    /// A file, a program or the output can't be used.
    pub const LOCAL: u8 = 5;
}

/// The exit codes for people.
pub const EXIT_CODES: [(&str, &str); 6] = [
    ("0", "Done. For test: the packet would be let through."),
    ("1", "The router has refused the request, or what was checked is wrong. Nothing was changed."),
    ("2", "The command line can't be read."),
    ("3", "For test: the packet would be denied or rejected."),
    ("4", "No router was reached, or its answer didn't come or can't be understood."),
    ("5", "A file, a program or the output of the command can't be used."),
];

/// How a command ended that has failed in nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// As wanted.
    Well,
    /// A packet that was tested would be dropped.
    Dropped,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The router has refused the request.
    #[error("{0}")]
    Refused(Refusal),
    /// No router was reached, or it gave no answer that can be understood.
    #[error("{0}")]
    Unreachable(String),
    /// Something of this machine can't be used.
    #[error("{0}")]
    Local(String),
    /// The output can't be written.
    #[error("the output can't be written: {0}")]
    Output(#[from] io::Error),
}

/// What a router says when it refuses. Unlike [`tuntap_api::control::Failure`] it holds codes that this version doesn't know.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Refusal {
    /// For programs.
    #[serde(default)]
    pub code: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// The line of a text that is wrong, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The file whose text was sent.
    #[serde(skip)]
    pub file: Option<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let message = escaped(without_line(&self.message, self.line));
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(out, "{}:{line}: {message}", escaped(file)),
            (Some(file), None) => write!(out, "{}: {message}", escaped(file)),
            (None, _) => write!(out, "uwsgi-tuntap: the router refuses: {}", escaped(&self.message)),
        }
    }
}

/// A message without the line that stands before it anyway.
pub fn without_line(message: &str, line: Option<u32>) -> &str {
    line.and_then(|line| message.strip_prefix(&format!("line {line}: "))).unwrap_or(message)
}

impl Failed {
    /// The exit code.
    pub const fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => code::REFUSED,
            Self::Unreachable(_) => code::UNREACHABLE,
            Self::Local(_) | Self::Output(_) => code::LOCAL,
        }
    }

    /// What standard error gets: the refusal as the router has sent it for programs, else a line for people.
    pub fn told(&self, as_json: bool) -> String {
        match self {
            Self::Refused(refusal) if as_json => serde_json::json!({ "error": refusal }).to_string(),
            Self::Refused(refusal) => refusal.to_string(),
            other => format!("uwsgi-tuntap: {other}"),
        }
    }
}
