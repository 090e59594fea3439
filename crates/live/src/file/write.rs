//! Groups and sets to text.

use std::fmt::Write;

use crate::document::{Document, Group, Set};
use crate::line::chain_name;

/// Says what is written of a set that was read from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FromFile {
    /// The file's name.
    Named,
    /// The name, and the members in braces, so that nobody has to read the file.
    Whole,
}

/// Writes what can be changed of a document as a rules file. Reading it gives the same groups and sets.
pub fn write(document: &Document) -> String {
    let mut text = String::new();
    for (name, set) in &document.sets {
        // Writing to a String doesn't fail.
        let _ = write_set(&mut text, name, set, FromFile::Named);
    }
    for group in document.own_groups() {
        let _ = write_group(&mut text, group);
    }
    text
}

/// Writes a set with its members, although it was read from a file.
pub fn write_whole_set(text: &mut String, name: &str, set: &Set) {
    let _ = write_set(text, name, set, FromFile::Whole);
}

fn write_set(text: &mut String, name: &str, set: &Set, from_file: FromFile) -> std::fmt::Result {
    write!(text, "set {name}")?;
    set.file().iter().try_for_each(|file| write!(text, " = {file}"))?;
    if set.file().is_some() && from_file == FromFile::Named {
        return writeln!(text, "\n");
    }
    writeln!(text, " {{")?;
    set.members().iter().try_for_each(|member| writeln!(text, "    {}", Member(*member)))?;
    writeln!(text, "}}\n")
}

fn write_group(text: &mut String, group: &Group) -> std::fmt::Result {
    write!(text, "group {}", group.name)?;
    group.owner.iter().try_for_each(|owner| write!(text, " owner {owner}"))?;
    writeln!(text)?;
    let mut chain = None;
    for rule in &group.rules {
        if chain != Some(rule.chain) {
            chain = Some(rule.chain);
            writeln!(text, "chain {}", chain_name(rule.chain))?;
        }
        writeln!(text, "{}", rule.rule)?;
    }
    writeln!(text)
}

/// A member of a set as it is written: a single address without the length of its prefix.
pub struct Member(pub ipnet::IpNet);

impl std::fmt::Display for Member {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(net) = self;
        if net.prefix_len() == net.max_prefix_len() && !net.addr().is_unspecified() {
            net.addr().fmt(out)
        } else {
            net.fmt(out)
        }
    }
}
