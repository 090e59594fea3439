//! How uWSGI itself reads a file, with all placeholders, includes and conditions: a separate uWSGI process reads it, reports
//! its options and ends before it acts on any of them.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a uWSGI process has to report, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Number of the descriptor that the [`Reading`] is written to, as JSON.
    pub descriptor: RawFd,
    /// True if the command line loads the plugin, because the file doesn't.
    pub is_stand_in: bool,
}

impl Task {
    /// The environment variable that a task travels in. Its name doesn't begin with `UWSGI_`, since uWSGI makes options of
    /// such variables.
    pub const VARIABLE: &str = "TUNTAP_DOCTOR_TASK";

    const STAND_IN: &str = "stand-in";

    /// Renders the variable's value.
    pub fn render(self) -> String {
        if self.is_stand_in { format!("{} {}", self.descriptor, Self::STAND_IN) } else { self.descriptor.to_string() }
    }

    /// Parses the variable's value.
    pub fn parse(value: &str) -> Option<Self> {
        let (descriptor, is_stand_in) = match value.split_once(' ') {
            Some((descriptor, Self::STAND_IN)) => (descriptor, true),
            Some(_) => return None,
            None => (value, false),
        };
        Some(Self { descriptor: descriptor.parse().ok()?, is_stand_in })
    }
}

/// A file as uWSGI reads it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Where this plugin was loaded from.
    pub plugin: PathBuf,
    /// Another plugin of the same name that the file loads.
    pub other_plugin: Option<PathBuf>,
    /// True if the command line loads the plugin, because the file doesn't.
    pub is_stand_in: bool,
    /// The options of this plugin, by name.
    pub values: Vec<(String, String)>,
    /// All options and placeholders, in order.
    pub options: Vec<(String, String)>,
    /// True if no plugin and no library has the symbol that `tuntap-use-credentials` names.
    pub symbol_is_missing: bool,
}

impl Reading {
    /// All values of an option, in order.
    pub fn all(&self, option: &str) -> impl Iterator<Item = &str> {
        self.options.iter().filter(move |(key, _)| key == option).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_survives_the_environment() {
        for task in [Task { descriptor: 7, is_stand_in: false }, Task { descriptor: 12, is_stand_in: true }] {
            assert_eq!(Task::parse(&task.render()), Some(task));
        }
        for value in ["", "seven", "7 stand", "stand-in"] {
            assert_eq!(Task::parse(value), None, "{value}");
        }
    }
}
