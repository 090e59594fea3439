//! Reconnects a device that has lost its router, with longer and longer pauses between attempts.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use serde::{Deserialize, Serialize};

use super::autoconf::{ANSWER_TIMEOUT, Holding, SettleError, Talk, Waited};
use super::greeting::{greet, introduce, need_extension, rules_frame};
use super::join::mtu;
use super::pump::Buffers;
use super::{Context, close_in_children};
use tuntap_sys::log::{Event, Logger};
use tuntap_sys::netlink::{LinkChange, Netlink, NetlinkError};
use tuntap_sys::process::{replace_descriptor, root_directory};
use tuntap_sys::tun::Tun;
use tuntap_sys::{fork, socket};
use tuntap_wire::autoconf::{Configuration, Family};

/// Pauses between attempts, from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// After a connection that lasted for so long, the pauses are short again.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

/// The root directory, as mount and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root(u64, u64);

impl Root {
    /// The root directory of this process.
    pub fn current() -> Option<Self> {
        root_directory().map(|(mount, inode)| Self(mount, inode)).ok()
    }
}

/// How reconnecting ended.
#[derive(Debug)]
pub enum Rejoined {
    /// A new connection has the descriptor of the old one.
    Joined(Box<Buffers>),
    /// The thread is to stop.
    Stopped,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Attempt {
    #[error(transparent)]
    Connect(io::Error),
    #[error(transparent)]
    Settle(#[from] SettleError),
}

/// Why waiting can't help. A new start of the instance can.
#[derive(Debug, thiserror::Error)]
pub enum Hopeless {
    /// The instance has dropped the privileges that it had for its first connection.
    #[error("may not connect to {0} any more: {1} (the router's chmod-socket and chown-socket say who may)")]
    Forbidden(String, io::Error),
    /// The router doesn't give back the addresses that it had chosen.
    #[error("has no claim to its addresses any more: the router at {0}: {1}. A new start gets it others")]
    Lost(String, SettleError),
    /// The root directory has changed since the first connection, and the socket is outside.
    #[error("{0} is not visible from this jail")]
    Hidden(String),
}

/// What reconnecting needs.
#[derive(Debug)]
pub struct Rejoin {
    /// The device's name in the instance's options.
    device: String,
    socket_name: String,
    context: Context,
    pause: Duration,
    connected: Instant,
}

impl Rejoin {
    /// For a device, and the router at `socket_name`.
    pub fn new(device: &str, socket_name: &str, context: &Context) -> Self {
        Self {
            device: device.to_owned(),
            socket_name: socket_name.to_owned(),
            context: context.clone(),
            pause: FIRST_PAUSE,
            connected: Instant::now(),
        }
    }

    /// Where lines go.
    pub const fn logger(&self) -> Logger {
        self.context.logger
    }

    /// What the devices of the instance have in common.
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// Returns true if the instance is to end rather than to wait.
    pub const fn is_required(&self) -> bool {
        self.context.required
    }

    /// Tries until it succeeds, until `stop` is readable, or until it is clear that waiting can't help. The new connection takes
    /// the descriptor number of the old one, whose buffers are `old`.
    pub fn run(&mut self, tun: &Tun, router: &OwnedFd, stop: &EventFd, old: &Buffers) -> Result<Rejoined, Hopeless> {
        if self.connected.elapsed() >= GOOD_CONNECTION {
            self.pause = FIRST_PAUSE;
        }
        let logger = self.logger();
        let lost = Instant::now();
        let mut last_error = None;
        loop {
            if socket::wait_readable(stop.as_fd(), jittered(self.pause)) {
                return Ok(Rejoined::Stopped);
            }
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            match self.attempt(tun, router, stop, &old.holding) {
                Err(Attempt::Settle(SettleError::Stopped)) => return Ok(Rejoined::Stopped),
                Ok(buffers) => {
                    logger.line(
                        Event::RouterJoined,
                        format_args!(
                            "[uwsgi-tuntap] {}: joined the router at {} again after {:.1} s",
                            tun.name(),
                            self.socket_name,
                            lost.elapsed().as_secs_f32()
                        ),
                    );
                    self.connected = Instant::now();
                    return Ok(Rejoined::Joined(buffers.into()));
                }
                Err(Attempt::Connect(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(Hopeless::Forbidden(self.socket_name.clone(), error));
                }
                Err(Attempt::Connect(error))
                    if error.kind() == io::ErrorKind::NotFound && old.root != Root::current() =>
                {
                    return Err(Hopeless::Hidden(self.socket_name.clone()));
                }
                // An instance that has chosen its addresses itself would get no others by a new start.
                Err(Attempt::Settle(error)) if error.is_for_good() && !old.holding.assigned.is_empty() => {
                    return Err(Hopeless::Lost(self.socket_name.clone(), error));
                }
                Err(error) => {
                    report(logger, tun.name(), &self.socket_name, &error, &mut last_error);
                }
            }
        }
    }

    fn attempt(&self, tun: &Tun, router: &OwnedFd, stop: &EventFd, holding: &Holding) -> Result<Buffers, Attempt> {
        let connection = socket::connect_once(&self.socket_name).map_err(Attempt::Connect)?;
        // As long as the connection has a descriptor of its own, no fork may keep a copy.
        close_in_children(connection.as_fd());
        let joined = self.join(&connection, tun, stop, holding).and_then(|buffers| {
            replace_descriptor(connection.as_fd(), router.as_fd()).map_err(SettleError::from)?;
            Ok(buffers)
        });
        fork::forget(connection.as_fd());
        Ok(joined?)
    }

    /// Claims the device's addresses again, and greets the router.
    fn join(&self, connection: &OwnedFd, tun: &Tun, stop: &EventFd, holding: &Holding) -> Result<Buffers, SettleError> {
        let introduced = introduce(connection, &self.context)?;
        let mut frames = rules_frame(&self.context.rules);
        let wait = |connection: &OwnedFd, within: Duration| match socket::wait_readable_either(
            connection.as_fd(),
            stop.as_fd(),
            within,
        ) {
            (_, true) => Waited::Stopped,
            (true, false) => Waited::Readable,
            (false, false) => Waited::InVain,
        };
        let within = self.context.timeout.max(ANSWER_TIMEOUT);
        let mut talk = Talk::new(connection, (&self.context.vassal, &self.device), &wait, within);
        let mut router_is_ours = false;
        let mut holding = holding.clone();
        if !holding.is_empty() {
            match talk.reclaim(introduced, &holding)? {
                Some(told) => {
                    router_is_ours = true;
                    holding.mtu = self.follow_mtu(tun, &told, holding.mtu);
                }
                None => {
                    holding.log_without_answers(tun.name(), self.logger());
                    frames.extend(holding.echo_requests(Family::V4));
                }
            }
        }
        if need_extension(&self.context.rules) && !router_is_ours {
            talk.confirm(introduced)?;
            router_is_ours = true;
        }
        let rest = talk.rest();
        let greeted = greet(connection, tun, introduced, frames, &self.context)?;
        Ok(Buffers { router_is_ours, ..Buffers::after_greeting(greeted, rest, holding) })
    }

    /// Gives the device the router's MTU if that has changed. If it hasn't, the device keeps its MTU, which a hook may have set.
    /// Setting it takes a privilege that most instances have dropped. Returns the MTU to remember, in bytes.
    fn follow_mtu(&self, tun: &Tun, told: &Configuration, before: Option<u16>) -> Option<u16> {
        let spec = self.context.specs.iter().find(|spec| spec.name == self.device)?;
        let mtu = told.mtu.and(mtu(spec, told))?;
        if before.is_none_or(|before| before == mtu) {
            return Some(mtu);
        }
        let follow = || -> Result<(), NetlinkError> {
            let mut netlink = Netlink::open()?;
            let index = netlink.link(tun.name())?.index;
            netlink.set_link(index, LinkChange { mtu: Some(mtu.into()), ..LinkChange::default() })
        };
        let name = tun.name();
        match follow() {
            Ok(()) => self.logger().line(Event::DeviceConfigured, format_args!("[uwsgi-tuntap] {name}: its router's MTU is {mtu} now, and its own")),
            Err(error) => self.logger().line(Event::DeviceIncomplete, format_args!(
                "[uwsgi-tuntap] {name}: its router's MTU is {mtu} now, and its own stays what it was until the instance is \
                 stopped and started: {error}"
            )),
        }
        Some(mtu)
    }
}

/// Logs why an attempt failed, once for each kind of error.
fn report(logger: Logger, device: &str, socket: &str, attempt: &Attempt, last: &mut Option<String>) {
    let problem = match attempt {
        Attempt::Connect(error) => format!("can't reach the router at {socket} yet: {error}"),
        Attempt::Settle(error) => format!("no agreement with the router at {socket} yet: {error}"),
    };
    if last.as_ref() != Some(&problem) {
        logger.line(Event::RouterAwaited, format_args!("[uwsgi-tuntap] {device}: {problem}"));
        *last = Some(problem);
    }
}

/// Changes a pause by up to a quarter, so that the devices of a router don't reconnect all at once.
fn jittered(pause: Duration) -> Duration {
    let random = u32::try_from(RandomState::new().hash_one(0) % 513).unwrap_or_default();
    pause * (768 + random) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_quarter() {
        for _ in 0..1000 {
            let pause = jittered(Duration::from_millis(1000)).as_millis();
            assert!((750..=1250).contains(&pause), "{pause}");
        }
    }
}
