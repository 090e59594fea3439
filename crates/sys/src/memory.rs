//! Memory in files that have no name (memfd_create(2)). A process makes it before it forks, and each of its children that uses
//! it finds what the ones before have written.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Numbers that outlive the processes that write them. Their number never changes, so that no access to them can fail.
#[derive(Debug)]
pub struct SharedWords {
    file: OwnedFd,
    words: NonZeroUsize,
}

/// What makes that sure.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

impl SharedWords {
    /// So many numbers, all 0. The kernel finds memory for them as they are written.
    pub fn new(words: NonZeroUsize) -> nix::Result<Self> {
        let file = memfd_create(c"uwsgi-tuntap-words", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let len = words.get().checked_mul(size_of::<AtomicU64>()).ok_or(Errno::EOVERFLOW)?;
        ftruncate(&file, libc::off_t::try_from(len).map_err(|_| Errno::EOVERFLOW)?)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
        Ok(Self { file, words })
    }

    /// Those that another process has made. `None` if the file isn't one of them, or there are not so many.
    pub fn adopt(file: OwnedFd, words: NonZeroUsize) -> Option<Self> {
        let found = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS).ok()?);
        let len = usize::try_from(fstat(&file).ok()?.st_size).ok()?;
        let is_complete = found.contains(seals()) && words.get().checked_mul(size_of::<AtomicU64>()) == Some(len);
        is_complete.then_some(Self { file, words })
    }

    /// Maps the numbers into this process, for as long as it lives.
    pub fn map(&self) -> nix::Result<&'static [AtomicU64]> {
        let len = self.words.checked_mul(const { NonZeroUsize::new(size_of::<AtomicU64>()).expect("8 is not 0") });
        let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let place = unsafe { mmap(None, len.ok_or(Errno::EOVERFLOW)?, protection, flags, &self.file, 0) }?;
        // SAFETY: the mapping begins at a page, so that it is aligned. The file has that length and is sealed, so that each
        // number is there. Any bits are a valid number, and it is only accessed atomically. Nobody ever unmaps it.
        Ok(unsafe { std::slice::from_raw_parts(place.cast().as_ptr(), self.words.get()) })
    }

    /// The descriptor that keeps the memory.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A file in memory. Its content outlives the processes that write it.
#[derive(Debug)]
pub struct MemoryFile(OwnedFd);

impl MemoryFile {
    /// An empty one. The name is for /proc alone.
    pub fn new(name: &CStr) -> nix::Result<Self> {
        memfd_create(name, MFdFlags::MFD_CLOEXEC).map(Self)
    }

    /// One that another process has made.
    pub const fn adopt(file: OwnedFd) -> Self {
        Self(file)
    }

    /// The descriptor that keeps the memory.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Gives the memory back.
    pub fn clear(&self) -> nix::Result<()> {
        ftruncate(&self.0, 0)
    }

    /// Fills the buffer from a place. `UnexpectedEof` if there is less.
    pub fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let place = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
            // SAFETY: the one element of the vector is a buffer that lives through the call and is ours to write. preadv2(2)
            // is a call that the router's process may make in its sandbox.
            let count = unsafe { libc::preadv2(self.0.as_raw_fd(), &raw const part, 1, place, 0) };
            match usize::try_from(count) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = buffer.split_at_mut(count).1;
                    offset += count as u64;
                }
                Err(_) if Errno::last() == Errno::EINTR => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }

    /// Writes bytes to a place. The file grows as it has to.
    pub fn write_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let place = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
            // SAFETY: the one element of the vector lives through the call, which reads it only. pwritev2(2) is a call that the
            // router's process may make in its sandbox.
            let count = unsafe { libc::pwritev2(self.0.as_raw_fd(), &raw const part, 1, place, 0) };
            match usize::try_from(count) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(_) if Errno::last() == Errno::EINTR => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    use super::*;

    const THREE: NonZeroUsize = NonZeroUsize::new(3).expect("not 0");

    #[test]
    fn words_outlive_the_process_that_writes_them() {
        let words = SharedWords::new(THREE).expect("memory");
        // SAFETY: the child calls nothing but async-signal-safe functions before it ends.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                if let Ok(mapped) = words.map() {
                    mapped[2].store(7, Ordering::Relaxed);
                }
                // SAFETY: _exit(2) ends the child without running anything of the test's.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => waitpid(child, None).expect("the child ends"),
        };
        let mapped = words.map().expect("a place");
        assert_eq!((mapped.len(), mapped[0].load(Ordering::Relaxed), mapped[2].load(Ordering::Relaxed)), (3, 0, 7));
    }

    #[test]
    fn nobody_can_take_the_memory_away() {
        let words = SharedWords::new(THREE).expect("memory");
        for len in [0, 8, 4096] {
            assert_eq!(ftruncate(words.descriptor(), len), Err(Errno::EPERM), "{len}");
        }
        let copy = || words.descriptor().try_clone_to_owned().expect("a descriptor");
        assert!(SharedWords::adopt(copy(), THREE).is_some());
        assert!(SharedWords::adopt(copy(), NonZeroUsize::new(4).expect("not 0")).is_none());
        let unsealed = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).expect("memory");
        ftruncate(&unsealed, 24).expect("memory");
        assert!(SharedWords::adopt(unsealed, THREE).is_none());
    }

    #[test]
    fn file_is_read_where_it_was_written() {
        let file = MemoryFile::new(c"test").expect("memory");
        file.write_at(b"world", 6).and_then(|()| file.write_at(b"hello ", 0)).expect("memory");
        let mut text = [0; 11];
        file.read_at(&mut text, 0).expect("it is there");
        assert_eq!(&text, b"hello world");
        assert_eq!(file.read_at(&mut text, 1).map_err(|error| error.kind()), Err(io::ErrorKind::UnexpectedEof));
        file.clear().expect("memory");
        assert!(file.read_at(&mut text[..1], 0).is_err());
    }
}
