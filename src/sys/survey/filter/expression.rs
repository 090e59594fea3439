//! The expressions of nf_tables' rules (linux/netfilter/nf_tables.h): a small machine that loads something of the packet
//! into a register, compares it, and ends with a verdict.

use std::collections::HashMap;

use nix::net::if_::if_indextoname;

use super::legacy;
use super::netlink::{attribute, attributes, big_endian, number, string};
use super::{Condition, Name, Rule, Test, Verdict};

/// Attributes of an expression in a list.
const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;

/// The register of verdicts.
const VERDICT_REGISTER: u32 = 0;

/// Attributes of data, and of a verdict in it.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// Attributes of elements of sets, and the flags among them.
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const ELEMENT_KEY_END: u16 = 10;

/// Keys of `meta` and of `ct`.
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

/// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const DIVERTED: u32 = 1 << 5;

/// `NFPROTO_IPV6`
const IPV6: u8 = 10;

/// Operators of `cmp`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// Flag of `lookup`: not in the set.
const INVERTED: u32 = 1;

/// Statements that let a packet go on.
const WITHOUT_VERDICT: [&str; 6] = ["counter", "log", "notrack", "flow_offload", "dynset", "last"];

/// Looks up what a set has in it.
pub trait Lookup {
    /// `None` if it can't be read.
    fn elements(&self, set: &str) -> Option<Vec<Element>>;
}

/// What is in a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// `None` for parts of ranges, and for what stands for everything else.
    key: Option<Vec<u8>>,
    /// What a map has to say.
    verdict: Option<Verdict>,
}

impl Element {
    /// From its attributes.
    pub fn read(bytes: &[u8]) -> Self {
        let is_plain =
            big_endian(bytes, ELEMENT_FLAGS).unwrap_or(0) == 0 && attribute(bytes, ELEMENT_KEY_END).is_none();
        let key = attribute(bytes, ELEMENT_KEY).and_then(|key| attribute(key, VALUE)).filter(|_| is_plain);
        let verdict = attribute(bytes, ELEMENT_DATA).and_then(verdict);
        Self { key: key.map(<[u8]>::to_vec), verdict }
    }
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loaded {
    CameBy,
    LeavesBy,
    CameByIndex,
    LeavesByIndex,
    State { mask: u32 },
    Status { mask: u32 },
    Family,
    Other(String),
}

impl Loaded {
    /// The test that it has this value. A register that is compared with less than it holds is a name that begins so.
    fn test(&self, value: &[u8]) -> Test {
        let other = || Test::Other(self.word());
        match self {
            Self::CameBy => name(value).map_or_else(other, |name| Test::CameBy(vec![name])),
            Self::LeavesBy => name(value).map_or_else(other, |name| Test::LeavesBy(vec![name])),
            Self::CameByIndex => name_of_index(value).map_or_else(other, |name| Test::CameBy(vec![name])),
            Self::LeavesByIndex => name_of_index(value).map_or_else(other, |name| Test::LeavesBy(vec![name])),
            Self::State { mask: u32::MAX } => whole_number(value).map_or_else(other, Test::State),
            Self::Family => Test::IsIpv6(value.first() == Some(&IPV6)),
            Self::State { .. } | Self::Status { .. } | Self::Other(_) => other(),
        }
    }

    fn word(&self) -> String {
        match self {
            Self::CameBy | Self::CameByIndex => "iif".to_owned(),
            Self::LeavesBy | Self::LeavesByIndex => "oif".to_owned(),
            Self::State { .. } => "ct state".to_owned(),
            Self::Status { .. } => "ct status".to_owned(),
            Self::Family => "nfproto".to_owned(),
            Self::Other(word) => word.clone(),
        }
    }
}

/// What the expressions of one rule come to: a rule, or one for each element of a map of verdicts.
pub fn rules(expressions: &[u8], place: &str, sets: &impl Lookup) -> Vec<Rule> {
    let mut reader = Reader { registers: HashMap::new(), conditions: Vec::new(), sets };
    let rule =
        |conditions: &[Condition], verdict| Rule { place: place.to_owned(), conditions: conditions.to_vec(), verdict };
    for (kind, expression) in attributes(expressions) {
        if kind != LIST_ELEMENT {
            continue;
        }
        let data = attribute(expression, DATA).unwrap_or_default();
        match reader.read(&string(expression, NAME), data) {
            Step::On => {}
            Step::Verdict(verdict) => return vec![rule(&reader.conditions, verdict)],
            Step::Map(cases) => {
                let case = |(test, verdict)| {
                    let conditions = [reader.conditions.clone(), vec![Condition { test, is_negated: false }]].concat();
                    rule(&conditions, verdict)
                };
                return cases.into_iter().map(case).collect();
            }
        }
    }
    vec![rule(&reader.conditions, Verdict::Continue)]
}

/// What an expression leads to.
enum Step {
    On,
    Verdict(Verdict),
    Map(Vec<(Test, Verdict)>),
}

struct Reader<'a, S> {
    registers: HashMap<u32, Loaded>,
    conditions: Vec<Condition>,
    sets: &'a S,
}

