//! Parts of allowlists that every confined process has, and what conditions are made of.

use syscalls::Sysno;

use super::syscalls::{Argument, Condition, Test};

/// The memory allocator. The calls that could make memory executable are in [`OWN`].
pub const MEMORY: &[Sysno] = &[Sysno::brk, Sysno::mremap, Sysno::munmap, Sysno::madvise];

/// Clocks, on machines where reading them takes a system call.
pub const CLOCKS: &[Sysno] = &[
    Sysno::clock_gettime,
    Sysno::gettimeofday,
    #[cfg(target_arch = "x86_64")]
    Sysno::time,
];

/// Seeds of hash tables, and keys.
pub const RANDOM: &[Sysno] = &[Sysno::getrandom];

/// Waiting: the main loop of each thread, pauses, and locks.
pub const WAITING: &[Sysno] = &[
    Sysno::ppoll,
    Sysno::clock_nanosleep,
    Sysno::futex,
    Sysno::sched_yield,
    Sysno::restart_syscall,
    #[cfg(target_arch = "x86_64")]
    Sysno::poll,
];

/// The end of the process: signals, a panic, an abort, uWSGI's crash handler. [`OWN`] restricts the targets of signals.
pub const END: &[Sysno] = &[Sysno::rt_sigaction, Sysno::rt_sigprocmask, Sysno::rt_sigreturn, Sysno::exit_group];

/// What touches this process alone: memory that isn't executable, for the allocator; and signals of the process to itself,
/// by abort(3) and uWSGI's crash handler.
pub const OWN: &[(Sysno, &[Condition])] = &[
    (Sysno::mmap, &[&[NOT_EXECUTABLE]]),
    (Sysno::mprotect, &[&[NOT_EXECUTABLE]]),
    (Sysno::tgkill, &[&[own_process(0)]]),
    (Sysno::kill, &[&[own_process(0)]]),
];

/// Files that libraries open if they can: the debug information for a panic's backtrace, and time zones. These calls are to
/// fail.
pub const FILES: &[Sysno] = &[
    Sysno::openat,
    Sysno::readlinkat,
    #[cfg(target_arch = "x86_64")]
    Sysno::open,
    #[cfg(target_arch = "x86_64")]
    Sysno::readlink,
];

/// The bits of a socket's type without the flags (net.h, `SOCK_TYPE_MASK`).
pub const SOCKET_KIND: u32 = 0xf;

/// The third argument of mmap(2) and mprotect(2).
const NOT_EXECUTABLE: Argument = masked(2, libc::PROT_EXEC.cast_unsigned(), 0);

/// This number.
pub const fn is(index: u8, value: u32) -> Argument {
    Argument { index, test: Test::Is(value) }
}

/// The same for one of the C library's numbers.
pub const fn is_c(index: u8, value: libc::c_int) -> Argument {
    is(index, value.cast_unsigned())
}

/// This process.
pub const fn own_process(index: u8) -> Argument {
    Argument { index, test: Test::IsOwnProcess }
}

/// This number under a mask.
pub const fn masked(index: u8, mask: u32, value: u32) -> Argument {
    Argument { index, test: Test::Masked { mask, value } }
}

/// An ioctl(2) request. The kernel uses only the lower 32 bits of its number.
#[allow(clippy::cast_possible_truncation)]
pub const fn request(number: libc::Ioctl) -> Argument {
    is(1, number as u32)
}
