//! Changes of a document: all of them are made, or none. Each takes time in proportion to what it says, not to the document.

mod groups;
mod order;
mod sets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tuntap_api::control::{Chain, Change, Code, Failure, Level, Place as RulePlace};
use tuntap_config::MAX_SHAPES;

use crate::Caller;
use crate::document::{Document, Group, INI_GROUP, LIVE_GROUP, Rule, Set};
use crate::file::check_shapes_owner;
use crate::limits::{MAX_CHANGES, MAX_LINE_LEN, MAX_NAMED_COUNTERS, MAX_RULES};
use crate::line::Line;
use crate::slots::Slots;

pub use groups::Known;
use order::{EditedRule, Place, RuleLists};
use sets::EditedSets;
pub use sets::no_set;

/// A document with its changes made.
#[derive(Debug)]
pub struct Edited {
    /// The document. It has the generation of the old one.
    pub document: Document,
    /// The numbers of the rules that are new, in the order of the changes.
    pub added: Vec<u32>,
    /// The slots that new rules and counters got, and that are to be cleared.
    pub fresh_slots: Vec<u32>,
}

/// Makes changes. `taken` are slots that nobody may get, beside those of the document.
pub fn apply(
    old: &Document,
    caller: Caller,
    changes: &[Change],
    taken: impl Iterator<Item = u32>,
) -> Result<Edited, Failure> {
    if changes.len() > MAX_CHANGES {
        return Err(Failure::too_much(format!("{} changes, a commit can have {MAX_CHANGES} at most", changes.len())));
    }
    let mut edit = Edit::of(old, caller);
    for (number, change) in (1..).zip(changes) {
        edit.apply(change).map_err(|failure| match changes.len() {
            1 => failure,
            count => {
                let message = format!("change {number} of {count}: {}", failure.message);
                Failure { message, ..failure }
            }
        })?;
    }
    edit.finish(taken)
}

/// A document that is being edited.
struct Edit<'a> {
    old: &'a Document,
    caller: Caller,
    lists: RuleLists,
    /// In the order of evaluation, without `live` and `ini`.
    groups: Vec<Option<EditedGroup>>,
    live: Option<EditedGroup>,
    ini: EditedGroup,
    /// Where in `groups` each is.
    places: HashMap<String, usize>,
    /// The name of the group that each list belongs to.
    heads: HashMap<Place, String>,
    sets: EditedSets,
    next_id: u32,
    added: Vec<u32>,
}

#[derive(Debug)]
struct EditedGroup {
    name: String,
    owner: Option<u32>,
    head: Place,
}

impl<'a> Edit<'a> {
    fn of(old: &'a Document, caller: Caller) -> Self {
        let mut lists = RuleLists::default();
        let ini = EditedGroup { name: INI_GROUP.to_owned(), owner: None, head: lists.new_list() };
        let mut edit = Self {
            old,
            caller,
            lists,
            groups: Vec::new(),
            live: None,
            ini,
            places: HashMap::new(),
            heads: HashMap::new(),
            sets: EditedSets::of(&old.sets),
            next_id: old.next_id,
            added: Vec::new(),
        };
        for group in &old.groups {
            let head = if group.name == INI_GROUP { edit.ini.head } else { edit.push_group(&group.name, group.owner) };
            for Rule { id, slot, chain, rule } in group.rules.iter().cloned() {
                edit.lists.insert_before(head, EditedRule { id, slot: Some(slot), chain, rule });
            }
        }
        edit
    }

