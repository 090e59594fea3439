//! Random commits against a model that keeps documents as plain values and moves everything around.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;
use tuntap_api::control::Place;

use super::storage::handed_over;
use super::*;

/// Selectors with actions, as they are written.
const IDENTITIES: [(&str, Option<&str>); 5] = [
    ("deny 10.0.0.1 any", None),
    ("allow any any tcp 80 new", None),
    ("deny @a any", Some("a")),
    ("reject any @b", Some("b")),
    ("deny", None),
];

/// What may come behind them, as it is written.
const LAST_WORDS: [&str; 4] = ["", " log", " counter x", " rate 5/s counter y"];

const GROUPS: [&str; 4] = ["live", "g", "h", "k"];

const SETS: [&str; 2] = ["a", "b"];

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    id: u32,
    chain: Chain,
    identity: usize,
    last: usize,
    /// Which counters it has.
    token: u64,
}

impl Rule {
    fn text(&self) -> String {
        format!("{}{}", IDENTITIES[self.identity].0, LAST_WORDS[self.last])
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Plain {
    groups: Vec<(String, Vec<Rule>)>,
    sets: BTreeMap<String, BTreeSet<u8>>,
}

#[derive(Debug, Default)]
struct Model {
    now: Plain,
    before: Option<(Plain, u64)>,
    next_id: u32,
    next_token: u64,
    counts: HashMap<u64, u64>,
}

/// A rule of a text: chain, identity, last words.
type Said = (Chain, usize, usize);

#[derive(Debug, Clone)]
enum Edit {
    Add(usize, Said),
    Insert(bool, usize, Said),
    Replace(usize, Said),
    Delete(usize),
    Group(usize, Vec<Said>),
    NoGroup(usize),
    File(Vec<(usize, Vec<Said>)>, Vec<(usize, BTreeSet<u8>)>),
    Set(usize, BTreeSet<u8>),
    Members(usize, BTreeSet<u8>),
    NoMember(usize, u8),
    NoSet(usize),
}

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Edit>, Option<u32>, bool),
    Confirm,
    Rollback,
    Wait(u64),
    HandOver,
    Script(bool),
    Count(usize),
}

impl Plain {
    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.groups.iter().flat_map(|(_, rules)| rules)
    }

    /// Where the rule is that comes so many places behind the first, if there are any.
    fn place(&self, number: usize) -> Option<(usize, usize)> {
        let all = self.groups.iter().enumerate();
        let places: Vec<_> =
            all.flat_map(|(group, (_, rules))| (0..rules.len()).map(move |rule| (group, rule))).collect();
        (!places.is_empty()).then(|| places[number % places.len()])
    }

    fn group(&mut self, name: &str) -> &mut Vec<Rule> {
        let place = self.groups.iter().position(|(other, _)| other == name).unwrap_or_else(|| {
            let at = if name == "live" { 0 } else { self.groups.len() };
            self.groups.insert(at, (name.to_owned(), Vec::new()));
            at
        });
        &mut self.groups[place].1
    }

    fn is_whole(&self) -> bool {
        let named = |rule: &Rule| IDENTITIES[rule.identity].1;
        self.rules().filter_map(named).all(|set| self.sets.contains_key(set))
    }
}

fn member(number: u8) -> String {
    format!("192.0.2.{number}")
}

fn body(rules: &[Said]) -> String {
    let line = |(chain, identity, last): &Said| {
        let chain = if *chain == Chain::In { "in" } else { "out" };
        format!("chain {chain}\n{}{}\n", IDENTITIES[*identity].0, LAST_WORDS[*last])
    };
    rules.iter().map(line).collect()
}

impl Model {
    fn fresh(&mut self, said: Said, id: Option<u32>) -> Rule {
        let id = id.unwrap_or_else(|| {
            self.next_id += 1;
            self.next_id - 1
        });
        self.next_token += 1;
        Rule { id, chain: said.0, identity: said.1, last: said.2, token: self.next_token }
    }

    fn matched(&mut self, old: &mut Vec<Rule>, said: Said) -> Option<Rule> {
        let place = old.iter().position(|rule| (rule.chain, rule.identity) == (said.0, said.1))?;
        Some(Rule { last: said.2, ..old.remove(place) })
    }

