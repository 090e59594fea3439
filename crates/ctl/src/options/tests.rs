use pulldown_cmark::{Event, Parser, Tag};

use super::prose::{Span, spans};
use super::*;

/// The documents in the repository are those of the table.
#[test]
fn documents_are_up_to_date() {
    for (file, found, expected) in [
        ("OPTIONS.md", include_str!("../../../../docs/OPTIONS.md"), markdown::render()),
        ("uwsgi-tuntap.7", include_str!("../../../../docs/uwsgi-tuntap.7"), man::render()),
    ] {
        assert!(found == expected, "docs/{file} differs from the table of options: `make documents` writes it");
    }
}

#[test]
fn every_form_has_every_option() {
    let page = man::render().replace("\\-", "-").replace("\\fB", "\n").replace("\\fR", "");
    for form in [terminal::render(), markdown::render(), page] {
        for option in &TABLE {
            let line = format!("{}{}{}", written_name(option), separator(option), option.syntax);
            assert!(form.lines().any(|it| it == line), "{line} is missing in\n{form}");
        }
    }
}

/// The anchor that a heading gets on GitHub.
fn anchor(heading: &str) -> String {
    let letters = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    letters.map(|letter| if letter == ' ' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

#[test]
fn programs_get_every_option() {
    let options: Vec<serde_json::Value> = serde_json::from_str(&json::render()).expect("JSON");
    let names: Vec<&str> = options.iter().filter_map(|option| option["name"].as_str()).collect();
    assert_eq!(names, TABLE.iter().map(|option| option.name).collect::<Vec<_>>());
    assert!(options.iter().all(|option| option["syntax"].is_string() && option["repeats"].is_boolean()));
}

#[test]
fn links_lead_to_headings() {
    let documents = [
        ("OPERATIONS.md", include_str!("../../../../docs/OPERATIONS.md")),
        ("SCRIPTS.md", include_str!("../../../../docs/SCRIPTS.md")),
        ("../README.md", include_str!("../../../../README.md")),
    ];
    let text = markdown::render();
    let links: Vec<String> = Parser::new(&text)
        .filter_map(|event| match event {
            Event::Start(Tag::Link { dest_url, .. }) => Some(dest_url.into_string()),
            _ => None,
        })
        .collect();
    assert!(links.len() >= 8, "{links:?}");
    for link in links {
        let (file, place) = link.split_once('#').unwrap_or((&link, ""));
        let (_, document) = documents.iter().find(|(name, _)| *name == file).unwrap_or_else(|| panic!("{link}"));
        let headings =
            document.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches(['#', ' ']));
        assert!(place.is_empty() || headings.map(anchor).any(|it| it == place), "{link} leads nowhere");
    }
}

#[test]
fn repetition_is_told_once() {
    let text = terminal::render().to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let repeated = TABLE.iter().filter(|option| option.repeats).count();
    assert_eq!(text.matches("may be repeated").count(), repeated);
    assert_eq!(markdown::render().matches("May be repeated.").count(), repeated);
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
