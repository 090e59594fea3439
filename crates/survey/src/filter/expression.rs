//! The expressions of nf_tables' rules (linux/netfilter/nf_tables.h): a small machine that loads something of the packet
//! into a register, compares it, and ends with a verdict.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use nix::net::if_::if_indextoname;

use super::legacy;
use super::{Condition, Name, Rule, Test, Verdict, address, address_range};
use tuntap_sys::netlink::netfilter::{attribute, attributes, big_endian, number, string};

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
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

/// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const DIVERTED: u32 = 1 << 5;

/// `NFPROTO_IPV6`
const IPV6: u8 = 10;

/// What `fib` is asked for: the type of the destination's address.
const FIB_TYPE: u32 = 3;
const FIB_OF_DESTINATION: u32 = 2;

/// Where `payload` reads.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// What `nat` does: another destination.
const NAT_DESTINATION: u32 = 1;

/// Operators of `cmp`, the first two also of `range`.
const EQUAL: u32 = 0;
const UNEQUAL: u32 = 1;
const LESS: u32 = 2;
const AT_MOST: u32 = 3;
const MORE: u32 = 4;
const AT_LEAST: u32 = 5;

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
    /// The first and the last value; `None` for what stands for everything else.
    key: Option<(Vec<u8>, Vec<u8>)>,
    /// What a map has to say.
    verdict: Option<Verdict>,
}

/// Flags of elements: it ends a range, and is not in it any more; it stands for everything else.
const ENDS_RANGE: u32 = 1;
const CATCHES_ALL: u32 = 2;

impl Element {
    /// From the attributes of all elements of a set. Those of a set of ranges are where ranges begin and where they end.
    pub fn read_all<'a>(elements: impl Iterator<Item = &'a [u8]>) -> Vec<Self> {
        let value = |bytes, kind| Some(attribute(attribute(bytes, kind)?, VALUE)?.to_vec());
        let mut all = Vec::new();
        let mut bounds = Vec::new();
        for bytes in elements {
            let flags = big_endian(bytes, ELEMENT_FLAGS).unwrap_or(0);
            let verdict = attribute(bytes, ELEMENT_DATA).and_then(verdict);
            match (value(bytes, ELEMENT_KEY), value(bytes, ELEMENT_KEY_END)) {
                _ if flags & CATCHES_ALL != 0 => all.push(Self { key: None, verdict }),
                (Some(first), Some(last)) => all.push(Self { key: Some((first, last)), verdict }),
                (Some(key), None) => bounds.push((key, flags & ENDS_RANGE == 0, verdict)),
                (None, _) => {}
            }
        }
        // An end before what begins there.
        bounds.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        let has_ranges = bounds.iter().any(|(_, begins, _)| !begins);
        for (index, (first, begins, verdict)) in bounds.iter().enumerate() {
            if !begins {
                continue;
            }
            let last = match bounds.get(index + 1) {
                _ if !has_ranges => first.clone(),
                Some((next, ..)) => before(next),
                None => vec![u8::MAX; first.len()],
            };
            all.push(Self { key: Some((first.clone(), last)), verdict: verdict.clone() });
        }
        all
    }
}

