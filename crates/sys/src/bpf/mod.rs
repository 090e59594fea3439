//! BPF maps, programs and what they are attached to, by bpf(2) itself: of all that libraries for it do, this is what a path in the
//! kernel needs. Structures are those of linux/bpf.h.

mod attach;
mod locked;
mod map;
mod program;

use std::ffi::CStr;
use std::mem::size_of;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

pub use attach::{Attachment, Hook, attach, link, supports_tcx};
use locked::Lifted;
pub use map::{Map, MapKind};
pub use program::{Instruction, LoadError, Program};

/// The name of an object in the kernel, which bpftool(8) shows: at most 15 bytes and a NUL (BPF_OBJ_NAME_LEN).
type ObjectName = [u8; 16];

/// A command of bpf(2) (`enum bpf_cmd`).
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    ProgramLoad = 5,
    ProgramAttach = 8,
    ProgramQuery = 16,
    MapFreeze = 22,
    LinkCreate = 28,
}

/// A part of `union bpf_attr` for one command: integers alone, without padding between them, so that it can be copied as it is. The
/// kernel takes what a shorter structure doesn't have for 0.
///
/// # Safety
///
/// The type is `repr(C)`, has no padding, and its numbers that are addresses are those of memory that lives through the call and is as
/// large as the command says.
unsafe trait Attributes: Copy {}

/// Calls bpf(2).
fn call<A: Attributes>(command: Command, attributes: &mut A) -> nix::Result<i32> {
    let len = libc::c_uint::try_from(size_of::<A>()).map_err(|_| Errno::E2BIG)?;
    // SAFETY: `Attributes` says that the structure is the command's, and so are the addresses in it. The kernel may write results into
    // the structure, which is ours to write.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i32, std::ptr::from_mut(attributes), len) };
    Errno::result(result).map(|value| i32::try_from(value).unwrap_or(i32::MAX))
}

/// Calls bpf(2) for a new descriptor, which the kernel opens with close-on-exec.
fn open<A: Attributes>(command: Command, attributes: &mut A) -> nix::Result<OwnedFd> {
    let descriptor: RawFd = call(command, attributes)?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a map or a program. Before Linux 5.11 a limit of the process may stand in the way, of which the error says nothing.
fn make<A: Attributes>(command: Command, attributes: &mut A) -> nix::Result<OwnedFd> {
    match open(command, attributes) {
        Err(Errno::EPERM) => {
            // Whoever can't lift the limit has the first error.
            let _lifted = Lifted::new().map_err(|_| Errno::EPERM)?;
            open(command, attributes)
        }
        result => result,
    }
}

/// The name as the kernel's structures have it. A longer one is cut.
fn object_name(name: &CStr) -> ObjectName {
    let mut bytes = ObjectName::default();
    let len = bytes.len() - 1;
    for (to, from) in bytes[..len].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    bytes
}

/// The address of memory, as the kernel's structures have it.
fn address<T>(of: &[T]) -> u64 {
    of.as_ptr().addr() as u64
}

/// The same, of memory that the kernel writes.
fn address_mut<T>(of: &mut [T]) -> u64 {
    of.as_mut_ptr().expose_provenance() as u64
}
