use pulldown_cmark::{Event, Parser, Tag};

use super::*;

/// The document in the repository is that of the table.
#[test]
fn document_is_up_to_date() {
    let found = include_str!("../../../../docs/OPTIONS.md");
    assert!(
        found == markdown::render(),
        "docs/OPTIONS.md differs from the table of options: `make documents` writes it"
    );
}

#[test]
fn every_form_has_every_option() {
    for form in [terminal::render(), markdown::render()] {
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
