use std::io::Write;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use tuntap_api::control::Chain;
use tuntap_config::{FILTER_SYNTAX, LiveRule, TABLE, protocol, protocol_names};

use super::prose::{Span, spans};
use super::*;
use crate::Arguments as CommandLine;
use crate::options::{separator, written_name};

const PAGES: [(Name, &str, &str); 3] = [
    (Name::Command, "uwsgi-tuntap.1", include_str!("../../../../docs/man/uwsgi-tuntap.1")),
    (Name::Options, "uwsgi-tuntap-options.5", include_str!("../../../../docs/man/uwsgi-tuntap-options.5")),
    (Name::Rules, "uwsgi-tuntap-rules.5", include_str!("../../../../docs/man/uwsgi-tuntap-rules.5")),
];

fn page(name: Name) -> String {
    render(name, CommandLine::command())
}

/// A page as plain text, in one line: without macros, fonts and escapes.
fn plain(name: Name) -> String {
    let page = page(name).replace(" \\c\n", " ").replace("\\-", "-").replace("\\&", "");
    let lines = page.lines().map(|line| if line.starts_with('.') { format!("\n{line}\n") } else { format!("{line} ") });
    lines.collect::<String>().replace("\\fB", "").replace("\\fI", "").replace("\\fR", "")
}

/// The pages in the repository are those that are made.
#[test]
fn pages_are_up_to_date() {
    for (name, file, found) in PAGES {
        assert!(found == page(name), "docs/man/{file} is another one: `make documents` writes it");
    }
}

/// mandoc finds nothing to say about them, not even about style.
#[test]
fn pages_pass_mandocs_lint() {
    for (name, file, _) in PAGES {
        let mut lint = Command::new("mandoc")
            .args(["-T", "lint", "-W", "all"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("mandoc can be started (scripts/setup test)");
        let mut input = lint.stdin.take().expect("a pipe");
        input.write_all(page(name).as_bytes()).expect("mandoc reads it");
        drop(input);
        let output = lint.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{file}: {said}");
    }
}

/// Everything that may be typed stands in the page.
#[test]
fn command_has_every_command_and_argument() {
    fn check(page: &str, command: &clap::Command) {
        for argument in command.get_arguments().filter(|it| it.get_id() != "help" && it.get_id() != "version") {
            let term = argument.to_string();
            // A short form may stand before it.
            let is_there = page.lines().any(|line| line.split(", ").any(|part| part.starts_with(&term)));
            assert!(is_there, "{term} of {} is missing in\n{page}", command.get_name());
        }
        for subcommand in command.get_subcommands().filter(|it| it.get_name() != "help") {
            let name = subcommand.get_bin_name().expect("it is built");
            assert!(page.contains(name), "{name} is missing");
            check(page, subcommand);
        }
    }
    let mut command = CommandLine::command();
    command.build();
    check(&plain(Name::Command), &command);
}

#[test]
fn options_has_every_option() {
    let page = plain(Name::Options);
    for option in &TABLE {
        let term = format!("{}{}{} ", written_name(option), separator(option), option.syntax);
        assert!(page.lines().any(|line| line.starts_with(&term)), "{term} is missing in\n{page}");
    }
}

/// The words of the page are those that rules have: each stands in the syntax, or is read.
#[test]
fn rules_has_every_word() {
    let page = plain(Name::Rules);
    for word in FILTER_SYNTAX.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|word| word.len() > 3) {
        assert!(
            page.lines().any(|line| line.contains(word) && !line.contains(FILTER_SYNTAX)),
            "{word} isn't explained"
        );
    }
    for word in ["allow", "deny", "reject", "new", "established", "log", "counter", "rate"] {
        assert!(page.lines().any(|line| line.starts_with(word)), "{word} has an entry");
    }
    for name in protocol_names() {
        assert!(page.contains(&format!("{name}, ")) || page.contains(&format!("{name}.")), "{name}");
        assert!(protocol(name).is_ok(), "{name}");
        LiveRule::filter(&format!("allow 0.0.0.0/0 any {name}")).expect("a rule may name it");
    }
    for chain in Chain::ALL {
        assert!(page.contains(&format!("chain {}", tuntap_live::chain_name(chain))), "{chain:?}");
    }
}

/// Lines that begin with a control character, and the longest terms, are what they were once they are read.
#[test]
fn long_lines_are_cut_without_a_change() {
    let mut page = page::Page::new("a", "1", "b");
    let words: Vec<String> = (0..60).map(|number| [".fi", "'br", "-x\\y", "word"][number % 4].to_owned()).collect();
    let text = words.join(" ");
    page.section("Some");
    page.term([roff::bold(text.clone())], [roff::roman(text.clone())]);
    let source = page.render();
    assert!(source.lines().all(|line| line.len() <= 80), "{source}");
    let shown = source.split_once(".TP\n").expect("a term").1.replace(" \\c\n", " ");
    let (term, rest) = shown.split_once('\n').expect("a term is one line");
    let read = |text: &str| {
        let text = text.replace("\\fB", "").replace("\\fR", "").replace("\\&", "").replace("\\-", "-");
        text.replace("\\\\", "\\").replace('\n', " ").trim().to_owned()
    };
    assert_eq!((read(term), read(rest)), (text.clone(), text));
    assert!(source.lines().skip(1).all(|line| !line.starts_with(".fi") && !line.starts_with("'br")), "{source}");
}

#[test]
fn prose_is_taken_apart() {
    let text = |text: &str| Span::Text(text.to_owned());
    assert_eq!(
        spans("A `b = c` and d ([the e](../F.md#g))."),
        [
            text("A "),
            Span::Code("b = c".to_owned()),
            text(" and d ("),
            text("the e"),
            Span::Document("F.md".to_owned()),
            text(")."),
        ]
    );
}
