//! Waiting for programs without bpf(2), which takes no capability (membarrier(2)).

use nix::errno::Errno;

/// Asks what the kernel has.
const QUERY: libc::c_int = 0;

/// The one command of membarrier(2) that [`wait_for_programs`] needs (MEMBARRIER_CMD_GLOBAL).
pub const MEMBARRIER_GLOBAL: u32 = 1;

/// Returns true if [`wait_for_programs`] works here. A kernel without ticks on some processors (`nohz_full`) has it not, nor one without
/// CONFIG_MEMBARRIER.
pub fn can_wait_for_programs() -> bool {
    membarrier(QUERY).is_ok_and(|commands| commands.cast_unsigned() & MEMBARRIER_GLOBAL != 0)
}

/// Returns when no program runs any more that had begun before: the kernel waits until each processor has left all read sides of RCU that
/// it was in (synchronize_rcu() in kernel/sched/membarrier.c), and programs run in these. Since Linux 4.20 that is so for programs in
/// softirqs, too. With one processor the kernel doesn't wait: there no process runs while a softirq is under way, unless the kernel was
/// built with PREEMPT_RT. EINVAL or ENOSYS if the kernel can't.
pub fn wait_for_programs() -> nix::Result<()> {
    membarrier(MEMBARRIER_GLOBAL.cast_signed()).map(drop)
}

fn membarrier(command: libc::c_int) -> nix::Result<libc::c_int> {
    const NO_FLAGS: libc::c_uint = 0;
    const ANY_PROCESSOR: libc::c_int = 0;
    // SAFETY: three numbers; the kernel touches no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, NO_FLAGS, ANY_PROCESSOR) };
    Errno::result(result).map(|value| libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_waits_if_it_says_so() {
        assert_eq!(wait_for_programs().is_ok(), can_wait_for_programs());
        assert_eq!(membarrier(-1), Err(Errno::EINVAL));
    }
}
