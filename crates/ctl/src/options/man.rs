//! The man page `uwsgi-tuntap(7)`.

use roff::{Inline, Roff, bold, italic, roman};

use super::prose::{Span, spans};
use super::{INTRODUCTION, NOTES, NOTES_TITLE, SECTIONS, facts, of_scope, separator, written_name};

const NAME: &str = "uwsgi-tuntap";
const SECTION: &str = "7";
const DESCRIPTION: &str = "options of uWSGI's plugin tuntap";

/// The whole page, in the macros of man(7).
pub fn render() -> String {
    let mut page = Roff::new();
    let product = concat!("uwsgi-tuntap ", env!("CARGO_PKG_VERSION"));
    // The field of the date is empty.
    page.control("TH", [NAME, SECTION, "\"\"", product]);
    // Names of options are neither hyphenated nor stretched.
    page.control("nh", []);
    page.control("ad", ["l"]);
    page.control("SH", ["NAME"]);
    page.text([roman(format!("{NAME} - {DESCRIPTION}"))]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in INTRODUCTION {
        page.control("PP", []);
        page.text(inlines(paragraph));
    }
    for (scope, title) in SECTIONS {
        page.control("SH", [title.to_uppercase().as_str()]);
        for option in of_scope(scope) {
            page.control("TP", []);
            let syntax = format!("{}{}", separator(option), option.syntax);
            page.text([bold(written_name(option)), roman(syntax)]);
            page.text(inlines(option.details));
            let facts = facts(option, option.details);
            if !facts.is_empty() {
                page.control("IP", []);
                page.text([roman(facts)]);
            }
        }
    }
    page.control("SH", [NOTES_TITLE.to_uppercase().as_str()]);
    for note in NOTES {
        page.control("IP", ["\\(bu", "2"]);
        page.text(inlines(note));
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("uwsgi"),
        roman("(1), uwsgi-tuntap --help, and README.md and docs/OPERATIONS.md in the source of uwsgi-tuntap"),
    ]);
    page.to_roff()
}

fn inlines(markdown: &str) -> Vec<Inline> {
    let inline = |span| match span {
        Span::Text(text) => roman(text),
        Span::Code(code) => bold(code),
        Span::Document(name) => italic(format!(" in {name}")),
    };
    spans(markdown).into_iter().map(inline).collect()
}
