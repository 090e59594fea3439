//! The documents name tests; these exist.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tuntap_sys::log::Event;

/// Words in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `file::test` in backquotes, as docs/DIFFERENCES.md names tests; `file::*` is all of a file.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let named = |word: &str| {
        let (path, test) = word.rsplit_once("::")?;
        let is_name = |part: &str| {
            part.starts_with(|letter: char| letter.is_ascii_lowercase())
                && part.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
        };
        let is_test = test == "*" || is_name(test);
        (path.split("::").all(is_name) && is_test).then(|| (path.to_owned(), test.to_owned()))
    };
    quoted(text).filter_map(named).collect()
}

/// The folders that a test's file may be in.
fn folders(root: &Path) -> Vec<PathBuf> {
    let below_path = |folder: &Path| {
        let entries = fs::read_dir(folder).expect("the folder is there");
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let below = |folder: &str| below_path(&root.join(folder));
    let crates = below("crates").into_iter().map(|folder| folder.join("src")).collect::<Vec<_>>();
    let rooms = below("crates").into_iter().flat_map(|folder| below_path(&folder.join("src"))).collect::<Vec<_>>();
    let tests = below("crates").into_iter().map(|folder| folder.join("tests")).filter(|folder| folder.is_dir());
    let tests = tests.flat_map(|folder| below_path(&folder)).collect::<Vec<_>>();
    [below("tests"), below("src"), vec![root.join("src"), root.join("crates")], crates, rooms, tests].concat()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).expect("the document is there")
}

/// Returns true if a source has a test or a module of tests of this name, or any test if the name is `*`. `cases!`
/// makes tests of a function for both plugins.
fn has_test(source: &str, test: &str) -> bool {
    let mut is_marked = false;
    source.lines().map(str::trim).any(|line| {
        let is_function = line.starts_with("fn ");
        let case =
            line.strip_prefix("cases!(").or_else(|| line.strip_prefix("mod ").filter(|rest| rest.ends_with('{')));
        let case = case.and_then(|rest| rest.split([',', ' ']).next());
        let name = case.or_else(|| line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()));
        let found = (is_marked || case.is_some()) && name.is_some_and(|name| test == "*" || name == test);
        // Other attributes and comments may stand between.
        is_marked = line == "#[test]" || (is_marked && !is_function);
        found
    })
}

#[track_caller]
fn assert_tests_exist(document: &str, at_least: usize) {
    let named = named_tests(&read(document));
    assert!(named.len() >= at_least, "only {} tests found in {document}", named.len());
    let folders = folders(root());
    for (file, test) in named {
        let files = match file.strip_suffix("::tests") {
            // The last one is a crate's own.
            Some(module) => {
                [".rs", "/tests.rs", "_tests.rs", "/src/tests.rs"].map(|end| format!("{module}{end}")).to_vec()
            }
            None => vec![format!("{file}.rs")],
        };
        let found = folders
            .iter()
            .flat_map(|folder| files.iter().map(|file| folder.join(file)))
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|source| has_test(&source, &test));
        assert!(found, "{file}::{test} is named in {document}, but doesn't exist");
    }
}

#[test]
fn tests_named_in_differences_exist() {
    assert_tests_exist("docs/DIFFERENCES.md", 80);
}

#[test]
fn tests_named_in_the_threat_model_exist() {
    assert_tests_exist("docs/SECURITY.md", 30);
}

#[test]
fn tests_named_elsewhere_exist() {
    for document in ["README.md", "examples/README.md", "CHANGELOG.md"] {
        assert_tests_exist(document, 0);
    }
    for document in ["OPERATIONS", "PERFORMANCE", "PROTOCOL"] {
        assert_tests_exist(&format!("docs/{document}.md"), 0);
    }
}

#[test]
fn every_difference_names_a_test_or_says_that_there_is_none() {
    let text = read("docs/DIFFERENCES.md");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.ends_with(" test |"));
    let mut count = 0;
    for row in rows {
        let last = row.trim_end_matches('|').rsplit(" | ").next().unwrap_or_default();
        assert!(!named_tests(last).is_empty() || last.starts_with("none: "), "{row}");
        count += 1;
    }
    assert!(count > 50, "only {count} rows found");
}

/// docs/OPERATIONS.md lists the events of the log as the code has them.
#[test]
fn events_of_the_log_are_listed() {
    let text = read("docs/OPERATIONS.md");
    let (_, list) = text.split_once("| event | level | meaning |\n|---|---|---|\n").expect("the list");
    let found: Vec<&str> = list.lines().take_while(|line| line.starts_with('|')).collect();
    let row = |event: &Event| format!("| `{}` | {} | {} |", event.name(), event.level().name(), event.meaning());
    assert_eq!(found, Event::ALL.iter().map(row).collect::<Vec<_>>());
}

/// No event is listed that no line has.
#[test]
fn events_of_the_log_occur() {
    fn sources(folder: &Path, found: &mut String) {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("sys/src/log.rs") {
                *found += &fs::read_to_string(&path).expect("UTF-8");
            }
        }
    }
    let mut text = String::new();
    sources(&root().join("src"), &mut text);
    sources(&root().join("crates"), &mut text);
    for event in Event::ALL {
        // Rust's names end where no letter follows.
        let occurs = text
            .match_indices(&format!("Event::{event:?}"))
            .any(|(place, name)| text[place + name.len()..].chars().next().is_none_or(|next| !next.is_alphanumeric()));
        assert!(occurs, "no line has the event {}", event.name());
    }
}

/// The picture of the README is that of its description, which is changed in place of the picture.
#[test]
fn picture_is_that_of_its_description() {
    let draw = |text: &str| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), text).expect("own file");
        Command::new(root().join("scripts/picture")).arg(file.path()).output().expect("python3 can be started")
    };
    let drawn = draw(&read("docs/architecture.txt"));
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let found = read("docs/architecture.svg");
    assert!(found.as_bytes() == drawn.stdout, "docs/architecture.svg is another one: `make documents` writes it");
    assert!(read("README.md").contains("](docs/architecture.svg)"));
    assert!(!draw("size 10 10\nbox 1 2 three 4 plain title\n").status.success(), "what can't be read is no picture");
}

#[test]
fn only_whole_names_of_tests_count() {
    let source = "cases!(both, Router: c ours);\n#[test]\n#[ignore]\nfn one_thing() {}\nfn another_thing() {}\n";
    assert!(has_test(source, "one_thing") && has_test(source, "both") && has_test(source, "*"));
    assert!(!has_test(source, "one_thin") && !has_test(source, "another_thing") && !has_test(source, "thing"));
    assert!(!has_test("fn helper() {}", "*"));
}
