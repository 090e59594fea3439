//! Instructions as clang has made them, and how they become programs: where they name a map, the loader puts the map in.

use std::ffi::CStr;

use tuntap_sys::bpf::{Instruction, LoadError, Map, Program};

use super::maps::Maps;

/// The programs' licence: bpf_probe_read_kernel is only for those that are compatible with the GPL (linux/license.h).
const LICENSE: &CStr = c"Dual MIT/GPL";

/// What instructions name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The map of verdicts.
    Flows,
    /// The records of verdicts.
    Records,
    /// Who holds which address.
    Claims,
    /// The pairs.
    Pairs,
    /// The value that the router's process changes.
    Control,
    /// The constants of the running kernel.
    Layout,
}

/// The instructions of a program.
#[derive(Debug)]
pub struct Code {
    /// Its name in the kernel.
    pub name: &'static CStr,
    /// The instructions.
    pub instructions: &'static [u64],
    /// Which of them name what.
    pub references: &'static [(usize, Part)],
}

impl Code {
    /// Loads it as a program that sees packets of devices.
    pub fn load(&self, maps: &Maps) -> Result<Program, LoadError> {
        Program::load(self.name, LICENSE, &self.linked(maps))
    }

    /// Loads it as a program that sees messages to a socket.
    pub fn load_filter(&self, maps: &Maps) -> Result<Program, LoadError> {
        Program::load_filter(self.name, LICENSE, &self.linked(maps))
    }

    /// The instructions with the maps.
    fn linked(&self, maps: &Maps) -> Vec<Instruction> {
        let mut instructions: Vec<_> = self.instructions.iter().copied().map(Instruction).collect();
        for (at, part) in self.references {
            let (map, is_value): (&Map, bool) = match part {
                Part::Flows => (&maps.flows, false),
                Part::Records => (&maps.records, false),
                Part::Claims => (&maps.claims, false),
                Part::Pairs => (&maps.pairs, false),
                Part::Control => (&maps.control, true),
                Part::Layout => (&maps.layout, true),
            };
            let is_one = Instruction::load_map(&mut instructions, *at, map, is_value);
            debug_assert!(is_one, "{:?} has no map at {at}", self.name);
        }
        instructions
    }
}