/// The number before this one, in as many bytes.
fn before(number: &[u8]) -> Vec<u8> {
    let mut number = number.to_vec();
    for byte in number.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    number
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loaded {
    CameBy,
    LeavesBy,
    CameByIndex,
    LeavesByIndex,
    State {
        mask: u32,
    },
    Status {
        mask: u32,
    },
    Family,
    Protocol,
    ToPort,
    Address {
        is_source: bool,
        is_ipv6: bool,
        mask: Option<Vec<u8>>,
    },
    ToType,
    /// Two fields that stand behind each other, and the length of the first.
    Both(Box<(Self, Self)>, usize),
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
            Self::ToType => match whole_number(value) {
                Some(kind @ 0..32) => Test::ToType(1 << kind),
                _ => other(),
            },
            Self::Address { is_source, is_ipv6, mask } => {
                let len = if *is_ipv6 { 16 } else { 4 };
                let range = address_range(value, mask.as_deref(), len).filter(|_| value.len() <= len);
                range.map_or_else(other, |range| Self::side(*is_source, range))
            }
            Self::Protocol | Self::ToPort => self.range(value, value),
            Self::Both(..) | Self::State { .. } | Self::Status { .. } | Self::Other(_) => other(),
        }
    }

    /// The test that it is one of these values.
    fn range(&self, first: &[u8], last: &[u8]) -> Test {
        let found = match self {
            Self::Protocol => match (first, last) {
                (&[first], &[last]) => Some(Test::Protocol(vec![first..=last])),
                _ => None,
            },
            Self::ToPort => match (first, last) {
                (&[a, b], &[c, d]) => Some(Test::ToPort(vec![u16::from_be_bytes([a, b])..=u16::from_be_bytes([c, d])])),
                _ => None,
            },
            Self::Address { is_source, is_ipv6, mask: None } => match (address(first), address(last)) {
                (Some(first), Some(last)) if first.is_ipv6() == *is_ipv6 => Some(Self::side(*is_source, first..=last)),
                _ => None,
            },
            _ if first == last => return self.test(first),
            _ => None,
        };
        found.unwrap_or_else(|| Test::Other(self.word()))
    }

    fn side(is_source: bool, range: RangeInclusive<std::net::IpAddr>) -> Test {
        if is_source { Test::From(vec![range]) } else { Test::To(vec![range]) }
    }

    /// The test that it is less or more than this value.
    fn one_sided(&self, operator: u32, value: &[u8]) -> Test {
        let (least, most) = (vec![0; value.len()], vec![u8::MAX; value.len()]);
        let is_least = value.iter().all(|byte| *byte == 0);
        let is_most = value.iter().all(|byte| *byte == u8::MAX);
        match operator {
            LESS if !is_least => self.range(&least, &before(value)),
            AT_MOST => self.range(&least, value),
            MORE if !is_most => self.range(&after(value), &most),
            AT_LEAST => self.range(value, &most),
            _ => Test::Other(self.word()),
        }
    }

    fn word(&self) -> String {
        match self {
            Self::Both(both, _) => both.0.word(),
            Self::Protocol => "a protocol".to_owned(),
            Self::ToPort => "a port".to_owned(),
            Self::Address { .. } => "an address".to_owned(),
            Self::ToType => "fib".to_owned(),
            Self::CameBy | Self::CameByIndex => "iif".to_owned(),
            Self::LeavesBy | Self::LeavesByIndex => "oif".to_owned(),
            Self::State { .. } => "ct state".to_owned(),
            Self::Status { .. } => "ct status".to_owned(),
            Self::Family => "nfproto".to_owned(),
            Self::Other(word) => word.clone(),
        }
    }
}

/// The number behind this one, in as many bytes.
fn after(number: &[u8]) -> Vec<u8> {
    let inverted: Vec<u8> = number.iter().map(|byte| !byte).collect();
    before(&inverted).into_iter().map(|byte| !byte).collect()
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
            "range" => self.compare_range(data),
            "byteorder" => {
                let loaded = self.loaded(big_endian(data, 1));
                self.load(data, 2, loaded);
            }
            "fib" => {
                let is_type = big_endian(data, 2) == Some(FIB_TYPE) && big_endian(data, 3) == Some(FIB_OF_DESTINATION);
                self.load(data, 1, if is_type { Loaded::ToType } else { Loaded::Other("fib".to_owned()) });
            }
            "nat" if big_endian(data, 1) == Some(NAT_DESTINATION) => return Step::Verdict(Verdict::Divert),
            "redir" => return Step::Verdict(Verdict::Divert),
            "lookup" => return self.look_up(data),
            "immediate" if big_endian(data, 1) == Some(VERDICT_REGISTER) => {
                let other = || Verdict::Other("a verdict".to_owned());
                return Step::Verdict(attribute(data, 2).and_then(verdict).unwrap_or_else(other));
            }
            "immediate" => self.load(data, 1, Loaded::Other("a constant".to_owned())),
            "match" => self.conditions.extend(legacy::conditions(&string(data, 1), revision(data), info(data))),
            "target" => return target_step(legacy::target(&string(data, 1), info(data))),
            "reject" => return Step::Verdict(Verdict::Drop),
            "queue" => return Step::Verdict(Verdict::Other("queue".to_owned())),
            other if WITHOUT_VERDICT.contains(&other) => {}
            "payload" => self.load(data, 1, payload(data)),
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
        let bytes = attribute(data, 4).and_then(|data| attribute(data, VALUE));
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
        let value = attribute(data, 3).and_then(|data| attribute(data, VALUE)).unwrap_or_default();
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
            // Some bit of these must be set, or none.
            (Loaded::State { mask }, Some(EQUAL | UNEQUAL)) if is_zero && *mask != u32::MAX => {
                (Test::State(*mask), operator == Some(EQUAL))
            }
            (Loaded::Status { mask: DIVERTED }, Some(EQUAL | UNEQUAL)) if is_zero => {
                (Test::IsDiverted, operator == Some(EQUAL))
            }
            (_, Some(EQUAL | UNEQUAL)) => (loaded.test(value), operator == Some(UNEQUAL)),
            (_, Some(operator)) => (loaded.one_sided(operator, value), false),
            (_, None) => (Test::Other(loaded.word()), false),
        };
        self.condition(test, is_negated);
    }

    fn compare_range(&mut self, data: &[u8]) {
        let loaded = self.loaded(big_endian(data, 1));
        let end = |kind| attribute(data, kind).and_then(|data| attribute(data, VALUE)).unwrap_or_default();
        self.condition(loaded.range(end(3), end(4)), big_endian(data, 2) == Some(UNEQUAL));
    }

    fn look_up(&mut self, data: &[u8]) -> Step {
        let loaded = self.loaded(big_endian(data, 2));
        let destination = big_endian(data, 3);
        let unknown = || Test::Other(loaded.word());
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
        (Test::ToType(all), Test::ToType(more)) => Some(Test::ToType(all | more)),
        (Test::Protocol(all), Test::Protocol(more)) => Some(Test::Protocol([all, more].concat())),
        (Test::ToPort(all), Test::ToPort(more)) => Some(Test::ToPort([all, more].concat())),
        (Test::From(all), Test::From(more)) => Some(Test::From([all, more].concat())),
        (Test::To(all), Test::To(more)) => Some(Test::To([all, more].concat())),
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
        Some(META_L4PROTO) => Loaded::Protocol,
        _ => Loaded::Other("meta".to_owned()),
    }
}

