//! The share of processor time that the kernel gives this process (sched(7)).

use std::fs;
use std::io;

use libc::c_int;
use nix::errno::Errno;
use nix::unistd;

/// The file with the autogroup of this process's session (sched(7), "The autogroup feature").
const OWN_GROUP: &str = "/proc/self/autogroup";

/// Gives the calling thread a nice value. Threads and processes that it starts later don't inherit a negative one
/// (sched_setscheduler(2), SCHED_RESET_ON_FORK). A value below the present one needs CAP_SYS_NICE, or RLIMIT_NICE.
pub fn set_nice(value: i8) -> nix::Result<()> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure lives through the call, and 0 is the calling thread.
    Errno::result(unsafe { libc::sched_getparam(0, &raw mut parameters) })?;
    // SAFETY: takes a number.
    let policy = Errno::result(unsafe { libc::sched_getscheduler(0) })?;
    // SAFETY: the structure lives through the call. Whatever policy the operator has chosen stays.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters) })?;
    // SAFETY: takes three numbers; 0 is the calling thread.
    Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, c_int::from(value)) }).map(drop)
}

/// The calling thread's nice value.
pub fn nice() -> Option<i8> {
    Errno::clear();
    // SAFETY: takes two numbers; 0 is the calling thread.
    let value = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is also a valid nice value.
    if value == -1 && Errno::last_raw() != 0 {
        return None;
    }
    i8::try_from(value).ok()
}

/// Returns true if the kernel divides processor time among sessions first, and then among the processes of each
/// (/proc/sys/kernel/sched_autogroup_enabled). It doesn't do so for processes in a group of the `cpu` controller.
pub fn has_autogroups() -> bool {
    fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").is_ok_and(|text| text.trim() == "1")
}

/// Makes the calling process the leader of a new session, with an autogroup of its own. It has no controlling terminal then,
/// and gets no signals from one.
pub fn leave_session() -> nix::Result<()> {
    unistd::setsid().map(drop)
}

/// Gives the autogroup of this session a nice value. A negative one needs CAP_SYS_NICE.
pub fn set_group_nice(value: i8) -> io::Result<()> {
    fs::write(OWN_GROUP, value.to_string())
}

/// The nice value of the autogroup of this session.
pub fn group_nice() -> Option<i8> {
    nice_in(&fs::read_to_string(OWN_GROUP).ok()?)
}

/// Reads the nice value in a text such as `/autogroup-25 nice 0`.
fn nice_in(text: &str) -> Option<i8> {
    text.trim().rsplit_once(" nice ")?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_read_as_the_kernel_writes_it() {
        for (text, nice) in
            [("/autogroup-25 nice 0\n", Some(0)), ("/autogroup-7 nice -20\n", Some(-20)), ("", None), ("/", None)]
        {
            assert_eq!(nice_in(text), nice, "{text:?}");
        }
    }

    /// Needs root, as other tests here do.
    #[test]
    fn threads_of_a_favoured_one_are_not_favoured() {
        let favoured = std::thread::spawn(|| {
            set_nice(-3).expect("root may");
            let child = std::thread::spawn(nice).join().expect("no panic");
            set_nice(5).expect("anybody may");
            (child, nice(), std::thread::spawn(nice).join().expect("no panic"))
        });
        assert_eq!(favoured.join().expect("no panic"), (Some(0), Some(5), Some(5)));
    }
}