impl<S: Lookup> Reader<'_, S> {
    fn read(&mut self, name: &str, data: &[u8]) -> Step {
        match name {
            "meta" => self.load(data, 1, meta(big_endian(data, 2))),
            "ct" => self.load(data, 1, ct(big_endian(data, 2))),
            "bitwise" => self.mask(data),
            "cmp" => self.compare(data),
            "lookup" => return self.look_up(data),
            "immediate" if big_endian(data, 1) == Some(VERDICT_REGISTER) => {
                let other = || Verdict::Other("a verdict".to_owned());
                return Step::Verdict(attribute(data, 2).and_then(verdict).unwrap_or_else(other));
            }
            "immediate" => self.load(data, 1, Loaded::Other("a constant".to_owned())),
            "match" => self.conditions.extend(legacy::condition(&string(data, 1), revision(data), info(data))),
            "target" => return target_step(legacy::target(&string(data, 1), info(data))),
            "reject" => return Step::Verdict(Verdict::Drop),
            "queue" => return Step::Verdict(Verdict::Other("queue".to_owned())),
            other if WITHOUT_VERDICT.contains(&other) => {}
            "payload" => self.load(data, 1, Loaded::Other("an address, a port or another field".to_owned())),
            other => {
                self.condition(Test::Other(other.to_owned()), false);
                // Most of those that load something name their register first.
                if let Some(register) = big_endian(data, 1) {
                    self.registers.insert(register, Loaded::Other(other.to_owned()));
                }
            }
        }
        Step::On
    }

    fn load(&mut self, data: &[u8], register: u16, loaded: Loaded) {
        // Without a register it sets something of the packet, as a mark.
        if let Some(register) = big_endian(data, register) {
            self.registers.insert(register, loaded);
        }
    }

    fn condition(&mut self, test: Test, is_negated: bool) {
        self.conditions.push(Condition { test, is_negated });
    }

    fn loaded(&self, register: Option<u32>) -> Loaded {
        let found = register.and_then(|register| self.registers.get(&register));
        found.cloned().unwrap_or_else(|| Loaded::Other("something".to_owned()))
    }

    fn mask(&mut self, data: &[u8]) {
        let mask = attribute(data, 4).and_then(|data| attribute(data, VALUE)).and_then(|value| number(value, 0));
        let masked = match (self.loaded(big_endian(data, 1)), mask) {
            (Loaded::State { .. }, Some(mask)) => Loaded::State { mask },
            (Loaded::Status { .. }, Some(mask)) => Loaded::Status { mask },
            (other, _) => Loaded::Other(other.word()),
        };
        self.load(data, 2, masked);
    }

    fn compare(&mut self, data: &[u8]) {
        let loaded = self.loaded(big_endian(data, 1));
        let value = attribute(data, 3).and_then(|data| attribute(data, VALUE)).unwrap_or_default();
        let operator = big_endian(data, 2);
        let is_zero = value.iter().all(|byte| *byte == 0);
        let (test, is_negated) = match (&loaded, operator) {
            // Some bit of these must be set, or none.
            (Loaded::State { mask }, Some(EQUAL | UNEQUAL)) if is_zero && *mask != u32::MAX => {
                (Test::State(*mask), operator == Some(EQUAL))
            }
            (Loaded::Status { mask: DIVERTED }, Some(EQUAL | UNEQUAL)) if is_zero => {
                (Test::IsDiverted, operator == Some(EQUAL))
            }
            (_, Some(EQUAL | UNEQUAL)) => (loaded.test(value), operator == Some(UNEQUAL)),
            _ => (Test::Other(loaded.word()), false),
        };
        self.condition(test, is_negated);
    }

    fn look_up(&mut self, data: &[u8]) -> Step {
        let loaded = self.loaded(big_endian(data, 2));
        let destination = big_endian(data, 3);
        let unknown = || Test::Other(loaded.word());
        // A list of addresses may be long, and says nothing here.
        let is_needed = !matches!(loaded, Loaded::Other(_)) || destination == Some(VERDICT_REGISTER);
        let elements = is_needed.then(|| self.sets.elements(&string(data, 1))).flatten();
        let Some(elements) = elements else {
            self.condition(unknown(), false);
            return match destination {
                Some(VERDICT_REGISTER) => Step::Verdict(Verdict::Other("a map".to_owned())),
                _ => {
                    self.load(data, 3, Loaded::Other("a map".to_owned()));
                    Step::On
                }
            };
        };
        // The keys of a set with ranges are their ends.
        let is_plain = elements.iter().all(|element| element.key.is_some());
        let test = |element: &Element| {
            element.key.as_deref().filter(|_| is_plain).map_or_else(unknown, |key| loaded.test(key))
        };
        match destination {
            Some(VERDICT_REGISTER) => {
                let case = |element: &Element| Some((test(element), element.verdict.clone()?));
                Step::Map(elements.iter().filter_map(case).collect())
            }
            Some(_) => {
                self.condition(unknown(), false);
                self.load(data, 3, Loaded::Other("a map".to_owned()));
                Step::On
            }
            None => {
                let is_negated = big_endian(data, 5).unwrap_or(0) & INVERTED != 0;
                let test = any_of(elements.iter().map(test)).unwrap_or_else(unknown);
                self.condition(test, is_negated);
                Step::On
            }
        }
    }
}

