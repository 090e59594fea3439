//! Waiting for descriptors, up to a time.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What to wait for on a descriptor. Its end is always waited for.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// Something to read.
    pub read: bool,
    /// Room to write.
    pub write: bool,
}

/// What has come on a descriptor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// There is something to read, or its end.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other end is closed, in both directions.
    pub hung_up: bool,
}

/// Waits until one of the descriptors has something, or until `deadline`; without one as long as it takes. All are idle if the
/// time is over.
pub fn wait<const N: usize>(wants: [Want<'_>; N], deadline: Option<Instant>) -> io::Result<[Ready; N]> {
    let mut items = wants.map(|want| {
        let read = if want.read { PollFlags::POLLIN } else { PollFlags::empty() };
        PollFd::new(want.fd, if want.write { read | PollFlags::POLLOUT } else { read })
    });
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // The kernel counts milliseconds; what is less would be a busy loop.
        let timeout = left.map_or(Ok(PollTimeout::NONE), |left| PollTimeout::try_from(left + Duration::from_millis(1)));
        match poll(&mut items, timeout.unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(std::array::from_fn(|at| {
        let found = items[at].revents().unwrap_or(PollFlags::empty());
        let hung_up = found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL);
        Ready {
            readable: found.contains(PollFlags::POLLIN) || hung_up,
            writable: found.contains(PollFlags::POLLOUT),
            hung_up,
        }
    }))
}

/// Returns true for errors that only mean that nothing can be done now.
pub fn is_to_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
