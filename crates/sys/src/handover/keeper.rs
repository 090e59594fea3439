//! A child that keeps descriptors while this process executes another program. An exec opens a process to others of its user
//! ([`crate::dumpable`]) before the new image can close it again, so the old image keeps no descriptor that these could take:
//! the child, which stays closed to them, holds copies and gives them to the new image and to nobody else.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use libc::{c_int, c_long, c_uint};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg, sendmsg,
    setsockopt, socketpair, sockopt,
};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};

use crate::socket::wait_readable;

/// Most descriptors that can be kept: what fits a message (unix(7), `SCM_MAX_FD`).
const MAX_DESCRIPTORS: usize = 253;

/// How long the child waits for the new image. It ends at once if its parent does.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How often the child looks whether its parent is still there, in milliseconds.
const LOOK_MILLIS: c_int = 500;

/// How long the new image waits for the child, on a machine that has much else to do.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The child, as its parent and the parent's next image see it.
#[derive(Debug)]
pub struct Keeper {
    /// The socket by which it is asked.
    pub socket: OwnedFd,
    /// Its process number.
    pub pid: libc::pid_t,
}

impl Keeper {
    /// Starts a child that has copies of these descriptors and of no others. The caller closes its own.
    pub fn start(descriptors: &[RawFd]) -> nix::Result<Self> {
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(Errno::E2BIG);
        }
        let (socket, childs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&childs, sockopt::PassCred, &true)?;
        // Everything that the child needs is made before: it has only one of this process's threads, and may not allocate.
        let control = rights(descriptors);
        let mut kept: Vec<RawFd> = descriptors.iter().copied().chain([childs.as_raw_fd()]).collect();
        kept.sort_unstable();
        let parent = getpid().as_raw();
        let mut before = SigSet::empty();
        // No handler of the parent's is to run in the child.
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
        // SAFETY: as fork(2), but without the handlers of pthread_atfork(3), which would close the descriptors. The child
        // only makes system calls on what was prepared, and never returns.
        let pid = unsafe { libc::syscall(libc::SYS_clone, c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
        if pid == 0 {
            keep(childs.as_raw_fd(), &kept, &control, parent);
        }
        let result = Errno::result(pid);
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        Ok(Self { socket, pid: libc::pid_t::try_from(result?).map_err(|_| Errno::EOVERFLOW)? })
    }

    /// Takes the descriptors in the next image, once that is closed to others: in their order, closed on exec. The child has
    /// ended then.
    pub fn take(self) -> io::Result<Vec<OwnedFd>> {
        let result = self.ask();
        if result.is_err() {
            self.end();
        } else {
            let _ = waitpid(Pid::from_raw(self.pid), None);
        }
        result
    }

    /// Ends the child.
    pub fn end(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        let _ = waitpid(Pid::from_raw(self.pid), None);
    }

    fn ask(&self) -> io::Result<Vec<OwnedFd>> {
        if getsockopt(&self.socket, sockopt::SockType)? != SockType::SeqPacket {
            return Err(Errno::EPROTOTYPE.into());
        }
        // Others may have a copy of the socket that the exec has left open, and could read the answer there. Nobody has a copy
        // of this new one.
        let (answer, childs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let rights = [childs.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(b"?")], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        drop(childs);
        if !wait_readable(answer.as_fd(), TIMEOUT) {
            return Err(Errno::ETIMEDOUT.into());
        }
        let mut byte = [0];
        let mut data = [IoSliceMut::new(&mut byte)];
        let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let message = recvmsg::<()>(answer.as_raw_fd(), &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        let mut received = Vec::new();
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = part {
                // SAFETY: the kernel has just made them for this process.
                received.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        if received.is_empty() { Err(Errno::ENODATA.into()) } else { Ok(received) }
    }
}

/// A control message with descriptors (cmsg(3)), aligned as its header has to be.
fn rights(descriptors: &[RawFd]) -> Vec<u64> {
    let len = c_uint::try_from(size_of_val(descriptors)).unwrap_or_default();
    // SAFETY: computes a number.
    let space = unsafe { libc::CMSG_SPACE(len) } as usize;
    let mut control = vec![0_u64; space.div_ceil(size_of::<u64>())];
    let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: computes a number.
    let total = unsafe { libc::CMSG_LEN(len) };
    let head = libc::cmsghdr { cmsg_len: total as _, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    // SAFETY: the vector is long enough for a header and what CMSG_SPACE counts, and aligned for it.
    unsafe { header.write(head) };
    // SAFETY: a pointer behind that header, into the same vector.
    let data = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: the vector has that many bytes there, and nothing of it overlaps with the descriptors.
    unsafe { ptr::copy_nonoverlapping(descriptors.as_ptr().cast::<u8>(), data, len as usize) };
    control
}

/// The child. Async-signal-safe: another thread of its parent may hold any lock.
fn keep(socket: RawFd, kept: &[RawFd], control: &[u64], parent: libc::pid_t) -> ! {
    close_others(kept);
    let deadline = Instant::now() + KEPT_FOR;
    while Instant::now() < deadline && parent_is(parent) {
        let mut item = libc::pollfd { fd: socket, events: libc::POLLIN, revents: 0 };
        // SAFETY: the structure lives through the call.
        if unsafe { libc::poll(&raw mut item, 1, LOOK_MILLIS) } <= 0 {
            continue;
        }
        match receive(socket) {
            Received::End => break,
            Received::Other => {}
            Received::Request { from, answer } => {
                if from == parent {
                    send(answer, control);
                    break;
                }
                close(answer);
            }
        }
    }
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(0) }
}

fn parent_is(pid: libc::pid_t) -> bool {
    // SAFETY: getppid(2) has no preconditions and can't fail.
    unsafe { libc::getppid() == pid }
}

fn close(descriptor: RawFd) {
    // SAFETY: a descriptor that this process has just received, and that nothing else refers to.
    unsafe { libc::close(descriptor) };
}

/// Closes everything between the descriptors that are kept (close_range(2)). An older kernel than 5.9 leaves them open
/// until the child's end.
fn close_others(sorted: &[RawFd]) {
    let mut first = 0;
    for &descriptor in sorted {
        if first < descriptor {
            // SAFETY: nothing in the child uses them.
            unsafe { libc::syscall(libc::SYS_close_range, first, descriptor - 1, 0) };
        }
        first = descriptor + 1;
    }
    // SAFETY: nothing in the child uses these, either.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, 0) };
}

enum Received {
    /// The other end is closed everywhere.
    End,
    /// A message with a descriptor, from a process that the kernel vouches for.
    Request { from: libc::pid_t, answer: RawFd },
    /// Neither of both.
    Other,
}

/// Room for credentials and for as many descriptors as a message can have.
const CONTROL_WORDS: usize = 160;

fn receive(socket: RawFd) -> Received {
    let mut byte = [0_u8];
    let mut control = [0_u64; CONTROL_WORDS];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: numbers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: all that the structure points to lives through the call.
    let count = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    let (mut from, mut answer) = (None, None);
    // SAFETY: the kernel has filled in the structure.
    let mut part = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while count >= 0 && !part.is_null() {
        // SAFETY: not null, so that it is a header inside of `control`.
        let head = unsafe { part.read() };
        // SAFETY: a pointer behind that header, into `control`.
        let content = unsafe { libc::CMSG_DATA(part) };
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                // SAFETY: what such a message has in it (unix(7)).
                from = Some(unsafe { content.cast::<libc::ucred>().read_unaligned() }.pid);
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                // SAFETY: computes a number.
                let empty = unsafe { libc::CMSG_LEN(0) } as usize;
                let numbers = (head.cmsg_len as usize).saturating_sub(empty) / size_of::<RawFd>();
                for index in 0..numbers {
                    // SAFETY: the message has so many descriptors, one behind the other.
                    let number = unsafe { content.cast::<RawFd>().wrapping_add(index).read_unaligned() };
                    if let Some(unwanted) = answer.replace(number) {
                        close(unwanted);
                    }
                }
            }
            _ => {}
        }
        // SAFETY: both are as the kernel left them.
        part = unsafe { libc::CMSG_NXTHDR(&raw const message, part) };
    }
    match (count, from, answer) {
        (_, Some(from), Some(answer)) => Received::Request { from, answer },
        (0, ..) => Received::End,
        _ => Received::Other,
    }
}

fn send(answer: RawFd, control: &[u64]) {
    let mut byte = *b"!";
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: numbers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_ptr().cast_mut().cast();
    message.msg_controllen = size_of_val(control) as _;
    // SAFETY: all that the structure points to lives through the call, and the kernel doesn't write to it.
    unsafe { libc::sendmsg(answer, &raw const message, libc::MSG_NOSIGNAL) };
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn file(text: &str) -> std::fs::File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("room");
        file
    }

    #[test]
    fn descriptors_come_back_in_their_order() {
        for count in [1_usize, 2, MAX_DESCRIPTORS] {
            let files: Vec<_> = (0..count).map(|number| file(&number.to_string())).collect();
            let keeper = Keeper::start(&files.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>()).expect("a child");
            drop(files);
            let back = keeper.take().expect("all of them");
            let text = |descriptor: OwnedFd| {
                let mut text = String::new();
                let mut file = std::fs::File::from(descriptor);
                file.rewind().and_then(|()| file.read_to_string(&mut text)).expect("a file");
                text
            };
            assert_eq!(
                back.into_iter().map(text).collect::<Vec<_>>(),
                (0..count).map(|it| it.to_string()).collect::<Vec<_>>()
            );
        }
        let too_many = vec![0; MAX_DESCRIPTORS + 1];
        assert_eq!(Keeper::start(&too_many).map(|_| ()), Err(Errno::E2BIG));
    }

    /// Another process with a copy of the socket can ask, but gets nothing, and doesn't keep the parent from it.
    #[test]
    fn nobody_else_is_answered() {
        let keeper = Keeper::start(&[file("x").as_raw_fd()]).expect("a child");
        let asks = r#"
import array, os, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
for _ in range(1000):
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rights = array.array("i", [far.fileno()])
    channel.sendmsg([b"?"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    channel.sendmsg([b"?"])
    far.close()
    assert near.recv(1) == b"", "an answer"
"#;
        let copy = keeper.socket.as_fd();
        crate::process::set_close_on_exec(copy, false).expect("an own descriptor");
        let thief = std::process::Command::new("python3").args(["-c", asks, &copy.as_raw_fd().to_string()]).status();
        assert!(thief.expect("python3 is installed").success());
        assert_eq!(keeper.take().expect("it is still there").len(), 1);
    }

    #[test]
    fn child_ends_with_the_other_end() {
        let Keeper { socket, pid } = Keeper::start(&[file("x").as_raw_fd()]).expect("a child");
        drop(socket);
        assert!(waitpid(Pid::from_raw(pid), None).is_ok());
    }
}
