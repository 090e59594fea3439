//! `tuntap-log-format`.

use super::error::Problem;

/// How the plugin's own lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// Objects of JSON, one in each line.
    Json,
}

/// Reads `text` or `json`.
pub fn parse(value: &str) -> Result<LogFormat, Problem> {
    match value.trim() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(Problem::UnknownWord { what: "format", word: other.to_owned(), expected: "text or json" }),
    }
}
