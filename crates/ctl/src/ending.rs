//! The end of commands that wait for events without one: by a signal, or because nobody reads any more.

use std::fmt::Display;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use serde_json::value::RawValue;

use crate::client::Client;
use crate::failure::Failed;

/// What ends the connection to a router, so that who waits for its events is woken.
#[derive(Debug, Clone)]
pub struct Ending {
    connection: Arc<UnixStream>,
    is_over: Arc<AtomicBool>,
}

impl Ending {
    /// Nothing ends it yet.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new(client: &Client) -> Result<Self, Failed> {
        Ok(Self { connection: Arc::new(client.handle()?), is_over: Arc::default() })
    }

    /// Waits for the next event. Returns `None` if the connection was ended here, and not by the router.
    ///
    /// # Errors
    /// See [`Client::next_event`].
    pub fn next_event(&self, client: &mut Client) -> Result<Option<Box<RawValue>>, Failed> {
        match client.next_event() {
            Err(_) if self.is_over.load(Ordering::Acquire) => Ok(None),
            event => event.map(Some),
        }
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        // An error means that the router has ended it.
        let _ = self.connection.shutdown(Shutdown::Both);
    }

    /// Has SIGINT and SIGTERM end it, so that a file is finished. A second signal ends the command at once.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn with_signals(&self) -> Result<(), Failed> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().map_err(|error| failed("signals", &error))?;
        let ending = self.clone();
        let wait = move || {
            if signals.wait().is_ok() {
                let _ = signals.thread_unblock();
                ending.end();
            }
            // A thread has to be there that a second signal finds unblocked.
            loop {
                thread::park();
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(wait).map_err(|error| failed("signals", &error))?;
        Ok(())
    }

    /// Has it end when nobody reads the output any more. Writing would tell that only with the next event, and until then the router
    /// would work for nobody. Files have readers at all times.
    ///
    /// # Errors
    /// There is no room for a thread, or no descriptor left.
    pub fn with_output(&self, output: &impl AsFd) -> Result<(), Failed> {
        let output = output.as_fd().try_clone_to_owned().map_err(|error| failed("the output", &error))?;
        let ending = self.clone();
        let wait = move || {
            if is_closed(&output) {
                ending.end();
            }
        };
        thread::Builder::new().name("output".to_owned()).spawn(wait).map_err(|error| failed("the output", &error))?;
        Ok(())
    }
}

/// Waits until the other end of a pipe or terminal is closed (poll(2)). Returns false if that can't be waited for.
fn is_closed(output: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(output.as_fd(), PollFlags::empty())];
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            result => return result.is_ok(),
        }
    }
}

fn failed(what: &str, error: &dyn Display) -> Failed {
    Failed::Local(format!("{what} can't be waited for: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipe_is_closed_when_its_reader_is_gone() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let writer = OwnedFd::from(writer);
        let waiter = thread::spawn(move || is_closed(&writer));
        drop(reader);
        assert!(waiter.join().expect("no panic"));
    }
}
