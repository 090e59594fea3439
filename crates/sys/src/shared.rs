//! Memory that a process shares with the children that it forks.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Length of the mapping; the kernel rounds it up to a page.
const LEN: NonZeroUsize = NonZeroUsize::new(size_of::<AtomicU64>()).expect("8 is not 0");

/// A number that a process and its children read and write: the mapping is shared across a fork (mmap(2), MAP_SHARED).
#[derive(Debug)]
pub struct SharedNumber(NonNull<AtomicU64>);

// SAFETY: it points to an atomic in a mapping that nobody but this value unmaps.
unsafe impl Send for SharedNumber {}
// SAFETY: it points to an atomic in a mapping that nobody but this value unmaps.
unsafe impl Sync for SharedNumber {}

impl SharedNumber {
    /// A number that is 0.
    pub fn new() -> nix::Result<Self> {
        let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let page = unsafe { mmap_anonymous(None, LEN, protection, flags) }?;
        // The mapping begins at a page, so that it is aligned, and is zeroed, which is valid for an atomic number.
        Ok(Self(page.cast()))
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.number().load(Ordering::Relaxed)
    }

    /// Sets the value.
    pub fn set(&self, value: u64) {
        self.number().store(value, Ordering::Relaxed);
    }

    const fn number(&self) -> &AtomicU64 {
        // SAFETY: aligned and initialized (see `new`), and mapped for as long as `self` lives.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedNumber {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; nothing refers to it any more. Those of other processes stay.
        let result = unsafe { munmap(self.0.cast(), LEN.get()) };
        debug_assert!(result.is_ok(), "munmap of an own mapping");
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    use super::*;

    #[test]
    fn child_writes_what_its_parent_reads() {
        let number = SharedNumber::new().expect("a page");
        assert_eq!(number.get(), 0);
        // SAFETY: the child calls nothing but async-signal-safe functions before it ends.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Child => {
                number.set(7);
                // SAFETY: _exit(2) ends the child without running anything of the test's.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => waitpid(child, None).expect("the child ends"),
        };
        assert_eq!(number.get(), 7);
    }
}
