//! What a rule looks up: the elements of sets and maps.

use super::verdict;
use crate::filter::Verdict;
use tuntap_sys::netlink::attributes::{self, big_endian};

/// Attributes of elements of sets.
const KEY: u16 = 1;
const DATA: u16 = 2;
const FLAGS: u16 = 3;
const KEY_END: u16 = 10;

/// Flags of elements: it is the first value behind a range; it stands for all values that no other element has.
const ENDS_RANGE: u32 = 1;
const CATCHES_ALL: u32 = 2;

/// Looks up what a set contains.
pub trait Lookup {
    /// The elements of a set of this name. `None` if they can't be read.
    fn elements(&mut self, set: &str) -> Option<Vec<Element>>;
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The first and the last value; `None` if it stands for everything else.
    pub(super) key: Option<(Vec<u8>, Vec<u8>)>,
    /// The verdict of a map for it.
    pub(super) verdict: Option<Verdict>,
}

impl Element {
    /// Reads the elements of a set from the attributes of each. A set of ranges has elements where ranges begin and where
    /// they end.
    pub fn read_all<'a>(elements: impl Iterator<Item = &'a [u8]>) -> Vec<Self> {
        let value = |bytes, kind| Some(attributes::find(attributes::find(bytes, kind)?, super::VALUE)?.to_vec());
        let mut all = Vec::new();
        let mut bounds = Vec::new();
        for bytes in elements {
            let flags = big_endian(bytes, FLAGS).unwrap_or(0);
            let verdict = attributes::find(bytes, DATA).and_then(verdict);
            match (value(bytes, KEY), value(bytes, KEY_END)) {
                _ if flags & CATCHES_ALL != 0 => all.push(Self { key: None, verdict }),
                (Some(first), Some(last)) => all.push(Self { key: Some((first, last)), verdict }),
                (Some(key), None) => bounds.push((key, flags & ENDS_RANGE == 0, verdict)),
                (None, _) => {}
            }
        }
        // Where one range ends and the next one begins, the end comes first.
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

/// The number before this one, in as many bytes. Before zero there is the largest one.
pub(super) fn before(number: &[u8]) -> Vec<u8> {
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

/// The number behind this one, in as many bytes.
pub(super) fn after(number: &[u8]) -> Vec<u8> {
    let inverted: Vec<u8> = number.iter().map(|byte| !byte).collect();
    before(&inverted).into_iter().map(|byte| !byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let key = attribute(KEY, &attribute(super::super::VALUE, &key.to_be_bytes()));
        [key, attribute(FLAGS, &flags.to_be_bytes())].concat()
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
