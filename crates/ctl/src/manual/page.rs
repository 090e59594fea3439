//! A man page, in the macros of man(7), which groff and mandoc read alike.

use roff::{Inline, Roff, bold, italic, roman};

use super::prose::{Span, spans};

/// Where the pages have their date from.
const CHANGELOG: &str = include_str!("../../../../CHANGELOG.md");

/// Longest line of the source, in bytes: mandoc(1) calls more than 80 bad style.
const LINE_LEN: usize = 80;

/// A page that is being written.
#[derive(Debug)]
pub struct Page(Roff);

impl Page {
    /// Begins a page, with its name and what it is about.
    pub fn new(name: &str, section: &str, about: &str) -> Self {
        let mut page = Roff::new();
        let title = name.to_uppercase();
        page.control("TH", [title.as_str(), section, date(), concat!("uwsgi-tuntap ", env!("CARGO_PKG_VERSION"))]);
        // Names are neither hyphenated nor stretched.
        page.control("nh", []);
        page.control("ad", ["l"]);
        page.control("SH", ["NAME"]);
        page.text([roman(format!("{name} - {about}"))]);
        Self(page)
    }

    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.0.control("SH", [title.to_uppercase().as_str()]);
    }

    /// Begins a part of a section.
    pub fn subsection(&mut self, title: &str) {
        self.0.control("SS", [title.replace('-', "\\-").as_str()]);
    }

    /// Adds text that belongs to the title before it.
    pub fn text(&mut self, text: impl Into<Vec<Inline>>) {
        self.0.text(text);
    }

    /// Adds a paragraph, which may not be the first one behind a title.
    pub fn paragraph(&mut self, text: impl Into<Vec<Inline>>) {
        self.0.control("PP", []);
        self.0.text(text);
    }

    /// Adds paragraphs behind a title.
    pub fn paragraphs(&mut self, texts: &[&str]) {
        for (place, text) in texts.iter().enumerate() {
            if place == 0 { self.text(inlines(text)) } else { self.paragraph(inlines(text)) }
        }
    }

    /// Adds something and what it means.
    pub fn term(&mut self, term: impl Into<Vec<Inline>>, text: impl Into<Vec<Inline>>) {
        self.0.control("TP", []);
        self.0.text(term);
        self.0.text(text);
    }

    /// Adds another paragraph about the last term.
    pub fn more(&mut self, text: impl Into<Vec<Inline>>) {
        self.0.control("IP", []);
        self.0.text(text);
    }

    /// Adds a point of a list.
    pub fn point(&mut self, text: impl Into<Vec<Inline>>) {
        self.0.control("IP", ["\\(bu", "2"]);
        self.0.text(text);
    }

    /// Adds lines that stay as they are.
    pub fn example(&mut self, lines: &str) {
        self.0.control("PP", []);
        self.0.control("EX", []);
        lines.lines().for_each(|line| _ = self.0.text([roman(line)]));
        self.0.control("EE", []);
    }

    /// Adds the last section: other pages, each with its section, and what else there is to read.
    pub fn see_also(&mut self, pages: &[(&str, &str)], documents: &str) {
        self.section("See also");
        let named = pages.iter().flat_map(|(name, section)| [bold(*name), roman(format!("({section}), "))]);
        let documents = roman(format!("and {documents} in the source of uwsgi-tuntap"));
        self.text(named.chain([documents]).collect::<Vec<_>>());
    }

    /// The page as text.
    pub fn render(&self) -> String {
        folded(&self.0.to_roff())
    }
}

/// Markdown, as text of a page.
pub fn inlines(markdown: &str) -> Vec<Inline> {
    let inline = |span| match span {
        Span::Text(text) => roman(text),
        Span::Code(code) => bold(code),
        Span::Document(name) => italic(format!(" in {name}")),
    };
    spans(markdown).into_iter().map(inline).collect()
}

/// The day of this version, as the list of changes says it.
fn date() -> &'static str {
    let heading = concat!("## [", env!("CARGO_PKG_VERSION"), "] - ");
    CHANGELOG.lines().find_map(|line| line.strip_prefix(heading)).unwrap_or_default()
}

/// Cuts long lines at blanks. Those of examples stay.
fn folded(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let (mut in_example, mut is_term) = (false, false);
    for line in source.lines() {
        match line {
            ".EX" => in_example = true,
            ".EE" => in_example = false,
            _ => {}
        }
        if in_example || line.starts_with('.') {
            text += line;
        } else {
            fold(line, is_term, &mut text);
        }
        text.push('\n');
        is_term = line == ".TP";
    }
    text
}

/// Cuts one line. A term is a single line of input: all but its last part end with `\c`.
fn fold(line: &str, is_term: bool, text: &mut String) {
    let end = if is_term { " \\c\n" } else { "\n" };
    let mut len = 0;
    for (place, word) in line.split(' ').enumerate() {
        if place > 0 && len + 1 + word.len() + end.len() > LINE_LEN {
            *text += end;
            // A control character at the beginning of a line would be a request.
            if word.starts_with(['.', '\'']) {
                *text += "\\&";
            }
            len = 0;
        } else if place > 0 {
            text.push(' ');
            len += 1;
        }
        *text += word;
        len += word.len();
    }
}