    /// Makes an edit. Returns the same as a change; `None` if it makes no sense here.
    fn edit(&mut self, plain: &mut Plain, edit: &Edit) -> Option<Result<Change, Change>> {
        Some(Ok(match edit {
            Edit::Add(group, said) => {
                let rule = self.fresh(*said, None);
                let change = add(Some(GROUPS[*group]), said.0, &rule.text());
                plain.group(GROUPS[*group]).push(rule);
                change
            }
            Edit::Insert(is_before, at, said) => {
                let (group, place) = plain.place(*at)?;
                let other = plain.groups[group].1[place].clone();
                let rule = self.fresh((other.chain, said.1, said.2), None);
                let text = rule.text();
                plain.groups[group].1.insert(if *is_before { place } else { place + 1 }, rule);
                let at = if *is_before { Place::Before(other.id) } else { Place::After(other.id) };
                Change::RuleInsert { at, rule: text }
            }
            Edit::Replace(at, said) => {
                let (group, place) = plain.place(*at)?;
                let old = plain.groups[group].1[place].clone();
                let said = (old.chain, said.1, said.2);
                let rule =
                    if old.identity == said.1 { Rule { last: said.2, ..old } } else { self.fresh(said, Some(old.id)) };
                let change = Change::RuleReplace { id: rule.id, rule: rule.text() };
                plain.groups[group].1[place] = rule;
                change
            }
            Edit::Delete(at) => {
                let (group, place) = plain.place(*at)?;
                Change::RuleDelete { id: plain.groups[group].1.remove(place).id }
            }
            Edit::Group(group, rules) => {
                let mut old = std::mem::take(plain.group(GROUPS[*group]));
                for said in rules {
                    let rule = self.matched(&mut old, *said).unwrap_or_else(|| self.fresh(*said, None));
                    plain.group(GROUPS[*group]).push(rule);
                }
                Change::GroupReplace { group: GROUPS[*group].to_owned(), text: body(rules), owner: None }
            }
            Edit::NoGroup(group) => {
                let change = Change::GroupDelete { group: GROUPS[*group].to_owned() };
                match plain.groups.iter().position(|(name, _)| name == GROUPS[*group]) {
                    Some(place) => drop(plain.groups.remove(place)),
                    None => return Some(Err(change)),
                }
                change
            }
            Edit::File(groups, sets) => return Some(self.edit_file(plain, groups, sets)),
            Edit::Set(..) | Edit::Members(..) | Edit::NoMember(..) | Edit::NoSet(_) => {
                return Some(edit_set(plain, edit));
            }
        }))
    }

    fn edit_file(
        &mut self,
        plain: &mut Plain,
        groups: &[(usize, Vec<Said>)],
        sets: &[(usize, BTreeSet<u8>)],
    ) -> Result<Change, Change> {
        let set = |(set, members): &(usize, BTreeSet<u8>)| {
            format!(
                "set {} {{ {} }}\n",
                SETS[*set],
                members.iter().map(|number| member(*number)).collect::<Vec<_>>().join(", ")
            )
        };
        let group = |(group, rules): &(usize, Vec<Said>)| format!("group {}\n{}", GROUPS[*group], body(rules));
        let text = sets.iter().map(set).chain(groups.iter().map(group)).collect();
        let change = Change::FileReplace { text };
        let sets: BTreeMap<_, _> = sets.iter().map(|(set, members)| (SETS[*set].to_owned(), members.clone())).collect();
        let named = groups.iter().flat_map(|(_, rules)| rules).filter_map(|said| IDENTITIES[said.1].1);
        if !named.into_iter().all(|name| sets.contains_key(name)) {
            return Err(change);
        }
        let mut old: BTreeMap<String, Vec<Rule>> = plain.groups.drain(..).collect();
        let mut same = Vec::new();
        for (group, rules) in groups {
            let mut of_group = old.remove(GROUPS[*group]).unwrap_or_default();
            same.push(rules.iter().map(|said| self.matched(&mut of_group, *said)).collect::<Vec<_>>());
            old.insert(GROUPS[*group].to_owned(), of_group);
        }
        let mut moved: Vec<Rule> = old.into_values().flatten().collect();
        let mut by_order: Vec<_> = groups.iter().zip(same).collect();
        by_order.sort_by_key(|((group, _), _)| GROUPS[*group] != "live");
        for ((group, rules), same) in by_order {
            plain.group(GROUPS[*group]);
            for (said, same) in rules.iter().zip(same) {
                let rule = same.or_else(|| self.matched(&mut moved, *said)).unwrap_or_else(|| self.fresh(*said, None));
                plain.group(GROUPS[*group]).push(rule);
            }
        }
        plain.sets = sets;
        Ok(change)
    }
}

