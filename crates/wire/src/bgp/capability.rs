//! Capabilities in an OPEN (RFC 5492).

use super::error::{ErrorCode, Violation};
use super::{Family, PerFamily, UNICAST, take_u16};

/// Optional parameter that has capabilities.
const CAPABILITIES: u8 = 2;

const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const FOUR_OCTET_AS: u8 = 65;
const ADD_PATH: u8 = 69;
const ENHANCED_ROUTE_REFRESH: u8 = 70;

/// Which way several paths for a prefix may go (RFC 7911, section 4).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddPath {
    /// Who offers this is able to receive them.
    pub receive: bool,
    /// Who offers this is able to send them.
    pub send: bool,
}

/// What a speaker offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The families that it names (RFC 4760). Who names none at all speaks IPv4.
    pub families: PerFamily<bool>,
    /// It sends all routes once more when it is asked to (RFC 2918).
    pub route_refresh: bool,
    /// It marks where such an answer begins and ends (RFC 7313).
    pub enhanced_route_refresh: bool,
    /// Its AS, if it knows AS numbers of four octets (RFC 6793).
    pub four_octet_as: Option<u32>,
    /// Several paths for a prefix (RFC 7911).
    pub add_path: PerFamily<AddPath>,
}

impl Capabilities {
    /// Reads the optional parameters of an OPEN, in the form of RFC 4271 or of RFC 9072. Capabilities that aren't known are
    /// skipped.
    pub(super) fn decode(parameters: &[u8]) -> Result<Self, Violation> {
        let malformed = || Violation::from(ErrorCode::BAD_OPEN);
        let (&len, rest) = parameters.split_first().ok_or_else(malformed)?;
        // RFC 9072: a first parameter of this type stands for a length of two octets, for all parameters and for each.
        let is_extended = len != 0 && rest.first() == Some(&255);
        let (len, mut rest) = if is_extended {
            let (len, rest) = take_u16(&rest[1..]).ok_or_else(malformed)?;
            (usize::from(len), rest)
        } else {
            (usize::from(len), rest)
        };
        if rest.len() != len {
            return Err(malformed());
        }
        let (mut capabilities, mut names_family) = (Self::default(), false);
        while let Some((&kind, behind)) = rest.split_first() {
            let (value, behind) =
                if is_extended { split_long(behind) } else { split_short(behind) }.ok_or_else(malformed)?;
            rest = behind;
            if kind != CAPABILITIES {
                return Err(ErrorCode::UNSUPPORTED_PARAMETER.into());
            }
            capabilities.read_all(value, &mut names_family).ok_or_else(malformed)?;
        }
        capabilities.families.ipv4 |= !names_family;
        Ok(capabilities)
    }

    /// Reads the capabilities of one parameter; `None` if one of them is cut off.
    fn read_all(&mut self, mut value: &[u8], names_family: &mut bool) -> Option<()> {
        while let Some((&code, behind)) = value.split_first() {
            let (capability, behind) = split_short(behind)?;
            value = behind;
            *names_family |= code == MULTIPROTOCOL;
            self.read(code, capability);
        }
        Some(())
    }

    /// Reads a capability. One with a wrong length is skipped like one that isn't known.
    fn read(&mut self, code: u8, value: &[u8]) {
        match (code, value) {
            (MULTIPROTOCOL, &[high, low, _, safi]) => {
                if let Some(family) = Family::from_identifiers(u16::from_be_bytes([high, low]), safi) {
                    *self.families.get_mut(family) = true;
                }
            }
            (ROUTE_REFRESH, []) => self.route_refresh = true,
            (ENHANCED_ROUTE_REFRESH, []) => self.enhanced_route_refresh = true,
            (FOUR_OCTET_AS, &[a, b, c, d]) => self.four_octet_as = Some(u32::from_be_bytes([a, b, c, d])),
            (ADD_PATH, list) => {
                for entry in list.chunks_exact(4) {
                    let family = Family::from_identifiers(u16::from_be_bytes([entry[0], entry[1]]), entry[2]);
                    if let (Some(family), way @ 1..=3) = (family, entry[3]) {
                        *self.add_path.get_mut(family) = AddPath { receive: way & 1 != 0, send: way & 2 != 0 };
                    }
                }
            }
            _ => {}
        }
    }

    /// Appends the optional parameters of an OPEN, with their length.
    pub(super) fn append(&self, output: &mut Vec<u8>) {
        let mut list = Vec::new();
        for family in Family::ALL.into_iter().filter(|family| *self.families.get(*family)) {
            list.extend_from_slice(&multiprotocol(family));
        }
        if self.route_refresh {
            list.extend_from_slice(&[ROUTE_REFRESH, 0]);
        }
        if let Some(number) = self.four_octet_as {
            list.extend_from_slice(&[FOUR_OCTET_AS, 4]);
            list.extend_from_slice(&number.to_be_bytes());
        }
        let ways = Family::ALL.map(|family| (family, *self.add_path.get(family)));
        let offered = ways.into_iter().filter(|(_, way)| way.receive || way.send);
        let entries: Vec<u8> = offered
            .flat_map(|(family, way)| {
                let [high, low] = family.afi().to_be_bytes();
                [high, low, UNICAST, u8::from(way.receive) + 2 * u8::from(way.send)]
            })
            .collect();
        if let (Ok(len), false) = (u8::try_from(entries.len()), entries.is_empty()) {
            list.extend_from_slice(&[ADD_PATH, len]);
            list.extend_from_slice(&entries);
        }
        if self.enhanced_route_refresh {
            list.extend_from_slice(&[ENHANCED_ROUTE_REFRESH, 0]);
        }
        // All of them together have 32 bytes at most.
        let len = u8::try_from(list.len()).unwrap_or(0);
        if len == 0 {
            output.push(0);
            return;
        }
        output.extend_from_slice(&[len + 2, CAPABILITIES, len]);
        output.extend_from_slice(&list[..usize::from(len)]);
    }
}

/// The capability to speak a family, as the data of a NOTIFICATION names it, too.
pub fn multiprotocol(family: Family) -> [u8; 6] {
    let [high, low] = family.afi().to_be_bytes();
    [MULTIPROTOCOL, 4, high, low, 0, UNICAST]
}

/// The capability to know AS numbers of four octets, without a number, as the data of a NOTIFICATION names it.
pub const FOUR_OCTET_AS_MISSING: [u8; 6] = [FOUR_OCTET_AS, 4, 0, 0, 0, 0];

fn split_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(len))
}

fn split_long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = take_u16(bytes)?;
    rest.split_at_checked(usize::from(len))
}
