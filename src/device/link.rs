//! A device's connection to its router, and the thread that serves both.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{self, Gid, Uid};

use super::pump::{Buffers, Pump};
use super::{Context, DeviceError};
use crate::log::Logger;
use crate::sys::fork;
use crate::sys::process::with_signals_blocked;
use crate::sys::socket::{self, PeerCredentials};
use crate::sys::tun::Tun;
use crate::wire::CREDENTIALS_MAGIC;
use crate::wire::frame::{self, FrameKind};
use crate::wire::rule::{MAX_RULES, PeerRule};

/// Whose credentials a device shows: those that the instance will have once it has dropped its privileges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: Uid,
    /// Group.
    pub gid: Gid,
}

impl Identity {
    fn credentials(self) -> PeerCredentials {
        PeerCredentials { pid: unistd::getpid().as_raw(), uid: self.uid.as_raw(), gid: self.gid.as_raw() }
    }

    fn current() -> Self {
        Self { uid: unistd::getuid(), gid: unistd::getgid() }
    }
}

/// A connection to a router.
#[derive(Debug)]
pub struct Link {
    socket: Arc<OwnedFd>,
    /// What the thread starts with: bytes from before a reload, and the greeting.
    initial: Option<Buffers>,
    /// What the router has to see before any frame, if that has to wait for the privileges' drop.
    delayed_greeting: Option<Vec<u8>>,
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    pid: unistd::Pid,
    stop: Arc<EventFd>,
    handle: JoinHandle<Buffers>,
}

impl Link {
    /// Greets the router and starts the thread.
    pub fn open(socket: OwnedFd, tun: &Arc<Tun>, context: &Context) -> Result<Self, DeviceError> {
        let greet = |errno| DeviceError::Greet { name: tun.name().to_owned(), errno };
        register(&socket);
        let mut link = Self { socket: Arc::new(socket), initial: None, delayed_greeting: None, thread: None };
        let mut initial = Buffers::default();
        if let Some(identity) = context.identity {
            match show_credentials(&link.socket, identity) {
                Ok(()) => {}
                // Only the process that has dropped its privileges may say that it has. The rules follow then.
                Err(Errno::EPERM | Errno::EINVAL) => {
                    context.logger.line(format_args!(
                        "[uwsgi-tuntap] {}: the kernel lets nobody speak for uid {} before the privileges are dropped; \
                         no packet passes until then",
                        tun.name(),
                        identity.uid
                    ));
                    link.delayed_greeting = Some(rules_frame(&context.rules));
                    link.initial = Some(initial);
                    link.start(tun, context.logger)?;
                    return Ok(link);
                }
                Err(errno) => return Err(greet(errno)),
            }
        }
        initial.to_router = rules_frame(&context.rules);
        link.initial = Some(initial);
        link.start(tun, context.logger)?;
        Ok(link)
    }

    /// A connection of this process's earlier image, on which [`Link::start`] goes on.
    pub fn resume(state: (OwnedFd, Buffers), context: &Context) -> Self {
        let (socket, mut buffers) = state;
        register(&socket);
        buffers.to_router.extend_from_slice(&rules_frame(&context.rules));
        Self { socket: Arc::new(socket), initial: Some(buffers), delayed_greeting: None, thread: None }
    }

    /// Starts the thread unless it runs in this process.
    pub fn start(&mut self, tun: &Arc<Tun>, logger: Logger) -> Result<(), DeviceError> {
        let pid = unistd::getpid();
        if self.thread.as_ref().is_some_and(|thread| thread.pid == pid) {
            return Ok(());
        }
        let failed = |error: io::Error| DeviceError::Thread { name: tun.name().to_owned(), error };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| failed(errno.into()))?;
        let pump = Pump::new(tun, &self.socket, &stop, self.initial.take().unwrap_or_default(), logger);
        let greeting = self.delayed_greeting.clone();
        let builder = std::thread::Builder::new().name("tuntap".to_owned());
        let handle = with_signals_blocked(|| builder.spawn(move || pump.run(greeting)))
            .map_err(|errno| failed(errno.into()))?
            .map_err(failed)?;
        if let Some(stale) = self.thread.replace(Thread { pid, stop, handle }) {
            // The thread of the process that this one was forked from. It doesn't exist here and can't be joined.
            std::mem::forget(stale.handle);
        }
        Ok(())
    }

    /// Stops the thread between two frames and returns what it had not passed on.
    pub fn stop(&mut self) -> Buffers {
        let Some(thread) = self.thread.take() else { return Buffers::default() };
        if thread.pid != unistd::getpid() || thread.stop.write(1).is_err() {
            std::mem::forget(thread.handle);
            return Buffers::default();
        }
        thread.handle.join().unwrap_or_default()
    }

    /// The descriptor.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Stops the thread and closes the connection.
    pub fn close(mut self) {
        self.stop();
        fork::forget(self.socket.as_fd());
    }
}

/// Shows credentials to the router. They travel as one message, before any frame.
pub fn show_credentials(socket: &OwnedFd, identity: Identity) -> nix::Result<()> {
    let sent = socket::send_with_credentials(socket.as_fd(), CREDENTIALS_MAGIC, identity.credentials())?;
    if sent == CREDENTIALS_MAGIC.len() { Ok(()) } else { Err(Errno::EMSGSIZE) }
}

/// Shows this process's own credentials.
pub fn show_current_credentials(socket: &OwnedFd) -> nix::Result<()> {
    show_credentials(socket, Identity::current())
}

/// The frame that carries the rules; nothing if there are none.
fn rules_frame(rules: &[PeerRule]) -> Vec<u8> {
    debug_assert!(rules.len() <= MAX_RULES, "the configuration was checked");
    let payload: Vec<u8> = rules.iter().flat_map(PeerRule::encode).collect();
    let mut bytes = Vec::new();
    let _nothing_to_send = frame::append(&mut bytes, FrameKind::Rules, &payload);
    bytes
}

fn register(socket: &OwnedFd) {
    let registered = fork::close_in_children(socket.as_fd());
    debug_assert!(registered, "MAX_DEVICES bounds the number of descriptors");
}
