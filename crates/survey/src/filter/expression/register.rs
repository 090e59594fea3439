//! What a register of the machine holds, and the tests that come of comparing it.

use std::ops::RangeInclusive;

use nix::net::if_::if_indextoname;

use super::set::{after, before};
use crate::filter::{Name, Test, address, address_range, native_u32};
use tuntap_sys::netlink::attributes::big_endian;

/// Keys of `meta` and of `ct`.
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

/// `NFPROTO_IPV6`
const IPV6: u8 = 10;

/// The header that `payload` reads from.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Operators of `cmp`.
const LESS: u32 = 2;
const AT_MOST: u32 = 3;
const MORE: u32 = 4;
const AT_LEAST: u32 = 5;

/// What was loaded into a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loaded {
    Iif,
    Oif,
    IifIndex,
    OifIndex,
    State {
        mask: u32,
    },
    Status {
        mask: u32,
    },
    Family,
    Protocol,
    /// The destination port.
    ToPort,
    Address {
        is_source: bool,
        is_ipv6: bool,
        mask: Option<Vec<u8>>,
    },
    /// The type of the destination address.
    ToType,
    /// Two adjacent fields, and the length of the first in bytes.
    Both(Box<(Self, Self)>, usize),
    /// Something that this reader doesn't understand, in a word for people.
    Other(String),
}

impl Loaded {
    /// The test that it equals a value. A name that is compared with a value without NUL has to begin with it.
    pub(super) fn test(&self, value: &[u8]) -> Test {
        let other = || Test::Other(self.word());
        match self {
            Self::Iif => name(value).map_or_else(other, |name| Test::Iif(vec![name])),
            Self::Oif => name(value).map_or_else(other, |name| Test::Oif(vec![name])),
            Self::IifIndex => name_of_index(value).map_or_else(other, |name| Test::Iif(vec![name])),
            Self::OifIndex => name_of_index(value).map_or_else(other, |name| Test::Oif(vec![name])),
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

    /// The test that it is between two values.
    pub(super) fn range(&self, first: &[u8], last: &[u8]) -> Test {
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

    /// The test with an operator other than equality.
    pub(super) fn one_sided(&self, operator: u32, value: &[u8]) -> Test {
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

    /// A word for people.
    pub(super) fn word(&self) -> String {
        match self {
            Self::Both(both, _) => both.0.word(),
            Self::Protocol => "a protocol".to_owned(),
            Self::ToPort => "a port".to_owned(),
            Self::Address { .. } => "an address".to_owned(),
            Self::ToType => "fib".to_owned(),
            Self::Iif | Self::IifIndex => "iif".to_owned(),
            Self::Oif | Self::OifIndex => "oif".to_owned(),
            Self::State { .. } => "ct state".to_owned(),
            Self::Status { .. } => "ct status".to_owned(),
            Self::Family => "nfproto".to_owned(),
            Self::Other(word) => word.clone(),
        }
    }
}

/// What `meta` loads for a key.
pub(super) fn meta(key: Option<u32>) -> Loaded {
    match key {
        Some(META_IIF) => Loaded::IifIndex,
        Some(META_OIF) => Loaded::OifIndex,
        Some(META_IIFNAME) => Loaded::Iif,
        Some(META_OIFNAME) => Loaded::Oif,
        Some(META_NFPROTO) => Loaded::Family,
        Some(META_L4PROTO) => Loaded::Protocol,
        _ => Loaded::Other("meta".to_owned()),
    }
}

/// What `payload` loads, by header, offset and length: addresses and protocols of IPv4 and IPv6, which have different
/// offsets, and the destination port.
pub(super) fn payload(data: &[u8]) -> Loaded {
    let address = |is_source, is_ipv6| Loaded::Address { is_source, is_ipv6, mask: None };
    let both = |first, second, len| Loaded::Both(Box::new((first, second)), len);
    let other = || Loaded::Other("a field of the packet".to_owned());
    match (big_endian(data, 2), big_endian(data, 3), big_endian(data, 4)) {
        (Some(NETWORK_HEADER), Some(12), Some(1..=4)) => address(true, false),
        (Some(NETWORK_HEADER), Some(16), Some(1..=4)) => address(false, false),
        // A single byte there is the time to live of IPv4.
        (Some(NETWORK_HEADER), Some(8), Some(2..=16)) => address(true, true),
        (Some(NETWORK_HEADER), Some(24), Some(1..=16)) => address(false, true),
        (Some(NETWORK_HEADER), Some(6 | 9), Some(1)) => Loaded::Protocol,
        (Some(TRANSPORT_HEADER), Some(2), Some(2)) => Loaded::ToPort,
        // nft(8) loads adjacent fields together.
        (Some(NETWORK_HEADER), Some(12), Some(8)) => both(address(true, false), address(false, false), 4),
        (Some(NETWORK_HEADER), Some(8), Some(32)) => both(address(true, true), address(false, true), 16),
        (Some(TRANSPORT_HEADER), Some(0), Some(4)) => both(other(), Loaded::ToPort, 2),
        _ => other(),
    }
}

/// What `ct` loads for a key.
pub(super) fn ct(key: Option<u32>) -> Loaded {
    match key {
        Some(CT_STATE) => Loaded::State { mask: u32::MAX },
        Some(CT_STATUS) => Loaded::Status { mask: u32::MAX },
        _ => Loaded::Other("ct".to_owned()),
    }
}

/// The number in a value of exactly its length.
fn whole_number(value: &[u8]) -> Option<u32> {
    native_u32(value, 0).filter(|_| value.len() == 4)
}

/// The name of interfaces that a value stands for. A whole name ends with a NUL; without one it is the beginning of names.
fn name(value: &[u8]) -> Option<Name> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    match value.iter().position(|byte| *byte == 0) {
        Some(end) if value.len() <= libc::IFNAMSIZ => text(&value[..end]).map(Name::Exactly),
        None if value.len() < libc::IFNAMSIZ => text(value).map(Name::From),
        _ => None,
    }
}

/// The name of the interface with the index in a value.
fn name_of_index(value: &[u8]) -> Option<Name> {
    let name = if_indextoname(whole_number(value)?).ok()?;
    Some(Name::Exactly(name.to_str().ok()?.to_owned()))
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
}
