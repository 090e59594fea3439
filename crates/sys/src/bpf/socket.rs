//! Programs that see what is sent to a socket (socket(7), SO_ATTACH_BPF).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::Program;

/// Has a program see each message to a socket, as long as that is open, whoever has it. Nobody can take the program away, or put another
/// one in its place (SO_LOCK_FILTER). The program is one of [`Program::load_filter`]; it returns how many bytes the socket receives.
pub fn attach_for_good(program: &Program, socket: BorrowedFd<'_>) -> nix::Result<()> {
    set_option(socket, libc::SO_ATTACH_BPF, program.as_fd().as_raw_fd())?;
    set_option(socket, libc::SO_LOCK_FILTER, 1)
}

fn set_option(socket: BorrowedFd<'_>, name: libc::c_int, value: libc::c_int) -> nix::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads `len` bytes of the number, which has as many.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), len) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::Instruction;
    use super::*;
    use crate::socket::{message_pair, recv, send};

    /// A program that returns a number.
    fn returning(bytes: u32) -> Program {
        Program::load_filter(c"tuntap_test", c"MIT", &[Instruction::new(0xb7, 0, 0, bytes), Instruction(0x95)])
            .expect("needs root")
    }

    #[test]
    fn program_decides_what_is_received_and_stays() {
        let (left, right) = message_pair().expect("sockets");
        attach_for_good(&returning(0), right.as_fd()).expect("a socket");
        let mut buffer = [0; 8];
        // Far more than would find room.
        for _ in 0..10_000 {
            assert_eq!(send(left.as_fd(), b"message"), Ok(7), "it is dropped without an error");
        }
        assert_eq!(recv(right.as_fd(), &mut buffer), Err(Errno::EAGAIN));
        assert_eq!(send(right.as_fd(), b"answer"), Ok(6));
        assert_eq!(recv(left.as_fd(), &mut buffer), Ok(6), "the other way is free");
        assert_eq!(attach_for_good(&returning(8), right.as_fd()), Err(Errno::EPERM));
        for option in [libc::SO_DETACH_FILTER, libc::SO_LOCK_FILTER] {
            assert_eq!(set_option(right.as_fd(), option, 0), Err(Errno::EPERM));
        }
        assert_eq!(send(left.as_fd(), b"message"), Ok(7));
        assert_eq!(recv(right.as_fd(), &mut buffer), Err(Errno::EAGAIN));
    }
}
