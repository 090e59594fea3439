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
    is_cut: bool,
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
    /// Adds a part, or as much of it as there is room for. Of logs the end matters, of other things the beginning.
    pub fn add(&mut self, name: impl Into<String>, what: impl Into<String>, text: &str) {
        let room = MAX_PART.min(MAX_ALL - self.size);
        let mut end = text.len().min(room);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.size += end;
        let bytes = text.as_bytes()[..end].to_vec();
        self.parts.push(Part { name: name.into(), what: what.into(), bytes, is_cut: end < text.len() });
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
            let cut = if part.is_cut { " (the beginning: there is more)" } else { "" };
            let size = Bytes(part.bytes.len() as u64).to_string();
            table.row([escaped(&part.name), size, escaped(&part.what) + cut]);
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
        assert!(archive.parts.iter().all(|part| part.is_cut && std::str::from_utf8(&part.bytes).is_ok()));
        assert!(archive.contents().contains(" 0 B  text (the beginning: there is more)"));
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(file_name("../../etc/passwd\n"), "_.._etc_passwd_");
        assert_eq!(file_name(&"x".repeat(1000)).len(), 40);
        assert_eq!(file_name("emperor0"), "emperor0");
    }
}
