//! The documents name tests; these exist.

use std::fs;
use std::path::Path;

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

#[test]
fn tests_named_in_differences_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/DIFFERENCES.md")).expect("the document is there");
    let named = named_tests(&text);
    assert!(named.len() > 30, "only {} tests found in the document", named.len());
    for (file, test) in named {
        let candidates = ["tests/conformance", "tests/hooks", "tests/hostile", "src", "src/wire"]
            .map(|folder| root.join(folder).join(format!("{file}.rs")));
        let found =
            candidates.iter().filter_map(|path| fs::read_to_string(path).ok()).any(|source| source.contains(&test));
        assert!(found, "{file}::{test} is named in docs/DIFFERENCES.md, but doesn't exist");
    }
}
