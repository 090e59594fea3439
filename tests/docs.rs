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
            let file = path.strip_suffix("::tests").map_or_else(|| path.to_owned(), |module| format!("{module}/tests"));
            Some((file, test.to_owned()))
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
        let found = folders
            .iter()
            .filter_map(|folder| fs::read_to_string(folder.join(format!("{file}.rs"))).ok())
            .any(|source| source.contains(&test));
        assert!(found, "{file}::{test} is named in {document}, but doesn't exist");
    }
}

#[test]
fn tests_named_in_differences_exist() {
    assert_tests_exist("docs/DIFFERENCES.md", 30);
}
