//! Text to groups and sets.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;
use tuntap_api::control::Chain;
use tuntap_config::{MAX_SHAPES, Problem, ShapeSpec, absolute_file, check_name, set_member};

use super::{FileError, FileGroup, FileRule, RulesFile, Sources, warn};
use crate::document::{FILE_GROUP, INI_GROUP, LIVE_GROUP, Set};
use crate::limits::{MAX_GROUPS, MAX_LINE_LEN, MAX_MEMBERS, MAX_RULES, MAX_SETS};
use crate::line::Line;

/// A line that begins a group.
pub const GROUP_SYNTAX: &str = "group <name> [owner <uid|user>]";

/// A line that begins a set, or is one.
pub const SET_SYNTAX: &str = "set <name> { <addresses and networks> } or set <name> = <file>";

/// A file, and its lines that say what only the sources know.
pub struct Whole {
    /// The file.
    pub file: RulesFile,
    /// By the numbers of their lines.
    pub outside: BTreeMap<u32, Outside>,
}

/// What a line gets from the sources.
pub enum Outside {
    /// The number of the owner of the group of this name.
    Owner(String, u32),
    /// The members of the set of this name.
    Set(String),
    /// The number in this limit.
    Shape(String),
}

/// Limits stand only in groups that nobody but admins may change, or root: whoever owns a group could take them off others.
///
/// # Errors
/// Somebody else owns the group. The error is a sentence.
pub fn check_shapes_owner(group: &str, owner: Option<u32>) -> Result<(), String> {
    match owner {
        None | Some(0) => Ok(()),
        Some(owner) => Err(format!(
            "the group {group} is uid {owner}'s, and limits (chain shape) can't stand in a group with an owner, who could take \
             them off others: expected them in another group"
        )),
    }
}

/// Reads a whole file.
pub fn file(text: &str, sources: &dyn Sources) -> Result<Whole, FileError> {
    let mut reader = Reader::new(Some(sources));
    reader.read(text)?;
    let Reader { mut groups, sets, set_lines, outside, .. } = reader;
    let rules = groups.iter().flat_map(|group| &group.rules);
    for rule in rules {
        if let Some(name) = rule.rule.sets().find(|name| !sets.contains_key(*name)) {
            return Err(FileError { line: rule.line, message: format!("there is no set {name} in this file") });
        }
    }
    // It stands before all others, wherever it is written.
    if let Some(place) = groups.iter().position(|group| group.name == LIVE_GROUP) {
        groups[..=place].rotate_right(1);
    }
    let warnings = warn::warnings(&groups, &set_lines);
    Ok(Whole { file: RulesFile { groups, sets, warnings }, outside })
}

/// Reads the rules of one group.
pub fn group(text: &str) -> Result<Vec<FileRule>, FileError> {
    let mut reader = Reader::new(None);
    reader.read(text)?;
    Ok(reader.groups.pop().map(|group| group.rules).unwrap_or_default())
}

/// What was read so far.
struct Reader<'a> {
    /// `None`: rules of one group only.
    sources: Option<&'a dyn Sources>,
    line: u32,
    groups: Vec<FileGroup>,
    group_names: HashSet<String>,
    chain: Option<Chain>,
    rules: usize,
    shapes: usize,
    sets: BTreeMap<String, Arc<Set>>,
    /// Where each set begins.
    set_lines: BTreeMap<String, u32>,
    members: usize,
    /// See [`Whole`].
    outside: BTreeMap<u32, Outside>,
    /// The set whose braces are open.
    open: Option<OpenSet>,
}

struct OpenSet {
    name: String,
    file: Option<String>,
    members: Vec<IpNet>,
}

type Read<T = ()> = Result<T, String>;

impl<'a> Reader<'a> {
    fn new(sources: Option<&'a dyn Sources>) -> Self {
        Self {
            sources,
            line: 0,
            groups: Vec::new(),
            group_names: HashSet::new(),
            chain: None,
            rules: 0,
            shapes: 0,
            sets: BTreeMap::new(),
            set_lines: BTreeMap::new(),
            members: 0,
            outside: BTreeMap::new(),
            open: None,
        }
    }

