//! The clerk: a program that changes maps for the router's process. That one has no capability, and before Linux 5.19 the kernel lets such a
//! process use all of bpf(2) or, mostly, nothing of it (`kernel.unprivileged_bpf_disabled`). So it sends the clerk a message, and the
//! kernel runs the clerk in this call of send(2), as a filter of the socket that would receive it (sk_filter() in unix_dgram_sendmsg() of
//! net/unix/af_unix.c). Messages and answer are those of programs/shared.h.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;
use tuntap_sys::bpf::{Program, attach_for_good};
use tuntap_sys::socket::{datagram_pair, send};

use super::maps::{CLAIM_LEN, KEY_LEN, VERDICT_LEN};

/// Bytes in front of key and value: `struct change`.
const HEAD_LEN: usize = 8;

/// What is asked for: `change.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// To set the verdict of a key in the map `flows`.
    SetFlow(&'a [u8; KEY_LEN], &'a [u8; VERDICT_LEN]),
    /// To remove a key from there.
    RemoveFlow(&'a [u8; KEY_LEN]),
    /// To add a claim to the map `claims`.
    SetClaim(&'a [u8; CLAIM_LEN]),
    /// To remove it.
    RemoveClaim(&'a [u8; CLAIM_LEN]),
}

/// The sockets. They live as long as a process has both of them open.
#[derive(Debug)]
pub struct Clerk {
    /// Where changes are sent.
    counter: OwnedFd,
    /// Where the program is. Nothing ever arrives here.
    desk: OwnedFd,
    /// One change at a time: there is one place for the answer.
    queue: Mutex<()>,
}

impl Clerk {
    /// Makes the sockets. Without a program, changes are refused.
    pub fn new() -> nix::Result<Self> {
        let (counter, desk) = datagram_pair()?;
        Ok(Self { counter, desk, queue: Mutex::new(()) })
    }

    /// Puts the program to work, for good.
    pub fn employ(&self, program: &Program) -> nix::Result<()> {
        attach_for_good(program, self.desk.as_fd())
    }

    /// The descriptors that have to stay open.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.counter.as_fd(), self.desk.as_fd()]
    }

    /// Has a map changed. `answer` is the number that the program writes. E2BIG if the map is full, ENOENT if there is nothing to remove,
    /// ENOMEM if the kernel has no memory for the element, or another error of send(2).
    pub fn change(&self, answer: &AtomicU64, change: Change<'_>) -> nix::Result<()> {
        let mut long = [0; HEAD_LEN + KEY_LEN + VERDICT_LEN];
        let mut short = [0; HEAD_LEN + CLAIM_LEN];
        match change {
            Change::SetFlow(key, verdict) => {
                long[HEAD_LEN + KEY_LEN..].copy_from_slice(verdict);
                self.ask(answer, &mut long, 1, key)
            }
            Change::RemoveFlow(key) => self.ask(answer, &mut long, 2, key),
            Change::SetClaim(claim) => self.ask(answer, &mut short, 3, claim),
            Change::RemoveClaim(claim) => self.ask(answer, &mut short, 4, claim),
        }
    }

    /// Sends a message with a number, a kind and a key, and reads the answer.
    fn ask(&self, answer: &AtomicU64, message: &mut [u8], kind: u32, key: &[u8]) -> nix::Result<()> {
        let _queue = self.queue.lock();
        // The one behind that of the last change, whichever process has asked for that.
        let number = parts(answer.load(Ordering::Relaxed)).0.wrapping_add(1);
        message[..4].copy_from_slice(&number.to_ne_bytes());
        message[4..HEAD_LEN].copy_from_slice(&kind.to_ne_bytes());
        message[HEAD_LEN..HEAD_LEN + key.len()].copy_from_slice(key);
        while let Err(errno) = send(self.counter.as_fd(), message) {
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
        match parts(answer.load(Ordering::Acquire)) {
            (answered, 0) if answered == number => Ok(()),
            (answered, error) if answered == number => Err(Errno::from_raw(error.cast_signed())),
            // No program has seen it.
            _ => Err(Errno::EIO),
        }
    }
}

/// The number of the change that was answered, and 0 or the error.
#[allow(clippy::cast_possible_truncation)] // both halves are taken
const fn parts(answer: u64) -> (u32, u32) {
    ((answer >> u32::BITS) as u32, answer as u32)
}
