//! The path in the kernel for flows that are decided: BPF programs between TUN devices, over a hidden veth pair for each peer, and the
//! process that makes these pairs.

mod btf;
mod clerk;
mod code;
mod generated;
pub mod guard;
pub mod maps;
pub mod pairs;
pub mod programs;
pub mod protocol;
mod run;
mod sandbox;
pub mod verdicts;

pub use run::{Config, End, Notice, run};
pub use sandbox::{CAPABILITIES, SYSCALLS, missing_capabilities};
