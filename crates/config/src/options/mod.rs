//! The options of the plugin: one table, from which their names, their syntax, `--help`, `docs/OPTIONS.md`, the man page and
//! the reading of their values come.

mod table;

#[cfg(test)]
mod tests;

use super::draft::Draft;
use super::error::Problem;

pub use table::{OptionName, TABLE};

/// One option: a row of [`TABLE`].
#[derive(Debug)]
pub struct OptionSpec {
    /// The name in ini files and on the command line.
    pub name: &'static str,
    /// Whose option it is.
    pub scope: Scope,
    /// What a value is made of. Words in angle brackets stand for something else, brackets are around what may be left out,
    /// and a bar stands between alternatives.
    pub syntax: &'static str,
    /// True if the option may be given several times, so that each of the values counts. Of others the last value counts, or
    /// a second one is an error.
    pub repeats: bool,
    /// What it is for, in one line: the text in `--help`.
    pub help: &'static str,
    /// The range of a number, such as `0 to 1000, 0 never`. Empty for other values.
    pub range: &'static str,
    /// What `--help` says about the syntax beside it. Empty if there is nothing.
    pub note: &'static str,
    /// What holds without the option, if a value of it can say that, or a few words.
    pub default: Option<&'static str>,
    /// What it is for, in whole sentences of Markdown. Links are those of a document in `docs/`.
    pub details: &'static str,
    /// True if uWSGI has to run a master process for it (`UWSGI_OPT_MASTER`).
    pub needs_master: bool,
    /// Reads a value.
    read: fn(&mut Draft, &str) -> Result<(), Problem>,
}

/// Whose option it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Of an instance with routers.
    Router,
    /// Of an instance with devices, such as a vassal.
    Device,
    /// Of both.
    Both,
    /// Of a command line: something is done and uWSGI ends.
    Action,
}

impl OptionSpec {
    /// What the fields have that most options leave out.
    const BASE: Self = Self {
        name: "",
        scope: Scope::Both,
        syntax: "",
        repeats: false,
        help: "",
        range: "",
        note: "",
        default: None,
        details: "",
        needs_master: false,
        read: |_, _| Ok(()),
    };

    /// Returns true if the option may be given without a value: all of its syntax is in brackets.
    pub const fn may_stand_alone(&self) -> bool {
        let syntax = self.syntax.as_bytes();
        let mut depth = 0_usize;
        let mut index = 0;
        while index < syntax.len() {
            match syntax[index] {
                b'[' => depth += 1,
                b']' => depth -= 1,
                b' ' => {}
                _ if depth == 0 => return false,
                _ => {}
            }
            index += 1;
        }
        true
    }

    /// Returns true if the syntax says more than the range does: it is not just a number.
    pub const fn has_own_syntax(&self) -> bool {
        let syntax = self.syntax.as_bytes();
        let mut index = 0;
        while index < syntax.len() {
            if syntax[index] == b' ' {
                return true;
            }
            index += 1;
        }
        self.range.is_empty()
    }

    /// Reads a value of the option, and adds what it says to what others have said.
    pub(super) fn read(&self, draft: &mut Draft, value: &str) -> Result<(), Problem> {
        (self.read)(draft, value)
    }
}

impl OptionName {
    /// The option's row in the table.
    pub const fn spec(self) -> &'static OptionSpec {
        &TABLE[self as usize]
    }

    /// The name in ini files and on the command line.
    pub const fn as_str(self) -> &'static str {
        self.spec().name
    }

    /// What a value is made of.
    pub const fn syntax(self) -> &'static str {
        self.spec().syntax
    }

    /// The option with a name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|option| option.as_str() == name)
    }

    /// Returns the names that look like one of the plugin's options and are none, so that nobody reads their values; each
    /// with the option that is most like it. uWSGI accepts every name, unless it is told `strict`.
    pub fn misspelt<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, &'static str)> {
        // Others are placeholders of the operator's own.
        let looks_like_one =
            |name: &str| ["tuntap-router", "tuntap-device", "tuntap-use"].iter().any(|it| name.starts_with(it));
        names
            .filter(|name| looks_like_one(name) && Self::find(name).is_none())
            .map(|name| (name, Self::most_like(name)))
            .collect()
    }

    /// The option that shares most of its beginning and its end with a name.
    fn most_like(name: &str) -> &'static str {
        let same = |one: &mut dyn Iterator<Item = u8>, other: &mut dyn Iterator<Item = u8>| {
            one.zip(other).take_while(|(one, other)| one == other).count()
        };
        let likeness = |option: &&OptionSpec| {
            let option = option.name;
            let begin = same(&mut option.bytes(), &mut name.bytes());
            let end = same(&mut option.bytes().rev(), &mut name.bytes().rev());
            let common = (begin + end).min(option.len()).min(name.len());
            // What the option has beside that makes it less like the name.
            (2 * common).saturating_sub(option.len())
        };
        let settings = TABLE.iter().filter(|option| option.scope != Scope::Action);
        settings.max_by_key(likeness).map_or("", |option| option.name)
    }
}
