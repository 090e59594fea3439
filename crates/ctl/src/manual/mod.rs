//! `uwsgi-tuntap man`: the man pages, each made from what the program itself goes by.

mod command;
mod options;
mod page;
mod prose;
mod rules;

#[cfg(test)]
mod tests;

use clap::ValueEnum;

use crate::failure::{Done, Failed};
use crate::session::Session;

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// uwsgi-tuntap(1): this command
    Command,
    /// uwsgi-tuntap-options(5): the options of the plugin
    Options,
    /// uwsgi-tuntap-rules(5): rules files
    Rules,
}

/// Which page.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The page
    #[arg(default_value = "command")]
    page: Name,
}

impl Arguments {
    /// Writes a page.
    ///
    /// # Errors
    /// The output can't be written to.
    pub fn run(&self, session: &mut Session<'_>, command: clap::Command) -> Result<Done, Failed> {
        session.output.write_all(render(self.page, command).as_bytes())?;
        Ok(Done::Well)
    }
}

/// A whole page, in the macros of man(7). `command` is the definition of the command line.
fn render(page: Name, command: clap::Command) -> String {
    match page {
        Name::Command => command::render(command),
        Name::Options => options::render(),
        Name::Rules => rules::render(),
    }
}
