//! Changes of groups.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tuntap_api::control::{Chain, Failure};
use tuntap_config::check_name;

use super::order::{EditedRule, Place};
use super::sets::EditedSets;
use super::{Edit, EditedGroup, ini_cant_change};
use crate::document::{Document, INI_GROUP, LIVE_GROUP, Set};
use crate::file::{FileGroup, FileRule, RulesFile, Sources, read_group};
use crate::limits::MAX_GROUPS;
use crate::line::Line;

/// What a router has instead of files and users: the sets that it has read before.
pub struct Known<'a>(pub &'a Document);

impl Sources for Known<'_> {
    fn set(&self, path: &str) -> Result<Arc<Set>, String> {
        let known = self.0.sets.values().find(|set| set.file() == Some(path));
        known.cloned().ok_or_else(|| {
            format!("the router can't open {path} while it runs, expected the members in braces behind the file's name")
        })
    }

    fn user(&self, name: &str) -> Result<u32, String> {
        Err(format!("the router can't look up the user \"{name}\" while it runs, expected a uid"))
    }

    fn group(&self, name: &str) -> Result<u32, String> {
        Err(format!("the router can't look up the group \"{name}\" while it runs, expected @ and a gid"))
    }
}

/// Rules that are replaced, by what makes them the same.
struct Replaced(HashMap<(Chain, String), VecDeque<EditedRule>>);

impl Replaced {
    fn of(rules: impl IntoIterator<Item = EditedRule>) -> Self {
        let mut replaced = Self(HashMap::new());
        for rule in rules {
            replaced.0.entry((rule.chain, rule.rule.identity())).or_default().push_back(rule);
        }
        replaced
    }

    /// Takes the first rule with the same chain, selector and action.
    fn take(&mut self, chain: Chain, rule: &Line) -> Option<EditedRule> {
        self.0.get_mut(&(chain, rule.identity()))?.pop_front()
    }

    fn rest(self) -> impl Iterator<Item = EditedRule> {
        self.0.into_values().flatten()
    }
}

impl Edit<'_> {
    pub(super) fn own_groups(&self) -> impl Iterator<Item = &EditedGroup> {
        self.live.iter().chain(self.groups.iter().flatten())
    }

    pub(super) fn group(&self, name: &str) -> Option<&EditedGroup> {
        match name {
            LIVE_GROUP => self.live.as_ref(),
            name => self.places.get(name).and_then(|place| self.groups.get(*place)?.as_ref()),
        }
    }

    /// Makes a group behind the others. Returns the head of its rules.
    pub(super) fn push_group(&mut self, name: &str, owner: Option<u32>) -> Place {
        let head = self.lists.new_list();
        self.heads.insert(head, name.to_owned());
        let group = EditedGroup { name: name.to_owned(), owner, head };
        if name == LIVE_GROUP {
            self.live = Some(group);
        } else {
            self.places.insert(name.to_owned(), self.groups.len());
            self.groups.push(Some(group));
        }
        head
    }

    /// Finds a group that the caller may change, or makes it. Returns the head of its rules.
    pub(super) fn group_to_change(&mut self, name: &str) -> Result<Place, Failure> {
        if name == INI_GROUP {
            return Err(ini_cant_change());
        }
        if let Some(group) = self.group(name) {
            self.check_owner(group)?;
            return Ok(group.head);
        }
        self.check_admin("make a group")?;
        let name = check_name("group", name).map_err(|problem| Failure::invalid(problem.to_string()))?;
        if self.places.len() >= MAX_GROUPS {
            return Err(Failure::too_much(format!("there can be {MAX_GROUPS} groups at most")));
        }
        Ok(self.push_group(&name, None))
    }

    pub(super) fn replace_group(&mut self, name: &str, text: &str, owner: Option<u32>) -> Result<(), Failure> {
        let rules = read_group(text)?;
        let head = self.group_to_change(name)?;
        if owner.is_some() && self.group(name).is_some_and(|group| group.owner != owner) {
            self.set_owner(name, owner)?;
        }
        let mut replaced = Replaced::of(self.lists.drain(head));
        for FileRule { chain, rule, .. } in rules {
            let rule = match replaced.take(chain, &rule) {
                Some(old) => EditedRule { rule, ..old },
                None => self.new_rule(chain, rule)?,
            };
            self.lists.insert_before(head, rule);
        }
        Ok(())
    }

    fn set_owner(&mut self, name: &str, owner: Option<u32>) -> Result<(), Failure> {
        self.check_admin("give a group to another owner")?;
        if owner == Some(u32::MAX) {
            return Err(Failure::invalid(format!("{} is no uid", u32::MAX)));
        }
        let group = match (name, self.places.get(name)) {
            (LIVE_GROUP, _) => self.live.as_mut(),
            (_, Some(place)) => self.groups.get_mut(*place).and_then(Option::as_mut),
            _ => None,
        };
        group.into_iter().for_each(|group| group.owner = owner);
        Ok(())
    }

    pub(super) fn delete_group(&mut self, name: &str) -> Result<(), Failure> {
        if name == INI_GROUP {
            return Err(ini_cant_change());
        }
        let Some(head) = self.group(name).map(|group| group.head) else {
            return Err(Failure::not_found(format!("there is no group \"{name}\"")));
        };
        self.check_admin("delete a group")?;
        self.lists.drain(head);
        self.forget_group(name);
        Ok(())
    }

    fn forget_group(&mut self, name: &str) {
        if name == LIVE_GROUP {
            self.live = None;
        } else if let Some(group) = self.places.remove(name).and_then(|place| self.groups.get_mut(place)) {
            *group = None;
        }
    }

    pub(super) fn replace_file(&mut self, text: &str) -> Result<(), Failure> {
        if self.caller.level < tuntap_api::control::Level::Admin {
            return Err(Failure::denied("only an admin may replace all groups and sets"));
        }
        let file = RulesFile::read(text, &Known(self.old))?;
        let old: Vec<(String, Place)> = self.own_groups().map(|group| (group.name.clone(), group.head)).collect();
        let mut by_group = BTreeMap::new();
        for (name, head) in old {
            let rules = self.lists.drain(head);
            self.forget_group(&name);
            by_group.insert(name, Replaced::of(rules));
        }
        self.groups.clear();
        // A rule that stays in its group comes before one that has moved from another.
        let mut same: Vec<Vec<Option<EditedRule>>> = Vec::with_capacity(file.groups.len());
        for group in &file.groups {
            let old = by_group.get_mut(&group.name);
            same.push(match old {
                Some(old) => group.rules.iter().map(|rule| old.take(rule.chain, &rule.rule)).collect(),
                None => vec![None; group.rules.len()],
            });
        }
        let mut moved = Replaced::of(by_group.into_values().flat_map(Replaced::rest));
        for (FileGroup { name, owner, rules }, same) in file.groups.into_iter().zip(same) {
            let head = self.push_group(&name, owner);
            for (FileRule { chain, rule, .. }, same) in rules.into_iter().zip(same) {
                let rule = match same.or_else(|| moved.take(chain, &rule)) {
                    Some(old) => EditedRule { rule, ..old },
                    None => self.new_rule(chain, rule)?,
                };
                self.lists.insert_before(head, rule);
            }
        }
        // What has not changed needs no other look-up table.
        let unchanged = |name: &String, set: &Arc<Set>| self.old.sets.get(name).filter(|old| *old == set).cloned();
        let sets =
            file.sets.into_iter().map(|(name, set)| (name.clone(), unchanged(&name, &set).unwrap_or(set))).collect();
        self.sets = EditedSets::of(&sets);
        Ok(())
    }
}
