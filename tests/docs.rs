//! The documents name tests; these exist.

use std::fs;
use std::path::{Path, PathBuf};

/// `file::test` in backquotes, as docs/DIFFERENCES.md names tests.
fn named_tests(text: &str) -> Vec<(String, String)> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|word| {
            let (path, test) = word.rsplit_once("::")?;
            Some((path.to_owned(), test.to_owned()))
        })
        .filter(|(_, test)| test != "*")
        .collect()
}

/// The folders that a test's file may be in.
fn folders(root: &Path) -> Vec<PathBuf> {
    let below = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    [below("tests"), below("src"), vec![root.join("src")]].concat()
}

#[track_caller]
fn assert_tests_exist(document: &str, at_least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).expect("the document is there");
    let named = named_tests(&text);
    assert!(named.len() >= at_least, "only {} tests found in {document}", named.len());
    let folders = folders(root);
    for (file, test) in named {
        let files = match file.strip_suffix("::tests") {
            Some(module) => [".rs", "/tests.rs", "_tests.rs"].map(|end| format!("{module}{end}")).to_vec(),
            None => vec![format!("{file}.rs")],
        };
        let found = folders
            .iter()
            .flat_map(|folder| files.iter().map(|file| folder.join(file)))
            .filter_map(|path| fs::read_to_string(path).ok())
            .any(|source| source.contains(&test));
        assert!(found, "{file}::{test} is named in {document}, but doesn't exist");
    }
}

#[test]
fn tests_named_in_differences_exist() {
    assert_tests_exist("docs/DIFFERENCES.md", 30);
}

#[test]
fn tests_named_in_the_threat_model_exist() {
    assert_tests_exist("docs/SECURITY.md", 30);
}
