//! The gateway processes of routers, of their trunks and of their pairs, as the master sees them: it notices their end at once, and ends those that hang.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::timerfd::TimerFd;
use nix::unistd::Pid;
use parking_lot::Mutex;

use super::options::config;
use super::uwsgi::{self, GatewayProcess};
use tuntap_router::{Heartbeat, Watchdog};
use tuntap_sys::log::Event;
use tuntap_sys::{dumpable, process, socket};

/// The routers in their order, then the trunk processes and the pair processes.
static PROCESSES: Mutex<Vec<RouterProcess>> = Mutex::new(Vec::new());

/// Has the master look at the routers' heartbeats however long its `check-interval` is.
static TIMER: Mutex<Option<TimerFd>> = Mutex::new(None);

/// What a process is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// A router.
    Router,
    /// The trunk process beside a router.
    Trunks,
    /// The pair process beside a router.
    Pairs,
}

impl Kind {
    /// Returns it as the log calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Trunks => "trunk process",
            Self::Pairs => "pair process",
        }
    }
}

struct RouterProcess {
    kind: Kind,
    gateway: GatewayProcess,
    /// Name of the router's device.
    name: String,
    /// The process, and a descriptor that becomes readable when it ends.
    process: Option<(libc::pid_t, OwnedFd)>,
    /// `None`: the router can't be prepared at the moment, and the process waits.
    heartbeat: Option<Arc<Heartbeat>>,
    watchdog: Watchdog,
}

/// Adds a process of a router with this device.
pub fn add(kind: Kind, gateway: GatewayProcess, device: &str, heartbeat: Option<Arc<Heartbeat>>) {
    PROCESSES.lock().push(RouterProcess {
        kind,
        gateway,
        name: device.to_owned(),
        process: None,
        heartbeat,
        watchdog: Watchdog::new(config().harakiri),
    });
}

/// Ends the process of a router that has been prepared now. The master starts it again at once.
pub fn restart(index: usize, heartbeat: Arc<Heartbeat>) {
    if let Some(router) = PROCESSES.lock().get_mut(index) {
        router.heartbeat = Some(heartbeat);
        if let Some(pid) = router.gateway.pid() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Looks after the processes, in each cycle of the master.
pub fn look_after() {
    let mut processes = PROCESSES.lock();
    if !processes.is_empty() {
        dumpable::close_with_children();
    }
    keep_time(&processes);
    for router in processes.iter_mut() {
        router.follow_process();
        router.end_if_it_hangs();
    }
}

/// Forgets the processes, in one that isn't the master or is about to end.
pub fn forget() {
    PROCESSES.lock().clear();
    TIMER.lock().take();
}

/// Starts the timer, or makes it unreadable if it has run out.
fn keep_time(processes: &[RouterProcess]) {
    let Some(interval) = processes.iter().find_map(|router| router.watchdog.interval()) else { return };
    let mut timer = TIMER.lock();
    match &*timer {
        // It may not have run out. Either way it goes on.
        Some(timer) => _ = nix::unistd::read(timer, &mut [0; 8]),
        // Without a timer the master looks once in its `check-interval`, which is a second by default.
        None => *timer = process::periodic_timer(interval).ok().filter(|timer| uwsgi::master_watch(timer.as_fd())),
    }
}

impl RouterProcess {
    fn follow_process(&mut self) {
        let pid = self.gateway.pid();
        if self.process.as_ref().map(|(pid, _)| *pid) == pid {
            return;
        }
        if let Some((_, ended)) = self.process.take() {
            uwsgi::master_unwatch(ended.as_fd());
        }
        // If this fails, the master notices the end in its next cycle.
        let process = pid.and_then(|pid| Some((pid, process::watch_process(pid).ok()?)));
        self.process = process.filter(|(_, descriptor)| uwsgi::master_watch(descriptor.as_fd()));
    }

    fn end_if_it_hangs(&mut self) {
        let (Some(pid), Some(heartbeat)) = (self.gateway.pid(), &self.heartbeat) else { return };
        // While the instance reloads, its routers are dead and not started again.
        let has_ended = match &self.process {
            Some((_, ended)) => socket::wait_readable(ended.as_fd(), Duration::ZERO),
            None => !process::exists(pid),
        };
        if !has_ended && self.watchdog.check(heartbeat, pid, Instant::now()) {
            let what = self.kind.name();
            let sign = match self.kind {
                Kind::Router => "its event loop made no turn in",
                Kind::Trunks | Kind::Pairs => "it has not run for",
            };
            uwsgi::log(
                Event::RouterHangs,
                &format!(
                    "[tuntap-router] {}: the {what} (pid {pid}) hangs: {sign} {} s; it is killed and started again \
                 (tuntap-router-harakiri)",
                    self.name,
                    config().harakiri.as_secs()
                ),
            );
            heartbeat.record_hang();
            self.gateway.end();
        }
    }
}
