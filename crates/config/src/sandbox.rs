//! `tuntap-router-sandbox`.

use super::error::Problem;

/// How much a router's process gives up before it forwards its first packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// Nothing.
    Off,
    /// All that it doesn't need; but if `tuntap-use-credentials` names a function, capabilities only.
    #[default]
    On,
    /// All that it doesn't need, whatever such a function needs.
    Strict,
}

/// Reads `[=on|off|strict]`.
pub fn parse(value: &str) -> Result<Sandbox, Problem> {
    match value.trim() {
        "" | "on" | "true" => Ok(Sandbox::On),
        "off" | "false" => Ok(Sandbox::Off),
        "strict" => Ok(Sandbox::Strict),
        other => Err(Problem::UnknownWord { what: "value", word: other.to_owned(), expected: "on, off or strict" }),
    }
}
