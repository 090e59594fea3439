//! What a release is made of: versions that agree, and archives that are the same each time.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).expect("the file is there")
}

/// The day of this version in the list of changes.
fn day() -> String {
    let heading = format!("## [{VERSION}] - ");
    let changes = read("CHANGELOG.md");
    let day =
        changes.lines().find_map(|line| line.strip_prefix(&heading)).expect("the list of changes has the version");
    day.to_owned()
}

#[test]
fn versions_agree() {
    let day = day();
    let parts: Vec<u32> = day.split('-').map(|part| part.parse().expect("a number")).collect();
    assert!(matches!(parts[..], [year, 1..=12, 1..=31] if year >= 2026), "{day}");
    let debian = read("packaging/debian/changelog");
    assert!(debian.starts_with(&format!("uwsgi-tuntap ({VERSION}-")), "{debian}");
    for page in ["uwsgi-tuntap.1", "uwsgi-tuntap-options.5", "uwsgi-tuntap-rules.5"] {
        let text = read(&format!("docs/man/{page}"));
        assert!(text.contains(&format!(" {day} \"uwsgi-tuntap {VERSION}\"")), "{page}");
    }
    let metadata = read("Cargo.lock");
    let own = metadata.split("\n\n").filter(|package| !package.contains("\nsource = ") && package.contains("name = "));
    let mut count = 0;
    for package in own {
        assert!(package.contains(&format!("version = \"{VERSION}\"")), "{package}");
        count += 1;
    }
    assert!(count > 10, "{count}");
    // Changes that aren't released yet stand before this version.
    let changes = read("CHANGELOG.md");
    let first = changes.lines().find(|line| line.starts_with("## "));
    assert_eq!(first, Some("## [Unreleased]"));
}

