//! The man page `uwsgi-tuntap(1)`, made from the definition of the command line.

use clap::builder::PossibleValue;
use clap::{Arg, Command};
use roff::{bold, italic, roman};

use super::page::Page;
use crate::failure::EXIT_CODES;
use crate::find;

const NAME: &str = "uwsgi-tuntap";

/// What the command is for.
const DESCRIPTION: [&str; 3] = [
    "A router of uWSGI's plugin tuntap listens on a control socket (tuntap-router-control). This command asks a router there \
     what it does, and changes its policy while it runs: rules, named sets of addresses, and the script.",
    "If one router runs in this network namespace, the command finds it by itself: among the listening sockets whose names \
     end with .control, and which root or the user of the command has made. If several run, name one by its device or the \
     path of its socket, with --control or in the environment variable UWSGI_TUNTAP_CONTROL.",
    "Lists fit the terminal: columns that matter less go, and where something is cut, there is an ellipsis. Nothing is cut \
     if the output is no terminal, unless COLUMNS has a width. Programs use --json: standard output gets the answer of the \
     router as one document, and standard error {\"error\": {\"code\": ..., \"message\": ...}} if the router refuses.",
];

/// Examples, each with what it does.
const EXAMPLES: [(&str, &str); 6] = [
    ("uwsgi-tuntap rules list", "Which rules are there, and which of them decide about packets?"),
    (
        "uwsgi-tuntap rules add in deny 203.0.113.0/24 any --confirm 30",
        "Denies a network. Unless uwsgi-tuntap rules confirm follows within 30 seconds, the rule goes again.",
    ),
    ("uwsgi-tuntap test out 10.137.0.2 192.0.2.1 tcp 443", "Would that packet pass, and what decides about it?"),
    ("uwsgi-tuntap flows top --limit 10", "Who has the most traffic?"),
    ("uwsgi-tuntap watch --address 10.137.0.2", "Which packets of that vassal are dropped, and why?"),
    ("uwsgi-tuntap save", "Keeps the present policy in the rules file."),
];

/// The whole page.
pub fn render(mut command: Command) -> String {
    command.build();
    let mut page = Page::new(NAME, "1", "shows and changes what routers of uWSGI's plugin tuntap do");
    page.section("Synopsis");
    page.text([bold(NAME), roman(" [OPTIONS] COMMAND ...")]);
    page.section("Description");
    page.paragraphs(&DESCRIPTION);
    page.section("Options");
    command.get_arguments().for_each(|argument| write_argument(&mut page, argument));
    page.section("Commands");
    write_commands(&mut page, &mut command);
    write_pairs(&mut page, "Exit status", &EXIT_CODES);
    let variables = [
        (find::VARIABLE, "Names the router, as --control does."),
        ("COLUMNS", "The width of tables."),
        ("TZ", "The time zone of times."),
    ];
    write_pairs(&mut page, "Environment", &variables);
    write_pairs(&mut page, "Examples", &EXAMPLES);
    let pages = [("uwsgi-tuntap-options", "5"), ("uwsgi-tuntap-rules", "5"), ("uwsgi", "1")];
    page.see_also(&pages, "docs/OPERATIONS.md and docs/PROTOCOL.md");
    page.render()
}

/// All subcommands that have none themselves or can be used without.
fn write_commands(page: &mut Page, command: &mut Command) {
    for subcommand in command.get_subcommands_mut().filter(|it| it.get_name() != "help") {
        if !subcommand.is_subcommand_required_set() {
            let usage = subcommand.render_usage().to_string();
            let usage = usage.lines().next().unwrap_or_default().trim_start_matches("Usage: ");
            page.subsection(usage);
            page.text([roman(sentence(subcommand.get_about()))]);
            let own = subcommand.get_arguments().filter(|it| !it.is_global_set() && it.get_id() != "help");
            own.for_each(|argument| write_argument(page, argument));
        }
        write_commands(page, subcommand);
    }
}

fn write_argument(page: &mut Page, argument: &Arg) {
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let mut text = sentence(argument.get_help());
    // A switch has values for clap alone.
    let values = if argument.get_action().takes_values() { argument.get_possible_values() } else { Vec::new() };
    if !values.is_empty() {
        let values: Vec<String> = values.iter().map(described).collect();
        text += &format!(" One of: {}.", values.join(", "));
    }
    if let [default] = argument.get_default_values()
        && argument.get_action().takes_values()
    {
        text += &format!(" Default: {}.", default.to_string_lossy());
    }
    page.term([bold(format!("{short}{argument}"))], [roman(text)]);
}

/// A value, and what it means if that is told.
fn described(value: &PossibleValue) -> String {
    let help = value.get_help().map(|help| format!(" ({help})")).unwrap_or_default();
    value.get_name().to_owned() + &help
}

/// A help text, which ends without a full stop.
fn sentence(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|text| format!("{}.", text.to_string().trim_end_matches('.'))).unwrap_or_default()
}

fn write_pairs(page: &mut Page, title: &str, pairs: &[(&str, &str)]) {
    page.section(title);
    pairs.iter().for_each(|(name, text)| page.term([italic(*name)], [roman(*text)]));
}
