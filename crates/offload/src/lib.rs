//! The path in the kernel for flows that are decided: BPF programs between TUN devices, over a hidden veth pair for each peer, and the
//! process that makes these pairs.

pub mod btf;
mod code;
mod generated;
pub mod maps;
pub mod pairs;
pub mod programs;
