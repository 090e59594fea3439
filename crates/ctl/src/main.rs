//! `uwsgi-tuntap`: what an operator asks routers of the plugin, and changes there, without uWSGI.

mod bird;
mod capture;
mod change;
mod client;
mod completions;
mod doctor;
mod ending;
mod failure;
mod find;
mod flows;
mod keys;
mod log;
mod manual;
mod options;
mod packet;
mod pcap;
mod peers;
mod routes;
mod rules;
mod rules_file;
mod save;
mod script;
mod session;
mod sets;
mod shaped;
mod status;
mod support;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod top;
mod trunks;
mod watch;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{Done, EXIT_CODES, Failed, code};
use session::{Common, Session, usage_error};

#[derive(Debug, Parser)]
#[command(
    name = "uwsgi-tuntap",
    version,
    about = "Shows and changes what routers of uWSGI's plugin tuntap do",
    after_help = exit_codes(),
    max_term_width = 120
)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows a running router: its live policy, and of its statistics device, totals, peers, drops and limits
    Status(status::Arguments),
    /// Lists the vassals that are connected, those with the most traffic first
    Peers(peers::Arguments),
    /// Shows how a router stands with the host's routing daemon and with other hosts, and who holds an address
    Routes(routes::Arguments),
    /// Lists the trunks to routers of other hosts, and how they stand
    Trunks(trunks::Arguments),
    /// Lists or forgets flows: connections, and what else belongs together
    Flows(flows::Arguments),
    /// Lists, checks and changes rules
    #[command(subcommand)]
    Rules(rules::Command),
    /// Lists and changes named sets of addresses and networks
    #[command(subcommand)]
    Set(sets::Command),
    /// Shows, checks and changes the script that decides about new flows
    #[command(subcommand)]
    Script(script::Command),
    /// Says what would happen to a packet, and why; nothing is sent
    Test(packet::Arguments),
    /// Shows peers, flows, drops and limits with their rates, as they are now: on a terminal until it is left, else once
    Top(top::Arguments),
    /// Shows dropped packets as they occur, until Ctrl-C
    Watch(watch::Arguments),
    /// Captures packets with what becomes of them and why, for Wireshark and its like; needs the level admin
    Capture(capture::Arguments),
    /// Shows who changed what, and when
    Log(log::Arguments),
    /// Writes the present policy into a rules file, whose comments go
    Save(save::Arguments),
    /// Has uWSGI's plugin examine ini files, and says what is wrong and what to do
    Doctor(doctor::Arguments),
    /// Collects what a report of a fault needs in one archive, without secrets: versions, configuration, the doctor's view,
    /// statistics, rules, last lines of logs
    Support(support::Arguments),
    /// Prints the public halves of routers' keys, by which routers of other hosts know them, or makes a key
    Keys(keys::Arguments),
    /// Prints a configuration for BIRD 2 that goes with a router; it has the password
    BirdConfig(bird::Arguments),
    /// Lists the options of the plugin
    Options(options::Arguments),
    /// Prints what a shell completes this command with
    Completions(completions::Arguments),
    /// Prints a man page
    Man(manual::Arguments),
}

impl Command {
    fn run(self, session: &mut Session<'_>) -> Result<Done, Failed> {
        match self {
            Self::Status(arguments) => arguments.run(session),
            Self::Peers(arguments) => arguments.run(session),
            Self::Routes(arguments) => arguments.run(session),
            Self::Trunks(arguments) => arguments.run(session),
            Self::Flows(arguments) => arguments.run(session),
            Self::Rules(command) => command.run(session),
            Self::Set(command) => command.run(session),
            Self::Script(command) => command.run(session),
            Self::Test(arguments) => arguments.run(session),
            Self::Top(arguments) => arguments.run(session),
            Self::Watch(arguments) => arguments.run(session),
            Self::Capture(arguments) => arguments.run(session),
            Self::Log(arguments) => arguments.run(session),
            Self::Save(arguments) => arguments.run(session),
            Self::Doctor(arguments) => Err(arguments.run()),
            Self::Support(arguments) => arguments.run(session),
            Self::Keys(arguments) => arguments.run(session),
            Self::BirdConfig(arguments) => arguments.run(session),
            Self::Options(arguments) => arguments.run(session),
            Self::Completions(arguments) => arguments.run(session, Arguments::command()),
            Self::Man(arguments) => arguments.run(session, Arguments::command()),
        }
    }

    /// The name of a command whose output is no answer of a router, and has no JSON form.
    const fn without_json(&self) -> Option<&'static str> {
        match self {
            Self::Doctor(_) => Some("doctor"),
            Self::Support(_) => Some("support"),
            Self::Top(_) => Some("top"),
            Self::BirdConfig(_) => Some("bird-config"),
            Self::Keys(_) => Some("keys"),
            Self::Completions(_) => Some("completions"),
            Self::Man(_) => Some("man"),
            _ => None,
        }
    }
}

/// The exit codes, below `--help`.
fn exit_codes() -> String {
    let lines = EXIT_CODES.map(|(code, meaning)| format!("  {code}  {meaning}"));
    format!("Exit codes:\n{}", lines.join("\n"))
}

fn main() -> ExitCode {
    let Arguments { common, command } = Arguments::parse();
    if let Some(name) = command.without_json().filter(|_| common.json) {
        usage_error(&format!("the argument '--json' cannot be used with '{name}'"));
    }
    let as_json = common.json;
    let mut output = io::stdout().lock();
    let mut session = Session::new(common, &mut output);
    let result = command.run(&mut session).and_then(|done| Ok(session.output.flush().map(|()| done)?));
    match result {
        Ok(Done::Well) => ExitCode::SUCCESS,
        Ok(Done::Dropped) => code::DROPPED.into(),
        // The reader has seen enough.
        Err(Failed::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failed) => {
            // If standard error can't be written to either, the exit code says it.
            let _ = writeln!(io::stderr(), "{}", failed.told(as_json));
            failed.code().into()
        }
    }
}
