//! `uwsgi-tuntap script`: the script that decides about new flows.

use clap::Subcommand;
use tuntap_api::control::{Request, ScriptStatus};

use crate::failure::{Done, Failed};
use crate::session::{Session, read_text};
use crate::text::{Bytes, Count, escaped};

/// What is done with the script.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the script in use: its digest, calls, failures, memory
    Status,
    /// Compiles a script and runs its self-test, without using it
    Check {
        /// The file; - is standard input
        file: String,
    },
    /// Uses a script from now on
    Load {
        /// The file; - is standard input
        file: String,
    },
    /// Uses no script any more
    Unload,
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let status: Option<ScriptStatus> = match self {
            Self::Status => session.ask(&Request::ScriptStatus {})?,
            Self::Check { file } => {
                let text = read_script(&file)?;
                session.ask_about(&file, &Request::ScriptCheck { text })?
            }
            Self::Load { file } => {
                let text = read_script(&file)?;
                session.ask_about(&file, &Request::ScriptLoad { text })?
            }
            Self::Unload => session.ask(&Request::ScriptLoad { text: String::new() })?,
        };
        if let Some(status) = status {
            for (label, value) in rows(&status) {
                writeln!(session.output, "{label:<12}  {value}")?;
            }
        }
        Ok(Done::Well)
    }
}

/// The text of a script. An empty one would mean that none is to be used, which has a command of its own.
fn read_script(file: &str) -> Result<String, Failed> {
    let text = read_text(file)?;
    if text.trim().is_empty() {
        return Err(Failed::Local(format!("{}: it is empty; script unload uses no script", escaped(file))));
    }
    Ok(text)
}

/// The state of the script: labels and values.
fn rows(status: &ScriptStatus) -> Vec<(&'static str, String)> {
    let mut rows = vec![("script", summary(status))];
    rows.extend(status.digest.as_deref().map(|digest| ("SHA-256", escaped(digest))));
    rows.extend([
        ("calls", Count(status.calls).to_string()),
        ("failures", Count(status.failures).to_string()),
        ("reverts", Count(status.reverts).to_string()),
        ("memory", Bytes(status.memory).to_string()),
        ("slowest call", format!("{} µs", Count(status.slowest / 1000))),
    ]);
    rows.extend(status.last_failure.as_deref().map(|failure| ("last failure", escaped(failure))));
    rows
}

/// Whether there is a script, and where it is from.
pub fn summary(status: &ScriptStatus) -> String {
    match (&status.file, status.is_loaded) {
        (Some(file), true) => format!("loaded from {}", escaped(file)),
        (None, true) => "loaded by a command".to_owned(),
        (_, false) => "none".to_owned(),
    }
}
