//! Reads and writes of whole packets.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Says who can change the descriptor's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody else has the descriptor: O_NONBLOCK stays set.
    Ours,
    /// A vassal has it, too, and may clear O_NONBLOCK at any time. So each call says that it must not block (preadv2(2),
    /// RWF_NOWAIT).
    Shared,
    /// The same, where the kernel has no RWF_NOWAIT for TUN devices (before Linux 6.4). A call that blocks is ended by an
    /// [`Alarm`](crate::alarm::Alarm), which has to be set.
    Alarmed,
}

/// The offset that means the descriptor's current position (preadv2(2)).
const CURRENT_POSITION: libc::off_t = -1;

impl Ownership {
    const fn flags(self) -> libc::c_int {
        match self {
            Self::Ours | Self::Alarmed => 0,
            Self::Shared => libc::RWF_NOWAIT,
        }
    }
}

/// Reads into a buffer. `WouldBlock` if there is nothing, `Unsupported` if the kernel can't promise not to block, `Interrupted` if an
/// alarm has ended a call that blocked.
pub fn read(fd: BorrowedFd<'_>, ownership: Ownership, buffer: &mut [u8]) -> io::Result<usize> {
    if ownership != Ownership::Shared {
        // SAFETY: the buffer lives through the call and is ours to write.
        let count = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        return usize::try_from(count).map_err(|_| io::Error::last_os_error());
    }
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the one element of the vector is a buffer that lives through the call and is ours to write.
    let count = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, CURRENT_POSITION, ownership.flags()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes parts as one packet. Errors are those of [`read`]. Uses write(2) where it can, which costs less than pwritev2(2).
pub fn write(fd: BorrowedFd<'_>, ownership: Ownership, parts: &[IoSlice<'_>]) -> io::Result<()> {
    if let (Ownership::Ours | Ownership::Alarmed, [part]) = (ownership, parts) {
        // SAFETY: the part lives through the call.
        let result = unsafe { libc::write(fd.as_raw_fd(), part.as_ptr().cast(), part.len()) };
        return if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    let count = libc::c_int::try_from(parts.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `IoSlice` has the layout of `struct iovec`, and its buffers live through the call.
    let result =
        unsafe { libc::pwritev2(fd.as_raw_fd(), parts.as_ptr().cast(), count, CURRENT_POSITION, ownership.flags()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
