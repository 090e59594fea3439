//! `uwsgi-tuntap`: the command for those who run routers. It needs no uWSGI.

#![forbid(unsafe_code)]

mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shows what routers of uWSGI's tuntap plugin do.
#[derive(Debug, Parser)]
#[command(name = "uwsgi-tuntap", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Status(arguments) => status::run(&arguments),
    }
}
