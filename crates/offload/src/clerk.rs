//! The clerk: a program that changes maps for the router's process. That one has no capability, and before Linux 5.19 the kernel lets such a
//! process use all of bpf(2) or, mostly, nothing of it (`kernel.unprivileged_bpf_disabled`). So it sends the clerk a message, and the
//! kernel runs the clerk in this call of send(2), as a filter of the socket that would receive it (sk_filter() in unix_dgram_sendmsg() of
//! net/unix/af_unix.c). Messages and answer are those of programs/shared.h.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use parking_lot::Mutex;
use tuntap_sys::bpf::{Program, attach_for_good};
use tuntap_sys::socket::{message_pair, send};

use super::maps::{CLAIM_LEN, KEY_LEN, VERDICT_LEN};

/// Bytes in front of key and value: `struct change`.
const HEAD_LEN: usize = 8;

/// `change.kind`.
const SET_FLOW: u32 = 1;
const REMOVE_FLOW: u32 = 2;
const SET_CLAIM: u32 = 3;
const REMOVE_CLAIM: u32 = 4;

/// What is asked for.
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
    /// Makes the sockets. Without a program, changes are refused. By sockets of SOCK_DGRAM the router's process could send to any such socket
    /// of the host, by its name; these reach each other alone.
    pub fn new() -> nix::Result<Self> {
        let (counter, desk) = message_pair()?;
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
                self.ask(answer, &mut long, SET_FLOW, key)
            }
            Change::RemoveFlow(key) => self.ask(answer, &mut long, REMOVE_FLOW, key),
            Change::SetClaim(claim) => self.ask(answer, &mut short, SET_CLAIM, claim),
            Change::RemoveClaim(claim) => self.ask(answer, &mut short, REMOVE_CLAIM, claim),
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::thread;

    use caps::CapSet;
    use nix::sys::socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, sendto, socket,
    };
    use tuntap_sys::bpf::Map;
    use tuntap_sys::socket::recv;

    use super::super::generated::CLERK;
    use super::super::maps::{CONTROL_ANSWER, Maps};
    use super::*;

    const ROOM: u8 = 16;

    fn maps() -> Maps {
        Maps::new(ROOM.into()).expect("needs root")
    }

    /// What a map of verdicts has for a key.
    fn verdict(maps: &Maps, key: u8) -> Option<[u8; VERDICT_LEN]> {
        let mut value = [0; VERDICT_LEN];
        maps.flows.get(&[key; KEY_LEN], &mut value).expect("a map").then_some(value)
    }

    fn has_claim(maps: &Maps, claim: u8) -> bool {
        maps.claims.get(&[claim; CLAIM_LEN], &mut [0; 4]).expect("a map")
    }

    #[test]
    fn changes_are_made_and_answered() {
        let maps = maps();
        let set = |key: u8, value: u8| maps.change(Change::SetFlow(&[key; KEY_LEN], &[value; VERDICT_LEN]));
        let remove = |key: u8| maps.change(Change::RemoveFlow(&[key; KEY_LEN]));
        assert_eq!((set(1, 7), verdict(&maps, 1)), (Ok(()), Some([7; VERDICT_LEN])));
        assert_eq!((set(1, 8), verdict(&maps, 1)), (Ok(()), Some([8; VERDICT_LEN])));
        for key in 2..=ROOM {
            set(key, key).expect("room");
        }
        assert_eq!((set(ROOM + 1, 1), verdict(&maps, ROOM + 1)), (Err(Errno::E2BIG), None));
        assert_eq!((remove(1), verdict(&maps, 1)), (Ok(()), None));
        assert_eq!(remove(1), Err(Errno::ENOENT));
        assert_eq!((set(ROOM + 1, 1), verdict(&maps, 2)), (Ok(()), Some([2; VERDICT_LEN])));

        let claim = [1; CLAIM_LEN];
        assert_eq!((maps.change(Change::SetClaim(&claim)), has_claim(&maps, 1)), (Ok(()), true));
        assert_eq!(maps.change(Change::SetClaim(&claim)), Ok(()), "the same again");
        assert_eq!((maps.change(Change::RemoveClaim(&claim)), has_claim(&maps, 1)), (Ok(()), false));
        assert_eq!(maps.change(Change::RemoveClaim(&claim)), Err(Errno::ENOENT));

        set(1, 1).expect_err("full");
        maps.change(Change::SetClaim(&claim)).expect("room");
        maps.clear().expect("it is root");
        assert_eq!((verdict(&maps, 2), has_claim(&maps, 1)), (None, false));
    }

    #[test]
    fn what_is_no_change_has_no_effect_and_no_answer() {
        let (maps, answer) = (maps(), AtomicU64::new(7 << 32 | 5));
        maps.change(Change::SetFlow(&[1; KEY_LEN], &[1; VERDICT_LEN])).expect("room");
        maps.change(Change::SetClaim(&[1; CLAIM_LEN])).expect("room");
        let clerk = Clerk::new().expect("sockets");
        clerk.employ(&CLERK.load_filter(&maps).expect("the verifier agrees")).expect("a socket");
        assert_eq!(clerk.change(&answer, Change::RemoveFlow(&[2; KEY_LEN])), Err(Errno::EIO), "it answers elsewhere");
        let answered = maps.control.map().expect("memory")[CONTROL_ANSWER].load(Ordering::Relaxed);
        let (long, short) = (HEAD_LEN + KEY_LEN + VERDICT_LEN, HEAD_LEN + CLAIM_LEN);
        let mut seen = 0;
        for len in (0..=200).chain([4096, 100_000]) {
            for kind in [0, 1, 2, 3, 4, 5, 0x0100_0000, u32::MAX] {
                let is_change = len == long && [SET_FLOW, REMOVE_FLOW].contains(&kind)
                    || len == short && [SET_CLAIM, REMOVE_CLAIM].contains(&kind);
                // Once with the key that is there, once with another one.
                for byte in [1, 2].into_iter().filter(|_| !is_change) {
                    let mut message = vec![byte; len];
                    let head: Vec<u8> = [99_u32, kind].into_iter().flat_map(u32::to_ne_bytes).collect();
                    message.iter_mut().zip(head).for_each(|(to, from)| *to = from);
                    assert_eq!(send(clerk.counter.as_fd(), &message), Ok(len));
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, (203 * 8 - 4) * 2);
        assert_eq!(maps.control.map().expect("memory")[CONTROL_ANSWER].load(Ordering::Relaxed), answered);
        let only = |map: &Map, key: &[u8]| {
            assert_eq!(map.next_key(None), Ok(Some(key.to_vec())));
            assert_eq!(map.next_key(Some(key)), Ok(None), "it is the only one");
        };
        only(&maps.flows, &[1; KEY_LEN]);
        only(&maps.claims, &[1; CLAIM_LEN]);
        assert_eq!(verdict(&maps, 1), Some([1; VERDICT_LEN]));
    }

    #[test]
    fn changes_of_many_threads_without_capabilities_have_their_own_answers() {
        let maps = maps();
        let work = |claim: u8| {
            caps::clear(None, CapSet::Effective).expect("a thread may give them up");
            let claim = [claim; CLAIM_LEN];
            for _ in 0..1000 {
                assert_eq!(maps.change(Change::SetClaim(&claim)), Ok(()));
                assert_eq!(maps.change(Change::RemoveClaim(&claim)), Ok(()));
                assert_eq!(maps.change(Change::RemoveClaim(&claim)), Err(Errno::ENOENT));
            }
        };
        thread::scope(|scope| (1..=4).for_each(|claim| _ = scope.spawn(move || work(claim))));
        assert_eq!(maps.claims.next_key(None), Ok(None));
    }

    #[test]
    fn its_sockets_reach_nobody_else() {
        let clerk = Clerk::new().expect("sockets");
        let folder = tempfile::tempdir().expect("a folder");
        for (name, kind, refusal) in
            [("datagrams", SockType::Datagram, Errno::EPROTOTYPE), ("messages", SockType::SeqPacket, Errno::EISCONN)]
        {
            let address = UnixAddr::new(&folder.path().join(name)).expect("a short path");
            let other = socket(AddressFamily::Unix, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None);
            let other = other.expect("a socket");
            bind(other.as_raw_fd(), &address).expect("a free name");
            if kind == SockType::SeqPacket {
                listen(&other, Backlog::new(1).expect("a small number")).expect("a listener");
            }
            for end in clerk.descriptors() {
                assert_eq!(connect(end.as_raw_fd(), &address), Err(refusal), "{name}");
                // The address is ignored.
                assert_eq!(sendto(end.as_raw_fd(), &[0; 3], &address, MsgFlags::MSG_DONTWAIT), Ok(3), "{name}");
            }
            assert!(recv(other.as_fd(), &mut [0; 3]).is_err(), "{name}");
        }
        for end in clerk.descriptors() {
            assert_eq!(recv(end, &mut [0; 4]), Ok(3), "it has come to the other end");
        }
    }

    #[test]
    fn without_a_program_changes_are_refused() {
        let clerk = Clerk::new().expect("sockets");
        let answer = AtomicU64::new(u64::MAX);
        assert_eq!(clerk.change(&answer, Change::RemoveClaim(&[0; CLAIM_LEN])), Err(Errno::EIO));
    }
}
