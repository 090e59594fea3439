//! The rules file: text to groups and sets, and back.

mod inline;
mod read;
mod warn;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;
use tuntap_api::control::{Chain, Code, Failure};
use tuntap_config::{Problem, RouterSpec};
use tuntap_core::policy::shape::{Shape, ShapeSelector};

use crate::document::Set;
use crate::limits::MAX_MEMBERS;
use crate::line::Line;

pub use inline::in_one_text;
pub use read::{GROUP_SYNTAX, SET_SYNTAX, check_shapes_owner};
pub use write::{Member, write};

/// Groups and sets, as a file says them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RulesFile {
    /// The groups in the order of evaluation.
    pub groups: Vec<FileGroup>,
    /// The sets, by name.
    pub sets: BTreeMap<String, Arc<Set>>,
    /// What can be read, but is hardly meant.
    pub warnings: Vec<FileError>,
}

/// A group, as a file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileGroup {
    /// Its name.
    pub name: String,
    /// Who may change it besides admins.
    pub owner: Option<u32>,
    /// Its rules.
    pub rules: Vec<FileRule>,
}

/// A rule, as a file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRule {
    /// The chain that it is in.
    pub chain: Chain,
    /// What it says.
    pub rule: Line,
    /// The line that it stands on, from 1.
    pub line: u32,
}

/// What is wrong, or hardly meant, in a line of a rules file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {message}")]
pub struct FileError {
    /// The line, from 1.
    pub line: u32,
    /// What is wrong with it, and what was expected.
    pub message: String,
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self { code: Code::Invalid, message: error.message, line: Some(error.line) }
    }
}

/// Where a rules file gets from what it only names.
pub trait Sources {
    /// The set that is read from a file. The error is a part of a sentence.
    fn set(&self, path: &str) -> Result<Arc<Set>, String>;

    /// The number of a user. The error is a part of a sentence.
    fn user(&self, name: &str) -> Result<u32, String>;

    /// The number of a group. The error is a part of a sentence.
    fn group(&self, name: &str) -> Result<u32, String>;
}

/// The files, users and groups of the machine, by functions that the caller gives.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Reads a file.
    pub read: &'a dyn Fn(&str) -> io::Result<String>,
    /// Looks up a user; `None` if there is none of that name.
    pub user: &'a dyn Fn(&str) -> io::Result<Option<u32>>,
    /// Looks up a group; `None` if there is none of that name.
    pub group: &'a dyn Fn(&str) -> io::Result<Option<u32>>,
}

impl std::fmt::Debug for Machine<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Machine")
    }
}

impl Sources for Machine<'_> {
    fn set(&self, path: &str) -> Result<Arc<Set>, String> {
        let text = (self.read)(path).map_err(|error| format!("{path} can't be read: {error}"))?;
        let members = read_members(&text).map_err(|error| format!("{path}, {error}"))?;
        Ok(Arc::new(Set::new(members, Some(path.to_owned()))))
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        found("user", name, (self.user)(name))
    }

    fn group(&self, name: &str) -> Result<u32, String> {
        found("group", name, (self.group)(name))
    }
}

fn found(kind: &str, name: &str, result: io::Result<Option<u32>>) -> Result<u32, String> {
    match result {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!("there is no {kind} \"{name}\" on this machine")),
        Err(error) => Err(format!("the {kind} \"{name}\" can't be looked up: {error}")),
    }
}

impl RulesFile {
    /// Reads the text of a rules file.
    pub fn read(text: &str, sources: &dyn Sources) -> Result<Self, FileError> {
        Ok(read::file(text, sources)?.file)
    }

    /// Checks what only the options tell: whether a router with these has the traffic that limits are for.
    ///
    /// # Errors
    /// It has none of it.
    pub fn check_for(&self, router: &RouterSpec) -> Result<(), FileError> {
        let rules = self.groups.iter().flat_map(|group| &group.rules);
        let wrong = rules.into_iter().find_map(|rule| Some((rule.line, lacks_traffic(router, rule.rule.shape()?)?)));
        wrong.map_or(Ok(()), |(line, message)| Err(FileError { line, message }))
    }

    /// The number of rules in all groups.
    pub fn rules(&self) -> usize {
        self.groups.iter().map(|group| group.rules.len()).sum()
    }
}

/// Says why a router has no traffic that a limit is for, if that is so.
pub fn lacks_traffic(router: &RouterSpec, shape: &Shape) -> Option<String> {
    let lacks = shape.selector == ShapeSelector::Internet && router.nat.is_empty();
    lacks.then(|| format!("\"{shape}\": {}", Problem::NoInternet))
}

/// Reads the rules of one group: `chain` lines and rules.
pub fn read_group(text: &str) -> Result<Vec<FileRule>, FileError> {
    read::group(text)
}

/// Reads a file with members of a set: addresses, networks and ranges, with white space or commas between them, and comments
/// behind `#` or `;`.
pub fn read_members(text: &str) -> Result<Vec<IpNet>, FileError> {
    let mut members = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let content = content.split(['#', ';']).next().unwrap_or_default();
        let error = |message| FileError { line, message };
        for word in
            content.split(|letter: char| letter.is_whitespace() || letter == ',').filter(|word| !word.is_empty())
        {
            tuntap_config::set_member(word, &mut members).map_err(|problem| error(problem.to_string()))?;
            if members.len() > MAX_MEMBERS {
                return Err(error(format!("sets can have {MAX_MEMBERS} members at most")));
            }
        }
    }
    Ok(members)
}

#[cfg(test)]
mod tests;
