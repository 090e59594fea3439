//! Sentences of Markdown, taken apart.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// A part of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// Words.
    Text(String),
    /// What is typed as it stands there.
    Code(String),
    /// A reference to a document, behind the words for it.
    Document(String),
}

/// The parts of a paragraph. Other formatting than code and links is not expected, and passed over.
pub fn spans(markdown: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut document = None;
    for event in Parser::new(markdown) {
        match event {
            Event::Text(text) => spans.push(Span::Text(text.into_string())),
            Event::Code(code) => spans.push(Span::Code(code.into_string())),
            Event::Start(Tag::Link { dest_url, .. }) => document = Some(file_name(&dest_url).to_owned()),
            Event::End(TagEnd::Link) => spans.extend(document.take().map(Span::Document)),
            _ => {}
        }
    }
    spans
}

/// The name of the file that a link leads to.
fn file_name(link: &str) -> &str {
    let path = link.split('#').next().unwrap_or(link);
    path.rsplit('/').next().unwrap_or(path)
}
