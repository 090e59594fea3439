//! Rules files of this machine. A router can neither open the files of sets nor look up users, so this command does it.

use std::cell::Cell;
use std::io;

use nix::unistd::{Group, User};
use tuntap_config::ShapeSpec;
use tuntap_live::{FileError, Machine, in_one_text};

use crate::failure::{Failed, Refusal};
use crate::session::{INVALID, read_text, read_whole, shown_name};

/// Reads a rules file for a router. The router judges it, except for what only this machine knows.
///
/// # Errors
/// The file can't be read, or a file, a user or a group that it names isn't there.
pub fn read(file: &str) -> Result<String, Failed> {
    let text = read_text(file)?;
    let is_outside = Cell::new(false);
    let set = |path: &str| {
        is_outside.set(true);
        read_whole(path)
    };
    let owner = |name: &str| {
        is_outside.set(true);
        uid_of(name)
    };
    let group = |name: &str| {
        is_outside.set(true);
        gid_of(name)
    };
    match in_one_text(&text, &Machine { read: &set, user: &owner, group: &group }) {
        _ if !is_outside.get() => Ok(text),
        Ok(whole) => Ok(whole),
        Err(FileError { line, message }) => {
            let file = Some(shown_name(file).to_owned());
            Err(Failed::Refused(Refusal { code: INVALID.to_owned(), message, line: Some(line), file }))
        }
    }
}

/// The number of a user, by number or name, for clap.
pub fn user(word: &str) -> Result<u32, String> {
    if let Ok(uid) = word.parse() {
        return Ok(uid);
    }
    match uid_of(word) {
        Ok(Some(uid)) => Ok(uid),
        Ok(None) => Err("there is no user of this name on this machine".to_owned()),
        Err(error) => Err(format!("the user can't be looked up: {error}")),
    }
}

/// A line of a chain for a router: a limit whose user or group has a name gets the number. The router judges the line.
///
/// # Errors
/// The user or the group isn't there.
pub fn line(text: &str) -> Result<String, Failed> {
    let Ok(spec) = ShapeSpec::read(text) else { return Ok(text.to_owned()) };
    if spec.numbered().is_ok() {
        return Ok(text.to_owned());
    }
    let found = |kind, name: &str, id: io::Result<Option<u32>>| match id {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!("there is no {kind} \"{name}\" on this machine")),
        Err(error) => Err(format!("the {kind} \"{name}\" can't be looked up: {error}")),
    };
    let user = |name: &str| found("user", name, uid_of(name));
    let group = |name: &str| found("group", name, gid_of(name));
    spec.resolve(user, group)
        .map(|shape| shape.to_string())
        .map_err(|message| Failed::Refused(Refusal { code: INVALID.to_owned(), message, line: None, file: None }))
}

fn gid_of(name: &str) -> io::Result<Option<u32>> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

fn uid_of(name: &str) -> io::Result<Option<u32>> {
    Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
}
