//! `docs/OPTIONS.md`.

use super::{INTRODUCTION, NOTES, NOTES_TITLE, SECTIONS, facts, of_scope, separator, written_name};

/// The whole document.
pub fn render() -> String {
    let mut blocks = vec![
        "<!-- Made from the table of options by `uwsgi-tuntap options --markdown`. -->".to_owned(),
        "# Options".to_owned(),
    ];
    blocks.extend(INTRODUCTION.map(str::to_owned));
    for (scope, title) in SECTIONS {
        blocks.push(format!("## {title}"));
        for option in of_scope(scope) {
            blocks.push(format!("### {}", option.name));
            blocks.push(format!("```\n{}{}{}\n```", written_name(option), separator(option), option.syntax));
            blocks.push(option.details.to_owned());
            blocks.extend(Some(facts(option, option.details)).filter(|facts| !facts.is_empty()));
        }
    }
    blocks.push(format!("## {NOTES_TITLE}"));
    blocks.push(NOTES.map(|note| format!("- {note}")).join("\n"));
    blocks.join("\n\n") + "\n"
}
