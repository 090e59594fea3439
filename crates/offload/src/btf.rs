//! The kernel's description of its own types (Documentation/bpf/btf.rst), of which the offsets of a few members are read.

use std::fs;
use std::io;

use thiserror::Error;

/// Where the running kernel has it (CONFIG_DEBUG_INFO_BTF).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u32 = 0xeb9f;

/// Kinds of types. The second number is how many bytes follow each member's header, the third how many follow the type.
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const KIND_INT: u32 = 1;
const NEWEST_KIND: u32 = KIND_ENUM64;

/// Bytes of `struct btf_type`.
const TYPE_LEN: usize = 12;
/// Bytes of `struct btf_member`.
const MEMBER_LEN: usize = 12;

/// How deep structures without a name may lie in each other. Those of the kernel are three deep.
const MAX_DEPTH: usize = 8;

/// Why a layout is not known.
#[derive(Debug, Error)]
pub enum BtfError {
    /// There is no such file: the kernel was built without it, or has no sysfs here.
    #[error("{VMLINUX}: {0}")]
    Missing(#[from] io::Error),
    /// Its contents are of another form.
    #[error("{VMLINUX}: unexpected contents at byte {0}")]
    Malformed(usize),
    /// The kernel has no such member.
    #[error("{VMLINUX}: struct {0} has no {1}")]
    NoMember(&'static str, &'static str),
}

/// The types of a kernel.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    /// Where the types begin, by their number less one.
    types: Vec<usize>,
    strings: usize,
}

/// Reads so many bytes as a little-endian or big-endian number, whichever the machine has.
fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    word.copied().map(u32::from_ne_bytes).ok_or(BtfError::Malformed(at))
}

fn position(bytes: &[u8], at: usize) -> Result<usize, BtfError> {
    usize::try_from(word(bytes, at)?).map_err(|_| BtfError::Malformed(at))
}

impl Btf {
    /// The types of the running kernel.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::parse(fs::read(VMLINUX)?)
    }

    /// Reads the header, and finds the types.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        // magic (16 bits), version, flags, length of the header; then offset and length of the types and of the strings.
        if word(&bytes, 0)? & 0xffff != MAGIC {
            return Err(BtfError::Malformed(0));
        }
        let header = position(&bytes, 4)?;
        let at = |offset: usize, field| offset.checked_add(header).ok_or(BtfError::Malformed(field));
        let start = at(position(&bytes, 8)?, 8)?;
        let end = start.checked_add(position(&bytes, 12)?).filter(|end| *end <= bytes.len());
        let end = end.ok_or(BtfError::Malformed(12))?;
        let strings = at(position(&bytes, 16)?, 16)?;
        let mut types = Vec::new();
        let mut next = start;
        while next < end {
            types.push(next);
            next = next.checked_add(type_len(&bytes, next)?).ok_or(BtfError::Malformed(next))?;
        }
        Ok(Self { bytes, types, strings })
    }

    /// The offset of a member in a structure, in bits from its start; also that of members of structures without a name in it.
    pub fn bit_offset(&self, structure: &'static str, member: &'static str) -> Result<u32, BtfError> {
        for start in &self.types {
            if self.kind(*start)? == KIND_STRUCT
                && self.has_name(*start, structure)
                && let Some(offset) = self.find(*start, member, MAX_DEPTH)?
            {
                return Ok(offset);
            }
        }
        Err(BtfError::NoMember(structure, member))
    }

    fn kind(&self, start: usize) -> Result<u32, BtfError> {
        Ok(word(&self.bytes, start + 4)? >> 24 & 0x1f)
    }

    /// Looks for a member.
    fn find(&self, start: usize, member: &str, depth: usize) -> Result<Option<u32>, BtfError> {
        let info = word(&self.bytes, start + 4)?;
        let has_bit_fields = info >> 31 != 0;
        for index in 0..(info & 0xffff) as usize {
            let at = start + TYPE_LEN + index * MEMBER_LEN;
            let offset = word(&self.bytes, at + 8)?;
            // With bit fields, the upper byte is the size in bits.
            let offset = if has_bit_fields { offset & 0x00ff_ffff } else { offset };
            if self.has_name(at, member) {
                return Ok(Some(offset));
            }
            if word(&self.bytes, at)? == 0
                && depth > 0
                && let Some(inner) = self.type_start(position(&self.bytes, at + 4)?)
                && matches!(self.kind(inner)?, KIND_STRUCT | KIND_UNION)
                && let Some(found) = self.find(inner, member, depth - 1)?
            {
                return Ok(offset.checked_add(found));
            }
        }
        Ok(None)
    }

    fn type_start(&self, number: usize) -> Option<usize> {
        self.types.get(number.checked_sub(1)?).copied()
    }

    /// A type and a member both begin with the place of their name.
    fn has_name(&self, at: usize, name: &str) -> bool {
        let start = position(&self.bytes, at).ok().and_then(|offset| offset.checked_add(self.strings));
        let text = start.and_then(|start| self.bytes.get(start..)).and_then(|rest| rest.get(..=name.len()));
        text.is_some_and(|text| text.strip_suffix(&[0]) == Some(name.as_bytes()))
    }
}

/// Length of the type at a place, in bytes.
fn type_len(bytes: &[u8], start: usize) -> Result<usize, BtfError> {
    let info = word(bytes, start + 4)?;
    let count = (info & 0xffff) as usize;
    let more = match info >> 24 & 0x1f {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION => MEMBER_LEN * count,
        KIND_ENUM | KIND_FUNC_PROTO => 8 * count,
        KIND_DATASEC | KIND_ENUM64 => 12 * count,
        // Pointers, typedefs, qualifiers, functions and the like have nothing more.
        kind if kind <= NEWEST_KIND => 0,
        _ => return Err(BtfError::Malformed(start)),
    };
    Ok(TYPE_LEN + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_running_kernel_are_found() {
        let btf = Btf::of_kernel().expect("this machine has it");
        let offset = |member| btf.bit_offset("sk_buff", member).expect("every kernel has it");
        assert_eq!(offset("next"), 0);
        // In the order of the structure.
        let offsets = ["ip_summed", "csum_start", "csum_offset", "end", "head", "data"].map(offset);
        assert!(offsets.is_sorted(), "{offsets:?}");
        assert_eq!(offset("csum_offset"), offset("csum_start") + 16);
        assert!(matches!(btf.bit_offset("sk_buff", "nothing"), Err(BtfError::NoMember("sk_buff", "nothing"))));
        assert!(matches!(btf.bit_offset("nothing", "head"), Err(BtfError::NoMember("nothing", "head"))));
    }

    /// Whatever is cut off or changed, it is an error, or another answer, and never a panic.
    #[test]
    fn broken_contents_are_refused() {
        let whole = std::fs::read(VMLINUX).expect("this machine has it");
        for len in [0, 3, 8, 23, 24, 40, 1000, whole.len() / 2] {
            assert!(Btf::parse(whole[..len].to_vec()).is_err(), "{len}");
        }
        let mut seed = 1_u32;
        for _ in 0..20 {
            let mut broken = whole.clone();
            for _ in 0..2000 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = seed as usize % broken.len();
                broken[at] ^= (seed >> 24) as u8 | 1;
            }
            if let Ok(btf) = Btf::parse(broken) {
                let _ = btf.bit_offset("sk_buff", "nothing");
            }
        }
        assert!(Btf::parse(vec![0xff; 64]).is_err());
    }
}
