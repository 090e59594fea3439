//! Connections of other users. A thread can have credentials of its own, and the kernel remembers those of the thread
//! that connects.
#![allow(unsafe_code, reason = "the C library changes credentials for all threads at once")]

use std::io::{Error, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};

use crate::common::emperor::Emperor;
use crate::common::raw_peer::RawPeer;
use crate::common::wait;
use crate::common::wire;

/// The user and groups of a process.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    pub groups: &'static [u32],
}

impl Account {
    pub const fn user(uid: u32) -> Self {
        Self { uid, gid: uid, groups: &[] }
    }

    /// Runs `work` as this account.
    pub fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        let as_this = || {
            become_account(self).expect("the test is root");
            work()
        };
        thread::scope(|scope| scope.spawn(as_this).join().expect("no panic"))
    }

    /// A connection of this account that has sent nothing yet.
    #[track_caller]
    pub fn connect(self, emperor: &Emperor) -> RawPeer {
        RawPeer::over(self.stream(&emperor.socket()))
    }

    fn stream(self, socket: &Path) -> UnixStream {
        wait::until("a connection to the router", wait::LONG, || self.run(|| UnixStream::connect(socket).ok()))
    }

    /// A connection of this account that has shown the credentials of `shown`, if the kernel lets it.
    pub fn connect_as(self, emperor: &Emperor, shown: Self) -> Result<RawPeer, Errno> {
        let stream = self.stream(&emperor.socket());
        let pid = libc::pid_t::try_from(std::process::id()).expect("a pid fits its type");
        let credentials = UnixCredentials::from(libc::ucred { pid, uid: shown.uid, gid: shown.gid });
        self.run(|| {
            let control = [ControlMessage::ScmCredentials(&credentials)];
            let message = [IoSlice::new(wire::CREDENTIALS)];
            sendmsg::<()>(stream.as_raw_fd(), &message, &control, MsgFlags::empty(), None)
        })?;
        Ok(RawPeer::over(stream))
    }
}

fn become_account(account: Account) -> std::io::Result<()> {
    let Account { uid, gid, groups } = account;
    // SAFETY: setgroups(2) reads as many numbers as it is told to, and there are as many.
    checked(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: these take numbers. The thread ends without doing anything for which others would have to be root.
    checked(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: as above.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

fn checked(result: libc::c_long) -> std::io::Result<()> {
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
