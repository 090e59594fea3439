//! The memory of maps and programs, as kernels before Linux 5.11 count it.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use parking_lot::{Mutex, MutexGuard};

/// Only one thread has the limit lifted: two would put back what the other one has changed.
static LIFTING: Mutex<()> = Mutex::new(());

/// The limit of locked memory (getrlimit(2), RLIMIT_MEMLOCK) is lifted as long as this lives. Before Linux 5.11 all maps and programs of a
/// user count against the limit of the process that makes the next one, which mostly is 64 KiB; that they are too large is EPERM (bpf(2)).
pub struct Lifted {
    before: (rlim_t, rlim_t),
    _only: MutexGuard<'static, ()>,
}

impl Lifted {
    /// Lifts the limit, or without CAP_SYS_RESOURCE raises it as far as it goes.
    pub fn new() -> nix::Result<Self> {
        let only = LIFTING.lock();
        let (soft, hard) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
        set(libc::RLIM_INFINITY, libc::RLIM_INFINITY).or_else(|_| set(hard, hard))?;
        Ok(Self { before: (soft, hard), _only: only })
    }
}

impl Drop for Lifted {
    fn drop(&mut self) {
        let (soft, hard) = self.before;
        // A process may always lower its limits.
        let _ = set(soft, hard);
    }
}

fn set(soft: rlim_t, hard: rlim_t) -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, soft, hard)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_as_before_afterwards() {
        let limit = || getrlimit(Resource::RLIMIT_MEMLOCK).expect("a limit");
        let (_, hard) = limit();
        set(0, hard).expect("a process may lower its limits");
        let lifted = Lifted::new().expect("a process may raise a limit that is below its hard one");
        let (now, most) = limit();
        assert!(now == most && most >= hard, "{now}, {most}");
        drop(lifted);
        assert_eq!(limit(), (0, hard));
    }
}
