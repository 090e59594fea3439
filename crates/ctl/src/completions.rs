//! `uwsgi-tuntap completions`: what shells complete the command with.

use clap::ValueEnum;
use clap_complete::{Shell, generate};

use crate::failure::{Done, Failed};
use crate::session::Session;

/// A shell.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShellName {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// For which shell.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell
    shell: ShellName,
}

impl Arguments {
    /// Writes the completions.
    ///
    /// # Errors
    /// The output can't be written to.
    pub fn run(&self, session: &mut Session<'_>, mut command: clap::Command) -> Result<Done, Failed> {
        let shell = match self.shell {
            ShellName::Bash => Shell::Bash,
            ShellName::Zsh => Shell::Zsh,
            ShellName::Fish => Shell::Fish,
        };
        // The generator panics if it can't write.
        let mut text = Vec::new();
        let name = command.get_name().to_owned();
        generate(shell, &mut command, name, &mut text);
        session.output.write_all(&text)?;
        Ok(Done::Well)
    }
}
