//! The archive: named parts up to a size, with a table of contents.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use crate::table::{Kind, Table};
use crate::text::{Bytes, escaped};

/// Most bytes of a part.
pub const MAX_PART: usize = 4 << 20;

/// Most bytes of all parts.
const MAX_ALL: usize = 32 << 20;

/// The mode of files in the archive: they are for who unpacks it.
const MODE: u32 = 0o600;

/// The name of the table of contents, which comes first.
const CONTENTS: &str = "CONTENTS.txt";

/// What is said before the table of contents.
const PREFACE: &str = "\
Facts about routers of uWSGI's plugin tuntap, for a report of a fault.

What has secrets was not opened: keys of routers, files with passwords, scripts. Of ini files, comments are left out, and the
values of all options that aren't known to have no secrets; of logs, all lines but those about the plugin. What has the name or
the form of a secret is left out everywhere. Names of devices, sets, groups and files, users, processes and addresses of vassals
are in it, and the rules. Who speaks with whom (flows) is not. Read it before you pass it on.

";

/// A part.
#[derive(Debug)]
struct Part {
    name: String,
    what: String,
    bytes: Vec<u8>,
    /// What is said of it if it isn't whole.
    cut: &'static str,
}

/// What is collected.
#[derive(Debug, Default)]
pub struct Archive {
    parts: Vec<Part>,
    /// What isn't there, and why.
    missing: Vec<(String, String)>,
    size: usize,
}

impl Archive {
    /// Adds a part, or as much of its beginning as there is room for.
    pub fn add(&mut self, name: impl Into<String>, what: impl Into<String>, text: &str) {
        let mut end = text.len().min(self.room());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let cut = if end < text.len() { " (the beginning: there is more)" } else { "" };
        self.push(name.into(), what.into(), &text[..end], cut);
    }

    /// Adds the last lines of a log, as many as there is room for.
    pub fn add_log(&mut self, name: impl Into<String>, what: impl Into<String>, text: &str) {
        let beyond = text.len().saturating_sub(self.room());
        let is_end = |place: usize| text.as_bytes()[place - 1] == b'\n';
        let start = (beyond..=text.len()).find(|place| *place == 0 || is_end(*place)).unwrap_or(text.len());
        let cut = if start > 0 { " (the end: there was more)" } else { "" };
        self.push(name.into(), what.into(), &text[start..], cut);
    }

    fn room(&self) -> usize {
        MAX_PART.min(MAX_ALL - self.size)
    }

    fn push(&mut self, name: String, what: String, text: &str, cut: &'static str) {
        self.size += text.len();
        self.parts.push(Part { name, what, bytes: text.as_bytes().to_vec(), cut });
    }

    /// Notes that something isn't there.
    pub fn miss(&mut self, what: impl Into<String>, why: &str) {
        self.missing.push((what.into(), escaped(why)));
    }

    /// Adds it, or notes why not.
    pub fn add_result(&mut self, name: &str, what: &str, result: Result<String, String>) {
        match result {
            Ok(text) => self.add(name, what, &text),
            Err(why) => self.miss(what, &why),
        }
    }

    /// What is in it, as text for people.
    pub fn contents(&self) -> String {
        let mut table = Table::new(&[("FILE", Kind::Word), ("SIZE", Kind::Number), ("WHAT", Kind::Word)]);
        for part in &self.parts {
            let size = Bytes(part.bytes.len() as u64).to_string();
            table.row([escaped(&part.name), size, escaped(&part.what) + part.cut]);
        }
        let mut text = table.render(None);
        if !self.missing.is_empty() {
            text += "\nnot in it:\n";
            text.extend(self.missing.iter().map(|(what, why)| format!("  {}: {why}\n", escaped(what))));
        }
        text
    }

    /// Writes a tar archive (POSIX ustar), compressed by gzip (RFC 1952), whose files are in a folder. `time` is in seconds since
    /// 1970.
    pub fn write(&self, folder: &str, time: u64, output: impl Write) -> io::Result<()> {
        let mut tar = Builder::new(GzEncoder::new(output, Compression::default()));
        let contents = PREFACE.to_owned() + &self.contents();
        let first = (CONTENTS, contents.as_bytes());
        for (name, bytes) in
            std::iter::once(first).chain(self.parts.iter().map(|part| (part.name.as_str(), part.bytes.as_slice())))
        {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(MODE);
            header.set_mtime(time);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{folder}/{name}"), bytes)?;
        }
        tar.into_inner()?.finish()?.flush()
    }
}

/// A name that can be one of a file, whatever it is the name of.
pub fn file_name(name: &str) -> String {
    const LONGEST: usize = 40;
    let is_usual = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    let usual: String = name.chars().map(|char| if is_usual(char) { char } else { '_' }).take(LONGEST).collect();
    usual.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_all_of_them_have_bounds() {
        let mut archive = Archive::default();
        let text = "é".repeat(MAX_PART / 2 + 1);
        for number in 0..20 {
            archive.add(format!("{number}"), "text", &text);
        }
        assert_eq!(archive.parts.iter().map(|part| part.bytes.len()).sum::<usize>(), MAX_ALL);
        assert!(archive.parts.iter().all(|part| !part.cut.is_empty() && std::str::from_utf8(&part.bytes).is_ok()));
        assert!(archive.contents().contains(" 0 B  text (the beginning: there is more)"));
    }

    /// What happened last is what a report is about.
    #[test]
    fn logs_keep_their_last_lines() {
        let mut archive = Archive::default();
        let line = "é".repeat(99) + "\n";
        archive.add_log("a", "log", &(line.repeat(MAX_PART / line.len() + 1) + "last\n"));
        archive.add_log("b", "log", "short\n");
        archive.add_log("c", "log", &"x".repeat(MAX_PART + 1));
        let text = |number: usize| std::str::from_utf8(&archive.parts[number].bytes).expect("whole characters");
        assert!(text(0).starts_with('é') && text(0).ends_with("é\nlast\n") && text(0).len() > MAX_PART - 300);
        assert_eq!((text(1), text(2)), ("short\n", ""));
        assert!(archive.contents().contains("log (the end: there was more)"), "{}", archive.contents());
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(file_name("../../etc/passwd\n"), "_.._etc_passwd_");
        assert_eq!(file_name(&"x".repeat(1000)).len(), 40);
        assert_eq!(file_name("emperor0"), "emperor0");
    }
}
