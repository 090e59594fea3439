//! A device's connection to its router, and the thread that serves both.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::greeting::{need_extension, rules_frame};
use super::pump::{Buffers, Pump};
use super::rejoin::Rejoin;
use super::{Context, DeviceError, close_in_children};
use tuntap_sys::fork;
use tuntap_sys::log::Event;
use tuntap_sys::process::with_signals_blocked;
use tuntap_sys::tun::Tun;

/// A connection to a router.
#[derive(Debug)]
pub struct Link {
    socket: Arc<OwnedFd>,
    /// The device's name in the instance's options.
    device: String,
    /// The router's socket.
    router: String,
    /// The buffers that the thread starts with.
    initial: Buffers,
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    stop: Arc<EventFd>,
    handle: JoinHandle<Buffers>,
}

impl Link {
    /// Starts the thread of a connection on which the router was greeted.
    pub fn open(
        (socket, initial): (OwnedFd, Buffers),
        device: &str,
        router: &str,
        tun: &Arc<Tun>,
        context: &Context,
    ) -> Result<Self, DeviceError> {
        close_in_children(socket.as_fd());
        (context.keep_open)(socket.as_fd());
        let mut link = Self {
            socket: Arc::new(socket),
            device: device.to_owned(),
            router: router.to_owned(),
            initial,
            thread: None,
        };
        link.start(tun, context)?;
        Ok(link)
    }

    /// Takes over a connection of the image before. [`Link::start`] goes on with it.
    pub fn resume(connection: (OwnedFd, Buffers), device: &str, router: &str, context: &Context) -> Self {
        let (socket, mut buffers) = connection;
        close_in_children(socket.as_fd());
        // This connection began with rules in the C plugin's form, so the router may be one of the C plugin.
        let is_unknown = need_extension(&context.rules) && !buffers.router_is_ours && !buffers.connects_anew;
        if is_unknown {
            context.logger.line(Event::DeviceIncomplete, format_args!(
                "[uwsgi-tuntap] {device}: the router at {router} may not know rules with IPv6, a protocol or reject: it has kept those \
                 from before the reload"
            ));
        }
        let rules = if is_unknown { Vec::new() } else { rules_frame(&context.rules) };
        match &mut buffers.greeting {
            Some(greeting) => *greeting = rules,
            None => buffers.to_router.extend_from_slice(&rules),
        }
        Self {
            socket: Arc::new(socket),
            device: device.to_owned(),
            router: router.to_owned(),
            initial: buffers,
            thread: None,
        }
    }

    /// Starts the thread unless it runs.
    pub fn start(&mut self, tun: &Arc<Tun>, context: &Context) -> Result<(), DeviceError> {
        if self.thread.is_some() {
            return Ok(());
        }
        let failed = |error: io::Error| DeviceError::Thread { name: tun.name().to_owned(), error };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(Arc::new)
            .map_err(|errno| failed(errno.into()))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| failed(errno.into()))?;
        (context.keep_open)(stop.as_fd());
        (context.keep_open)(epoll.0.as_fd());
        let buffers = std::mem::take(&mut self.initial);
        let rejoin = Rejoin::new(&self.device, &self.router, context);
        let pump = Pump::new(tun, &self.socket, &stop, epoll, buffers, rejoin);
        let builder = std::thread::Builder::new().name("tuntap".to_owned());
        let handle = with_signals_blocked(|| builder.spawn(move || pump.run()))
            .map_err(|errno| failed(errno.into()))?
            .map_err(failed)?;
        self.thread = Some(Thread { stop, handle });
        Ok(())
    }

    /// Stops the thread. [`Link::start`] continues where it was, in this process or in a fork of it.
    pub fn pause(&mut self) {
        self.initial = self.stop();
    }

    /// Stops the thread between two frames, and returns the buffers with all that it had not passed on.
    pub fn stop(&mut self) -> Buffers {
        let Some(thread) = self.thread.take() else { return std::mem::take(&mut self.initial) };
        if thread.stop.write(1).is_err() {
            return Buffers::default();
        }
        thread.handle.join().unwrap_or_default()
    }

    /// The buffers that the thread left when it was stopped.
    pub const fn buffers(&self) -> &Buffers {
        &self.initial
    }

    /// The descriptor of the connection.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Stops the thread and closes the connection.
    pub fn close(mut self) {
        self.stop();
        fork::forget(self.socket.as_fd());
    }
}
