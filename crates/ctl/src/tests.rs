use super::*;

#[test]
fn command_line_is_consistent() {
    Arguments::command().debug_assert();
}

/// The page in the repository is that of the command line.
#[test]
fn man_page_is_up_to_date() {
    let found = include_str!("../../../docs/uwsgi-tuntap.8");
    let expected = manual::render(Arguments::command());
    assert!(found == expected, "docs/uwsgi-tuntap.8 differs from the command line: `make documents` writes it");
}

/// Everything that may be typed stands in the page.
#[test]
fn man_page_has_every_command_and_argument() {
    let page = manual::render(Arguments::command()).replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
    fn check(page: &str, command: &clap::Command) {
        for argument in command.get_arguments().filter(|it| it.get_id() != "help" && it.get_id() != "version") {
            let line = argument.to_string();
            // A short form may stand before it.
            let is_it = |it: &str| it.strip_suffix(&line).is_some_and(|it| it.is_empty() || it.ends_with(", "));
            assert!(page.lines().any(is_it), "{line} of {} is missing in\n{page}", command.get_name());
        }
        for subcommand in command.get_subcommands().filter(|it| it.get_name() != "help") {
            let name = subcommand.get_bin_name().expect("it is built");
            assert!(page.contains(name), "{name} is missing");
            check(page, subcommand);
        }
    }
    let mut command = Arguments::command();
    command.build();
    check(&page, &command);
}