    fn apply(&mut self, change: &Change) -> Result<(), Failure> {
        match change {
            Change::RuleAdd { group, chain, rule } => self.add_rule(group.as_deref(), *chain, rule),
            Change::RuleInsert { at, rule } => self.insert_rule(*at, rule),
            Change::RuleReplace { id, rule } => self.replace_rule(*id, rule),
            Change::RuleDelete { id } => {
                let place = self.changeable_rule(*id)?;
                self.lists.remove(place);
                Ok(())
            }
            Change::GroupReplace { group, text, owner } => self.replace_group(group, text, *owner),
            Change::GroupDelete { group } => self.delete_group(group),
            Change::FileReplace { text } => self.replace_file(text),
            Change::SetReplace { name, members } if self.sets.has(name) => self.sets.replace(name, members),
            Change::SetReplace { name, members } => {
                self.check_admin("make a set")?;
                self.sets.replace(name, members)
            }
            Change::SetAdd { name, members } => self.sets.add(name, members),
            Change::SetRemove { name, members } => self.sets.remove(name, members),
            Change::SetDelete { name } => {
                self.check_admin("delete a set")?;
                self.sets.delete(name)
            }
        }
    }

    fn add_rule(&mut self, group: Option<&str>, chain: Chain, text: &str) -> Result<(), Failure> {
        let rule = read(chain, text)?;
        let head = self.group_to_change(group.unwrap_or(LIVE_GROUP))?;
        let rule = self.new_rule(chain, rule)?;
        self.lists.insert_before(head, rule);
        Ok(())
    }

    fn insert_rule(&mut self, at: RulePlace, text: &str) -> Result<(), Failure> {
        let (RulePlace::Before(id) | RulePlace::After(id)) = at;
        let place = self.changeable_rule(id)?;
        let chain = self.lists.rule(place).map_or(Chain::In, |rule| rule.chain);
        let rule = read(chain, text)?;
        let rule = self.new_rule(chain, rule)?;
        match at {
            RulePlace::Before(_) => self.lists.insert_before(place, rule),
            RulePlace::After(_) => self.lists.insert_after(place, rule),
        }
        Ok(())
    }

    fn replace_rule(&mut self, id: u32, text: &str) -> Result<(), Failure> {
        let place = self.changeable_rule(id)?;
        let Some(old) = self.lists.rule(place) else { return Err(no_rule(id)) };
        let (chain, old_slot) = (old.chain, old.slot);
        let rule = read(chain, text)?;
        let slot = old_slot.filter(|_| old.rule.identity() == rule.identity());
        self.lists.replace(place, EditedRule { id, slot, chain, rule });
        Ok(())
    }

    /// Gives a rule a number that no rule has had.
    fn new_rule(&mut self, chain: Chain, rule: Line) -> Result<EditedRule, Failure> {
        let id = self.next_id;
        // The last number is that of the implied rule.
        self.next_id = id
            .checked_add(1)
            .filter(|next| *next < u32::MAX)
            .ok_or_else(|| Failure::too_much("there are no numbers for rules left until the router is started anew"))?;
        self.added.push(id);
        Ok(EditedRule { id, slot: None, chain, rule })
    }

    /// Finds a rule of a group that the caller may change.
    fn changeable_rule(&self, id: u32) -> Result<Place, Failure> {
        let place = self.lists.find(id).ok_or_else(|| no_rule(id))?;
        let head = self.lists.head(place);
        if head == self.ini.head {
            return Err(ini_cant_change());
        }
        let group = self.heads.get(&head).and_then(|name| self.group(name)).ok_or_else(|| no_rule(id))?;
        self.check_owner(group)?;
        Ok(place)
    }

    fn check_admin(&self, what: &str) -> Result<(), Failure> {
        if self.caller.level >= Level::Admin {
            Ok(())
        } else {
            Err(Failure::denied(format!("only an admin may {what}")))
        }
    }

    fn check_owner(&self, group: &EditedGroup) -> Result<(), Failure> {
        if self.caller.level >= Level::Admin || group.owner == Some(self.caller.uid) {
            return Ok(());
        }
        let name = &group.name;
        Err(Failure::denied(match group.owner {
            Some(owner) => format!("the group {name} is uid {owner}'s: only he or an admin may change it"),
            None => format!("only an admin may change the group {name}, which has no owner"),
        }))
    }

