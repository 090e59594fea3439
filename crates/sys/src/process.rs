//! Properties of this process: its limits, its descriptors, its environment, its end.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::time::TimeValLike;
use nix::sys::timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use nix::unistd;

/// Raises the soft limit of open descriptors to the hard one.
pub fn raise_descriptor_limit() -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}

/// Processor time of the calling thread, in nanoseconds (clock_gettime(2), CLOCK_THREAD_CPUTIME_ID).
pub fn thread_time_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(0, |now| now.num_nanoseconds());
    u64::try_from(now).unwrap_or_default()
}

/// Context switches of the calling thread, voluntary and involuntary ones (getrusage(2), RUSAGE_THREAD).
pub fn context_switches() -> u64 {
    let count = getrusage(UsageWho::RUSAGE_THREAD)
        .map_or(0, |usage| usage.voluntary_context_switches() + usage.involuntary_context_switches());
    u64::try_from(count).unwrap_or_default()
}

/// Time since a moment that is the same for all processes (clock_gettime(2), CLOCK_MONOTONIC).
pub fn monotonic_time() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Mount and inode of this process's root directory (statx(2)). The mount is 0 on kernels before 5.8.
pub fn root_directory() -> nix::Result<(u64, u64)> {
    // SAFETY: `struct statx` is numbers, for which zeros are valid.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let wanted = libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: the path is NUL-terminated, and the structure lives through the call.
    let result = unsafe { libc::statx(libc::AT_FDCWD, c"/".as_ptr(), 0, wanted, &raw mut found) };
    Errno::result(result).map(|_| (found.stx_mnt_id, found.stx_ino))
}

