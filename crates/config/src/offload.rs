//! `tuntap-router-offload`.

use super::error::Problem;

/// Whether flows that are decided may pass in the kernel, without the router's process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Offload {
    /// They don't.
    #[default]
    Off,
    /// They do. An instance doesn't start if the kernel can't do that.
    On,
    /// They do if the kernel can do that.
    Auto,
}

/// Reads `[=on|off|auto]`.
pub fn parse(value: &str) -> Result<Offload, Problem> {
    match value.trim() {
        "" | "on" | "true" => Ok(Offload::On),
        "off" | "false" => Ok(Offload::Off),
        "auto" => Ok(Offload::Auto),
        other => Err(Problem::UnknownWord { what: "value", word: other.to_owned(), expected: "on, off or auto" }),
    }
}
