//! The ends of attached devices. Whoever closes the last descriptor of a TUN device waits until the kernel has taken the
//! interface away, some 15 ms for each; that is a router's, if a vassal's process has ended. A thread of its own waits, so
//! that no packet does.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use tuntap_sys::process::with_signals_blocked;

/// Devices that may wait to be closed before no further ones are attached. Each takes a descriptor, and peers can come
/// and go faster than the kernel takes their interfaces away.
const MAX_WAITING: usize = 1024;

/// Hands devices to the thread that closes them. Before that is started, and where it can't be, they are closed at once.
#[derive(Debug, Default)]
pub struct Closer {
    devices: Option<Sender<OwnedFd>>,
    waiting: Arc<AtomicUsize>,
}

impl Closer {
    /// Starts the thread, and waits until it is ready for restrictions that hold for all threads. It ends with the
    /// process.
    pub fn start(&mut self) -> io::Result<()> {
        let (devices, received) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let waiting = Arc::clone(&self.waiting);
        // With a sender of its own it never ends: the sandbox knows nothing of threads that do.
        let own = devices.clone();
        let close_all = move || {
            let _own = own;
            let _ = ready.send(());
            for device in received {
                drop::<OwnedFd>(device);
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        };
        let builder = thread::Builder::new().name("closer".to_owned());
        with_signals_blocked(|| builder.spawn(close_all)).map_err(io::Error::from)??;
        // It fails only if the thread has ended already, which shows when a device is sent there.
        let _ = is_ready.recv();
        self.devices = Some(devices);
        Ok(())
    }

    /// Closes a device, a little later.
    pub fn close(&self, device: OwnedFd) {
        let Some(devices) = &self.devices else { return };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Without a thread it comes back and is closed here.
        if devices.send(device).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether so many wait that there should not be more.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= MAX_WAITING
    }
}
