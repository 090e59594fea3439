//! What all subcommands share: which router, in which form, and where the output goes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::time::Duration;

use clap::CommandFactory;
use clap::error::ErrorKind;
use serde::de::DeserializeOwned;
use tuntap_api::control::Request;

use crate::client::{self, Client};
use crate::failure::Failed;
use crate::find;
use crate::table::{Table, screen_width};
use crate::text::Printable;

/// Longest text that is sent, in bytes.
const MAX_TEXT: u64 = 16 << 20;

/// The code of a refusal for what a text says.
pub const INVALID: &str = "invalid";

/// The code of a refusal for the length of a text, or for how many rules or members are in it.
const TOO_MUCH: &str = "too-much";

/// The name of a file that stands for standard input or output.
pub const STANDARD: &str = "-";

/// Which router, and how it is asked.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// The router to ask: the path of its control socket, @NAME, or its device. Without it, the only router that runs.
    #[arg(long, global = true, env = find::VARIABLE, hide_env_values = true, value_name = "PATH|DEVICE")]
    pub control: Option<String>,
    /// Print JSON for programs: the router's answer as one document, or one event per line
    #[arg(long, global = true)]
    pub json: bool,
    /// Wait for the router for this many seconds
    #[arg(
        long, global = true, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub timeout: u64,
}

impl Common {
    /// How long a router is waited for.
    pub const fn wait(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// The router that is named. An empty word names none.
    pub fn wanted(&self) -> Option<&str> {
        self.control.as_deref().filter(|control| !control.is_empty())
    }
}

/// A run of the command.
pub struct Session<'a> {
    /// Which router, and in which form.
    pub common: Common,
    /// Standard output.
    pub output: &'a mut dyn Write,
    /// Width of the screen; without one, lines may have any length.
    pub width: Option<usize>,
}

impl<'a> Session<'a> {
    /// A run that writes to `output`.
    pub fn new(common: Common, output: &'a mut dyn Write) -> Self {
        Self { common, output, width: screen_width() }
    }

    /// Connects to the router.
    pub fn connect(&self) -> Result<Client, Failed> {
        find::connect(self.common.wanted(), self.common.wait())
    }

    /// Sends a request. Its result is written if JSON is wanted, and returned for people if not.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<Option<T>, Failed> {
        let result = self.connect()?.ask(request)?;
        if self.common.json {
            writeln!(self.output, "{}", result.get())?;
            return Ok(None);
        }
        client::read(&result).map(Some)
    }

    /// The same, for a request with the text of a file: a refusal for what is in it names the file.
    pub fn ask_about<T: DeserializeOwned>(&mut self, file: &str, request: &Request) -> Result<Option<T>, Failed> {
        self.ask(request).map_err(|failed| match failed {
            Failed::Refused(mut refusal) if matches!(refusal.code.as_str(), INVALID | TOO_MUCH) => {
                refusal.file = Some(shown_name(file).to_owned());
                Failed::Refused(refusal)
            }
            other => other,
        })
    }

    /// Writes a table.
    pub fn table(&mut self, table: &Table) -> io::Result<()> {
        self.output.write_all(table.render(self.width).as_bytes())
    }
}

/// Ends the command as clap does for a command line that can't be read.
pub fn usage_error(message: &str) -> ! {
    crate::Arguments::command().error(ErrorKind::ArgumentConflict, message).exit()
}

/// A file as messages name it.
pub fn shown_name(file: &str) -> &str {
    if file == STANDARD { "standard input" } else { file }
}

/// Reads the text of a file, or of standard input.
pub fn read_text(file: &str) -> Result<String, Failed> {
    let text = if file == STANDARD { read_from(io::stdin()) } else { read_whole(file) };
    text.map_err(|error| Failed::Local(format!("{}: {error}", Printable(shown_name(file)))))
}

/// Reads the text of a file.
pub fn read_whole(file: &str) -> io::Result<String> {
    read_from(File::open(file)?)
}

fn read_from(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_TEXT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(io::Error::other(format!("it is longer than {} MiB", MAX_TEXT >> 20)));
    }
    Ok(text)
}