/// What a script of Python prints.
fn said_by_python(script: &str) -> String {
    let output = Command::new("python3")
        .args(["-B", "-c", script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("python3 can be started");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{error}");
    text.into_owned()
}

/// The packages have the texts of the licences of others' crates. Crates of other systems are not on every machine.
#[test]
fn texts_of_all_licences_are_found() {
    const SCRIPT: &str = "
import sys
from pathlib import Path
sys.path.insert(0, 'packaging/release')
import cargo, notices
crates = [it for it in cargo.metadata(Path('.'), 'x86_64-unknown-linux-gnu')['packages'] if it['source']]
names = {name for crate in crates for name in notices.debian_expression(crate['license'])[1]}
for name in sorted(names):
    print(name, len(notices.text_of(name, 'the text of this project', crates)))
";
    let text = said_by_python(SCRIPT);
    for name in ["Apache-2.0", "BSD-3-Clause", "Expat", "Zlib"] {
        assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}: {text}");
    }
}

/// Who holds the rights is in files with licences: the authors that a crate names are others, and parts of it may have another
/// licence than the whole.
#[test]
fn holders_of_rights_and_licences_of_parts_are_named() {
    const SCRIPT: &str = "
import sys
from pathlib import Path
sys.path.insert(0, 'packaging/release')
import cargo, notices
crates = [it for it in cargo.metadata(Path('.'), 'x86_64-unknown-linux-gnu')['packages'] if it['source']]
for crate in crates:
    for text, _ in notices.stanzas_of(crate):
        print(text, end='\\n\\n')
";
    let text = said_by_python(SCRIPT);
    let stanza = |files: &str| {
        let found = text.split("\n\n").find(|stanza| stanza.starts_with(&format!("Files: vendor/{files}")));
        found.unwrap_or_else(|| panic!("{files}: {text}"))
    };
    for (files, expected) in [
        ("luau0-src-", "Roblox Corporation\n           1994–2019 Lua.org, PUC-Rio\nLicense: Expat"),
        ("libm-", "1993,2004 Sun Microsystems\n"),
        ("ring-", "License: Apache-2.0 and ISC and BSD-3-Clause"),
        ("minimal-lexical-", "2009 The Go Authors\n           Alex Huszagh"),
        ("bstr-", "Copyright: 2018-2019 Andrew Gallant\nLicense: Expat or Apache-2.0"),
        // Its files name nobody.
        ("itoa-", "Copyright: David Tolnay <dtolnay@gmail.com>\n"),
    ] {
        assert!(stanza(files).contains(expected), "{}", stanza(files));
    }
    let of_tables = text.split("\n\n").find(|stanza| stanza.contains("/src/unicode_tables/*\n"));
    let of_tables = of_tables.expect("they have a licence of their own");
    assert!(of_tables.contains("Unicode, Inc\nLicense: regex-syntax-src-unicode_tables\n UNICODE"), "{of_tables}");
    for stanza in text.split("\n\n").filter(|stanza| !stanza.is_empty()) {
        let mut fields = stanza.lines().filter(|line| !line.starts_with(' '));
        assert!(fields.next().is_some_and(|line| line.starts_with("Files: ")), "{stanza}");
        assert!(fields.next().is_some_and(|line| line.len() > "Copyright: ".len()), "{stanza}");
        assert!(fields.next().is_some_and(|line| line.starts_with("License: ")), "{stanza}");
    }
}

/// The times of files, their order in a folder, and most of their modes don't matter.
#[test]
fn archives_are_the_same_wherever_they_are_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut archives = Vec::new();
    for (name, names, mode) in [("one", ["a", "b"], 0o600), ("two", ["b", "a"], 0o664)] {
        let tree = folder.path().join(name).join("tree");
        fs::create_dir_all(tree.join("sub")).expect("own folder");
        for file in names {
            fs::write(tree.join("sub").join(file), file).expect("own folder");
            fs::set_permissions(tree.join("sub").join(file), fs::Permissions::from_mode(mode)).expect("own file");
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(mode));
        fs::File::open(tree.join("sub/a")).and_then(|file| file.set_modified(time)).expect("own file");
        let archive = folder.path().join(name).join("tree.tar.xz");
        let script = "import sys; from pathlib import Path; import archive; \
                      archive.pack(Path(sys.argv[1]), Path(sys.argv[2]), 1700000000); \
                      print(archive.sums([Path(sys.argv[2])]), end='')";
        let output = Command::new("/usr/bin/python3")
            .args(["-B", "-c", script])
            .args([&tree, &archive])
            .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/release"))
            .output()
            .expect("python3 can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        archives.push((fs::read(archive).expect("it was made"), output.stdout));
    }
    let [(one, sums), (two, other_sums)] = &archives[..] else { panic!("two") };
    assert!(!one.is_empty() && one == two && sums == other_sums && sums.ends_with(b"  tree.tar.xz\n"));
}

/// Somebody's settings for another system must not reach what is released.
#[test]
fn settings_of_git_change_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, out) = (folder.path().join("repository"), folder.path().join("out"));
    fs::create_dir_all(&out).expect("own folder");
    let run = |command: &mut Command| {
        let output =
            command.env("GIT_CONFIG_GLOBAL", folder.path().join("config")).output().expect("it can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    fs::write(folder.path().join("attributes"), "b export-ignore\n").expect("own folder");
    let attributes = folder.path().join("attributes");
    let settings = format!(
        "[user]\nname = x\nemail = x@example.org\n[core]\nautocrlf = true\nattributesFile = {}\n",
        attributes.display()
    );
    run(Command::new("git").arg("init").arg("--quiet").arg(&repository));
    for name in ["a", "b"] {
        fs::write(repository.join(name), "line\n").expect("own folder");
    }
    fs::write(folder.path().join("config"), settings).expect("own folder");
    run(Command::new("git").arg("-C").arg(&repository).args(["add", "."]));
    run(Command::new("git").arg("-C").arg(&repository).args(["commit", "--quiet", "--message", "x"]));
    let script = "import sys; import archive; archive.unpack(sys.argv[1], 'HEAD', sys.argv[2])";
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/release");
    run(Command::new("/usr/bin/python3")
        .args(["-B", "-c", script])
        .args([&repository, &out])
        .env("PYTHONPATH", modules));
    for name in ["a", "b"] {
        assert_eq!(fs::read(out.join(name)).expect("it is in the archive"), b"line\n");
    }
}
