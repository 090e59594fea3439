//! `uwsgi-tuntap`: what an operator asks about the plugin without uWSGI.

mod options;
mod status;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "uwsgi-tuntap", version, about = "Tells about uWSGI's plugin tuntap")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the options of the plugin
    Options(options::Arguments),
    /// Shows a running router: device, totals, peers by traffic, drops by reason, limits that were reached
    Status(status::Arguments),
}

impl Command {
    fn run(self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Options(arguments) => arguments.run(output),
            Self::Status(arguments) => arguments.run(output),
        }
    }
}

fn main() -> ExitCode {
    let mut output = io::stdout().lock();
    let result = Arguments::parse().command.run(&mut output).and_then(|()| output.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error can't be written to either, the exit code says it.
            let _ = writeln!(io::stderr(), "uwsgi-tuntap: {error}");
            ExitCode::FAILURE
        }
    }
}