    fn read(&mut self, text: &str) -> Result<(), FileError> {
        // Editors of other systems begin a file with a byte order mark, which nobody sees.
        for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
            self.line = self.line.saturating_add(1);
            self.read_line(line).map_err(|message| FileError { line: self.line, message })?;
        }
        match &self.open {
            Some(set) => Err(FileError {
                line: self.set_lines.get(&set.name).copied().unwrap_or(self.line),
                message: format!("the set {} has no }} at its end", set.name),
            }),
            None => Ok(()),
        }
    }

    fn read_line(&mut self, line: &str) -> Read {
        if line.len() > MAX_LINE_LEN {
            return Err(format!("{} bytes, a line can have {MAX_LINE_LEN} at most", line.len()));
        }
        let line = without_comment(line).trim();
        if self.open.is_some() {
            return self.read_members(line);
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match word {
            "" => Ok(()),
            "chain" => self.read_chain(rest.trim()),
            "group" | "set" if self.sources.is_none() => {
                Err(format!("\"{word}\" can't stand among the rules of one group, expected chain or a rule"))
            }
            "group" => self.read_group(rest),
            "set" => self.read_set(rest.trim_start()),
            _ => self.read_rule(line),
        }
    }

    fn read_chain(&mut self, word: &str) -> Read {
        self.chain = Some(match word {
            "in" => Chain::In,
            "out" => Chain::Out,
            "route" => Chain::Route,
            "shape" => Chain::Shape,
            other => return Err(format!("unknown chain \"{other}\", expected in, out, route or shape")),
        });
        Ok(())
    }

    fn read_group(&mut self, rest: &str) -> Read {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let (name, owner) = match words.as_slice() {
            [name] => (name, None),
            [name, "owner", owner] => (name, Some(self.owner(owner)?)),
            _ => return Err(format!("expected {GROUP_SYNTAX}")),
        };
        let name = check_name("group", name).map_err(|problem| problem.to_string())?;
        if name == INI_GROUP {
            return Err(format!("the group {INI_GROUP} has the rules of the options, expected another name"));
        }
        self.chain = None;
        owner.iter().for_each(|uid| _ = self.outside.insert(self.line, Outside::Owner(name.clone(), *uid)));
        self.begin_group(name, owner)
    }

    fn begin_group(&mut self, name: String, owner: Option<u32>) -> Read {
        if !self.group_names.insert(name.clone()) {
            return Err(format!("there is a group {name} already"));
        }
        if self.groups.len() >= MAX_GROUPS {
            return Err(format!("there can be {MAX_GROUPS} groups at most"));
        }
        self.groups.push(FileGroup { name, owner, rules: Vec::new() });
        Ok(())
    }

    /// Reads a user. Digits are a number, everything else is a name.
    fn owner(&self, word: &str) -> Read<u32> {
        if !word.bytes().all(|byte| byte.is_ascii_digit()) {
            return self.sources.map_or_else(|| Err("expected a uid".to_owned()), |sources| sources.user(word));
        }
        // The kernel's "no such id" is nobody's.
        let uid = word.parse().ok().filter(|uid| *uid != u32::MAX);
        uid.ok_or_else(|| format!("\"{word}\" is no user, expected a uid or a user's name"))
    }

    fn read_rule(&mut self, line: &str) -> Read {
        let Some(chain) = self.chain else {
            let word = line.split_whitespace().next().unwrap_or_default();
            return Err(format!(
                "unknown word \"{word}\", expected chain in, chain out, chain route or chain shape before the first rule"
            ));
        };
        if self.rules >= MAX_RULES {
            return Err(format!("there can be {MAX_RULES} rules at most"));
        }
        let rule = match chain {
            Chain::Shape => self.read_shape(line)?,
            chain => Line::read(chain, line).map_err(|problem| problem.to_string())?,
        };
        if self.groups.is_empty() {
            self.begin_group(FILE_GROUP.to_owned(), None)?;
        }
        self.rules += 1;
        if let Some(group) = self.groups.last_mut() {
            group.rules.push(FileRule { chain, rule, line: self.line });
        }
        Ok(())
    }

    /// Reads a limit. Its user or group may have a name.
    fn read_shape(&mut self, line: &str) -> Read<Line> {
        self.shapes += 1;
        if self.shapes > MAX_SHAPES {
            return Err(format!("there can be {MAX_SHAPES} limits (chain shape) at most"));
        }
        if let Some(group) = self.groups.last() {
            check_shapes_owner(&group.name, group.owner)?;
        }
        let spec = ShapeSpec::read(line).map_err(|problem| problem.to_string())?;
        let shape = match (spec.numbered(), self.sources) {
            (Err(Problem::AccountNumber { .. }), Some(sources)) => {
                let shape = spec.resolve(|name| sources.user(name), |name| sources.group(name))?;
                self.outside.insert(self.line, Outside::Shape(shape.to_string()));
                shape
            }
            (numbered, _) => numbered.map_err(|problem| problem.to_string())?,
        };
        Ok(Line::Shape(shape))
    }

    /// Reads `<name> { members }`, `<name> = <file>`, or both.
    fn read_set(&mut self, rest: &str) -> Read {
        let end = rest.find(|letter: char| letter.is_whitespace() || "{=".contains(letter)).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let name = check_name("set", name).map_err(|problem| problem.to_string())?;
        if self.set_lines.insert(name.clone(), self.line).is_some() {
            return Err(format!("there is a set {name} already"));
        }
        if self.set_lines.len() > MAX_SETS {
            return Err(format!("there can be {MAX_SETS} sets at most"));
        }
        let rest = rest.trim_start();
        let (file, body) = match rest.strip_prefix('=') {
            Some(rest) => {
                let (path, body) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
                let path = absolute_file(path.trim()).map_err(|problem| problem.to_string())?;
                if path.contains(char::is_control) {
                    return Err("the file's name has control characters".to_owned());
                }
                (Some(path), body)
            }
            None => (None, rest),
        };
        match (body.strip_prefix('{'), file) {
            (Some(body), file) => {
                self.open = Some(OpenSet { name, file, members: Vec::new() });
                self.read_members(body)
            }
            (None, Some(path)) if body.is_empty() => self.read_file(name, &path),
            (None, _) => Err(format!("expected {SET_SYNTAX}")),
        }
    }

    fn read_file(&mut self, name: String, path: &str) -> Read {
        let Some(sources) = self.sources else { return Err("expected a rule".to_owned()) };
        let set = sources.set(path)?;
        self.count_members(set.members().len())?;
        self.outside.insert(self.line, Outside::Set(name.clone()));
        self.sets.insert(name, set);
        Ok(())
    }

    /// Reads members of the open set, up to its closing brace.
    fn read_members(&mut self, line: &str) -> Read {
        let Some(set) = &mut self.open else { return Ok(()) };
        let (members, behind) = match line.split_once('}') {
            Some((members, behind)) => (members, Some(behind.trim())),
            None => (line, None),
        };
        let before = set.members.len();
        for word in
            members.split(|letter: char| letter.is_whitespace() || letter == ',').filter(|word| !word.is_empty())
        {
            set_member(word, &mut set.members).map_err(|problem| problem.to_string())?;
        }
        let added = set.members.len() - before;
        self.count_members(added)?;
        match behind {
            Some("") => self.close_set(),
            Some(word) => return Err(format!("\"{word}\" stands behind }}, expected the end of the line")),
            None => {}
        }
        Ok(())
    }

    fn close_set(&mut self) {
        if let Some(OpenSet { name, file, members }) = self.open.take() {
            self.sets.insert(name, Arc::new(Set::new(members, file)));
        }
    }

    fn count_members(&mut self, added: usize) -> Read {
        self.members += added;
        if self.members > MAX_MEMBERS {
            return Err(format!("all sets together can have {MAX_MEMBERS} members at most"));
        }
        Ok(())
    }
}

/// Cuts a comment off: from a `#` at the beginning, or behind white space.
fn without_comment(line: &str) -> &str {
    let is_comment = |(place, _): &(usize, &str)| line[..*place].chars().next_back().is_none_or(char::is_whitespace);
    line.match_indices('#').find(is_comment).map_or(line, |(place, _)| &line[..place])
}
