//! The ends of attached devices. Whoever closes the last descriptor of a TUN device waits until the kernel has taken the
//! interface away, some 15 ms for each; that is a router's, if a vassal's process has ended. A thread of its own waits, so
//! that no packet does.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::sys::tun::Tun;

/// Devices that may wait to be closed before no further ones are attached. Each takes a descriptor, and peers can come
/// and go faster than the kernel takes their interfaces away.
const MAX_WAITING: usize = 1024;

/// Hands devices to the thread that closes them.
#[derive(Debug)]
pub struct Closer {
    devices: Sender<Tun>,
    waiting: Arc<AtomicUsize>,
}

impl Closer {
    /// Starts the thread. It ends with the last device, after the closer is gone.
    pub fn start() -> io::Result<Self> {
        let (devices, received) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        thread::Builder::new().name("uwsgi-tuntap".to_owned()).spawn(move || {
            for device in received {
                drop::<Tun>(device);
                left.fetch_sub(1, Ordering::Relaxed);
            }
        })?;
        Ok(Self { devices, waiting })
    }

    /// Closes a device, a little later.
    pub fn close(&self, device: Tun) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Without a thread it comes back and is closed here.
        if self.devices.send(device).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether so many wait that there should not be more.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= MAX_WAITING
    }
}
