//! Reads and writes of whole packets.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who else can change the descriptor's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Nobody: O_NONBLOCK stays what it is.
    Ours,
    /// A vassal, which may clear O_NONBLOCK at any time. Each call says by itself that it must not block (preadv2(2),
    /// RWF_NOWAIT).
    Shared,
}

/// Not at an offset, but where the descriptor is.
const CURRENT_POSITION: libc::off_t = -1;

impl Ownership {
    const fn flags(self) -> libc::c_int {
        match self {
            Self::Ours => 0,
            Self::Shared => libc::RWF_NOWAIT,
        }
    }
}

/// Reads into a buffer. `WouldBlock` if there is nothing, `Unsupported` if the kernel can't promise not to block.
pub fn read(fd: BorrowedFd<'_>, ownership: Ownership, buffer: &mut [u8]) -> io::Result<usize> {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the one element of the vector is a buffer that lives through the call and is ours to write.
    let count = unsafe { libc::preadv2(fd.as_raw_fd(), &raw const part, 1, CURRENT_POSITION, ownership.flags()) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Writes parts as one. Errors as for [`read`].
pub fn write(fd: BorrowedFd<'_>, ownership: Ownership, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let count = libc::c_int::try_from(parts.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `IoSlice` has the layout of `struct iovec`, and its buffers live through the call.
    let result =
        unsafe { libc::pwritev2(fd.as_raw_fd(), parts.as_ptr().cast(), count, CURRENT_POSITION, ownership.flags()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