/// What is read of a packet: addresses and protocols of IPv4 and IPv6, which stand at different places, and the port that the
/// packet is for.
fn payload(data: &[u8]) -> Loaded {
    let address = |is_source, is_ipv6| Loaded::Address { is_source, is_ipv6, mask: None };
    let both = |first, second, len| Loaded::Both(Box::new((first, second)), len);
    let other = || Loaded::Other("a field of the packet".to_owned());
    match (big_endian(data, 2), big_endian(data, 3), big_endian(data, 4)) {
        (Some(NETWORK_HEADER), Some(12), Some(1..=4)) => address(true, false),
        (Some(NETWORK_HEADER), Some(16), Some(1..=4)) => address(false, false),
        // One byte there is the lifetime of IPv4.
        (Some(NETWORK_HEADER), Some(8), Some(2..=16)) => address(true, true),
        (Some(NETWORK_HEADER), Some(24), Some(1..=16)) => address(false, true),
        (Some(NETWORK_HEADER), Some(6 | 9), Some(1)) => Loaded::Protocol,
        (Some(TRANSPORT_HEADER), Some(2), Some(2)) => Loaded::ToPort,
        // nft reads neighbours at one go.
        (Some(NETWORK_HEADER), Some(12), Some(8)) => both(address(true, false), address(false, false), 4),
        (Some(NETWORK_HEADER), Some(8), Some(32)) => both(address(true, true), address(false, true), 16),
        (Some(TRANSPORT_HEADER), Some(0), Some(4)) => both(other(), Loaded::ToPort, 2),
        _ => other(),
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

    #[test]
    fn numbers_around_a_number() {
        assert_eq!((before(&[1, 0]), after(&[0, 255])), (vec![0, 255], vec![1, 0]));
        assert_eq!(before(&[0, 0]), [255, 255], "the end of a range that reaches to the last number");
    }

    /// An element as the kernel sends it: attributes with their lengths.
    fn element(key: u16, flags: u32) -> Vec<u8> {
        let attribute = |kind: u16, payload: &[u8]| {
            let mut bytes =
                [u16::try_from(4 + payload.len()).expect("short").to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let key = attribute(ELEMENT_KEY, &attribute(VALUE, &key.to_be_bytes()));
        [key, attribute(ELEMENT_FLAGS, &flags.to_be_bytes())].concat()
    }

    #[test]
    fn ranges_are_read_from_their_ends() {
        let read = |elements: &[(u16, u32)]| {
            let elements: Vec<Vec<u8>> = elements.iter().map(|(key, flags)| element(*key, *flags)).collect();
            let all = Element::read_all(elements.iter().map(Vec::as_slice));
            let number = |bytes: &[u8]| u16::from_be_bytes(bytes.try_into().expect("two bytes"));
            let range = |element: &Element| element.key.as_ref().map(|(first, last)| (number(first), number(last)));
            all.iter().filter_map(range).collect::<Vec<_>>()
        };
        assert_eq!(read(&[(53, 0), (22, 0)]), [(22, 22), (53, 53)]);
        assert_eq!(read(&[(0, ENDS_RANGE), (101, ENDS_RANGE), (53, 0)]), [(53, 100)]);
        assert_eq!(read(&[(53, 0), (60, ENDS_RANGE), (60, 0), (70, ENDS_RANGE)]), [(53, 59), (60, 69)]);
        assert_eq!(read(&[(0, ENDS_RANGE), (1024, 0)]), [(1024, u16::MAX)]);
    }
}