fn edit_set(plain: &mut Plain, edit: &Edit) -> Result<Change, Change> {
    let words = |members: &BTreeSet<u8>| members.iter().map(|number| member(*number)).collect();
    match edit {
        Edit::Set(set, members) => {
            plain.sets.insert(SETS[*set].to_owned(), members.clone());
            Ok(Change::SetReplace { name: SETS[*set].to_owned(), members: words(members) })
        }
        Edit::Members(set, members) => {
            let change = Change::SetAdd { name: SETS[*set].to_owned(), members: words(members) };
            match plain.sets.get_mut(SETS[*set]) {
                Some(set) => set.extend(members),
                None => return Err(change),
            }
            Ok(change)
        }
        Edit::NoMember(set, number) => {
            let change = Change::SetRemove { name: SETS[*set].to_owned(), members: vec![member(*number)] };
            if plain.sets.get_mut(SETS[*set]).is_some_and(|set| set.remove(number)) { Ok(change) } else { Err(change) }
        }
        Edit::NoSet(set) => {
            let change = Change::SetDelete { name: SETS[*set].to_owned() };
            if plain.sets.remove(SETS[*set]).is_some() { Ok(change) } else { Err(change) }
        }
        _ => unreachable!("{edit:?}"),
    }
}

fn said() -> impl Strategy<Value = Said> {
    let chain = prop::sample::select(vec![Chain::In, Chain::Out]);
    (chain, 0..IDENTITIES.len(), 0..LAST_WORDS.len())
}

