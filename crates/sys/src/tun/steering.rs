//! Which queue of a device takes a packet towards its reader: the one of the packet's destination. So what is sent to one
//! address, however much, fills one queue only.
//!
//! A BPF program tells the kernel (TUNSETSTEERINGEBPF, drivers/net/tun.c; instructions: RFC 9669). Without one it takes the
//! queue that the other direction of the flow was last written to, and else one by a hash of the flow.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use tuntap_wire::ip::{IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN};

use crate::bpf::{Instruction, Program};

mod ioctl {
    nix::ioctl_write_ptr_bad!(tun_set_steering_ebpf, libc::TUNSETSTEERINGEBPF, libc::c_int);
}

/// Multiplied with neighbouring addresses it gives numbers that are far from each other (the golden ratio in 32 bits; Knuth,
/// The Art of Computer Programming, volume 3, section 6.4).
const MULTIPLIER: u32 = 0x9E37_79B1;

/// The kernel takes the lower 16 bits of what the program returns, modulo the number of queues.
const SHIFT: u32 = 16;

/// Where the last 32 bits of source and destination are in a packet's header.
const V4_SOURCE: usize = 12;
const V4_DESTINATION: usize = 16;
const V6_SOURCE: usize = 20;
const V6_DESTINATION: usize = 36;

/// Returns the queue, among so many, to which the kernel steers replies to a packet.
pub fn queue_of_replies(packet: &[u8], queues: usize) -> usize {
    let at = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= IPV4_MIN_HEADER_LEN => V4_SOURCE,
        Some(6) if packet.len() >= IPV6_HEADER_LEN => V6_SOURCE,
        _ => return 0,
    };
    let word = packet.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
    (word.wrapping_mul(MULTIPLIER) >> SHIFT) as usize % queues.max(1)
}

/// Makes the kernel steer the packets of a device with several queues by their destinations. Fails if it lets nobody load
/// programs, or not this process (CAP_BPF).
pub fn steer_by_destination(device: BorrowedFd<'_>) -> nix::Result<()> {
    let program = Program::load_filter(c"tuntap_steer", c"MIT", &program()).map_err(|error| error.errno)?;
    let fd: libc::c_int = program.as_fd().as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads a descriptor (linux/if_tun.h); both are open. The device keeps the program.
    unsafe { ioctl::tun_set_steering_ebpf(device.as_raw_fd(), &raw const fd) }.map(drop)
}

/// Operation codes (linux/bpf.h, linux/bpf_common.h).
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const LOAD_BYTE: u8 = 0x30;
const LOAD_WORD: u8 = 0x20;
const SHIFT_RIGHT_32: u8 = 0x74;
const MULTIPLY_32: u8 = 0x24;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;

/// Packets are loaded relative to the context in register 6, into register 0; numbers come in the machine's byte order.
fn program() -> [Instruction; 13] {
    let at = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    [
        Instruction::new(MOVE, 0x16, 0, 0),
        Instruction::new(LOAD_BYTE, 0, 0, 0),
        Instruction::new(SHIFT_RIGHT_32, 0, 0, 4),
        Instruction::new(JUMP_IF_EQUAL, 0, 3, 4),
        Instruction::new(JUMP_IF_EQUAL, 0, 4, 6),
        Instruction::new(MOVE_IMMEDIATE, 0, 0, 0),
        Instruction::new(EXIT, 0, 0, 0),
        Instruction::new(LOAD_WORD, 0, 0, at(V4_DESTINATION)),
        Instruction::new(JUMP, 0, 1, 0),
        Instruction::new(LOAD_WORD, 0, 0, at(V6_DESTINATION)),
        Instruction::new(MULTIPLY_32, 0, 0, MULTIPLIER),
        Instruction::new(SHIFT_RIGHT_32, 0, 0, SHIFT),
        Instruction::new(EXIT, 0, 0, 0),
    ]
}
