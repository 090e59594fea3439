//! A rules file for somebody who can neither open files nor look up users, such as a router.

use super::read::{self, Outside};
use super::write::write_whole_set;
use super::{FileError, Sources};

/// Reads a rules file, and puts into its text what the machine says: the numbers of users in place of their names, and behind
/// everything else the members of the sets whose files are named. All lines keep their numbers. A router takes such a text on
/// its control socket.
///
/// # Errors
/// A line is wrong, or what it names isn't there.
pub fn in_one_text(text: &str, sources: &dyn Sources) -> Result<String, FileError> {
    let whole = read::file(text, sources)?;
    let mut result = String::with_capacity(text.len());
    let mut sets = String::new();
    for (number, line) in (1..).zip(text.lines()) {
        match whole.outside.get(&number) {
            Some(Outside::Owner(group, uid)) => result += &format!("group {group} owner {uid}"),
            Some(Outside::Set(name)) => {
                whole.file.sets.get(name).iter().for_each(|set| write_whole_set(&mut sets, name, set));
            }
            Some(Outside::Shape(text)) => result += text,
            None => result += line,
        }
        result.push('\n');
    }
    Ok(result + &sets)
}