/// Replaces the file of one descriptor by that of another, closed on exec (dup3(2)).
pub fn replace_descriptor(new: BorrowedFd<'_>, place: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: both are open. The owner of `place` goes on owning its number, which is another file then.
    let result = unsafe { libc::dup3(new.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// A descriptor that becomes readable when a process ends (pidfd_open(2), Linux 5.3). It is closed on exec.
pub fn watch_process(pid: libc::pid_t) -> nix::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor that becomes readable when this process's parent ends (pidfd_open(2)). It replaces the signal that would end
/// this process then (PR_SET_PDEATHSIG). Fails on kernels before 5.3, and leaves the signal as it is there.
pub fn watch_parent() -> nix::Result<OwnedFd> {
    let parent = unistd::getppid();
    let fd = watch_process(parent.as_raw())?;
    if unistd::getppid() != parent {
        return Err(Errno::ESRCH);
    }
    prctl::set_pdeathsig(None)?;
    Ok(fd)
}

/// Returns true if there is a process of this number (kill(2) without a signal). A process that has ended counts until its
/// parent has waited for it.
pub fn exists(pid: libc::pid_t) -> bool {
    kill(unistd::Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

/// A timer that becomes readable after each interval (timerfd_create(2)). It uses the monotonic clock, and reading it
/// doesn't block.
pub fn periodic_timer(interval: Duration) -> nix::Result<TimerFd> {
    let timer = TimerFd::new(TimerClock::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    timer.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// Makes a descriptor non-blocking.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

/// Sets if a descriptor is closed when the process executes another program.
pub fn set_close_on_exec(fd: BorrowedFd<'_>, close: bool) -> nix::Result<()> {
    let flags = if close { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFD(flags)).map(drop)
}

/// Takes over a descriptor that this process inherited through an exec. Must be called before anything else in the new image
/// could have opened a descriptor of that number. `None` if it isn't open, or is a standard stream.
pub fn adopt_inherited(fd: RawFd) -> Option<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: fcntl(2) with F_GETFD only looks at the number.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return None;
    }
    // SAFETY: it is open, and by the contract above nothing in this image owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads a variable and takes it out of the environment.
pub fn take_variable(name: &str) -> Result<String, std::env::VarError> {
    let value = std::env::var(name)?;
    // SAFETY: uWSGI is single-threaded where its hooks call this, before it starts threads and applications.
    unsafe { std::env::remove_var(name) };
    Ok(value)
}

/// Sets a variable for the program that this process is about to execute, or for the C library.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: uWSGI calls this from its main thread, before it starts workers or right before the exec. Its other threads
    // don't use the environment then, and the plugin's never do. A uWSGI gateway process has no other thread.
    unsafe { std::env::set_var(name, value) };
}

/// Fixes the time zone to the present one, if the environment names none. Otherwise the C library would read /etc/localtime
/// for each time that it formats, which a process can't that may open no files.
pub fn pin_time_zone() {
    if std::env::var_os("TZ").is_none() {
        set_variable("TZ", ":/etc/localtime");
    }
    let mut broken_down = std::mem::MaybeUninit::uninit();
    // SAFETY: localtime_r(3) reads the first argument and writes the second; both live through the call. It makes the C
    // library read the time zone, if it hasn't before.
    unsafe { libc::localtime_r(&0, broken_down.as_mut_ptr()) };
}

/// A time of day in the time zone of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    /// The year.
    pub year: i32,
    /// The month, from 1.
    pub month: i32,
    /// The day of the month, from 1.
    pub day: i32,
    /// The hour, from 0 to 23.
    pub hour: i32,
    /// The minute.
    pub minute: i32,
    /// The second.
    pub second: i32,
    /// The day of the week, 0 is Sunday.
    pub weekday: i32,
}

/// Returns the date and the time of day in the time zone of this process (localtime_r(3)), for seconds since 1970; `None` if
/// they are too many. No file is read once [`pin_time_zone`] has run.
pub fn local_time(seconds: i64) -> Option<LocalTime> {
    // SAFETY: `struct tm` is numbers and a pointer, for which zeros are valid.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: localtime_r(3) reads the first argument and writes the second; both live through the call.
    let result = unsafe { libc::localtime_r(&raw const seconds, &raw mut time) };
    (!result.is_null()).then(|| LocalTime {
        year: time.tm_year.saturating_add(1900),
        month: time.tm_mon + 1,
        day: time.tm_mday,
        hour: time.tm_hour,
        minute: time.tm_min,
        second: time.tm_sec,
        weekday: time.tm_wday,
    })
}

/// Runs `start`, which starts threads, with signals blocked, so that the main thread gets them all. Signals that a thread
/// causes itself, such as SIGSEGV, stay unblocked, so that their handlers run.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> nix::Result<T> {
    let mut blocked = SigSet::all();
    let own = [Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV, Signal::SIGSYS, Signal::SIGTRAP];
    own.into_iter().for_each(|signal| blocked.remove(signal));
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before))?;
    let result = start();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    Ok(result)
}

/// Registers a function that runs when the process exits, after those that are registered later (atexit(3)). Forked children
/// inherit it.
pub fn at_exit(end: extern "C" fn()) {
    // SAFETY: the handler is a function of the plugin, which is never unloaded.
    let result = unsafe { libc::atexit(end) };
    debug_assert_eq!(result, 0, "atexit(3) fails only without memory");
}

/// Makes this process end, from one of its threads. SIGINT makes a uWSGI master stop its workers and clean up. A process
/// that doesn't handle it yet, or hangs, is ended without that after 10 seconds.
pub fn end_process() {
    const TIME_TO_STOP: Duration = Duration::from_secs(10);
    let force = || {
        std::thread::sleep(TIME_TO_STOP);
        exit_at_once(1)
    };
    let _ = kill(unistd::getpid(), Signal::SIGINT);
    if std::thread::Builder::new().spawn(force).is_err() {
        exit_at_once(1)
    }
}

/// Ends the process without running its exit handlers.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Makes this process skip the exit handlers that were registered so far (atexit(3)). Its exit code will be 1.
pub fn skip_exit_handlers() {
    extern "C" fn end() {
        exit_at_once(1)
    }
    // SAFETY: the handler takes nothing, and only calls _exit(2). If there is no memory to register it, the other handlers
    // run.
    unsafe { libc::atexit(end) };
}
