//! `tuntap-use-credentials`.

use super::error::Problem;

/// The credentials that devices show to the router.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Devices don't show them.
    #[default]
    Off,
    /// Devices show them, and the router puts them into its statistics.
    Shown,
    /// Devices show them, and in the router this C function turns them into an address.
    Symbol(String),
}

/// Reads `[=true|symbol]`.
pub fn parse(value: &str) -> Result<Credentials, Problem> {
    match value.trim() {
        "" | "true" => Ok(Credentials::Shown),
        "false" => Ok(Credentials::Off),
        symbol if is_c_identifier(symbol) => Ok(Credentials::Symbol(symbol.to_owned())),
        other => Err(Problem::Symbol(other.to_owned())),
    }
}

fn is_c_identifier(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}
