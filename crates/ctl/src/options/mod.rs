//! `uwsgi-tuntap options`: the table of options for people and programs, and as `docs/OPTIONS.md`.

mod json;
mod markdown;
mod terminal;

#[cfg(test)]
mod tests;

use tuntap_config::{OptionSpec, Scope, TABLE};

use crate::failure::{Done, Failed};
use crate::session::Session;

/// What the subcommand takes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print them as the document docs/OPTIONS.md
    #[arg(long)]
    markdown: bool,
}

impl Arguments {
    /// Writes the options in the form that is asked for.
    ///
    /// # Errors
    /// The output can't be written to.
    pub fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        let text = match self {
            _ if session.common.json => json::render(),
            Self { markdown: true } => markdown::render(),
            Self { markdown: false } => terminal::render(),
        };
        session.output.write_all(text.as_bytes())?;
        Ok(Done::Well)
    }
}

/// What a document says before the options, in Markdown.
pub const INTRODUCTION: [&str; 2] = [
    "Options stand in ini files as `option = value`, or on uWSGI's command line as `--option value`. Words in angle \
     brackets stand for something else, brackets are around what may be left out, and a bar stands between alternatives. \
     An option whose whole value may be left out is set by its name alone.",
    "Where a value begins with `[<device>]`, the name of the router's or the vassal's device may stand there; it must if the \
     instance has several. Of an option that may not be repeated the last value counts, or a second one is an error.",
];

/// What holds for several options, in Markdown.
pub const NOTES: [&str; 5] = [
    "Rules, leases and what is allowed are shared by all routers of an instance.",
    "What is allowed by `tuntap-router-lease`, `tuntap-router-device-route` and `tuntap-router-gateway-allow` must not have \
     bits set behind the prefix length: 10.0.0.5/24 is 10.0.0.5 or 10.0.0.0/24.",
    "uWSGI's own options apply to the sockets: `chmod-socket`, `chown-socket`, `abstract-socket`, `listen`, `umask`, \
     `stats-http`, `stats-minified`, `socket-timeout`. By default only root can connect; vassals do so before they drop their \
     privileges.",
    "A router needs a master process. An instance that doesn't ask for one gets one.",
    "A value that can't be read stops the start, with the option, the value and what was expected. What the host lacks at the \
     moment, an interface or a user, is a line in the log, and is used from when it is there; no reload ends a running \
     Emperor for it ([the host](OPERATIONS.md#what-stops-a-start-and-what-never-stops-a-reload)).",
];

/// The title of the notes.
pub const NOTES_TITLE: &str = "What holds for several options";

/// Parts of a document, in order.
pub const SECTIONS: [(Scope, &str); 4] = [
    (Scope::Router, "Routers"),
    (Scope::Device, "Vassals"),
    (Scope::Both, "Routers and vassals"),
    (Scope::Action, "On the command line"),
];

/// The options of a part, in the order of the table.
pub fn of_scope(scope: Scope) -> impl Iterator<Item = &'static OptionSpec> {
    TABLE.iter().filter(move |option| option.scope == scope)
}

/// What stands between an option's name and its value.
pub fn separator(option: &OptionSpec) -> &'static str {
    if option.scope == Scope::Action { " " } else { " = " }
}

/// The name as it is given.
pub fn written_name(option: &OptionSpec) -> String {
    let dashes = if option.scope == Scope::Action { "--" } else { "" };
    format!("{dashes}{}", option.name)
}

/// Range, default and repetition, as sentences; behind a text that may have told the last one.
pub fn facts(option: &OptionSpec, text: &str) -> String {
    let range = (!option.range.is_empty()).then(|| format!("Range: {}.", option.range));
    let default = option.default.map(|default| format!("Default: {default}."));
    let repeats = (option.repeats && !text.contains("may be repeated")).then(|| "May be repeated.".to_owned());
    [range, default, repeats].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
