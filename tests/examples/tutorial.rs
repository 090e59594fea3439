//! docs/TUTORIAL.md is typed from its beginning to its end by `tutorial.py`, on hosts of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::uwsgi::{Subject, Uwsgi};

/// Seconds for everything. A block has a limit of its own, and says what is missing.
const LIMIT: &str = "900";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The command, which belongs to another package: cargo builds it for the tests of all packages only.
fn command() -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("cargo runs the tests");
    let words = ["build", "--quiet", "--locked", "--package", "tuntap-ctl"];
    let done = Command::new(cargo).args(words).current_dir(root()).status().expect("cargo can be started");
    assert!(done.success(), "cargo build --package tuntap-ctl: {done}");
    // target/<profile>/deps/<this test>
    let own = std::env::current_exe().expect("the kernel knows it");
    own.ancestors().nth(2).expect("it is in target").join("uwsgi-tuntap")
}

fn typed(document: &Path, more: &[&Path]) -> Output {
    let mut words = Command::new("timeout");
    words.args(["-k", "10", LIMIT, "/usr/bin/python3"]).arg(root().join("tests/examples/tutorial.py")).arg(document);
    words.args(more).output().expect("timeout can be started")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn tutorial_works_as_it_is_typed() {
    let plugin = Uwsgi::Distribution.plugin(Subject::Ours);
    let output =
        typed(&root().join("docs/TUTORIAL.md"), &[Path::new("--plugin"), &plugin, Path::new("--command"), &command()]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let document = include_str!("../../docs/TUTORIAL.md");
    // Without what is in comments.
    let document: String =
        document.split("<!--").map(|part| part.split_once("-->").map_or(part, |(_, rest)| rest)).collect();
    // All but the one that installs packages.
    let blocks = document.lines().filter(|line| line.starts_with("```sh")).count() - 1;
    assert!(blocks > 20 && said.contains(&format!("typed {blocks} blocks")), "{said}");
}

/// What isn't understood, or prints something else than the document says, is no success.
#[test]
fn wrong_documents_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let document = folder.path().join("wrong.md");
    for (wrong, complaint) in [
        ("```\nwhat is this?\n```\n", "line 1: what is this block?"),
        ("```text\nan answer\n```\n", "line 1: there is no command whose output this is"),
        ("```sh\ntrue\n", "line 1: the block has no end"),
        ("```sh three\ntrue\n```\n", "line 1: what is this block?"),
        ("```sh\nfalse | true\n```\n", "line 1: the block ends with 1"),
        ("`/etc/a`:\n\n```ini\nKEY-OF-TWO\n```\n", "line 3: nobody has made KEY-OF-TWO"),
        ("Add to `/etc/no-such-file`:\n\n```ini\na = b\n```\n", "returned non-zero exit status"),
    ] {
        std::fs::write(&document, wrong).expect("own folder");
        let output = typed(&document, &[]);
        assert!(!output.status.success() && text(&output).contains(complaint), "{wrong}: {}", text(&output));
    }
}
