//! Which queue of a device takes a packet towards its reader: the one of the packet's destination. So what is sent to one
//! address, however much, fills one queue only.
//!
//! A BPF program tells the kernel (TUNSETSTEERINGEBPF, drivers/net/tun.c; instructions: RFC 9669). Without one it takes the
//! queue that the other direction of the flow was last written to, and else one by a hash of the flow.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use tuntap_wire::ip::{IPV4_MIN_HEADER_LEN, IPV6_HEADER_LEN};

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
    let program = load(&program())?;
    let fd: libc::c_int = program.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads a descriptor (linux/if_tun.h); both are open. The device keeps the program.
    unsafe { ioctl::tun_set_steering_ebpf(device.as_raw_fd(), &raw const fd) }.map(drop)
}

/// `struct bpf_insn` of linux/bpf.h.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction { code, registers, offset, immediate: immediate.cast_signed() }
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
        instruction(MOVE, 0x16, 0, 0),
        instruction(LOAD_BYTE, 0, 0, 0),
        instruction(SHIFT_RIGHT_32, 0, 0, 4),
        instruction(JUMP_IF_EQUAL, 0, 3, 4),
        instruction(JUMP_IF_EQUAL, 0, 4, 6),
        instruction(MOVE_IMMEDIATE, 0, 0, 0),
        instruction(EXIT, 0, 0, 0),
        instruction(LOAD_WORD, 0, 0, at(V4_DESTINATION)),
        instruction(JUMP, 0, 1, 0),
        instruction(LOAD_WORD, 0, 0, at(V6_DESTINATION)),
        instruction(MULTIPLY_32, 0, 0, MULTIPLIER),
        instruction(SHIFT_RIGHT_32, 0, 0, SHIFT),
        instruction(EXIT, 0, 0, 0),
    ]
}

/// The part of `union bpf_attr` (linux/bpf.h) that loading a program takes.
#[repr(C)]
struct LoadRequest {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_len: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// BPF_PROG_LOAD and BPF_PROG_TYPE_SOCKET_FILTER of linux/bpf.h.
const LOAD_PROGRAM: libc::c_int = 5;
const SOCKET_FILTER: u32 = 1;

fn load(program: &[Instruction]) -> nix::Result<OwnedFd> {
    let license = c"MIT";
    let request = LoadRequest {
        program_type: SOCKET_FILTER,
        instruction_count: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_len: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: bpf(2) reads the request, and the program and the license that it points to; all live through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LOAD_PROGRAM, &raw const request, size_of::<LoadRequest>()) };
    let fd = Errno::result(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: bpf(2) has just opened it, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
