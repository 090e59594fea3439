//! Changes of sets. A member comes or goes without moving the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use tuntap_api::control::Failure;
use tuntap_config::{check_name, set_member};

use crate::document::Set;
use crate::file::Member;
use crate::limits::{MAX_MEMBERS, MAX_SETS};

/// The sets of a document that is being edited.
#[derive(Debug, Default)]
pub struct EditedSets {
    sets: BTreeMap<String, EditedSet>,
    members: usize,
}

/// A set, and what comes to it and goes from it.
#[derive(Debug, Default)]
struct EditedSet {
    base: Arc<Set>,
    /// Not in the base.
    added: BTreeSet<IpNet>,
    /// In the base.
    removed: BTreeSet<IpNet>,
}

impl EditedSet {
    fn of(base: Arc<Set>) -> Self {
        Self { base, ..Self::default() }
    }

    fn is_in_base(&self, member: &IpNet) -> bool {
        self.base.members().binary_search(member).is_ok()
    }

    /// Adds a member. Returns false if it is there.
    fn add(&mut self, member: IpNet) -> bool {
        if self.is_in_base(&member) { self.removed.remove(&member) } else { self.added.insert(member) }
    }

    /// Removes a member. Returns false if it isn't there.
    fn remove(&mut self, member: IpNet) -> bool {
        if self.is_in_base(&member) { self.removed.insert(member) } else { self.added.remove(&member) }
    }

    fn len(&self) -> usize {
        self.base.members().len() + self.added.len() - self.removed.len()
    }

    fn finish(self) -> Arc<Set> {
        if self.added.is_empty() && self.removed.is_empty() {
            return self.base;
        }
        let kept = self.base.members().iter().copied().filter(|member| !self.removed.contains(member));
        Arc::new(Set::new(kept.chain(self.added).collect(), None))
    }
}

impl EditedSets {
    /// Begins with these.
    pub fn of(sets: &BTreeMap<String, Arc<Set>>) -> Self {
        let members = sets.values().map(|set| set.members().len()).sum();
        let sets = sets.iter().map(|(name, set)| (name.clone(), EditedSet::of(Arc::clone(set)))).collect();
        Self { sets, members }
    }

    /// Returns true if there is such a set.
    pub fn has(&self, name: &str) -> bool {
        self.sets.contains_key(name)
    }

    /// Makes a set, or replaces its members.
    pub fn replace(&mut self, name: &str, members: &[String]) -> Result<(), Failure> {
        let members = read(members)?;
        let name = check_name("set", name).map_err(|problem| Failure::invalid(problem.to_string()))?;
        let new = Set::new(members, None);
        let base = match self.sets.get(&name) {
            // The same members: it stays the one that was read from a file.
            Some(old) if old.added.is_empty() && old.removed.is_empty() && old.base.members() == new.members() => {
                return Ok(());
            }
            Some(old) => {
                self.members -= old.len();
                Arc::new(new)
            }
            None if self.sets.len() >= MAX_SETS => {
                return Err(Failure::too_much(format!("there can be {MAX_SETS} sets at most")));
            }
            None => Arc::new(new),
        };
        self.members += base.members().len();
        self.sets.insert(name, EditedSet::of(base));
        self.check_members()
    }

    /// Adds members to a set. Those that are there stay.
    pub fn add(&mut self, name: &str, members: &[String]) -> Result<(), Failure> {
        let members = read(members)?;
        let set = self.sets.get_mut(name).ok_or_else(|| no_set(name))?;
        self.members += members.into_iter().filter(|member| set.add(*member)).count();
        self.check_members()
    }

    /// Removes members from a set, which must be there.
    pub fn remove(&mut self, name: &str, members: &[String]) -> Result<(), Failure> {
        let members = read(members)?;
        let set = self.sets.get_mut(name).ok_or_else(|| no_set(name))?;
        for member in members {
            if !set.remove(member) {
                return Err(Failure::not_found(format!("{} is no member of the set {name}", Member(member))));
            }
            self.members -= 1;
        }
        Ok(())
    }

    /// Deletes a set.
    pub fn delete(&mut self, name: &str) -> Result<(), Failure> {
        let set = self.sets.remove(name).ok_or_else(|| no_set(name))?;
        self.members -= set.len();
        Ok(())
    }

    /// The sets as they are now.
    pub fn finish(self) -> BTreeMap<String, Arc<Set>> {
        self.sets.into_iter().map(|(name, set)| (name, set.finish())).collect()
    }

    fn check_members(&self) -> Result<(), Failure> {
        if self.members > MAX_MEMBERS {
            return Err(Failure::too_much(format!("all sets together can have {MAX_MEMBERS} members at most")));
        }
        Ok(())
    }
}

/// The failure of naming a set that isn't there.
pub fn no_set(name: &str) -> Failure {
    Failure::not_found(format!("there is no set \"{name}\""))
}

fn read(words: &[String]) -> Result<Vec<IpNet>, Failure> {
    let mut members = Vec::with_capacity(words.len());
    for word in words {
        set_member(word, &mut members).map_err(|problem| Failure::invalid(problem.to_string()))?;
        if members.len() > MAX_MEMBERS {
            return Err(Failure::too_much(format!("all sets together can have {MAX_MEMBERS} members at most")));
        }
    }
    Ok(members)
}
