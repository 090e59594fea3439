//! The expressions of nftables rules (linux/netfilter/nf_tables.h). They are the program of a small machine, which loads a
//! part of the packet into a register, compares it, and ends with a verdict.

mod register;
mod set;

use std::collections::HashMap;

pub use set::{Element, Lookup};

use super::legacy;
use super::{Condition, FilterRule, Test, Verdict, native_u32};
use register::Loaded;
use tuntap_sys::netlink::attributes::{self, big_endian, find, text};

/// The type of expressions in a list, and the attributes of each.
const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;

/// The register that verdicts are written to.
const VERDICT_REGISTER: u32 = 0;

/// Attributes of constants, and of verdicts in them.
const VALUE: u16 = 1;
const VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const DST_NAT: u32 = 1 << 5;

/// The result and the flags of a `fib` that loads the type of the destination address.
const FIB_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;

/// The type of a `nat` that changes the destination.
const NAT_DESTINATION: u32 = 1;

/// Operators of `cmp` and `range`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;

/// The flag of a `lookup` that is true for what is not in the set.
const INVERTED: u32 = 1;

/// Statements that don't decide about a packet.
const WITHOUT_VERDICT: [&str; 6] = ["counter", "log", "notrack", "flow_offload", "dynset", "last"];

/// Reads the expressions of one nftables rule as a filter rule, or as one for each element of a map of verdicts.
pub fn rules(expressions: &[u8], place: &str, sets: &mut impl Lookup) -> Vec<FilterRule> {
    let mut reader = Reader { registers: HashMap::new(), conditions: Vec::new(), sets };
    let rule = |conditions: &[Condition], verdict| FilterRule {
        place: place.to_owned(),
        conditions: conditions.to_vec(),
        verdict,
    };
    for (kind, expression) in attributes::iterate(expressions) {
        if kind != LIST_ELEMENT {
            continue;
        }
        let data = find(expression, DATA).unwrap_or_default();
        match reader.read(&text(expression, NAME), data) {
            Step::Next => {}
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

/// What follows an expression.
enum Step {
    /// The next expression.
    Next,
    /// The end of the rule.
    Verdict(Verdict),
    /// The end of the rule, with a verdict for each value.
    Map(Vec<(Test, Verdict)>),
}

struct Reader<'a, S> {
    registers: HashMap<u32, Loaded>,
    conditions: Vec<Condition>,
    sets: &'a mut S,
}

impl<S: Lookup> Reader<'_, S> {
    /// Reads an expression. The numbers are the kernel's numbers of the attributes of each kind of expression.
    fn read(&mut self, name: &str, data: &[u8]) -> Step {
        match name {
            "meta" => self.load(data, 1, register::meta(big_endian(data, 2))),
            "ct" => self.load(data, 1, register::ct(big_endian(data, 2))),
            "bitwise" => self.mask(data),
            "cmp" => self.compare(data),
            "range" => self.compare_range(data),
            "byteorder" => {
                let loaded = self.loaded(big_endian(data, 1));
                self.load(data, 2, loaded);
            }
            "fib" => {
                let is_type = big_endian(data, 2) == Some(FIB_TYPE) && big_endian(data, 3) == Some(FIB_OF_DESTINATION);
                self.load(data, 1, if is_type { Loaded::ToType } else { Loaded::Other("fib".to_owned()) });
            }
            "nat" if big_endian(data, 1) == Some(NAT_DESTINATION) => return Step::Verdict(Verdict::Dnat),
            "redir" => return Step::Verdict(Verdict::Dnat),
            "lookup" => return self.look_up(data),
            "immediate" if big_endian(data, 1) == Some(VERDICT_REGISTER) => {
                let other = || Verdict::Other("a verdict".to_owned());
                return Step::Verdict(find(data, 2).and_then(verdict).unwrap_or_else(other));
            }
            "immediate" => self.load(data, 1, Loaded::Other("a constant".to_owned())),
            "match" => self.conditions.extend(legacy::conditions(&text(data, 1), revision(data), info(data))),
            "target" => return target_step(legacy::target(&text(data, 1), info(data))),
            "reject" => return Step::Verdict(Verdict::Drop),
            "queue" => return Step::Verdict(Verdict::Other("queue".to_owned())),
            other if WITHOUT_VERDICT.contains(&other) => {}
            "payload" => self.load(data, 1, register::payload(data)),
            other => {
                self.condition(Test::Other(other.to_owned()), false);
                // Most expressions that load something have their register as the first attribute.
                if let Some(register) = big_endian(data, 1) {
                    self.registers.insert(register, Loaded::Other(other.to_owned()));
                }
            }
        }
        Step::Next
    }

    fn load(&mut self, data: &[u8], register: u16, loaded: Loaded) {
        // An expression without a register sets something of the packet, such as its mark.
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
        let bytes = find(data, 4).and_then(|data| find(data, VALUE));
        let mask = bytes.and_then(|value| native_u32(value, 0));
        let masked = match (self.loaded(big_endian(data, 1)), mask) {
            (Loaded::Address { is_source, is_ipv6, mask: None }, _) => {
                Loaded::Address { is_source, is_ipv6, mask: bytes.map(<[u8]>::to_vec) }
            }
            (Loaded::State { .. }, Some(mask)) => Loaded::State { mask },
            (Loaded::Status { .. }, Some(mask)) => Loaded::Status { mask },
            (other, _) => Loaded::Other(other.word()),
        };
        self.load(data, 2, masked);
    }

    fn compare(&mut self, data: &[u8]) {
        let loaded = self.loaded(big_endian(data, 1));
        let value = find(data, 3).and_then(|data| find(data, VALUE)).unwrap_or_default();
        let operator = big_endian(data, 2);
        let is_zero = value.iter().all(|byte| *byte == 0);
        if let (Loaded::Both(both, len), Some(EQUAL)) = (&loaded, operator)
            && let Some((first, second)) = value.split_at_checked(*len)
        {
            self.condition(both.0.test(first), false);
            self.condition(both.1.test(second), false);
            return;
        }
        let (test, is_negated) = match (&loaded, operator) {
            // At least one bit of the mask must be set, or none.
            (Loaded::State { mask }, Some(EQUAL | UNEQUAL)) if is_zero && *mask != u32::MAX => {
                (Test::State(*mask), operator == Some(EQUAL))
            }
            (Loaded::Status { mask: DST_NAT }, Some(EQUAL | UNEQUAL)) if is_zero => {
                (Test::IsDnat, operator == Some(EQUAL))
            }
            (_, Some(EQUAL | UNEQUAL)) => (loaded.test(value), operator == Some(UNEQUAL)),
            (_, Some(operator)) => (loaded.one_sided(operator, value), false),
            (_, None) => (Test::Other(loaded.word()), false),
        };
        self.condition(test, is_negated);
    }

    fn compare_range(&mut self, data: &[u8]) {
        let loaded = self.loaded(big_endian(data, 1));
        let end = |kind| find(data, kind).and_then(|data| find(data, VALUE)).unwrap_or_default();
        self.condition(loaded.range(end(3), end(4)), big_endian(data, 2) == Some(UNEQUAL));
    }

    fn look_up(&mut self, data: &[u8]) -> Step {
        let loaded = self.loaded(big_endian(data, 2));
        let destination = big_endian(data, 3);
        let unknown = || Test::Other(loaded.word());
        let is_needed = !matches!(loaded, Loaded::Other(_)) || destination == Some(VERDICT_REGISTER);
        let elements = if is_needed { self.sets.elements(&text(data, 1)) } else { None };
        let Some(elements) = elements else {
            self.condition(unknown(), false);
            return match destination {
                Some(VERDICT_REGISTER) => Step::Verdict(Verdict::Other("a map".to_owned())),
                _ => {
                    self.load(data, 3, Loaded::Other("a map".to_owned()));
                    Step::Next
                }
            };
        };
        let test =
            |element: &Element| element.key.as_ref().map_or_else(unknown, |(first, last)| loaded.range(first, last));
        match destination {
            Some(VERDICT_REGISTER) => {
                let case = |element: &Element| Some((test(element), element.verdict.clone()?));
                Step::Map(elements.iter().filter_map(case).collect())
            }
            Some(_) => {
                self.condition(unknown(), false);
                self.load(data, 3, Loaded::Other("a map".to_owned()));
                Step::Next
            }
            None => {
                let is_negated = big_endian(data, 5).unwrap_or(0) & INVERTED != 0;
                let test = any_of(elements.iter().map(test)).unwrap_or_else(unknown);
                self.condition(test, is_negated);
                Step::Next
            }
        }
    }
}

/// Joins tests of the same kind to one that is true if any of them is. `None` if they can't be joined.
fn any_of(mut tests: impl Iterator<Item = Test>) -> Option<Test> {
    let first = tests.next()?;
    tests.try_fold(first, |all, test| match (all, test) {
        (Test::Iif(all), Test::Iif(more)) => Some(Test::Iif([all, more].concat())),
        (Test::Oif(all), Test::Oif(more)) => Some(Test::Oif([all, more].concat())),
        (Test::State(all), Test::State(more)) => Some(Test::State(all | more)),
        (Test::ToType(all), Test::ToType(more)) => Some(Test::ToType(all | more)),
        (Test::Protocol(all), Test::Protocol(more)) => Some(Test::Protocol([all, more].concat())),
        (Test::ToPort(all), Test::ToPort(more)) => Some(Test::ToPort([all, more].concat())),
        (Test::From(all), Test::From(more)) => Some(Test::From([all, more].concat())),
        (Test::To(all), Test::To(more)) => Some(Test::To([all, more].concat())),
        _ => None,
    })
}

/// The verdict in a constant.
fn verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = find(data, VERDICT)?;
    let chain = || text(verdict, VERDICT_CHAIN);
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
    if verdict == Verdict::Continue { Step::Next } else { Step::Verdict(verdict) }
}

/// The revision of the iptables module in a `match` or `target`.
fn revision(data: &[u8]) -> u8 {
    big_endian(data, 2).and_then(|revision| u8::try_from(revision).ok()).unwrap_or(u8::MAX)
}

/// The parameters of the iptables module in a `match` or `target`.
fn info(data: &[u8]) -> &[u8] {
    find(data, 3).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Name;

    #[test]
    fn tests_of_a_set_become_one() {
        let iif = |name: &str| Test::Iif(vec![Name::Exactly(name.to_owned())]);
        let both = Test::Iif(vec![Name::Exactly("a".to_owned()), Name::Exactly("b".to_owned())]);
        assert_eq!(any_of([iif("a"), iif("b")].into_iter()), Some(both));
        assert_eq!(any_of([iif("a"), Test::Other("iif".to_owned())].into_iter()), None);
        assert_eq!(any_of([Test::State(2), Test::State(4)].into_iter()), Some(Test::State(6)));
        assert_eq!(any_of(std::iter::empty()), None);
    }
}
