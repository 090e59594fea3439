//! TCP connections that carry the packets of many others (tcp(7)).

use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::size_of_val;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self as kernel, sockopt};

/// The congestion control that keeps a connection going where some packets are lost at random.
pub const BBR: &str = "bbr";

/// How long sent bytes may wait for their acknowledgement, in milliseconds (TCP_USER_TIMEOUT). A little longer than the
/// routers wait for each other's signs of life, so that these decide.
const USER_TIMEOUT_MILLIS: u32 = 5_000;

/// How long a connection may be idle before the kernel probes it, and the time between probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// Probes without an answer that end a connection.
const PROBES: u32 = 2;

/// Most bytes that wait in the kernel without having been sent (TCP_NOTSENT_LOWAT). More would only make packets older.
const UNSENT_LIMIT: libc::c_int = 256 * 1024;

/// Parts of a message that can be sent together.
const MAX_PARTS: usize = 4;

/// Sends parts as one message of a socket that preserves messages' boundaries, without waiting. There may be four of them.
pub fn send_parts(fd: BorrowedFd<'_>, parts: &[&[u8]]) -> nix::Result<usize> {
    let mut slices = [IoSlice::new(&[]); MAX_PARTS];
    let places = slices.get_mut(..parts.len()).ok_or(Errno::EMSGSIZE)?;
    places.iter_mut().zip(parts).for_each(|(place, part)| *place = IoSlice::new(part));
    let flags = kernel::MsgFlags::MSG_DONTWAIT | kernel::MsgFlags::MSG_NOSIGNAL;
    kernel::sendmsg::<()>(fd.as_raw_fd(), places, &[], flags, None)
}

/// Returns true if the kernel has a congestion control, without loading a module.
pub fn has_congestion_control(name: &str) -> bool {
    let available = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
    available.is_ok_and(|list| list.split_whitespace().any(|word| word == name))
}

/// Sets the congestion control of a connection, or of a listener for all that it accepts. One that is not in
/// net.ipv4.tcp_allowed_congestion_control takes CAP_NET_ADMIN.
pub fn set_congestion_control(fd: BorrowedFd<'_>, name: &str) -> nix::Result<()> {
    kernel::setsockopt(&fd, sockopt::TcpCongestion, &OsString::from(name))
}

/// Makes a TCP connection send at once, keep little that is unsent, and notice a neighbour that is gone.
pub fn prepare_trunk(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let interval = u32::try_from(PROBE_INTERVAL.as_secs()).unwrap_or(u32::MAX);
    kernel::setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    kernel::setsockopt(&fd, sockopt::TcpUserTimeout, &USER_TIMEOUT_MILLIS)?;
    kernel::setsockopt(&fd, sockopt::KeepAlive, &true)?;
    kernel::setsockopt(&fd, sockopt::TcpKeepIdle, &interval)?;
    kernel::setsockopt(&fd, sockopt::TcpKeepInterval, &interval)?;
    kernel::setsockopt(&fd, sockopt::TcpKeepCount, &PROBES)?;
    limit_unsent(fd)
}

fn limit_unsent(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let limit = UNSENT_LIMIT;
    let len = libc::socklen_t::try_from(size_of_val(&limit)).map_err(|_| Errno::EINVAL)?;
    let value = (&raw const limit).cast();
    // SAFETY: the option is an int, which lives through the call.
    let result =
        unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, value, len) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_prepared() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
        prepare_trunk(stream.as_fd()).expect("options of each kernel");
        assert_eq!(kernel::getsockopt(&stream, sockopt::TcpUserTimeout), Ok(USER_TIMEOUT_MILLIS));
        assert!(!has_congestion_control("nonesuch"));
        assert!(set_congestion_control(stream.as_fd(), "nonesuch").is_err());
        // What a kernel says it has, it can be asked for, if it is allowed.
        if has_congestion_control("reno") {
            set_congestion_control(listener.as_fd(), "reno").expect("it is always allowed");
        }
    }
}