    /// The document as it is now.
    fn finish(mut self, taken: impl Iterator<Item = u32>) -> Result<Edited, Failure> {
        let mut slots = Slots::without(taken.chain(self.old.slots()));
        let mut fresh_slots = Vec::new();
        let mut take = || {
            let slot =
                slots.take().ok_or_else(|| Failure::too_much("there are no counters left for so many new rules"))?;
            fresh_slots.push(slot);
            Ok(slot)
        };
        let mut groups = Vec::new();
        let edited = self.live.take().into_iter().chain(self.groups.drain(..).flatten());
        for EditedGroup { name, owner, head } in edited {
            let mut rules = Vec::new();
            for EditedRule { id, slot, chain, rule } in self.lists.drain(head) {
                let slot = slot.map_or_else(&mut take, Ok)?;
                rules.push(Rule { id, slot, chain, rule });
            }
            groups.push(Group { name, owner, rules });
        }
        let sets = self.sets.finish();
        check_rules(&groups, &sets, &self.old.sets)?;
        let counters = counters(&groups, &self.old.counters, take)?;
        groups.extend(self.old.groups.iter().filter(|group| group.name == INI_GROUP).cloned());
        let Document { generation, has_script, .. } = *self.old;
        let document = Document { generation, groups, sets, counters, next_id: self.next_id, has_script };
        Ok(Edited { document, added: self.added, fresh_slots })
    }
}

/// Checks what only all changes together tell.
fn check_rules(
    groups: &[Group],
    sets: &BTreeMap<String, Arc<Set>>,
    before: &BTreeMap<String, Arc<Set>>,
) -> Result<(), Failure> {
    let rules = || groups.iter().flat_map(|group| &group.rules);
    if rules().count() > MAX_RULES {
        return Err(Failure::too_much(format!("there can be {MAX_RULES} rules at most beside those of the options")));
    }
    if rules().filter(|rule| rule.chain == Chain::Shape).count() > MAX_SHAPES {
        return Err(Failure::too_much(format!(
            "there can be {MAX_SHAPES} limits (chain shape) at most beside those of the options"
        )));
    }
    for group in groups.iter().filter(|group| group.rules.iter().any(|rule| rule.chain == Chain::Shape)) {
        check_shapes_owner(&group.name, group.owner).map_err(Failure::denied)?;
    }
    for rule in rules() {
        if let Some(name) = rule.rule.sets().find(|name| !sets.contains_key(*name)) {
            if before.contains_key(name) {
                let message = format!("the set {name} can't be deleted: the rule \"{}\" names it", rule.rule);
                return Err(Failure::new(Code::Conflict, message));
            }
            return Err(Failure::not_found(format!("there is no set {name}, which the rule \"{}\" names", rule.rule)));
        }
    }
    Ok(())
}

/// The slots of the counters that rules name. Those that were named before keep theirs.
fn counters(
    groups: &[Group],
    old: &BTreeMap<String, u32>,
    mut take: impl FnMut() -> Result<u32, Failure>,
) -> Result<BTreeMap<String, u32>, Failure> {
    let rules = groups.iter().flat_map(|group| &group.rules);
    let names: BTreeSet<&String> = rules.filter_map(|rule| rule.rule.counter()).collect();
    if names.len() > MAX_NAMED_COUNTERS {
        return Err(Failure::too_much(format!("there can be {MAX_NAMED_COUNTERS} counters with names at most")));
    }
    names.into_iter().map(|name| Ok((name.clone(), old.get(name).copied().map_or_else(&mut take, Ok)?))).collect()
}

/// Reads a rule of a request.
fn read(chain: Chain, text: &str) -> Result<Line, Failure> {
    if text.len() > MAX_LINE_LEN {
        return Err(Failure::invalid(format!("the rule has {} bytes, it can have {MAX_LINE_LEN} at most", text.len())));
    }
    Line::read(chain, text).map_err(|problem| Failure::invalid(problem.to_string()))
}

fn no_rule(id: u32) -> Failure {
    Failure::not_found(format!("there is no rule {id}"))
}

fn ini_cant_change() -> Failure {
    Failure::denied(format!(
        "the group {INI_GROUP} has the rules of the options, which can't be changed while the router runs: change the options \
         (tuntap-router-firewall-in, -out, tuntap-router-route) and reload, or put other rules before them"
    ))
}
