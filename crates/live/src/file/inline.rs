//! A rules file for somebody who can neither open files nor look up users, such as a router.

use super::{FileError, RulesFile, Sources};
use crate::document::{Document, Group, Rule};
use crate::file::write;

/// Reads a rules file, and writes it with the members of its sets in place of the names of their files, and with the numbers
/// of its users. A router takes such a text on its control socket.
pub fn in_one_text(text: &str, sources: &dyn Sources) -> Result<String, FileError> {
    let file = RulesFile::read(text, sources)?;
    let groups = file.groups.into_iter().map(|group| Group {
        name: group.name,
        owner: group.owner,
        rules: group
            .rules
            .into_iter()
            .map(|rule| Rule { id: 0, slot: 0, chain: rule.chain, rule: rule.rule })
            .collect(),
    });
    let document = Document { groups: groups.collect(), sets: file.sets, ..Document::default() };
    Ok(write::write_whole(&document))
}