/// One test of several of the same kind.
fn any_of(mut tests: impl Iterator<Item = Test>) -> Option<Test> {
    let first = tests.next()?;
    tests.try_fold(first, |all, test| match (all, test) {
        (Test::CameBy(all), Test::CameBy(more)) => Some(Test::CameBy([all, more].concat())),
        (Test::LeavesBy(all), Test::LeavesBy(more)) => Some(Test::LeavesBy([all, more].concat())),
        (Test::State(all), Test::State(more)) => Some(Test::State(all | more)),
        _ => None,
    })
}

fn meta(key: Option<u32>) -> Loaded {
    match key {
        Some(META_IIF) => Loaded::CameByIndex,
        Some(META_OIF) => Loaded::LeavesByIndex,
        Some(META_IIFNAME) => Loaded::CameBy,
        Some(META_OIFNAME) => Loaded::LeavesBy,
        Some(META_NFPROTO) => Loaded::Family,
        _ => Loaded::Other("meta".to_owned()),
    }
}

fn ct(key: Option<u32>) -> Loaded {
    match key {
        Some(CT_STATE) => Loaded::State { mask: u32::MAX },
        Some(CT_STATUS) => Loaded::Status { mask: u32::MAX },
        _ => Loaded::Other("ct".to_owned()),
    }
}

/// A number, and nothing else behind it.
fn whole_number(value: &[u8]) -> Option<u32> {
    number(value, 0).filter(|_| value.len() == 4)
}

/// A whole name ends with a NUL.
fn name(value: &[u8]) -> Option<Name> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    match value.iter().position(|byte| *byte == 0) {
        Some(end) if value.len() <= libc::IFNAMSIZ => text(&value[..end]).map(Name::Exactly),
        None if value.len() < libc::IFNAMSIZ => text(value).map(Name::From),
        _ => None,
    }
}

fn name_of_index(value: &[u8]) -> Option<Name> {
    let name = if_indextoname(whole_number(value)?).ok()?;
    Some(Name::Exactly(name.to_str().ok()?.to_owned()))
}

/// A verdict in data.
fn verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = attribute(data, VERDICT)?;
    let chain = || string(verdict, VERDICT_CHAIN);
    Some(match big_endian(verdict, VERDICT_CODE)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        _ => Verdict::Other("a verdict".to_owned()),
    })
}

fn target_step(verdict: Verdict) -> Step {
    if verdict == Verdict::Continue { Step::On } else { Step::Verdict(verdict) }
}

/// Of `match` and `target`, which carry what iptables has as a module.
fn revision(data: &[u8]) -> u8 {
    big_endian(data, 2).and_then(|revision| u8::try_from(revision).ok()).unwrap_or(u8::MAX)
}

fn info(data: &[u8]) -> &[u8] {
    attribute(data, 3).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_or_begin_so() {
        assert_eq!(name(b"emperor0\0\0\0\0\0\0\0\0"), Some(Name::Exactly("emperor0".to_owned())));
        assert_eq!(name(b"emperor0\0"), Some(Name::Exactly("emperor0".to_owned())));
        assert_eq!(name(b"emperor"), Some(Name::From("emperor".to_owned())));
        assert_eq!(name(&[b'x'; 16]), None);
        assert_eq!(name(&[0; 32]), None, "two things in one");
    }

    #[test]
    fn tests_of_a_set_become_one() {
        let came_by = |name: &str| Test::CameBy(vec![Name::Exactly(name.to_owned())]);
        let both = Test::CameBy(vec![Name::Exactly("a".to_owned()), Name::Exactly("b".to_owned())]);
        assert_eq!(any_of([came_by("a"), came_by("b")].into_iter()), Some(both));
        assert_eq!(any_of([came_by("a"), Test::Other("iif".to_owned())].into_iter()), None);
        assert_eq!(any_of([Test::State(2), Test::State(4)].into_iter()), Some(Test::State(6)));
        assert_eq!(any_of(std::iter::empty()), None);
    }
}
