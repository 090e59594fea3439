//! Programs (bpf(2)).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use thiserror::Error;

use super::{Attributes, Command, Map, ObjectName, address, address_mut, make, object_name};

/// BPF_PROG_TYPE_SCHED_CLS: programs that see packets which a device sends or receives.
const SCHED_CLS: u32 = 3;

/// BPF_PROG_TYPE_SOCKET_FILTER: programs that return a number for a packet.
const SOCKET_FILTER: u32 = 1;

/// Longest explanation of the verifier that is read, in bytes. It says at the end what is wrong.
const LOG_LEN: usize = 256 * 1024;

/// BPF_LD | BPF_IMM | BPF_DW: the one instruction of two words, which loads 64 bits.
const LOAD_64_BITS: u64 = 0x18;

/// Register numbers that stand for a map, and for the first value of one (BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE).
const MAP: u64 = 1;
const MAP_VALUE: u64 = 2;

/// An instruction, as in the kernel's memory (Documentation/bpf/standardization/instruction-set.rst): code, registers, offset,
/// immediate value, from the lowest bits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Instruction(pub u64);

impl Instruction {
    /// An instruction of its parts. `registers` has the destination in the lower half, the source in the upper one.
    pub const fn new(code: u8, registers: u8, offset: i16, immediate: u32) -> Self {
        let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        Self(u64::from_ne_bytes([code, registers, a, b, c, d, e, f]))
    }

    /// Has an instruction that loads 64 bits load the address of a map, or of its first value. Returns false for another
    /// instruction.
    #[must_use]
    pub fn load_map(instructions: &mut [Self], at: usize, map: &Map, is_value: bool) -> bool {
        let Some([first, second]) = instructions.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) else {
            return false;
        };
        if first.0 & 0xff != LOAD_64_BITS {
            return false;
        }
        let source = if is_value { MAP_VALUE } else { MAP };
        // The immediate value of the second word is the offset in the value.
        first.0 = first.0 & 0x0fff | source << 12 | u64::from(map.number()) << 32;
        second.0 = 0;
        true
    }
}

/// Why a program was not loaded.
#[derive(Debug, Error)]
#[error("the kernel refuses the BPF program {name}: {errno}{}", if .explanation.is_empty() { String::new() } else { format!(" ({explanation})") })]
pub struct LoadError {
    /// Its name.
    pub name: String,
    /// The error.
    pub errno: Errno,
    /// What the verifier has said last.
    pub explanation: String,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Load {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_len: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: ObjectName,
}

// SAFETY: integers without padding. `Program::load` gives the addresses of slices with their lengths, and of a text that ends with NUL.
unsafe impl Attributes for Load {}

/// A program. It lives as long as a descriptor of it, or what it is attached to.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Loads a program for packets. `license` is of one that the kernel knows. Needs CAP_BPF, CAP_NET_ADMIN and, for reading the
    /// kernel's memory, CAP_PERFMON.
    pub fn load(name: &CStr, license: &CStr, instructions: &[Instruction]) -> Result<Self, LoadError> {
        Self::load_kind(SCHED_CLS, name, license, instructions)
    }

    /// Loads a program that returns a number for a packet. Needs CAP_BPF, unless the kernel lets everybody load such programs.
    pub fn load_filter(name: &CStr, license: &CStr, instructions: &[Instruction]) -> Result<Self, LoadError> {
        Self::load_kind(SOCKET_FILTER, name, license, instructions)
    }

    fn load_kind(kind: u32, name: &CStr, license: &CStr, instructions: &[Instruction]) -> Result<Self, LoadError> {
        let attempt = |log: &mut [u8]| {
            let count = u32::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?;
            let log_len = u32::try_from(log.len()).map_err(|_| Errno::E2BIG)?;
            let mut attributes = Load {
                kind,
                instruction_count: count,
                instructions: address(instructions),
                license: address(license.to_bytes_with_nul()),
                log_level: u32::from(log_len > 0),
                log_len,
                log: if log_len > 0 { address_mut(log) } else { 0 },
                kernel_version: 0,
                flags: 0,
                name: object_name(name),
            };
            make(Command::ProgramLoad, &mut attributes)
        };
        attempt(&mut []).map(Self).or_else(|errno| {
            let mut log = vec![0; LOG_LEN];
            // The log costs time, so that only a failure is explained.
            match attempt(&mut log) {
                Ok(program) => Ok(Self(program)),
                Err(_) => {
                    let name = name.to_string_lossy().into_owned();
                    Err(LoadError { name, errno, explanation: last_words(&log) })
                }
            }
        })
    }

    /// The descriptor, as the kernel's structures have it.
    pub(super) fn number(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The last line of the verifier's log that isn't statistics.
fn last_words(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or_default());
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("processed "));
    lines.next_back().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// r0 = 0; exit
    const PASS: [Instruction; 2] = [Instruction(0xb7), Instruction(0x95)];

    #[test]
    fn refusal_is_explained() {
        // Without a result.
        let refused = Program::load(c"tuntap_test", c"MIT", &PASS[1..]).expect_err("r0 is not set");
        assert_eq!(refused.errno, Errno::EACCES);
        assert!(refused.to_string().contains("R0 !read_ok"), "{refused}");
    }

    #[test]
    fn only_a_load_of_64_bits_loads_a_map() {
        let map = Map::new(c"tuntap_test", super::super::MapKind::Words, 4, 8, 1).expect("needs root");
        let mut instructions = [Instruction(0x0118), Instruction(7 << 32), Instruction(0xb7)];
        assert!(Instruction::load_map(&mut instructions, 0, &map, true));
        let number = u64::from(map.number()) << 32;
        assert_eq!(instructions, [Instruction(0x2118 | number), Instruction(0), Instruction(0xb7)]);
        assert!(!Instruction::load_map(&mut instructions, 1, &map, true));
        assert!(!Instruction::load_map(&mut instructions, 2, &map, true));
        assert!(!Instruction::load_map(&mut instructions, 9, &map, true));
    }
}