fn edit() -> impl Strategy<Value = Edit> {
    let group = 0..GROUPS.len();
    let rules = || prop::collection::vec(said(), 0..5);
    let members = || prop::collection::btree_set(0u8..6, 0..4);
    let set = 0..SETS.len();
    let any_group = 0..GROUPS.len();
    let groups = prop::sample::subsequence((0..GROUPS.len()).collect::<Vec<_>>(), 0..=GROUPS.len()).prop_shuffle();
    let groups = groups.prop_flat_map(move |groups| {
        let count = groups.len();
        prop::collection::vec(prop::collection::vec(said(), 0..4), count)
            .prop_map(move |rules| groups.iter().copied().zip(rules).collect::<Vec<_>>())
    });
    let sets = (members(), members()).prop_map(|(a, b)| vec![(0, a), (1, b)]);
    prop_oneof![
        4 => (group.clone(), said()).prop_map(|(group, said)| Edit::Add(group, said)),
        3 => (any::<bool>(), any::<usize>(), said()).prop_map(|(before, at, said)| Edit::Insert(before, at, said)),
        3 => (any::<usize>(), said()).prop_map(|(at, said)| Edit::Replace(at, said)),
        2 => any::<usize>().prop_map(Edit::Delete),
        3 => (any_group, rules()).prop_map(|(group, rules)| Edit::Group(group, rules)),
        1 => group.prop_map(Edit::NoGroup),
        2 => (groups, sets).prop_map(|(groups, sets)| Edit::File(groups, sets)),
        3 => (set.clone(), members()).prop_map(|(set, members)| Edit::Set(set, members)),
        2 => (set.clone(), members()).prop_map(|(set, members)| Edit::Members(set, members)),
        1 => (set.clone(), 0u8..6).prop_map(|(set, number)| Edit::NoMember(set, number)),
        1 => set.prop_map(Edit::NoSet),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let commit = (prop::collection::vec(edit(), 1..4), prop::option::of(1u32..20), prop::bool::weighted(0.1));
    prop_oneof![
        8 => commit.prop_map(|(edits, confirm, dry_run)| Step::Commit(edits, confirm, dry_run)),
        2 => Just(Step::Confirm),
        2 => Just(Step::Rollback),
        2 => (1u64..15).prop_map(Step::Wait),
        1 => Just(Step::HandOver),
        1 => any::<bool>().prop_map(Step::Script),
        6 => any::<usize>().prop_map(Step::Count),
    ]
}

/// The router's policy and its model.
struct Both {
    live: Live,
    model: Model,
    time: u64,
    seen: BTreeSet<u32>,
}

impl Both {
    fn new() -> Self {
        let live = live("set a { 192.0.2.1 }\nset b {}\n");
        let mut model = Model { next_id: live.document().next_id, ..Model::default() };
        model.now.sets = [("a".to_owned(), [1].into()), ("b".to_owned(), BTreeSet::new())].into();
        Self { live, model, time: 100, seen: BTreeSet::new() }
    }

    fn take(&mut self, step: &Step) {
        let generation = self.live.document().generation;
        match step {
            Step::Commit(edits, confirm, dry_run) => self.commit(edits, *confirm, *dry_run),
            Step::Confirm => {
                let result = self.live.handle(ADMIN, &Request::Confirm { expected_generation: None }, at(self.time));
                assert_eq!(result.is_ok(), self.model.before.take().is_some());
            }
            Step::Rollback => {
                let result = self.live.handle(ADMIN, &Request::Rollback {}, at(self.time));
                let before = self.model.before.take();
                assert_eq!(result.is_ok(), before.is_some());
                self.model.now = before.map_or_else(|| self.model.now.clone(), |(plain, _)| plain);
            }
            Step::Wait(seconds) => {
                self.time += seconds;
                let is_late = self.model.before.as_ref().is_some_and(|(_, deadline)| *deadline <= self.time);
                assert_eq!(self.live.expire(at(self.time)).is_some(), is_late);
                if let Some((plain, _)) = self.model.before.take_if(|_| is_late) {
                    self.model.now = plain;
                }
            }
            Step::HandOver => self.live = handed_over(&self.live),
            Step::Script(is_there) => {
                let text = is_there.then(String::new);
                match self.live.set_script(ADMIN, text, None, at(self.time)) {
                    Ok(policy) => assert_eq!(policy.has_script, *is_there),
                    Err(failure) => assert_eq!(failure.code, Code::Pending),
                }
            }
            Step::Count(number) => {
                if let Some((group, place)) = self.model.now.place(*number) {
                    let rule = self.model.now.groups[group].1[place].clone();
                    self.live.counters.count(slot_of(&self.live, rule.id), 1);
                    *self.model.counts.entry(rule.token).or_default() += 1;
                }
            }
        }
        assert!(self.live.document().generation >= generation);
        assert_eq!(self.live.policy().generation, self.live.document().generation);
    }

    fn commit(&mut self, edits: &[Edit], confirm: Option<u32>, dry_run: bool) {
        let (first_id, mut plain) = (self.model.next_id, self.model.now.clone());
        let mut changes = Vec::new();
        let mut is_good = true;
        for edit in edits {
            match self.model.edit(&mut plain, edit) {
                Some(Ok(change)) => changes.push(change),
                Some(Err(change)) => {
                    changes.push(change);
                    is_good = false;
                    break;
                }
                None => {}
            }
        }
        is_good &= !changes.is_empty() && plain.is_whole() && self.model.before.is_none();
        let request = Request::Commit { changes, expected_generation: None, confirm_seconds: confirm, dry_run };
        let before = self.live.document().clone();
        let result = self.live.handle(ADMIN, &request, at(self.time));
        assert_eq!(result.is_ok(), is_good, "{request:?}: {result:?}");
        let is_same = plain == self.model.now;
        if !is_good || dry_run || is_same {
            self.model.next_id = first_id;
            assert_eq!(*self.live.document(), before);
            return;
        }
        let old = std::mem::replace(&mut self.model.now, plain);
        self.model.before = confirm.map(|seconds| (old, self.time + u64::from(seconds)));
        let changed: Changed = serde_json::from_value(result.expect("good").answer).expect("its type");
        assert_eq!(changed.generation, before.generation + 1);
        for id in changed.rules {
            assert!(id >= first_id && self.seen.insert(id), "the number {id} was given twice");
        }
    }

    /// Both say the same, and have counted the same.
    fn compare(&mut self) {
        let document = self.live.document();
        let own: Vec<_> = document.own_groups().collect();
        assert_eq!(own.len(), self.model.now.groups.len());
        for (group, (name, rules)) in own.iter().zip(&self.model.now.groups) {
            assert_eq!(&group.name, name);
            let texts: Vec<_> = group.rules.iter().map(|rule| (rule.id, rule.chain, rule.rule.to_string())).collect();
            let expected: Vec<_> = rules.iter().map(|rule| (rule.id, rule.chain, rule.text())).collect();
            assert_eq!(texts, expected, "{name}");
            for (rule, expected) in group.rules.iter().zip(rules) {
                let counted = self.live.counters.get(CounterSlot(rule.slot)).packets;
                assert_eq!(counted, self.model.counts.get(&expected.token).copied().unwrap_or(0), "{rule:?}");
            }
        }
        let slots: Vec<u32> = document.slots().collect();
        assert_eq!(slots.iter().collect::<BTreeSet<_>>().len(), slots.len(), "counters of their own");
        assert_eq!(document.sets.keys().collect::<Vec<_>>(), self.model.now.sets.keys().collect::<Vec<_>>());
        for (set, members) in document.sets.values().zip(self.model.now.sets.values()) {
            let texts: Vec<_> = set.members().iter().map(|net| net.addr().to_string()).collect();
            assert_eq!(texts, members.iter().map(|number| member(*number)).collect::<Vec<_>>());
        }
        let pending = self.live.pending(at(self.time)).is_some();
        assert_eq!(pending, self.model.before.is_some());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn commits_do_what_the_model_does(steps in prop::collection::vec(step(), 1..25)) {
        let mut both = Both::new();
        for step in &steps {
            both.take(step);
            both.compare();
        }
    }
}
