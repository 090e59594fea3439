//! Closes attached devices in a thread of its own. A thread that closes the last descriptor of a TUN device waits until the
//! kernel has removed the interface, which takes some 15 ms. If a vassal's process has ended, the router has the last
//! descriptor. With a thread for this, packets don't have to wait.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread;

use tuntap_sys::process::with_signals_blocked;

/// The number of devices waiting to be closed from which on no further ones are attached. Each takes a descriptor, and
/// peers can come and go faster than the kernel removes their interfaces.
const MAX_WAITING: usize = 1024;

/// Passes devices to the thread that closes them. Before the thread is started, and if it can't be started, devices are
/// closed at once.
#[derive(Debug, Default)]
pub struct Closer {
    devices: Option<Sender<OwnedFd>>,
    waiting: Arc<AtomicUsize>,
}

impl Closer {
    /// Starts the thread, and waits until restrictions that apply to all threads can be made. The thread ends with the
    /// process.
    pub fn start(&mut self) -> io::Result<()> {
        let (devices, received) = mpsc::channel();
        let (ready, is_ready) = mpsc::channel();
        let waiting = Arc::clone(&self.waiting);
        // A sender of its own keeps the thread from ending: the sandbox doesn't allow the system calls of a thread that
        // ends.
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
        // This fails only if the thread has already ended. Then sending a device to it fails, too.
        let _ = is_ready.recv();
        self.devices = Some(devices);
        Ok(())
    }

    /// Closes a device in the thread.
    pub fn close(&self, device: OwnedFd) {
        let Some(devices) = &self.devices else { return };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // If the thread has ended, the error returns the device, and it is closed here.
        if devices.send(device).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Closes a descriptor that nothing was done with. A peer may pass as many as it likes, so they wait only as long as more than
    /// half of the room is free: the rest is for devices. Further ones are closed here.
    pub fn close_offer(&self, offer: OwnedFd) {
        if self.waiting.load(Ordering::Relaxed) < MAX_WAITING / 2 {
            self.close(offer);
        }
    }

    /// Returns true if so many devices wait to be closed that no further ones should be attached.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) >= MAX_WAITING
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    /// Returns true if all write ends of a pipe are closed.
    fn is_closed(mut reader: File) -> bool {
        reader.read(&mut [0]).expect("an end of the pipe") == 0
    }

    /// A thread that closes nothing, as if the kernel took its time.
    fn busy_closer() -> (Closer, mpsc::Receiver<OwnedFd>) {
        let (devices, received) = mpsc::channel();
        (Closer { devices: Some(devices), waiting: Arc::default() }, received)
    }

    #[test]
    fn offers_take_no_more_than_half_of_the_room() {
        let (closer, waiting) = busy_closer();
        for _ in 0..MAX_WAITING {
            let (reader, writer) = nix::unistd::pipe().expect("a pipe");
            closer.close_offer(writer);
            drop(reader);
        }
        assert_eq!(waiting.try_iter().count(), MAX_WAITING / 2);
        assert!(!closer.is_full());
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        closer.close_offer(writer);
        assert!(is_closed(reader.into()), "one that finds no room is closed at once");
        let (_reader, device) = nix::unistd::pipe().expect("a pipe");
        closer.close(device);
        assert_eq!(waiting.try_iter().count(), 1, "devices have the other half");
    }
}
