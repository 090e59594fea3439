//! The man page `uwsgi-tuntap-options(5)`, made from the table of options.

use roff::{bold, roman};

use super::page::{Page, inlines};
use crate::options::{INTRODUCTION, NOTES, NOTES_TITLE, SECTIONS, facts, of_scope, separator, written_name};

/// The whole page.
pub fn render() -> String {
    let mut page = Page::new("uwsgi-tuntap-options", "5", "options of uWSGI's plugin tuntap");
    page.section("Description");
    page.paragraphs(&INTRODUCTION);
    for (scope, title) in SECTIONS {
        page.section(title);
        for option in of_scope(scope) {
            let syntax = format!("{}{}", separator(option), option.syntax);
            page.term([bold(written_name(option)), roman(syntax)], inlines(option.details));
            let facts = facts(option, option.details);
            if !facts.is_empty() {
                page.more([roman(facts)]);
            }
        }
    }
    page.section(NOTES_TITLE);
    NOTES.iter().for_each(|note| page.point(inlines(note)));
    page.see_also(
        &[("uwsgi-tuntap", "1"), ("uwsgi-tuntap-rules", "5"), ("uwsgi", "1")],
        "README.md and docs/OPERATIONS.md",
    );
    page.render()
}
