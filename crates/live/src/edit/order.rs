//! Lists of rules in which a rule is found by its number, and rules come and go without moving the others: a commit may have
//! many changes.

use std::collections::HashMap;

use tuntap_api::control::Chain;

use crate::line::Line;

/// A rule that is being edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditedRule {
    /// Its number.
    pub id: u32,
    /// Its counters; `None` if it needs new ones.
    pub slot: Option<u32>,
    /// The chain that it is in.
    pub chain: Chain,
    /// What it says.
    pub rule: Line,
}

/// The place of a rule, or of the head of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place(usize);

/// A ring for each list: its head has no rule.
#[derive(Debug, Default)]
pub struct RuleLists {
    nodes: Vec<Node>,
    by_id: HashMap<u32, usize>,
}

#[derive(Debug)]
struct Node {
    rule: Option<EditedRule>,
    head: usize,
    previous: usize,
    next: usize,
}

impl RuleLists {
    /// Makes an empty list. Returns the place of its head.
    pub fn new_list(&mut self) -> Place {
        let head = self.nodes.len();
        self.nodes.push(Node { rule: None, head, previous: head, next: head });
        Place(head)
    }

    /// Finds a rule.
    pub fn find(&self, id: u32) -> Option<Place> {
        self.by_id.get(&id).copied().map(Place)
    }

    /// The head of the list that a place is in.
    pub fn head(&self, place: Place) -> Place {
        Place(self.nodes[place.0].head)
    }

    /// The rule at a place; `None` at a head.
    pub fn rule(&self, place: Place) -> Option<&EditedRule> {
        self.nodes[place.0].rule.as_ref()
    }

    /// Puts another rule, with the same number, in the place of one.
    pub fn replace(&mut self, place: Place, rule: EditedRule) {
        self.nodes[place.0].rule = Some(rule);
    }

    /// Inserts a rule before a place; before a head it is the last one of its list.
    pub fn insert_before(&mut self, place: Place, rule: EditedRule) {
        let Node { head, previous, .. } = self.nodes[place.0];
        let index = self.nodes.len();
        self.by_id.insert(rule.id, index);
        self.nodes.push(Node { rule: Some(rule), head, previous, next: place.0 });
        self.nodes[previous].next = index;
        self.nodes[place.0].previous = index;
    }

    /// Inserts a rule after a place.
    pub fn insert_after(&mut self, place: Place, rule: EditedRule) {
        let next = self.nodes[place.0].next;
        self.insert_before(Place(next), rule);
    }

    /// Takes a rule out of its list.
    pub fn remove(&mut self, place: Place) -> Option<EditedRule> {
        let Node { previous, next, .. } = self.nodes[place.0];
        let rule = self.nodes[place.0].rule.take()?;
        self.by_id.remove(&rule.id);
        self.nodes[previous].next = next;
        self.nodes[next].previous = previous;
        Some(rule)
    }

    /// Takes all rules out of a list.
    pub fn drain(&mut self, head: Place) -> Vec<EditedRule> {
        let mut rules = Vec::new();
        while self.nodes[head.0].next != head.0 {
            rules.extend(self.remove(Place(self.nodes[head.0].next)));
        }
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(id: u32) -> EditedRule {
        let rule = Line::read(Chain::In, "deny").expect("a rule");
        EditedRule { id, slot: None, chain: Chain::In, rule }
    }

    fn ids(lists: &mut RuleLists, head: Place) -> Vec<u32> {
        lists.drain(head).iter().map(|rule| rule.id).collect()
    }

    #[test]
    fn rules_stay_in_order() {
        let mut lists = RuleLists::default();
        let (one, other) = (lists.new_list(), lists.new_list());
        [1, 2, 3].into_iter().for_each(|id| lists.insert_before(one, rule(id)));
        lists.insert_before(other, rule(9));
        let second = lists.find(2).expect("there");
        assert_eq!(lists.head(second), one);
        lists.insert_before(second, rule(4));
        lists.insert_after(second, rule(5));
        assert_eq!(lists.remove(second).map(|rule| rule.id), Some(2));
        assert_eq!(lists.find(2), None);
        assert_eq!(ids(&mut lists, one), [1, 4, 5, 3]);
        assert_eq!(ids(&mut lists, other), [9]);
        assert_eq!(lists.find(1), None);
        assert!(ids(&mut lists, one).is_empty());
    }
}
